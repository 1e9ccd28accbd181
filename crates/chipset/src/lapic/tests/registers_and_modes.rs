//! The register map, modes and resets.

use super::*;

#[test]
fn power_on_state() {
    let mut apic = LocalApic::new(config(3));
    assert_eq!(apic.base(), Some(0xfee0_0000));
    assert_eq!(apic.msr_read(T0, 0x1b), Ok(BASE_XAPIC));
    assert!(!apic.software_enabled());
    let expected = [
        (0x20, 3 << 24),
        (0x30, 0x0106_0015),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x2f0, 0x1_0000),
        (0x300, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(read(&mut apic, offset), value, "offset {offset:#x}");
    }
}

#[test]
fn reserved_bits_stay_clear_in_memory() {
    let mut apic = xapic(0);
    let expected = [
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xf0, 0x13ff),
        (0x2f0, 0x1_07ff),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x310, 0xff00_0000),
        (0x3e0, 0xb),
    ];
    for (offset, value) in expected {
        write(&mut apic, offset, u32::MAX);
        assert_eq!(read(&mut apic, offset), value, "offset {offset:#x}");
    }
    write(&mut apic, 0xe0, 0);
    assert_eq!(read(&mut apic, 0xe0), 0x0fff_ffff);
}

#[test]
fn odd_accesses_are_tolerated() {
    let mut apic = xapic(0);
    let mut data = [0xaa; 8];
    apic.mmio_read(T0, 0x30, &mut data);
    assert_eq!(data, [0x15, 0, 6, 1, 0, 0, 0, 0]);
    apic.mmio_read(T0, 0x32, &mut data[..2]);
    assert_eq!(data[..2], [6, 1]);
    apic.mmio_read(T0, 0x3f, &mut data);
    assert_eq!(data, [0; 8]);
    assert_eq!(apic.mmio_write(T0, 0x80, &[0x40]), None);
    assert_eq!(apic.mmio_write(T0, 0x84, &[0x40; 4]), None);
    assert_eq!(apic.task_priority(), 0);
    apic.mmio_write(T0, 0x80, &[0x40, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(apic.task_priority(), 0x40);
}

#[test]
fn mode_transitions() {
    let mut apic = LocalApic::new(config(0));
    let mut set = |value| apic.msr_write(T0, 0x1b, value);
    assert_eq!(set(0xfee0_0500), Err(GeneralProtection), "EXTD without EN");
    assert_eq!(set(BASE_X2APIC), Ok(None));
    assert_eq!(set(BASE_XAPIC), Err(GeneralProtection), "x2APIC to xAPIC");
    assert_eq!(set(0xfee0_0100), Ok(None), "x2APIC to disabled");
    assert_eq!(set(BASE_X2APIC), Err(GeneralProtection), "disabled to x2APIC");
    assert_eq!(set(BASE_XAPIC), Ok(None));
    for reserved in [1, 1 << 9, 1 << 46, 1 << 63] {
        assert_eq!(set(BASE_XAPIC | reserved), Err(GeneralProtection), "{reserved:#x}");
    }
    assert_eq!(set(0x1_2345_6800), Ok(None));
    assert_eq!(apic.base(), Some(0x1_2345_6000));
}

#[test]
fn disabling_loses_the_state() {
    let mut apic = xapic(0);
    edge(&mut apic, 0x50);
    apic.msr_write(T0, 0x1b, 0xfee0_0100).unwrap();
    assert_eq!(apic.base(), None);
    assert_eq!(apic.pending(), None);
    assert_eq!(read(&mut apic, 0x30), u32::MAX);
    assert_eq!(apic.deliver(&fixed(0x51, TriggerMode::Edge)), None);
    apic.msr_write(T0, 0x1b, BASE_XAPIC).unwrap();
    assert_eq!(read(&mut apic, 0xf0), 0xff);
    assert_eq!(apic.pending(), None);
}

#[test]
fn x2apic_registers_are_msrs_only() {
    let mut apic = x2apic(0x123);
    assert_eq!(apic.base(), None);
    assert_eq!(read(&mut apic, 0x30), u32::MAX);
    write(&mut apic, 0x80, 0x55);
    assert_eq!(apic.task_priority(), 0);
    assert_eq!(apic.msr_read(T0, 0x802), Ok(0x123));
    assert_eq!(apic.msr_read(T0, 0x803), Ok(0x0106_0015));
    assert_eq!(apic.msr_read(T0, 0x80d), Ok(0x0012_0008));
    assert_eq!(xapic(0).msr_read(T0, 0x802), Err(GeneralProtection));
    assert_eq!(xapic(0).msr_write(T0, 0x808, 0), Err(GeneralProtection));
}

#[test]
fn x2apic_illegal_reads() {
    let mut apic = x2apic(0);
    let readable = [2, 3, 8, 0xa, 0xd, 0xf, 0x28, 0x2f, 0x30, 0x38, 0x39, 0x3e];
    for index in 0..0x100 {
        let legal =
            readable.contains(&index) || (0x10..=0x27).contains(&index) || (0x32..=0x37).contains(&index);
        assert_eq!(apic.msr_read(T0, 0x800 + index).is_ok(), legal, "{index:#x}");
    }
}

#[test]
fn x2apic_illegal_writes() {
    let writable = [
        (0x08, 0xff),
        (0x0b, 0),
        (0x0f, 0x13ff),
        (0x28, 0),
        (0x2f, 0x1_17ff),
        (0x30, 0xffff_ffff_000c_dfff_u64),
        (0x32, 0x7_10ff),
        (0x33, 0x1_17ff),
        (0x34, 0x1_17ff),
        (0x35, 0x1_f7ff),
        (0x36, 0x1_f7ff),
        (0x37, 0x1_10ff),
        (0x38, 0xffff_ffff),
        (0x3e, 0xb),
        (0x3f, 0xff),
    ];
    let mut apic = x2apic(0);
    for index in 0..0x100 {
        let mask = writable.iter().find(|(at, _)| *at == index).map(|(_, mask)| *mask);
        let result = apic.msr_write(T0, 0x800 + index, 0);
        assert_eq!(result.is_ok(), mask.is_some(), "{index:#x}");
        for bit in 0..64 {
            let legal = mask.is_some_and(|mask| mask & 1 << bit != 0);
            let result = apic.msr_write(T0, 0x800 + index, 1 << bit);
            assert_eq!(result.is_ok(), legal, "{index:#x} bit {bit}");
        }
    }
}

#[test]
fn init_keeps_mode_and_pins_but_nothing_else() {
    let mut apic = x2apic(5);
    edge(&mut apic, 0x50);
    apic.set_cr8(3);
    apic.init_reset();
    assert_eq!(apic.mode(), ApicMode::X2Apic);
    assert_eq!(apic.pending(), None);
    assert_eq!((apic.cr8(), apic.software_enabled()), (0, false));
    apic.reset();
    assert_eq!(apic.mode(), ApicMode::XApic);
}
