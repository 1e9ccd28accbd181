//! The redirection table entry of the I/O APIC.

use bitfield_struct::bitfield;

use crate::lapic::{ApicMessage, DeliveryMode, TriggerMode, widen_destination};

/// The bits that software can write: all defined ones but delivery status and
/// remote IRR.
pub(super) const WRITABLE: u64 = 0xfffe_0000_0001_afff;
/// The remote IRR bit.
pub(super) const REMOTE_IRR: u64 = 1 << 14;

/// A redirection table entry (82093AA datasheet 3.2.4). Bits 55:49, reserved
/// there, extend the destination as in [`ApicMessage::from_msi`].
#[bitfield(u64)]
pub(super) struct RedirectionEntry {
    pub(super) vector: u8,
    #[bits(3)]
    pub(super) delivery: u8,
    pub(super) logical: bool,
    pub(super) delivery_status: bool,
    pub(super) active_low: bool,
    pub(super) remote_irr: bool,
    pub(super) level: bool,
    pub(super) masked: bool,
    #[bits(32)]
    _reserved: u32,
    #[bits(7)]
    pub(super) destination_extension: u8,
    pub(super) destination: u8,
}

impl RedirectionEntry {
    /// Whether the input is handled as level-triggered. Modes other than
    /// fixed and lowest priority are edge-triggered whatever the bit says.
    pub(super) fn is_level(self) -> bool {
        self.level() && DeliveryMode::from_bits(self.delivery()).is_some_and(DeliveryMode::has_vector)
    }

    /// The message that the entry sends; `None` if its delivery mode is
    /// reserved.
    pub(super) fn message(self) -> Option<ApicMessage> {
        let delivery = match DeliveryMode::from_bits(self.delivery())? {
            DeliveryMode::StartUp => return None,
            other => other,
        };
        Some(ApicMessage {
            destination: widen_destination(self.destination(), self.destination_extension()),
            logical: self.logical(),
            delivery,
            vector: self.vector(),
            trigger: TriggerMode::from_level_bit(self.is_level()),
        })
    }
}
