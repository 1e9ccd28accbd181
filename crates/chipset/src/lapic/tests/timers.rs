//! The timer through the registers.

use super::*;

#[test]
fn one_shot_interrupts_once() {
    let mut apic = xapic(0);
    write(&mut apic, 0x3e0, 0b1011);
    write(&mut apic, 0x320, 0x40);
    write_at(&mut apic, at(100), 0x380, 1000);
    assert_eq!(apic.deadline(), Some(at(1100)));
    assert_eq!(read_at(&mut apic, at(600), 0x390), 500);
    apic.advance(at(1099));
    assert_eq!(apic.pending(), None);
    apic.advance(at(1100));
    assert_eq!(apic.acknowledge(), Some(0x40));
    assert_eq!(apic.deadline(), None);
    apic.advance(at(5000));
    assert_eq!(apic.pending(), None);
    assert_eq!(read_at(&mut apic, at(5000), 0x380), 1000);
    assert_eq!(read_at(&mut apic, at(5000), 0x390), 0);
}

#[test]
fn late_periodic_timer_interrupts_once() {
    let mut apic = xapic(0);
    write(&mut apic, 0x3e0, 0b1011);
    write(&mut apic, 0x320, 0x2_0040);
    write(&mut apic, 0x380, 1_000_000);
    apic.advance(at(7_500_000));
    assert_eq!(apic.acknowledge(), Some(0x40));
    apic.eoi();
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.deadline(), Some(at(8_000_000)));
}

#[test]
fn masked_timer_counts_silently() {
    let mut apic = xapic(0);
    write(&mut apic, 0x3e0, 0b1011);
    write(&mut apic, 0x320, 0x3_0040);
    write(&mut apic, 0x380, 1_000_000);
    assert_eq!(apic.deadline(), None);
    assert_eq!(read_at(&mut apic, at(1_250_000), 0x390), 750_000);
    write_at(&mut apic, at(2_500_000), 0x320, 0x2_0040);
    assert_eq!(apic.pending(), None, "what passed while masked is lost");
    assert_eq!(apic.deadline(), Some(at(3_000_000)));
}

#[test]
fn registers_see_an_expiry_that_nobody_advanced_to() {
    let mut apic = xapic(0);
    write(&mut apic, 0x320, 0x40);
    write(&mut apic, 0x380, 100);
    assert_eq!(read_at(&mut apic, at(1000), 0x220), 1, "IRR");
}

#[test]
fn tsc_deadline() {
    let mut apic = x2apic(0);
    assert_eq!(apic.msr_write(T0, 0x6e0, 5000), Ok(None));
    assert_eq!(apic.msr_read(T0, 0x6e0), Ok(0), "ignored in other modes");
    apic.msr_write(T0, 0x832, 0x4_0040).unwrap();
    apic.set_tsc_offset(T0, 1000);
    apic.msr_write(T0, 0x6e0, 5000).unwrap();
    assert_eq!(apic.msr_read(T0, 0x6e0), Ok(5000));
    assert_eq!(apic.deadline(), Some(at(2000)), "4000 ticks at 2 GHz");
    apic.set_tsc_offset(T0, 3000);
    assert_eq!(apic.deadline(), Some(at(1000)), "follows the offset");
    apic.advance(at(1000));
    assert_eq!(apic.pending(), Some(0x40));
    assert_eq!(apic.msr_read(at(1000), 0x6e0), Ok(0), "disarmed");
    assert_eq!(apic.msr_read(T0, 0x838), Ok(0));
}

#[test]
fn tsc_deadline_in_the_past_fires_at_once_and_zero_disarms() {
    let mut apic = xapic(0);
    write(&mut apic, 0x320, 0x4_0040);
    apic.msr_write(at(1000), 0x6e0, 10_000).unwrap();
    apic.msr_write(at(1000), 0x6e0, 0).unwrap();
    assert_eq!(apic.deadline(), None);
    apic.msr_write(at(1000), 0x6e0, 1).unwrap();
    assert_eq!(apic.pending(), Some(0x40));
}

#[test]
fn leaving_deadline_mode_disarms() {
    let mut apic = xapic(0);
    write(&mut apic, 0x320, 0x4_0040);
    apic.msr_write(T0, 0x6e0, 10_000).unwrap();
    write(&mut apic, 0x320, 0x40);
    assert_eq!(apic.deadline(), None);
    write(&mut apic, 0x320, 0x4_0040);
    assert_eq!(apic.msr_read(T0, 0x6e0), Ok(0));
}
