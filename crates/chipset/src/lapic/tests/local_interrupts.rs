//! The local vector table and the pins.

use super::*;

#[test]
fn software_disable_masks_the_lvt() {
    let mut apic = xapic(0);
    write(&mut apic, 0x320, 0x40);
    write(&mut apic, 0xf0, 0xff);
    assert_eq!(read(&mut apic, 0x320), 0x1_0040);
    write(&mut apic, 0x320, 0x40);
    assert_eq!(read(&mut apic, 0x320), 0x1_0040, "stays masked");
    write(&mut apic, 0xf0, 0x1ff);
    write(&mut apic, 0x320, 0x40);
    assert_eq!(read(&mut apic, 0x320), 0x40);
}

#[test]
fn virtual_wire() {
    let mut apic = LocalApic::new(config(0));
    assert!(apic.accepts_extint(), "not enabled yet");
    apic.bios_setup();
    assert!(apic.accepts_extint());
    assert_eq!(apic.set_lint0(true), None);
    assert_eq!(apic.set_lint1(true), Some(CpuSignal::Nmi));
    assert_eq!(apic.set_lint1(true), None, "an edge");
    write(&mut apic, 0x350, 0x1_0700);
    assert!(!apic.accepts_extint());
    write(&mut apic, 0x350, 0x30);
    assert!(!apic.accepts_extint());
    apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
    assert!(apic.accepts_extint(), "no APIC in between");
    apic.set_lint1(false);
    assert_eq!(apic.set_lint1(true), Some(CpuSignal::Nmi));
}

#[test]
fn fixed_edge_pin() {
    let mut apic = xapic(0);
    write(&mut apic, 0x350, 0x30);
    apic.set_lint0(true);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.pending(), None);
}

#[test]
fn fixed_level_pin_repeats_until_its_cause_is_gone() {
    let mut apic = xapic(0);
    apic.set_lint0(true);
    write(&mut apic, 0x350, 0x8030);
    assert_eq!(read(&mut apic, 0x350), 0xc030, "remote IRR");
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!(apic.pending(), None);
    apic.eoi();
    assert_eq!(apic.acknowledge(), Some(0x30), "still asserted");
    apic.set_lint0(false);
    apic.eoi();
    assert_eq!(apic.pending(), None);
    assert_eq!(read(&mut apic, 0x350), 0x8030);
}
