//! A local APIC's state in the processor's own form: what its register page
//! shows (SDM 3A table 11-1), as those who have the APIC in hardware or in a
//! kernel exchange it.

use super::registers::{
    ApicBase, DIVIDE_MASK, ESR_MASK, ICR_LOW_MASK, LVT_MASKED, LVT_REMOTE_IRR, LvtEntry, Register, SVR_MASK,
};
use super::timer::TimerMode;
use super::{ApicMode, InvalidState, LocalApic, LocalApicState, TimerState, VectorSet};
use crate::VmTime;

/// The page's registers, by their offsets divided by 16.
pub type RegisterPage = [u32; 64];

impl LocalApic {
    /// The registers as the page shows them at `now`. In x2APIC mode it is laid
    /// out as in xAPIC mode too, but for the width of the id.
    pub fn page(&mut self, now: VmTime) -> RegisterPage {
        self.advance(now);
        let mut page = [0; 64];
        for (index, slot) in (0..).zip(&mut page) {
            *slot = Register::from_index(index).map_or(0, |register| self.page_register(now, register));
        }
        page
    }

    fn page_register(&self, now: VmTime, register: Register) -> u32 {
        let x2apic = self.mode() == ApicMode::X2Apic;
        match register {
            Register::Id if x2apic => self.config.id,
            Register::Id => self.config.id << 24,
            Register::LogicalDestination if x2apic => self.x2apic_logical_id(),
            Register::LogicalDestination => self.state.logical_destination,
            Register::DestinationFormat => self.state.destination_format,
            Register::IcrLow => self.state.icr as u32,
            Register::IcrHigh => (self.state.icr >> 32) as u32,
            other => self.read_common(now, other),
        }
    }

    /// Takes over registers that [`LocalApic::page`] could have given at `now`,
    /// IA32_APIC_BASE and IA32_TSC_DEADLINE. Bits that the registers do not
    /// have here are left out. The pins stay as they are driven.
    ///
    /// # Errors
    /// If no APIC can have that base.
    pub fn set_page(
        &mut self,
        now: VmTime,
        base: u64,
        page: &RegisterPage,
        tsc_deadline: u64,
    ) -> Result<(), InvalidState> {
        let at = |index: usize| page[index & 63];
        let vectors = |first: usize| VectorSet::from_words(std::array::from_fn(|word| at(first + word)));
        let x2apic = ApicBase::from_bits(base).x2apic();
        let svr = at(0x0f) & SVR_MASK;
        self.set_state(LocalApicState {
            apic_base: base,
            task_priority: at(0x08) as u8,
            // In x2APIC mode it follows from the id.
            logical_destination: if x2apic { 0 } else { at(0x0d) & 0xff00_0000 },
            destination_format: if x2apic { u32::MAX } else { at(0x0e) | 0x0fff_ffff },
            spurious_vector: svr,
            isr: vectors(0x10),
            tmr: vectors(0x18),
            irr: vectors(0x20),
            error_status: at(0x28) & ESR_MASK,
            errors: 0,
            icr: u64::from(at(0x31)) << 32 | u64::from(at(0x30) & ICR_LOW_MASK),
            lvt: local_vectors(page, svr),
            lint: self.state.lint,
            timer: TimerState {
                initial_count: at(0x38),
                divide_configuration: at(0x3e) & DIVIDE_MASK,
                since: if at(0x39) == 0 { VmTime::ZERO } else { now },
                count: at(0x39),
                ..TimerState::RESET
            },
        })?;
        if self.timer_mode() == TimerMode::TscDeadline {
            self.arm_tsc_deadline(now, tsc_deadline);
        }
        Ok(())
    }
}

fn local_vectors(page: &RegisterPage, svr: u32) -> [u32; LvtEntry::COUNT] {
    let disabled = if svr & 1 << 8 == 0 { LVT_MASKED } else { 0 };
    LvtEntry::ALL.map(|entry| {
        let remote_irr = entry.read_only() & LVT_REMOTE_IRR;
        page[entry.index()] & (entry.writable() | remote_irr) | disabled
    })
}

#[cfg(test)]
mod tests {
    use super::super::LocalApicConfig;
    use super::*;

    fn apic(id: u32) -> LocalApic {
        LocalApic::new(LocalApicConfig {
            id,
            bootstrap: id == 0,
            physical_address_bits: 46,
            tsc_hz: 1_000_000_000,
        })
    }

    fn through_its_page(apic: &mut LocalApic, now: VmTime) -> LocalApic {
        let page = apic.page(now);
        let state = apic.state();
        let mut other = self::apic(apic.config().id);
        other.set_page(now, state.apic_base, &page, state.timer.tsc_deadline).unwrap();
        other
    }

    #[test]
    fn a_busy_apic_survives_the_way_there_and_back() {
        let now = VmTime::from_nanos(1000);
        let mut apic = apic(3);
        apic.bios_setup();
        for (offset, value) in [
            (0x80, 0x31_u32),
            (0xd0, 0x0800_0000),
            (0xe0, 0x0fff_ffff),
            (0x320, 0x2_00ec),
            (0x3e0, 0b1011),
            (0x380, 100_000),
            (0x310, 0x0500_0000),
            (0x300, 0x0000_4041),
        ] {
            apic.mmio_write(now, offset, &value.to_le_bytes());
        }
        for vector in [0x41, 0x91, 0x92, 0xec] {
            apic.state.irr.insert(vector);
        }
        apic.state.tmr.insert(0x91);
        assert_eq!(apic.acknowledge(), Some(0xec));
        let later = VmTime::from_nanos(31_000);
        let mut other = through_its_page(&mut apic, later);
        assert_eq!(other.page(later), apic.page(later));
        assert_eq!(other.page(later)[0x39], 70_000, "the count goes on from where it was");
        assert_eq!(other.deadline(), apic.deadline());
        let still = |state: LocalApicState| LocalApicState { timer: TimerState::RESET, ..state };
        assert_eq!(still(other.state()), still(apic.state()));
    }

    #[test]
    fn an_armed_deadline_and_the_mode_with_wide_ids_survive() {
        let now = VmTime::from_nanos(500);
        let mut apic = apic(300);
        apic.bios_setup();
        let base = apic.state().apic_base | 1 << 10;
        apic.msr_write(now, super::super::MSR_APIC_BASE, base).unwrap();
        apic.msr_write(now, 0x832, 0x4_00ec).unwrap();
        apic.msr_write(now, super::super::MSR_TSC_DEADLINE, 9000).unwrap();
        apic.msr_write(now, 0x830, 7 << 32 | 0xf1).unwrap();
        assert_eq!((apic.page(now)[2], apic.page(now)[0xd]), (300, 300 >> 4 << 16 | 1 << 12));
        let other = through_its_page(&mut apic, now);
        assert_eq!(other.state(), apic.state());
        assert_eq!(other.deadline(), Some(VmTime::from_nanos(9000)));
    }

    #[test]
    fn what_is_no_apic_is_refused_and_stray_bits_are_dropped() {
        let mut apic = apic(0);
        let before = apic.state();
        let page = [u32::MAX; 64];
        assert!(apic.set_page(VmTime::ZERO, u64::MAX, &page, 0).is_err());
        assert_eq!(apic.state(), before);
        apic.set_page(VmTime::ZERO, before.apic_base, &page, 0).unwrap();
        let (state, config) = (apic.state(), *apic.config());
        assert_eq!(state.checked(&config), Ok(state));
    }
}
