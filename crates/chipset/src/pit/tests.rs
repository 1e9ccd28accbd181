use std::sync::Arc;

use super::*;
use crate::testing::{Probe, assert_serializes, hammer, survive_damaged_states};

fn pit() -> (Pit, Arc<Probe>) {
    let (probe, line) = Probe::new();
    (Pit::new(line), probe)
}

fn at(tick: u64) -> VmTime {
    VmTime::of_tick(tick, PIT_HZ)
}

fn out(pit: &mut Pit, tick: u64, port: u16, bytes: &[u8]) {
    for byte in bytes {
        pit.port_write(at(tick), port, 1, u32::from(*byte));
    }
}

fn inb(pit: &mut Pit, tick: u64, port: u16) -> u8 {
    pit.port_read(at(tick), port, 1) as u8
}

/// Counter 0 in mode 2 with `count`, low byte first.
fn periodic(pit: &mut Pit, tick: u64, count: u16) {
    out(pit, tick, 0x43, &[0x34]);
    out(pit, tick, 0x40, &count.to_le_bytes());
}

#[test]
fn a_rate_generator_pulses_the_line_once_a_period() {
    let (mut pit, probe) = pit();
    periodic(&mut pit, 0, 1000);
    assert_eq!(probe.take_rises(), 1, "the control word raised OUT0");
    for period in 1..=5 {
        let due = pit.deadline().unwrap();
        assert_eq!(due, at(1 + period * 1000));
        pit.advance(VmTime::from_nanos(due.nanos() - 1));
        assert_eq!(probe.take_rises(), 0);
        pit.advance(due);
        assert_eq!(probe.take_rises(), 1);
        assert!(probe.level());
    }
}

#[test]
fn a_late_advance_is_one_edge_and_no_storm() {
    for mode in [0x34, 0x36] {
        let (mut pit, probe) = pit();
        out(&mut pit, 0, 0x43, &[mode]);
        out(&mut pit, 0, 0x40, &[100, 0]);
        probe.take_rises();
        pit.advance(at(1_000_010));
        assert_eq!(probe.take_rises(), 1);
        assert!(pit.deadline().unwrap() > at(1_000_010));
        pit.advance(at(1_000_011));
        assert_eq!(probe.take_rises(), 0);
    }
}

#[test]
fn a_square_wave_is_seen_on_the_line() {
    let (mut pit, probe) = pit();
    out(&mut pit, 0, 0x43, &[0x36]);
    out(&mut pit, 0, 0x40, &[0, 0]);
    pit.advance(at(1));
    assert_eq!(pit.deadline(), Some(at(1 + 0x8000)));
    pit.advance(at(1 + 0x8000));
    assert!(!probe.level());
    assert_eq!(pit.deadline(), Some(at(1 + 0x10000)));
    pit.advance(at(1 + 0x10000));
    assert!(probe.level());
}

#[test]
fn terminal_count_interrupts_once() {
    let (mut pit, probe) = pit();
    out(&mut pit, 0, 0x43, &[0x30]);
    assert_eq!(pit.deadline(), None);
    out(&mut pit, 0, 0x40, &[0x34, 0x12]);
    assert_eq!(pit.deadline(), Some(at(0x1235)));
    pit.advance(at(0x1234));
    assert!(!probe.level());
    pit.advance(at(0x1235));
    assert_eq!((probe.level(), pit.deadline()), (true, None));
    out(&mut pit, 0x2000, 0x40, &[0x34]);
    assert!(!probe.level(), "the first byte stops the count and lowers OUT");
}

#[test]
fn a_reload_at_the_period_end_keeps_its_edge() {
    let (mut pit, probe) = pit();
    periodic(&mut pit, 0, 100);
    out(&mut pit, 50, 0x40, &[200, 0]);
    probe.take_rises();
    pit.advance(at(150));
    assert_eq!(probe.take_rises(), 1);
    assert_eq!(pit.deadline(), Some(at(301)));
}

#[test]
fn counts_are_read_live_and_latched() {
    let (mut pit, _) = pit();
    periodic(&mut pit, 0, 0x8000);
    out(&mut pit, 1 + 0x100, 0x43, &[0x00]);
    out(&mut pit, 1 + 0x200, 0x43, &[0x00]);
    assert_eq!([0, 1].map(|_| inb(&mut pit, 1 + 0x300, 0x40)), [0x00, 0x7f], "the first latch");
    assert_eq!([0, 1].map(|_| inb(&mut pit, 1 + 0x300, 0x40)), [0x00, 0x7d], "live again");
    out(&mut pit, 0x400, 0x43, &[0x14]);
    out(&mut pit, 0x400, 0x40, &[0x80]);
    assert_eq!([0, 1].map(|_| inb(&mut pit, 0x411, 0x40)), [0x70, 0x70], "low bytes only");
}

#[test]
fn read_back_gives_status_before_count() {
    let (mut pit, _) = pit();
    out(&mut pit, 0, 0x43, &[0xb4]);
    out(&mut pit, 0, 0x43, &[0xe8]);
    assert_eq!(inb(&mut pit, 0, 0x42), 0xf4, "OUT high, null count, mode 2");
    out(&mut pit, 0, 0x61, &[1]);
    out(&mut pit, 0, 0x42, &[0x10, 0x20]);
    out(&mut pit, 5, 0x43, &[0xc8]);
    assert_eq!([0; 3].map(|_| inb(&mut pit, 9, 0x42)), [0xb4, 0x0c, 0x20]);
}

/// What Linux does to calibrate the TSC (pit_calibrate_tsc).
#[test]
fn counter_2_is_gated_and_seen_through_port_b() {
    let (mut pit, _) = pit();
    let port_b = inb(&mut pit, 0, 0x61) & !0x02 | 0x01;
    out(&mut pit, 0, 0x61, &[port_b]);
    out(&mut pit, 0, 0x43, &[0xb0]);
    out(&mut pit, 0, 0x42, &[0x9c, 0x2e]);
    assert_eq!(inb(&mut pit, 0x2e9c, 0x61) & 0x20, 0);
    assert_eq!(inb(&mut pit, 0x2e9d, 0x61) & 0x21, 0x21);
}

#[test]
fn refresh_toggles_and_the_speaker_needs_its_bit() {
    let (mut pit, _) = pit();
    assert_ne!(inb(&mut pit, 0, 0x61) & 0x10, inb(&mut pit, 18, 0x61) & 0x10);
    out(&mut pit, 0, 0x43, &[0xb6]);
    assert!(!pit.speaker(at(20)));
    out(&mut pit, 20, 0x61, &[0x02]);
    assert!(pit.speaker(at(20)));
}

#[test]
fn state_moves_to_another_timer() {
    let (mut first, _) = pit();
    periodic(&mut first, 0, 1000);
    out(&mut first, 10, 0x40, &[5]);
    assert_serializes(&first.state());
    let (mut second, probe) = pit();
    second.set_state(first.state());
    assert!(probe.level());
    assert_eq!(second.deadline(), first.deadline());
    second.reset(at(77));
    assert!(!probe.level());
}

#[test]
fn survives_random_use() {
    hammer(&mut pit().0, Pit::PORTS, 3);
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(|| pit().0, Pit::PORTS, Pit::state, Pit::set_state);
}
