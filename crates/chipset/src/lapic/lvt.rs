//! Local interrupt sources (SDM 3A 11.5): the local vector table, the pins
//! LINT0 and LINT1, and error reporting.

use super::registers::{LVT_MASKED, LVT_REMOTE_IRR, Lvt, LvtEntry};
use super::timer::TimerMode;
use super::{ApicMode, CpuSignal, DeliveryMode, LocalApic, TriggerMode};
use crate::VmTime;

impl LocalApic {
    pub(super) fn lvt(&self, entry: LvtEntry) -> Lvt {
        Lvt::from_bits(self.state.lvt[entry as usize])
    }

    /// Writes an LVT entry; reserved and read-only bits keep their value.
    pub(super) fn set_lvt(&mut self, now: VmTime, entry: LvtEntry, value: u32) {
        let old = self.lvt(entry);
        let mut new = value & entry.writable() | old.into_bits() & LVT_REMOTE_IRR;
        if !self.software_enabled() {
            new |= LVT_MASKED;
        }
        if !Lvt::from_bits(new).level() {
            new &= !LVT_REMOTE_IRR;
        }
        self.state.lvt[entry as usize] = new;
        match entry {
            LvtEntry::Timer => {
                let from = TimerMode::from_bits(old.timer_mode());
                let to = TimerMode::from_bits(Lvt::from_bits(new).timer_mode());
                self.state.timer.change_mode(from, to, now);
            }
            LvtEntry::Lint0 | LvtEntry::Lint1 => self.repeat_level(entry),
            _ => {}
        }
    }

    /// Drives LINT0, where the 8259A's INTR arrives. Polarity bits are kept
    /// but mean nothing here: `asserted` is the state of the source.
    ///
    /// With the entry in ExtINT mode, this returns nothing: the processor
    /// samples the 8259A itself while [`LocalApic::accepts_extint`].
    pub fn set_lint0(&mut self, asserted: bool) -> Option<CpuSignal> {
        self.set_lint(LvtEntry::Lint0, asserted)
    }

    /// Drives LINT1, where NMI arrives.
    pub fn set_lint1(&mut self, asserted: bool) -> Option<CpuSignal> {
        self.set_lint(LvtEntry::Lint1, asserted)
    }

    fn set_lint(&mut self, entry: LvtEntry, asserted: bool) -> Option<CpuSignal> {
        let pin = &mut self.state.lint[usize::from(entry == LvtEntry::Lint1)];
        let rising = asserted && !*pin;
        *pin = asserted;
        if !rising {
            return None;
        }
        if self.mode() == ApicMode::Disabled {
            // SDM 3A 11.4.3: the pins are INTR and NMI then.
            return (entry == LvtEntry::Lint1).then_some(CpuSignal::Nmi);
        }
        match DeliveryMode::from_bits(self.lvt(entry).delivery()) {
            Some(DeliveryMode::ExtInt) => None,
            Some(DeliveryMode::Fixed) if self.is_level(entry) => {
                self.repeat_level(entry);
                None
            }
            _ => self.raise_local(entry),
        }
    }

    /// Whether the 8259A's INTR reaches the processor now: there is no APIC in
    /// between, it is not (yet) enabled, or LINT0 is unmasked in ExtINT mode.
    ///
    /// A software-disabled APIC masks LINT0 by the manual; it is transparent
    /// here so that guests without firmware that set up the virtual wire get
    /// their interrupts.
    pub fn accepts_extint(&self) -> bool {
        if self.mode() == ApicMode::Disabled || !self.software_enabled() {
            return true;
        }
        let lint0 = self.lvt(LvtEntry::Lint0);
        !lint0.masked() && DeliveryMode::from_bits(lint0.delivery()) == Some(DeliveryMode::ExtInt)
    }

    /// LINT1 cannot be level-triggered (SDM 3A 11.5.1).
    fn is_level(&self, entry: LvtEntry) -> bool {
        entry == LvtEntry::Lint0 && self.lvt(entry).level()
    }

    /// Requests the interrupt of a level-triggered pin that is asserted,
    /// unless it was requested and not yet ended.
    fn repeat_level(&mut self, entry: LvtEntry) {
        let lvt = self.lvt(entry);
        let asserted = self.state.lint[usize::from(entry == LvtEntry::Lint1)];
        let fixed = DeliveryMode::from_bits(lvt.delivery()) == Some(DeliveryMode::Fixed);
        if asserted && fixed && self.is_level(entry) && !lvt.masked() && !lvt.remote_irr() {
            self.state.lvt[entry as usize] |= LVT_REMOTE_IRR;
            self.accept(lvt.vector(), TriggerMode::Level);
        }
    }

    /// EOI of the level-triggered `vector`: the pin may interrupt again.
    pub(super) fn end_lint(&mut self, vector: u8) {
        let lint0 = self.lvt(LvtEntry::Lint0);
        if lint0.remote_irr() && lint0.vector() == vector {
            self.state.lvt[LvtEntry::Lint0 as usize] &= !LVT_REMOTE_IRR;
            self.repeat_level(LvtEntry::Lint0);
        }
    }

    /// A local source has an event: delivers it as its LVT entry says.
    pub(super) fn raise_local(&mut self, entry: LvtEntry) -> Option<CpuSignal> {
        let lvt = self.lvt(entry);
        if lvt.masked() || self.mode() == ApicMode::Disabled {
            return None;
        }
        match DeliveryMode::from_bits(lvt.delivery())? {
            DeliveryMode::Fixed => {
                self.accept(lvt.vector(), TriggerMode::Edge);
                None
            }
            DeliveryMode::Nmi => Some(CpuSignal::Nmi),
            DeliveryMode::Init => Some(CpuSignal::Init),
            DeliveryMode::ExtInt => Some(CpuSignal::ExtInt),
            // No SMM; the others are no local delivery modes.
            DeliveryMode::Smi | DeliveryMode::LowestPriority | DeliveryMode::StartUp => None,
        }
    }

    /// Notes an error (SDM 3A 11.5.3). The first one since the ESR was last
    /// written interrupts through the error entry.
    pub(super) fn raise_error(&mut self, error: u32) {
        let armed = self.state.errors == 0;
        self.state.errors |= error;
        if armed {
            // An illegal vector in the error entry itself ends here: it is
            // no longer armed. The entry has no delivery mode: no signal.
            self.raise_local(LvtEntry::Error);
        }
    }

    /// A write to the ESR: shows the errors since the last one.
    pub(super) fn latch_errors(&mut self) {
        self.state.error_status = std::mem::take(&mut self.state.errors);
    }
}
