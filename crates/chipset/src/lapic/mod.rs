//! The local APIC of one processor (SDM 3A chapter 11): xAPIC and x2APIC.
//!
//! [`LocalApic`] knows no other APIC and calls nobody. What a register write
//! sets off (an IPI, an EOI for the I/O APICs) is returned as [`ApicWork`];
//! what a message asks of the processor beyond a vector is returned as
//! [`CpuSignal`]. The machine routes both, and asks [`LocalApic::pending`]
//! and [`LocalApic::deadline`] after each call that may have changed them.

mod ipi;
mod lvt;
mod message;
mod mmio;
mod msr;
mod page;
mod registers;
mod state;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;

pub use ipi::{Ipi, Shorthand};
pub use message::{ApicMessage, BROADCAST, DeliveryMode, TriggerMode};
pub use msr::{GeneralProtection, owns_msr};
pub use page::RegisterPage;
pub use registers::{
    DEFAULT_BASE, LAPIC_TIMER_HZ, MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC_FIRST, MSR_X2APIC_LAST,
};
pub use state::{InvalidState, LocalApicState};
pub use timer::TimerState;
pub use vectors::VectorSet;

pub(crate) use message::widen_destination;

use registers::{ApicBase, FIRST_LEGAL_VECTOR, LVT_MASKED, LvtEntry, SVR_MASK, SpuriousVector};
use timer::TimerMode;

use crate::VmTime;

/// What is fixed about a local APIC when the machine is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicConfig {
    /// The initial APIC id (CPUID leaf 0BH); xAPIC mode shows its low 8 bits.
    pub id: u32,
    /// Whether this is the bootstrap processor.
    pub bootstrap: bool,
    /// MAXPHYADDR, which limits where the register page can be.
    pub physical_address_bits: u8,
    /// Frequency of the guest's TSC.
    pub tsc_hz: u64,
}

/// The mode that IA32_APIC_BASE selects (SDM 3A table 11-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Globally disabled: the processor has no local APIC.
    Disabled,
    /// Registers in memory.
    XApic,
    /// Registers in MSRs.
    X2Apic,
}

/// What a register write asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicWork {
    /// Send this interprocessor interrupt.
    Ipi(Ipi),
    /// Tell the I/O APICs that the level-triggered interrupt with this vector
    /// is over.
    EoiBroadcast(u8),
}

/// What a message asks of the processor, other than a vector in the IRR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuSignal {
    /// A non-maskable interrupt.
    Nmi,
    /// An INIT reset; the processor calls [`LocalApic::init_reset`] when it
    /// takes it.
    Init,
    /// Start at `vector << 12`, if waiting for it.
    StartUp {
        /// Page number of the first instruction.
        vector: u8,
    },
    /// An external interrupt whose vector comes from the 8259A.
    ExtInt,
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    config: LocalApicConfig,
    state: LocalApicState,
    /// What the guest's TSC shows at machine tick 0.
    tsc_offset: u64,
}

impl LocalApic {
    /// A local APIC in its power-on state.
    pub fn new(config: LocalApicConfig) -> Self {
        Self { config, state: LocalApicState::power_on(&config), tsc_offset: 0 }
    }

    /// Power-on (or platform) reset.
    pub fn reset(&mut self) {
        self.state = LocalApicState::power_on(&self.config);
    }

    /// INIT reset (SDM 3A 11.4.7.3): all registers return to their power-on
    /// values but the APIC id and IA32_APIC_BASE, and with it the mode.
    pub fn init_reset(&mut self) {
        let LocalApicState { apic_base, lint, .. } = self.state;
        self.state = LocalApicState { apic_base, lint, ..LocalApicState::power_on(&self.config) };
    }

    /// What firmware does on the boot processor before it starts an operating
    /// system (SDM 3A 11.5.1, MP specification 3.6.2.2): enables the APIC,
    /// connects LINT0 to the 8259A and LINT1 to NMI ("virtual wire mode").
    pub fn bios_setup(&mut self) {
        self.state.spurious_vector = 0x1ff;
        self.state.lvt[LvtEntry::Lint0 as usize] = 0x700;
        self.state.lvt[LvtEntry::Lint1 as usize] = 0x400;
    }

    /// The fixed properties.
    pub fn config(&self) -> &LocalApicConfig {
        &self.config
    }

    /// All state that a snapshot must keep. The TSC offset is the processor's
    /// and not part of it: who restores sets it again.
    pub fn state(&self) -> LocalApicState {
        self.state
    }

    /// Takes over a saved state.
    pub fn set_state(&mut self, state: LocalApicState) -> Result<(), InvalidState> {
        self.state = state.checked(&self.config)?;
        Ok(())
    }

    /// The mode of operation.
    pub fn mode(&self) -> ApicMode {
        let base = ApicBase::from_bits(self.state.apic_base);
        match (base.enabled(), base.x2apic()) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
        }
    }

    /// Guest-physical address of the register page, while there is one.
    pub fn base(&self) -> Option<u64> {
        (self.mode() == ApicMode::XApic).then(|| ApicBase::from_bits(self.state.apic_base).frame() << 12)
    }

    /// Whether software has enabled the APIC (SVR bit 8).
    pub fn software_enabled(&self) -> bool {
        self.svr().enabled()
    }

    fn svr(&self) -> SpuriousVector {
        SpuriousVector::from_bits(self.state.spurious_vector)
    }

    fn set_svr(&mut self, value: u32) {
        self.state.spurious_vector = value & SVR_MASK;
        if !self.software_enabled() {
            // SDM 3A 11.4.7.2: all LVT mask bits are set and stay set.
            for entry in &mut self.state.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    /// The task-priority register.
    pub fn task_priority(&self) -> u8 {
        self.state.task_priority
    }

    /// CR8: the task priority class.
    pub fn cr8(&self) -> u64 {
        u64::from(self.state.task_priority >> 4)
    }

    /// Writes CR8. The processor checks the reserved bits.
    pub fn set_cr8(&mut self, value: u64) {
        self.state.task_priority = (value as u8 & 0xf) << 4;
    }

    /// The processor-priority register (SDM 3A 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0);
        let task = self.state.task_priority;
        if task >> 4 >= in_service >> 4 { task } else { in_service & 0xf0 }
    }

    /// The arbitration priority (SDM 3A 11.6.2.4): of the destinations of a
    /// lowest-priority message, the one with the lowest value takes it.
    pub fn arbitration_priority(&self) -> u8 {
        let task = self.state.task_priority;
        let in_service = self.state.isr.highest().unwrap_or(0) & 0xf0;
        let requested = self.state.irr.highest().unwrap_or(0) & 0xf0;
        if task & 0xf0 >= requested && task & 0xf0 > in_service {
            task
        } else {
            (task & 0xf0).max(in_service).max(requested)
        }
    }

    /// Whether a message to `destination` is meant for this APIC (SDM 3A
    /// 11.6.2, 11.12.9, 11.12.10).
    pub fn matches(&self, destination: u32, logical: bool) -> bool {
        match (self.mode(), logical) {
            (ApicMode::Disabled, _) => false,
            (_, false) if destination == BROADCAST => true,
            (ApicMode::XApic, false) => destination == self.config.id || destination == 0xff,
            (ApicMode::X2Apic, false) => destination == self.config.id,
            (ApicMode::XApic, true) => self.matches_xapic_logical(destination),
            (ApicMode::X2Apic, true) => {
                let ldr = self.x2apic_logical_id();
                destination == BROADCAST
                    || (destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0)
            }
        }
    }

    fn matches_xapic_logical(&self, destination: u32) -> bool {
        let address = match destination {
            BROADCAST => 0xff,
            0..=0xff => destination as u8,
            _ => return false,
        };
        let own = (self.state.logical_destination >> 24) as u8;
        match self.state.destination_format >> 28 {
            // Flat model: one bit for each APIC.
            0xf => address & own != 0,
            // Cluster model: cluster in the high half, bits in the low half.
            0 => address == 0xff || (address >> 4 == own >> 4 && address & own & 0xf != 0),
            _ => false,
        }
    }

    /// The logical id that x2APIC mode derives from the id (SDM 3A 11.12.10.2).
    fn x2apic_logical_id(&self) -> u32 {
        (self.config.id >> 4) << 16 | 1 << (self.config.id & 0xf)
    }

    /// Takes a message that the machine has found to be for this APIC. A
    /// vector goes into the IRR; anything else is for the processor.
    pub fn deliver(&mut self, message: &ApicMessage) -> Option<CpuSignal> {
        if self.mode() == ApicMode::Disabled {
            return None;
        }
        match message.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.software_enabled() {
                    self.accept(message.vector, message.trigger);
                }
                None
            }
            DeliveryMode::Nmi => Some(CpuSignal::Nmi),
            DeliveryMode::Init => Some(CpuSignal::Init),
            DeliveryMode::StartUp => Some(CpuSignal::StartUp { vector: message.vector }),
            DeliveryMode::ExtInt => self.software_enabled().then_some(CpuSignal::ExtInt),
            // The machine has no system management mode.
            DeliveryMode::Smi => None,
        }
    }

    /// Puts `vector` into the IRR, or reports it if it is illegal.
    fn accept(&mut self, vector: u8, trigger: TriggerMode) {
        if vector < FIRST_LEGAL_VECTOR {
            self.raise_error(registers::ESR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        match trigger {
            TriggerMode::Edge => self.state.tmr.remove(vector),
            TriggerMode::Level => self.state.tmr.insert(vector),
        }
        self.state.irr.insert(vector);
    }

    /// The vector that the processor should take now if it accepts
    /// interrupts: the highest request whose class is above the processor
    /// priority.
    pub fn pending(&self) -> Option<u8> {
        if self.mode() == ApicMode::Disabled {
            return None;
        }
        let vector = self.state.irr.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The processor takes the pending interrupt: it moves from the IRR to
    /// the ISR.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.state.irr.remove(vector);
        self.state.isr.insert(vector);
        Some(vector)
    }

    /// As [`LocalApic::acknowledge`], for a processor that already committed
    /// itself to an interrupt. If the request was withdrawn meanwhile, it gets
    /// the spurious vector, which sets no ISR bit and wants no EOI (SDM 3A
    /// 11.9).
    pub fn acknowledge_or_spurious(&mut self) -> u8 {
        self.acknowledge().unwrap_or_else(|| self.svr().vector())
    }

    /// End of interrupt: dismisses the interrupt in service. Returns its
    /// vector if it was level-triggered and the I/O APICs must be told.
    pub fn eoi(&mut self) -> Option<u8> {
        let vector = self.state.isr.highest()?;
        self.state.isr.remove(vector);
        if !self.state.tmr.contains(vector) {
            return None;
        }
        self.end_lint(vector);
        (!self.svr().suppress_eoi_broadcast()).then_some(vector)
    }

    /// Whether any vector waits to be taken.
    pub fn has_requests(&self) -> bool {
        self.state.irr.highest().is_some()
    }

    /// Whether the end of the interrupt in service would have no effect but
    /// its own: nothing waits for it, neither here nor at an I/O APIC.
    pub fn can_end_silently(&self) -> bool {
        let edge = |vector| !self.state.tmr.contains(vector);
        self.mode() != ApicMode::Disabled
            && !self.has_requests()
            && self.state.isr.highest().is_some_and(edge)
    }

    /// Ends the interrupt in service, which was found to be one that
    /// [`LocalApic::can_end_silently`].
    pub fn end_silently(&mut self) {
        if let Some(vector) = self.state.isr.highest() {
            self.state.isr.remove(vector);
        }
    }

    fn timer_mode(&self) -> TimerMode {
        TimerMode::from_bits(self.lvt(LvtEntry::Timer).timer_mode())
    }

    /// When [`LocalApic::advance`] must be called next: when the timer
    /// expires, if that interrupts anybody.
    pub fn deadline(&self) -> Option<VmTime> {
        if self.mode() == ApicMode::Disabled || self.lvt(LvtEntry::Timer).masked() {
            return None;
        }
        self.state.timer.deadline(self.timer_mode(), self.config.tsc_hz)
    }

    /// Lets the timer run up to `now`. Periods missed since the last call
    /// make one interrupt.
    pub fn advance(&mut self, now: VmTime) {
        let mode = self.timer_mode();
        if self.state.timer.advance(mode, self.config.tsc_hz, now) {
            // The timer's entry has no delivery mode: it makes no signal.
            self.raise_local(LvtEntry::Timer);
        }
    }

    /// Tells the APIC that the guest's TSC runs `offset` ahead of the
    /// machine's, which started at zero with the machine; a deadline that is
    /// armed moves accordingly.
    pub fn set_tsc_offset(&mut self, now: VmTime, offset: u64) {
        self.advance(now);
        self.tsc_offset = offset;
        let deadline = self.state.timer.tsc_deadline;
        self.arm_tsc_deadline(now, deadline);
    }

    fn arm_tsc_deadline(&mut self, now: VmTime, value: u64) {
        let tick = now.ticks(self.config.tsc_hz);
        self.state.timer.set_tsc_deadline(value, tick, self.tsc_offset);
    }
}
