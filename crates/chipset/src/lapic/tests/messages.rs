//! Destinations, delivered messages and IPIs.

use super::*;

#[test]
fn physical_destinations() {
    let apic = xapic(3);
    assert!(apic.matches(3, false));
    assert!(!apic.matches(2, false));
    assert!(!apic.matches(0x103, false));
    assert!(apic.matches(0xff, false));
    assert!(apic.matches(BROADCAST, false));
    let apic = x2apic(0x103);
    assert!(apic.matches(0x103, false));
    assert!(!apic.matches(3, false));
    assert!(!apic.matches(0xff, false));
    assert!(apic.matches(BROADCAST, false));
}

#[test]
fn flat_logical_destinations() {
    let mut apic = xapic(3);
    assert!(!apic.matches(0xff, true), "LDR is zero");
    write(&mut apic, 0xd0, 0x0400_0000);
    assert!(apic.matches(0x04, true));
    assert!(apic.matches(0x0c, true));
    assert!(!apic.matches(0x08, true));
    assert!(!apic.matches(0x104, true));
    assert!(apic.matches(BROADCAST, true));
}

#[test]
fn cluster_logical_destinations() {
    let mut apic = xapic(3);
    write(&mut apic, 0xe0, 0x0fff_ffff);
    write(&mut apic, 0xd0, 0x2400_0000);
    assert!(apic.matches(0x24, true));
    assert!(apic.matches(0x2f, true));
    assert!(!apic.matches(0x14, true));
    assert!(!apic.matches(0x21, true));
    assert!(apic.matches(0xff, true));
    write(&mut apic, 0xe0, 0x7fff_ffff);
    assert!(!apic.matches(0xff, true), "no model");
}

#[test]
fn x2apic_logical_destinations() {
    let apic = x2apic(0x25);
    assert!(apic.matches(0x0002_0020, true));
    assert!(apic.matches(0x0002_ffff, true));
    assert!(!apic.matches(0x0002_0010, true));
    assert!(!apic.matches(0x0001_0020, true));
    assert!(apic.matches(BROADCAST, true));
}

#[test]
fn signals_for_the_processor() {
    let mut apic = LocalApic::new(config(0));
    let message = |delivery| ApicMessage { delivery, ..fixed(0x9a, TriggerMode::Edge) };
    assert_eq!(apic.deliver(&message(DeliveryMode::Nmi)), Some(CpuSignal::Nmi));
    assert_eq!(apic.deliver(&message(DeliveryMode::Init)), Some(CpuSignal::Init));
    let start_up = CpuSignal::StartUp { vector: 0x9a };
    assert_eq!(apic.deliver(&message(DeliveryMode::StartUp)), Some(start_up));
    assert_eq!(apic.deliver(&message(DeliveryMode::Smi)), None);
    assert_eq!(apic.deliver(&message(DeliveryMode::ExtInt)), None, "software-disabled");
    edge(&mut apic, 0x41);
    assert_eq!(apic.pending(), None, "software-disabled");
    apic.bios_setup();
    assert_eq!(apic.deliver(&message(DeliveryMode::ExtInt)), Some(CpuSignal::ExtInt));
    apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
    assert_eq!(apic.deliver(&message(DeliveryMode::Nmi)), None);
}

#[test]
fn ipis() {
    let mut apic = xapic(1);
    assert_eq!(write(&mut apic, 0x310, 0x0200_0000), None);
    let sent = ipi(write(&mut apic, 0x300, 0x0000_4845));
    assert_eq!(sent.shorthand, Shorthand::None);
    let expected = ApicMessage { destination: 2, logical: true, ..fixed(0x45, TriggerMode::Edge) };
    assert_eq!(sent.message, expected);
    assert_eq!(read(&mut apic, 0x300), 0x4845);
    // INIT, start-up and what the manual forbids.
    assert_eq!(ipi(write(&mut apic, 0x300, 0xc500)).message.delivery, DeliveryMode::Init);
    assert_eq!(write(&mut apic, 0x300, 0x8500), None, "INIT level de-assert");
    let sent = ipi(write(&mut apic, 0x300, 0x000c_4699));
    assert_eq!(sent.message.delivery, DeliveryMode::StartUp);
    assert_eq!(sent.shorthand, Shorthand::AllExcludingSelf);
    for invalid in [0x4_4400, 0x8_4500, 0x4_4145, 0x4345, 0x4745] {
        assert_eq!(write(&mut apic, 0x300, invalid), None, "{invalid:#x}");
    }
}

#[test]
fn broadcast_destination_is_widened() {
    let mut apic = xapic(1);
    write(&mut apic, 0x310, 0xff00_0000);
    assert_eq!(ipi(write(&mut apic, 0x300, 0x4045)).message.destination, BROADCAST);
}

#[test]
fn x2apic_ipis() {
    let mut apic = x2apic(1);
    let sent = ipi(apic.msr_write(T0, 0x830, 0x0001_2345_0000_4045).unwrap());
    assert_eq!(sent.message.destination, 0x0001_2345);
    assert_eq!(apic.msr_read(T0, 0x830), Ok(0x0001_2345_0000_4045));
    let sent = ipi(apic.msr_write(T0, 0x83f, 0x77).unwrap());
    assert_eq!((sent.shorthand, sent.message.vector), (Shorthand::SelfOnly, 0x77));
}

#[test]
fn shorthands_choose_their_targets() {
    let (mut sender, other) = (xapic(1), xapic(2));
    write(&mut sender, 0x310, 0x0200_0000);
    let reached = |sender: &mut LocalApic, icr| {
        let sent = ipi(write(sender, 0x300, icr));
        (sent.reaches(sender, true), sent.reaches(&other, false))
    };
    assert_eq!(reached(&mut sender, 0x4045), (false, true));
    assert_eq!(reached(&mut sender, 0x4_4045), (true, false));
    assert_eq!(reached(&mut sender, 0x8_4045), (true, true));
    assert_eq!(reached(&mut sender, 0xc_4045), (false, true));
}
