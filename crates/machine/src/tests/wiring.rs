//! Who reaches whom.

use std::time::Duration;

use chipset::acpi::AcpiBlob;
use engine::{MsrFault, Platform, Signal};
use x86::GuestPhysAddr;

use super::{Bench, IOAPIC, LAPIC};

const MILLI: Duration = Duration::from_millis(1);
const TSC_DEADLINE: u32 = 0x6e0;
const APIC_BASE: u32 = 0x1b;

#[test]
fn the_timer_ticks_through_the_8259as() {
    let bench = Bench::new();
    bench.start_pit();
    bench.init_pics(1);
    assert_eq!(bench.interrupt(), None);
    for tick in 0..5 {
        bench.pass(MILLI * 101 / 100);
        assert_eq!(bench.interrupt(), Some(0x20), "{tick}");
        assert_eq!(bench.interrupt(), None);
        bench.out(0x20, 0x20);
    }
}

#[test]
fn lint0_lets_the_8259as_through_only_when_it_is_told_to() {
    let bench = Bench::new();
    bench.init_pics(1);
    bench.start_pit();
    bench.board.interrupts.bios_setup();
    bench.pass(MILLI * 2);
    assert!(bench.is_pending(0, Signal::Interrupt));
    bench.apic_write(0, 0x350, 0x1_0700);
    assert!(!bench.is_pending(0, Signal::Interrupt));
    assert_eq!(bench.board.interrupt_acknowledge(0), None);
    bench.apic_write(0, 0x350, 0x700);
    assert_eq!(bench.interrupt(), Some(0x20));
}

#[test]
fn the_timer_ticks_through_the_io_apic() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.start_pit();
    bench.redirect(2, 0x30);
    for _ in 0..5 {
        bench.pass(MILLI * 101 / 100);
        assert_eq!(bench.interrupt(), Some(0x30));
        assert_eq!(bench.interrupt(), None);
        bench.apic_write(0, 0xb0, 0);
    }
}

#[test]
fn the_serial_port_interrupts_by_level_until_it_is_served() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.redirect(4, 0x8041);
    bench.out(0x3fc, 0x08);
    bench.out(0x3f9, 0x02);
    assert_eq!(bench.interrupt(), Some(0x41));
    assert_eq!(bench.interrupt(), None);
    bench.apic_write(0, 0xb0, 0);
    assert_eq!(bench.interrupt(), Some(0x41), "the line is still asserted at the end of interrupt");
    assert_eq!(bench.inb(0x3fa), 0x02);
    bench.apic_write(0, 0xb0, 0);
    assert_eq!(bench.interrupt(), None);
}

#[test]
fn input_reaches_the_guest_with_an_interrupt() {
    let bench = Bench::new();
    bench.init_pics(1 << 4);
    bench.out(0x3fa, 0x01);
    bench.out(0x3f9, 0x01);
    bench.board.input.push(b"ab").unwrap();
    bench.board.serial.with(|serial, now| serial.refill(now));
    assert_eq!(bench.interrupt(), None, "nobody asserts RTS yet");
    bench.out(0x3fc, 0x0b);
    assert_eq!(bench.interrupt(), Some(0x24));
    assert_eq!([bench.inb(0x3f8), bench.inb(0x3f8)], *b"ab");
    assert_eq!(bench.inb(0x3fd) & 1, 0);
}

#[test]
fn the_local_apics_timer_counts_virtual_time() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.apic_write(0, 0x3e0, 0xb);
    bench.apic_write(0, 0x320, 0x2_0050);
    bench.apic_write(0, 0x380, 1_000_000);
    for _ in 0..3 {
        bench.pass(MILLI);
        assert_eq!(bench.interrupt(), Some(0x50));
        bench.apic_write(0, 0xb0, 0);
    }
    bench.apic_write(0, 0x320, 0x3_0050);
    bench.pass(MILLI * 3);
    assert_eq!(bench.interrupt(), None, "masked");
}

#[test]
fn the_tsc_deadline_is_in_guest_time() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.apic_write(0, 0x320, 0x4_0051);
    bench.board.tsc_adjusted(0, 1 << 40);
    let guest_tsc = bench.board.tsc() + (1 << 40);
    assert_eq!(bench.board.msr_write(0, TSC_DEADLINE, guest_tsc + 2_000_000), Some(Ok(())));
    bench.pass(MILLI * 19 / 10);
    assert_eq!(bench.interrupt(), None);
    bench.pass(MILLI / 5);
    assert_eq!(bench.interrupt(), Some(0x51));
    assert_eq!(bench.board.msr_read(0, TSC_DEADLINE), Some(Ok(0)));
}

#[test]
fn task_priority_holds_interrupts_back() {
    let bench = Bench::new();
    bench.apic_write(0, 0xf0, 0x1ff);
    bench.redirect(4, 0x41);
    bench.board.set_task_priority(0, 4);
    bench.out(0x3fc, 0x08);
    bench.out(0x3f9, 0x02);
    assert_eq!(bench.interrupt(), None);
    assert_eq!((bench.board.task_priority(0), bench.apic_read(0, 0x80)), (4, 0x40));
    bench.board.set_task_priority(0, 3);
    assert_eq!(bench.interrupt(), Some(0x41));
}

#[test]
fn processors_reach_each_other() {
    let bench = Bench::with(2, None);
    for vcpu in [0, 1] {
        bench.apic_write(vcpu, 0xf0, 0x1ff);
    }
    bench.apic_write(0, 0x310, 1 << 24);
    bench.apic_write(0, 0x300, 0x4500);
    assert!(bench.is_pending(1, Signal::Init) && !bench.is_pending(0, Signal::Init));
    bench.apic_write(0, 0x300, 0x46_9f);
    assert_eq!(bench.board.signals(1).take_init_and_sipi(), (true, Some(0x9f)));
    bench.apic_write(1, 0xf0, 0x1ff);
    bench.apic_write(1, 0x300, 0xc_0400);
    assert!(bench.is_pending(0, Signal::Nmi) && !bench.is_pending(1, Signal::Nmi));
    bench.apic_write(0, 0x300, 0x8_4061);
    assert_eq!(bench.interrupt(), Some(0x61));
    assert_eq!(bench.board.interrupt_acknowledge(1).map(|vector| vector.0), Some(0x61));
}

#[test]
fn the_processor_of_lowest_priority_takes_the_message() {
    let bench = Bench::with(2, None);
    for vcpu in [0, 1] {
        bench.apic_write(vcpu, 0xf0, 0x1ff);
        bench.apic_write(vcpu, 0xd0, 1 << (24 + vcpu));
    }
    bench.start_pit();
    bench.redirect(2, 3 << 56 | 0x0930);
    bench.board.set_task_priority(0, 2);
    bench.pass(MILLI * 101 / 100);
    assert!(bench.is_pending(1, Signal::Interrupt) && !bench.is_pending(0, Signal::Interrupt));
}

#[test]
fn x2apic_registers_are_msrs_and_others_are_not_ours() {
    let bench = Bench::new();
    assert_eq!(bench.board.msr_read(0, 0x802), Some(Err(MsrFault)));
    let base = bench.board.msr_read(0, APIC_BASE).unwrap().unwrap();
    assert_eq!(base, LAPIC | 0x900);
    assert_eq!(bench.board.msr_write(0, APIC_BASE, base | 0x400), Some(Ok(())));
    assert_eq!(bench.board.msr_read(0, 0x802), Some(Ok(0)));
    assert_eq!(bench.board.msr_write(0, 0x80f, 0x1ff), Some(Ok(())));
    assert_eq!(bench.board.msr_write(0, 0x83f, 0x77), Some(Ok(())));
    assert_eq!(bench.interrupt(), Some(0x77));
    assert_eq!(bench.apic_read(0, 0x30), u32::MAX, "the page is gone");
    assert_eq!(bench.board.msr_write(0, 0x802, 1), Some(Err(MsrFault)));
    assert_eq!(bench.board.msr_read(0, 0x10), None);
    assert_eq!(bench.board.msr_write(0, 0x10, 0), None);
}

#[test]
fn what_nobody_decodes_reads_as_ones() {
    let bench = Bench::new();
    let mut data = [0; 8];
    for at in [0xfed0_0000, IOAPIC + 0x1000, LAPIC - 8, u64::MAX - 7] {
        bench.board.mmio_read(0, GuestPhysAddr(at), &mut data);
        assert_eq!(data, [0xff; 8], "{at:#x}");
        bench.board.mmio_write(0, GuestPhysAddr(at), &data);
    }
    assert_eq!(bench.board.port_read(0x1234, 4), u32::MAX);
    bench.board.port_write(0x1234, 4, 0);
    bench.board.mmio_read(9, GuestPhysAddr(LAPIC), &mut data);
    assert_eq!(data, [0xff; 8], "no such processor");
}

#[test]
fn each_part_is_at_its_ports() {
    let bench = Bench::new();
    bench.out(0x80, 0x5a);
    assert_eq!(bench.inb(0x80), 0x5a);
    assert_eq!(bench.inb(0xe9), 0xe9);
    assert_eq!(bench.inb(0x402), 0xe9);
    assert_eq!(bench.inb(0x505), 3);
    assert_eq!(bench.inb(0x92) & 2, 2);
    bench.out(0x64, 0xaa);
    assert_eq!(bench.inb(0x60), 0x55);
    bench.out(0x70, 0x0d);
    assert_eq!(bench.inb(0x71), 0x80);
    bench.board.port_write(0xcf8, 4, 0x8000_0000);
    assert_eq!(bench.board.port_read(0xcfc, 4), 0x1237_8086);
    assert_eq!(bench.board.port_read(0xcf8, 4), 0x8000_0000);
    bench.out(0xcf9, 2);
    assert_eq!((bench.inb(0xcf9), bench.board.port_read(0xcf8, 4)), (2, 0x8000_0000));
    bench.pass(MILLI);
    assert!(bench.board.port_read(0x608, 4) >= 3579);
}

#[test]
fn only_firmware_finds_the_configuration_device() {
    let signature = |bench: &Bench| {
        bench.board.port_write(0x510, 2, 0);
        bench.inb(0x511)
    };
    assert_eq!(signature(&Bench::new()), 0xff);
    let tables = AcpiBlob { bytes: b"RSD PTR ".to_vec(), rsdp_address: 0 };
    let bench = Bench::with(1, Some(&tables));
    assert_eq!(signature(&bench), b'Q');
    bench.board.port_write(0x510, 2, 0x21);
    assert_eq!([0; 8].map(|_| bench.inb(0x511)), *b"RSD PTR ");
}

#[test]
fn a_reset_silences_everything() {
    let bench = Bench::new();
    bench.init_pics(1);
    bench.start_pit();
    bench.out(0x80, 1);
    bench.pass(MILLI * 2);
    assert!(bench.is_pending(0, Signal::Interrupt));
    bench.board.reset();
    assert!(!bench.is_pending(0, Signal::Interrupt));
    assert_eq!(bench.inb(0x80), 0);
    bench.pass(MILLI * 5);
    assert!(!bench.is_pending(0, Signal::Interrupt));
}
