use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::testing::{Probe, assert_serializes, hammer, survive_damaged_states};

/// 2024-02-29 23:59:50 UTC, a Thursday.
const BASE: i64 = 1_709_251_190;

fn rtc() -> (Rtc, Arc<Probe>) {
    let (probe, line) = Probe::new();
    (Rtc::new(BASE, CmosMemory::default(), line), probe)
}

fn millis(millis: u64) -> VmTime {
    VmTime::ZERO + Duration::from_millis(millis)
}

fn read(rtc: &mut Rtc, now: VmTime, index: u8) -> u8 {
    rtc.port_write(now, INDEX, 1, u32::from(index));
    rtc.port_read(now, DATA, 1) as u8
}

fn write(rtc: &mut Rtc, now: VmTime, index: u8, value: u8) {
    rtc.port_write(now, INDEX, 1, u32::from(index));
    rtc.port_write(now, DATA, 1, u32::from(value));
}

fn shown(rtc: &mut Rtc, now: VmTime) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(rtc, now, index))
}

#[test]
fn time_passes_in_bcd_over_a_leap_day() {
    let (mut rtc, _) = rtc();
    let before = [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x50];
    assert_eq!(shown(&mut rtc, millis(999)), before);
    let after = [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00];
    assert_eq!(shown(&mut rtc, millis(10_000)), after);
}

#[test]
fn binary_and_12_hours() {
    let (mut rtc, _) = rtc();
    write(&mut rtc, millis(0), reg::B, B_SET | B_BINARY);
    for (index, value) in [(9, 23), (8, 12), (7, 31), (4, 0x80 | 11), (2, 59), (0, 59)] {
        write(&mut rtc, millis(0), index, value);
    }
    write(&mut rtc, millis(0), reg::CENTURY, 20);
    write(&mut rtc, millis(0), reg::B, B_BINARY);
    assert_eq!(shown(&mut rtc, millis(1000)), [20, 24, 1, 1, 2, 12, 0, 0]);
}

#[test]
fn set_halts_updates_and_drops_uie() {
    let (mut rtc, _) = rtc();
    write(&mut rtc, millis(0), reg::B, B_SET | B_UIE | B_24H);
    assert_eq!(read(&mut rtc, millis(0), reg::B), B_SET | B_24H);
    assert_eq!(read(&mut rtc, millis(5000), reg::SECONDS), 0x50);
    assert_eq!(read(&mut rtc, millis(5999), reg::A) & A_UIP, 0);
    write(&mut rtc, millis(5500), reg::B, B_24H);
    assert_eq!(read(&mut rtc, millis(6000), reg::SECONDS), 0x51);
}

#[test]
fn uip_announces_an_update() {
    let (mut rtc, _) = rtc();
    let at = |micros: u64| VmTime::from_nanos(micros * 1000);
    assert_eq!(read(&mut rtc, at(999_700), reg::A), A_RESET);
    assert_eq!(read(&mut rtc, at(999_800), reg::A), A_RESET | A_UIP);
    assert_eq!(read(&mut rtc, at(1_000_000), reg::A), A_RESET);
}

#[test]
fn a_divider_reset_puts_the_update_half_a_second_on() {
    let (mut rtc, _) = rtc();
    write(&mut rtc, millis(300), reg::A, 0x70);
    assert_eq!(read(&mut rtc, millis(3000), reg::SECONDS), 0x50);
    write(&mut rtc, millis(3300), reg::A, 0x26);
    assert_eq!(read(&mut rtc, millis(3799), reg::SECONDS), 0x50);
    assert_eq!(read(&mut rtc, millis(3800), reg::SECONDS), 0x51);
}

#[test]
fn periodic_interrupts_wait_for_their_acknowledgement() {
    let (mut rtc, probe) = rtc();
    assert_eq!(rtc.deadline(), None);
    write(&mut rtc, millis(0), reg::B, C_PF | B_24H);
    let due = rtc.deadline().unwrap();
    assert_eq!(due.nanos(), NANOS_PER_SEC.div_ceil(1024));
    rtc.advance(VmTime::from_nanos(due.nanos() - 1));
    assert!(!probe.level());
    rtc.advance(due);
    assert!(probe.level());
    assert_eq!(rtc.deadline(), None, "nothing to do before register C is read");
    assert_eq!(read(&mut rtc, millis(100), reg::C), C_IRQF | C_PF);
    assert!(!probe.level());
    assert_eq!(read(&mut rtc, millis(100), reg::C), 0);
    assert!(rtc.deadline().unwrap() > millis(100));
}

#[test]
fn rates_are_the_manuals() {
    let (mut rtc, _) = rtc();
    for (rate, clocks) in [(1, 128), (2, 256), (3, 4), (6, 32), (15, 16_384)] {
        write(&mut rtc, millis(0), reg::A, 0x20 | rate);
        assert_eq!(rtc.period(), Some(clocks));
    }
    write(&mut rtc, millis(0), reg::A, 0x20);
    assert_eq!(rtc.period(), None);
}

#[test]
fn update_ended_interrupts_once_a_second() {
    let (mut rtc, probe) = rtc();
    write(&mut rtc, millis(100), reg::B, B_UIE | B_24H);
    assert_eq!(rtc.deadline(), Some(millis(1000)));
    rtc.advance(millis(1000));
    assert_eq!(probe.take_rises(), 1);
    assert_eq!(read(&mut rtc, millis(1000), reg::C), C_IRQF | C_UF | C_PF, "PF needs no enable");
    assert_eq!(rtc.deadline(), Some(millis(2000)));
}

#[test]
fn the_alarm_goes_off_at_its_time() {
    let (mut rtc, probe) = rtc();
    for (index, value) in [(5, 0x00), (3, 0x01), (1, 0x30)] {
        write(&mut rtc, millis(0), index, value);
    }
    write(&mut rtc, millis(0), reg::B, C_AF | B_24H);
    let mut now = millis(0);
    while !probe.level() {
        now = rtc.deadline().unwrap();
        rtc.advance(now);
    }
    assert_eq!(now, millis(100_000));
    assert_eq!(read(&mut rtc, now, reg::C), C_IRQF | C_AF | C_UF | C_PF);
}

#[test]
fn an_alarm_that_was_slept_through_still_goes_off() {
    let (mut rtc, probe) = rtc();
    for (index, value) in [(5, 0xff), (3, 0xc0), (1, 0x05)] {
        write(&mut rtc, millis(0), index, value);
    }
    write(&mut rtc, millis(0), reg::B, C_AF | B_24H);
    rtc.advance(millis(14_000));
    assert!(!probe.level());
    rtc.advance(millis(16_000));
    assert!(probe.level(), "every minute at second 5");
}

#[test]
fn memory_sizes_are_where_firmware_looks() {
    const GIB: u64 = 1 << 30;
    let memory = CmosMemory { below_4g: 3 * GIB, above_4g: 5 * GIB };
    let mut rtc = Rtc::new(BASE, memory, Line::unconnected());
    let mut word = |low: u8, high: u8| {
        u32::from_le_bytes([read(&mut rtc, millis(0), low), read(&mut rtc, millis(0), high), 0, 0])
    };
    assert_eq!(word(0x15, 0x16), 640);
    assert_eq!((word(0x17, 0x18), word(0x30, 0x31)), (0xffff, 0xffff));
    assert_eq!(u64::from(word(0x34, 0x35)) << 16, 3 * GIB - (16 << 20));
    assert_eq!(u64::from(word(0x5b, 0x5c)) << 16, GIB, "and 0x5d has the rest");
    assert_eq!(read(&mut rtc, millis(0), 0x5d), 1);
}

#[test]
fn memory_banks_and_the_nmi_mask() {
    let (mut rtc, _) = rtc();
    rtc.set_cmos(0x5f, 3);
    rtc.set_cmos(reg::B, 0xff);
    assert_eq!(read(&mut rtc, millis(0), 0x80 | 0x5f), 3);
    assert!(rtc.nmi_masked());
    assert_eq!(read(&mut rtc, millis(0), reg::B), B_24H);
    assert!(!rtc.nmi_masked());
    rtc.port_write(millis(0), EXTENDED_INDEX, 2, 0x4405);
    assert_eq!(rtc.port_read(millis(0), EXTENDED_DATA, 1), 0x44);
    assert_eq!(read(&mut rtc, millis(0), 0x05), 0);
    assert_eq!(rtc.port_read(millis(0), INDEX, 1), 0xff);
}

#[test]
fn reset_keeps_time_and_memory() {
    let (mut rtc, probe) = rtc();
    write(&mut rtc, millis(0), 0x0f, 0x0a);
    write(&mut rtc, millis(0), reg::B, C_PF | B_24H);
    rtc.advance(millis(2000));
    rtc.reset(millis(2000));
    assert!(!probe.level());
    assert_eq!(read(&mut rtc, millis(3000), reg::SECONDS), 0x53);
    assert_eq!(read(&mut rtc, millis(3000), 0x0f), 0x0a);
    assert_eq!(read(&mut rtc, millis(3000), reg::B), B_24H);
}

#[test]
fn state_moves_to_another_clock() {
    let (mut first, _) = rtc();
    write(&mut first, millis(0), reg::B, B_UIE | B_24H);
    first.advance(millis(1000));
    assert_serializes(&first.state());
    let (mut second, probe) = rtc();
    second.set_state(first.state());
    assert!(probe.level());
    assert_eq!(read(&mut second, millis(2000), reg::SECONDS), 0x52);
    second.set_state(RtcState { cmos: vec![], index: 0, extended_index: 0, phase: !0, seen: !0 });
    second.advance(millis(3000));
}

#[test]
fn survives_random_use() {
    hammer(&mut rtc().0, Rtc::PORTS, 4);
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(|| rtc().0, Rtc::PORTS, Rtc::state, Rtc::set_state);
}
