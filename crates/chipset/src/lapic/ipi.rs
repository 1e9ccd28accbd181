//! Interprocessor interrupts (SDM 3A 11.6): the interrupt command register.

use super::registers::{ESR_SEND_ILLEGAL_VECTOR, FIRST_LEGAL_VECTOR, ICR_LOW_MASK, IcrLow};
use super::{ApicMessage, ApicMode, ApicWork, DeliveryMode, LocalApic, TriggerMode, widen_destination};

/// Destination shorthand: whom an IPI is for without looking at its
/// destination field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// None: the message's destination counts.
    None,
    /// The sender only.
    SelfOnly,
    /// Everybody.
    AllIncludingSelf,
    /// Everybody but the sender.
    AllExcludingSelf,
}

impl Shorthand {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::SelfOnly,
            2 => Self::AllIncludingSelf,
            _ => Self::AllExcludingSelf,
        }
    }
}

/// An interprocessor interrupt to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// Whom it is for, before the message's destination is looked at.
    pub shorthand: Shorthand,
    /// What to deliver.
    pub message: ApicMessage,
}

impl Ipi {
    /// Whether `target` is one of the destinations; `is_sender` says whether
    /// it is the APIC that sends. For lowest-priority delivery the machine
    /// picks one of them by [`LocalApic::arbitration_priority`].
    pub fn reaches(&self, target: &LocalApic, is_sender: bool) -> bool {
        match self.shorthand {
            Shorthand::None => target.matches(self.message.destination, self.message.logical),
            Shorthand::SelfOnly => is_sender,
            Shorthand::AllIncludingSelf => true,
            Shorthand::AllExcludingSelf => !is_sender,
        }
    }
}

impl LocalApic {
    /// Writes the whole ICR and sends what it says.
    pub(super) fn write_icr(&mut self, value: u64) -> Option<ApicWork> {
        let low = value as u32 & ICR_LOW_MASK;
        let high = (value >> 32) as u32;
        self.state.icr = u64::from(high) << 32 | u64::from(low);
        let destination = match self.mode() {
            ApicMode::X2Apic => high,
            ApicMode::XApic | ApicMode::Disabled => widen_destination((high >> 24) as u8, 0),
        };
        self.send(IcrLow::from_bits(low), destination)
    }

    fn send(&mut self, icr: IcrLow, destination: u32) -> Option<ApicWork> {
        let delivery = DeliveryMode::from_bits(icr.delivery())?;
        let shorthand = Shorthand::from_bits(icr.shorthand());
        if delivery == DeliveryMode::Init && icr.level() && !icr.assert() {
            // INIT level de-assert: nothing on processors that have xAPIC.
            return None;
        }
        if !is_valid(delivery, shorthand) {
            return None;
        }
        if delivery.has_vector() && icr.vector() < FIRST_LEGAL_VECTOR {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            return None;
        }
        let message = ApicMessage {
            destination,
            logical: icr.logical(),
            delivery,
            vector: icr.vector(),
            // IPIs are edge-triggered whatever the ICR says (SDM 3A 11.6.1).
            trigger: TriggerMode::Edge,
        };
        Some(ApicWork::Ipi(Ipi { shorthand, message }))
    }

    /// The SELF IPI register of x2APIC mode (SDM 3A 11.12.11).
    pub(super) fn self_ipi(&mut self, vector: u8) -> Option<ApicWork> {
        let icr = IcrLow::new().with_vector(vector).with_shorthand(1).with_assert(true);
        self.send(icr, 0)
    }
}

/// The combinations that SDM 3A table 11-3 allows. ExtINT is no IPI.
fn is_valid(delivery: DeliveryMode, shorthand: Shorthand) -> bool {
    match shorthand {
        Shorthand::None | Shorthand::AllExcludingSelf => delivery != DeliveryMode::ExtInt,
        Shorthand::SelfOnly | Shorthand::AllIncludingSelf => delivery == DeliveryMode::Fixed,
    }
}
