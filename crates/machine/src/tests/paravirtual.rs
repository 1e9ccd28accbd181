//! KVM's interface as a guest of the machine meets it.

use std::time::Duration;

use engine::{Hypercall, MsrFault, Platform, Signal};
use x86::{CpuState, GuestPhysAddr};

use super::Bench;

const SYSTEM_TIME: u32 = 0x4b56_4d01;
const PV_EOI: u32 = 0x4b56_4d04;
const FLAG: GuestPhysAddr = GuestPhysAddr(0x6000);
const CLOCK: GuestPhysAddr = GuestPhysAddr(0x7000);

/// A board whose local APIC is on, with the flag registered.
fn with_flag() -> Bench {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.board.msr_write(0, PV_EOI, FLAG.0 | 1).unwrap().unwrap();
    bench
}

impl Bench {
    fn self_ipi(&self, vector: u8) {
        self.apic_write(0, 0x300, 0x4_4000 | u32::from(vector));
    }

    fn flag(&self) -> u32 {
        self.memory.read_u32(FLAG).unwrap()
    }

    /// What a guest does at the end of an interrupt: it clears the flag, or
    /// writes to its APIC if there is none.
    fn end_of_interrupt(&self) -> bool {
        let skipped = self.flag() & 1 != 0;
        self.memory.write(FLAG, &[0]).unwrap();
        if !skipped {
            self.apic_write(0, 0xb0, 0);
        }
        skipped
    }

    fn in_service(&self, vector: u8) -> bool {
        let word = self.apic_read(0, 0x100 + u64::from(vector / 32) * 0x10);
        word >> (vector % 32) & 1 != 0
    }
}

#[test]
fn interrupts_end_without_a_trap() {
    let bench = with_flag();
    for _ in 0..3 {
        bench.self_ipi(0x41);
        assert_eq!(bench.interrupt(), Some(0x41));
        assert!(bench.in_service(0x41));
        assert!(bench.end_of_interrupt());
    }
    assert!(!bench.in_service(0x41));
    assert_eq!(bench.flag(), 0, "nothing is in service");
}

#[test]
fn an_interrupt_that_waits_is_delivered_after_the_flag_was_cleared() {
    let bench = with_flag();
    bench.redirect(4, 0x42);
    bench.self_ipi(0x48);
    assert_eq!(bench.interrupt(), Some(0x48));
    assert!(bench.end_of_interrupt());
    // Another thread sends: it may not look at the flag, but has to announce.
    bench.board.interrupts.line(4).set(true);
    assert_eq!(bench.interrupt(), Some(0x42));
}

#[test]
fn an_interrupt_that_comes_too_early_waits_for_a_real_end() {
    let bench = with_flag();
    bench.redirect(4, 0x42);
    bench.self_ipi(0x48);
    assert_eq!(bench.interrupt(), Some(0x48));
    bench.board.interrupts.line(4).set(true);
    assert!(bench.is_pending(0, Signal::Interrupt));
    assert_eq!(bench.board.interrupt_acknowledge(0), None, "0x48 is not over");
    assert!(!bench.is_pending(0, Signal::Interrupt));
    assert!(!bench.end_of_interrupt(), "the flag was withdrawn");
    assert_eq!(bench.interrupt(), Some(0x42));
}

#[test]
fn nested_interrupts_end_one_by_one() {
    let bench = with_flag();
    bench.self_ipi(0x48);
    assert_eq!(bench.interrupt(), Some(0x48));
    bench.self_ipi(0x88);
    assert_eq!(bench.interrupt(), Some(0x88));
    assert!(bench.end_of_interrupt());
    assert!(!bench.in_service(0x88) && bench.in_service(0x48));
    assert!(bench.end_of_interrupt(), "that look at the APIC offered it anew");
    assert!(!bench.in_service(0x48));
}

#[test]
fn level_triggered_interrupts_are_ended_by_the_apic() {
    let bench = with_flag();
    bench.redirect(4, 0x8041);
    bench.board.interrupts.line(4).set(true);
    assert_eq!(bench.interrupt(), Some(0x41));
    assert!(!bench.end_of_interrupt());
    assert_eq!(bench.interrupt(), Some(0x41), "the line is still asserted");
}

#[test]
fn an_ordinary_end_of_interrupt_takes_the_flag_back() {
    let bench = with_flag();
    bench.self_ipi(0x48);
    assert_eq!(bench.interrupt(), Some(0x48));
    bench.apic_write(0, 0xb0, 0);
    assert_eq!(bench.flag(), 0);
    assert!(!bench.in_service(0x48));
}

#[test]
fn the_flag_is_gone_after_it_was_turned_off_and_after_a_reset() {
    let bench = with_flag();
    bench.board.msr_write(0, PV_EOI, FLAG.0).unwrap().unwrap();
    bench.self_ipi(0x48);
    assert_eq!((bench.interrupt(), bench.flag()), (Some(0x48), 0));
    let bench = with_flag();
    bench.board.reset();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.self_ipi(0x48);
    assert_eq!((bench.interrupt(), bench.flag()), (Some(0x48), 0));
    assert_eq!(bench.board.msr_read(0, PV_EOI), Some(Ok(0)));
}

#[test]
fn the_clocks_page_follows_pauses_and_adjustments() {
    let bench = Bench::new();
    let page = |offset| bench.memory.read_u64(GuestPhysAddr(CLOCK.0 + offset)).unwrap();
    bench.ticks.pass(5000);
    bench.board.msr_write(0, SYSTEM_TIME, CLOCK.0 | 1).unwrap().unwrap();
    assert_eq!((page(0) as u32, page(8), page(16)), (2, 5000, 5000));
    bench.board.stand();
    bench.ticks.pass(1 << 40);
    bench.board.start();
    assert_eq!((page(0) as u32, page(8), page(16)), (4, 5000, 5000));
    bench.board.start();
    assert_eq!(page(0) as u32, 4, "it ran already");
    bench.board.tsc_adjusted(0, 100);
    assert_eq!((page(8), page(16)), (5100, 5000));
    bench.pass(Duration::from_micros(10));
    assert_eq!(page(16), 5000, "readers count on by themselves");
}

#[test]
fn hypercalls_reach_other_processors() {
    let bench = Bench::with(2, None);
    bench.apic_write(1, 0xf0, 0x1ff);
    let mut call = Hypercall {
        rax: 10,
        rbx: 0b10,
        rcx: 0,
        rdx: 0,
        rsi: 0x4055,
        rdi: 0,
        r8_to_r10: [0; 3],
        cpl: 0,
        long: true,
    };
    assert!(bench.board.hypercall(0, &mut call));
    assert_eq!(call.rax, 1);
    assert_eq!(bench.board.interrupt_acknowledge(1).map(|vector| vector.0), Some(0x55));
    assert_eq!(bench.board.interrupt_acknowledge(0), None);
}

#[test]
fn what_is_not_offered_is_not_there() {
    let bench = Bench::new();
    let leaf = |leaf| bench.board.cpuid.query(leaf, 0, &CpuState::reset());
    assert_eq!(leaf(0x4000_0000).ebx, u32::from_le_bytes(*b"KVMK"));
    assert_eq!(leaf(0x4000_0010).eax, 1_000_000);
    assert_eq!(bench.board.msr_write(0, PV_EOI, 2), Some(Err(MsrFault)));
    assert_eq!(bench.board.msr_read(0, 0x4b56_4d03), None);
}
