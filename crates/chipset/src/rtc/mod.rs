//! The MC146818 real-time clock with its battery-backed memory (Motorola
//! ADI-856; the second bank and the century byte as in the PIIX4 and PCs).
//!
//! The time registers are brought up to date when somebody looks. Daylight
//! saving is ignored. While register C still holds a flag, the interrupt that
//! it stands for needs no wake-up, so that a guest that does not acknowledge
//! costs nothing.

mod clock;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, Line, NANOS_PER_SEC, VmTime};
use clock::{Calendar, Format};

/// Registers of the clock and bytes of the memory.
pub mod register {
    /// Seconds; the alarm's seconds, minutes and hours lie between the clock's.
    pub const SECONDS: u8 = 0x00;
    /// Seconds of the alarm.
    pub const SECONDS_ALARM: u8 = 0x01;
    /// Minutes.
    pub const MINUTES: u8 = 0x02;
    /// Minutes of the alarm.
    pub const MINUTES_ALARM: u8 = 0x03;
    /// Hours; bit 7 is PM in 12-hour mode.
    pub const HOURS: u8 = 0x04;
    /// Hours of the alarm.
    pub const HOURS_ALARM: u8 = 0x05;
    /// Day of the week, 1 is Sunday.
    pub const DAY_OF_WEEK: u8 = 0x06;
    /// Day of the month.
    pub const DAY_OF_MONTH: u8 = 0x07;
    /// Month.
    pub const MONTH: u8 = 0x08;
    /// Year of the century.
    pub const YEAR: u8 = 0x09;
    /// Register A: UIP, divider and rate.
    pub const A: u8 = 0x0a;
    /// Register B: SET, interrupt enables and formats.
    pub const B: u8 = 0x0b;
    /// Register C: interrupt flags.
    pub const C: u8 = 0x0c;
    /// Register D: valid RAM and time.
    pub const D: u8 = 0x0d;
    /// Equipment byte.
    pub const EQUIPMENT: u8 = 0x14;
    /// Century; the FADT's CENTURY field names it.
    pub const CENTURY: u8 = 0x32;
}
use register as reg;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const EXTENDED_INDEX: u16 = 0x72;
const EXTENDED_DATA: u16 = 0x73;
const NMI_MASK: u8 = 0x80;
const BANK: usize = 128;

const A_UIP: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_UIE: u8 = 0x10;
const B_SQWE: u8 = 0x08;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
const C_IRQF: u8 = 0x80;
const C_PF: u8 = 0x40;
const C_AF: u8 = 0x20;
const C_UF: u8 = 0x10;
const INTERRUPTS: u8 = C_PF | C_AF | C_UF;
const D_VRT: u8 = 0x80;
/// 32768 Hz time base, 1024 Hz periodic rate.
const A_RESET: u8 = 0x26;
/// The two top bits of an alarm byte set: any value matches.
const ALARM_ANY: u8 = 0xc0;

/// The oscillator.
const CLOCK_HZ: u64 = 32_768;
/// UIP is set 244 us before an update.
const UIP_CLOCKS: u64 = 8;
/// Nobody waits for an alarm that lies further back than this.
const ALARM_HORIZON: u64 = 86_400;

/// How much RAM the CMOS memory reports to firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CmosMemory {
    /// Bytes of RAM below 4 GiB.
    pub below_4g: u64,
    /// Bytes of RAM from 4 GiB on.
    pub above_4g: u64,
}

/// The state of the clock and its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// Both banks of 128 bytes; the time registers are the first ones.
    cmos: Vec<u8>,
    index: u8,
    extended_index: u8,
    /// Nanoseconds from virtual time to the divider's time.
    phase: u64,
    /// The clock up to which the registers are current.
    seen: u64,
}

/// The real-time clock.
#[derive(Debug)]
pub struct Rtc {
    state: RtcState,
    irq: Line,
}

impl Rtc {
    /// The ports that the clock decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[INDEX..=EXTENDED_DATA];

    /// A clock that shows `unix_seconds` at [`VmTime::ZERO`], in BCD and 24-hour
    /// format, and memory that reports `memory`.
    pub fn new(unix_seconds: i64, memory: CmosMemory, irq: Line) -> Self {
        let state = RtcState { cmos: vec![0; 2 * BANK], index: 0, extended_index: 0, phase: 0, seen: 0 };
        let mut rtc = Self { state, irq };
        rtc.set(reg::A, A_RESET);
        rtc.set(reg::B, B_24H);
        rtc.set(reg::D, D_VRT);
        rtc.show(Calendar::from_unix(unix_seconds));
        for (index, value) in memory_bytes(memory) {
            rtc.set(index, value);
        }
        // Coprocessor and pointing device present.
        rtc.set(reg::EQUIPMENT, 0x06);
        rtc
    }

    /// The whole state.
    pub fn state(&self) -> RtcState {
        self.state.clone()
    }

    /// Restores what [`Rtc::state`] returned and drives the line accordingly.
    pub fn set_state(&mut self, mut state: RtcState) {
        state.cmos.resize(2 * BANK, 0);
        state.phase %= NANOS_PER_SEC;
        self.state = state;
        self.drive();
    }

    /// Whether the guest has masked NMIs by bit 7 of port 0x70.
    pub fn nmi_masked(&self) -> bool {
        self.state.index & NMI_MASK != 0
    }

    /// Sets a byte of the memory, as firmware would have left it there. The
    /// clock's own registers cannot be reached so.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        if index > reg::D {
            self.set(index, value);
        }
    }

    fn get(&self, index: u8) -> u8 {
        self.state.cmos.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn set(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.state.cmos.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn format(&self) -> Format {
        let b = self.get(reg::B);
        Format { binary: b & B_BINARY != 0, hours_24: b & B_24H != 0 }
    }

    /// Whether the divider counts (it is held by 11x in register A).
    fn divider_runs(&self) -> bool {
        self.get(reg::A) & 0x70 <= 0x20
    }

    /// Whether the time registers are updated.
    fn updates(&self) -> bool {
        self.divider_runs() && self.get(reg::B) & B_SET == 0
    }

    /// Clocks between periodic interrupts, if they are on.
    fn period(&self) -> Option<u64> {
        match self.get(reg::A) & 0x0f {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
        .filter(|_| self.divider_runs())
    }

    fn clock(&self, now: VmTime) -> u64 {
        VmTime::from_nanos(now.nanos().saturating_add(self.state.phase)).ticks(CLOCK_HZ)
    }

    fn time_of(&self, clock: u64) -> VmTime {
        let nanos = VmTime::of_tick(clock, CLOCK_HZ).nanos();
        VmTime::from_nanos(nanos.saturating_sub(self.state.phase))
    }

    fn show(&mut self, time: Calendar) {
        let format = self.format();
        self.set(reg::SECONDS, format.encode(time.second));
        self.set(reg::MINUTES, format.encode(time.minute));
        self.set(reg::HOURS, format.encode_hour(time.hour));
        self.set(reg::DAY_OF_WEEK, format.encode(time.weekday));
        self.set(reg::DAY_OF_MONTH, format.encode(time.day));
        self.set(reg::MONTH, format.encode(time.month));
        self.set(reg::YEAR, format.encode((time.year % 100) as u8));
        self.set(reg::CENTURY, format.encode((time.year / 100) as u8));
    }

    fn shown(&self) -> Calendar {
        let format = self.format();
        let field = |index| format.decode(self.get(index));
        Calendar {
            year: u16::from(field(reg::CENTURY)) * 100 + u16::from(field(reg::YEAR)),
            month: field(reg::MONTH),
            day: field(reg::DAY_OF_MONTH),
            weekday: field(reg::DAY_OF_WEEK),
            hour: format.decode_hour(self.get(reg::HOURS)),
            minute: field(reg::MINUTES),
            second: field(reg::SECONDS),
        }
    }

    /// Brings registers and flags up to `now`.
    fn catch_up(&mut self, now: VmTime) {
        let clock = self.clock(now);
        let before = self.state.seen.min(clock);
        self.state.seen = clock;
        let mut flags = 0;
        if self.period().is_some_and(|period| clock / period != before / period) {
            flags |= C_PF;
        }
        let seconds = clock / CLOCK_HZ - before / CLOCK_HZ;
        if seconds > 0 && self.updates() {
            flags |= C_UF | self.update(seconds);
        }
        self.set(reg::C, self.get(reg::C) | flags);
        self.drive();
    }

    /// Lets `seconds` pass; the alarm flag if one of them was the alarm's.
    fn update(&mut self, seconds: u64) -> u8 {
        let start = self.shown().to_unix();
        let end = start.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
        let alarm = self.get(reg::C) & C_AF == 0
            && (1..=seconds.min(ALARM_HORIZON) as i64).any(|back| self.alarm_at(end + 1 - back));
        self.show(Calendar::from_unix(end));
        if alarm { C_AF } else { 0 }
    }

    fn alarm_at(&self, unix: i64) -> bool {
        let of_day = unix.rem_euclid(86_400);
        let format = self.format();
        let matches = |index, shown: u8| {
            let alarm = self.get(index);
            alarm & ALARM_ANY == ALARM_ANY || alarm == shown
        };
        matches(reg::SECONDS_ALARM, format.encode((of_day % 60) as u8))
            && matches(reg::MINUTES_ALARM, format.encode((of_day / 60 % 60) as u8))
            && matches(reg::HOURS_ALARM, format.encode_hour((of_day / 3600) as u8))
    }

    /// IRQF and the line follow from flags and enables.
    fn drive(&mut self) {
        let flags = self.get(reg::C) & INTERRUPTS;
        let asserted = flags & self.get(reg::B) != 0;
        self.set(reg::C, if asserted { flags | C_IRQF } else { flags });
        self.irq.set(asserted);
    }

    fn read_register(&mut self, index: u8) -> u8 {
        let value = self.get(index);
        match index {
            reg::A => {
                let left = CLOCK_HZ - self.state.seen % CLOCK_HZ;
                let updating = self.updates() && left <= UIP_CLOCKS;
                (value & !A_UIP) | if updating { A_UIP } else { 0 }
            }
            reg::C => {
                self.set(reg::C, 0);
                self.drive();
                value
            }
            _ => value,
        }
    }

    fn write_register(&mut self, now: VmTime, index: u8, value: u8) {
        match index {
            reg::A => {
                let held = !self.divider_runs();
                self.set(reg::A, value & !A_UIP);
                if held && self.divider_runs() {
                    self.restart_divider(now);
                }
            }
            reg::B => {
                // Setting SET clears the update-ended interrupt's enable.
                let cleared = if value & B_SET != 0 { B_UIE } else { 0 };
                self.set(reg::B, value & !cleared);
                self.drive();
            }
            reg::C | reg::D => {}
            _ => self.set(index, value),
        }
    }

    /// The first update comes half a second after the divider's reset.
    fn restart_divider(&mut self, now: VmTime) {
        let into_second = now.nanos() % NANOS_PER_SEC;
        self.state.phase = (NANOS_PER_SEC + NANOS_PER_SEC / 2 - into_second) % NANOS_PER_SEC;
        self.state.seen = self.clock(now);
    }

    fn read(&mut self, port: u16) -> u8 {
        match port {
            DATA => self.read_register(self.state.index & !NMI_MASK),
            EXTENDED_INDEX => self.state.extended_index,
            EXTENDED_DATA => self.get(self.state.extended_index | BANK as u8),
            // Port 0x70 cannot be read.
            _ => 0xff,
        }
    }

    fn write(&mut self, now: VmTime, port: u16, value: u8) {
        match port {
            INDEX => self.state.index = value,
            DATA => self.write_register(now, self.state.index & !NMI_MASK, value),
            EXTENDED_INDEX => self.state.extended_index = value,
            EXTENDED_DATA => self.set(self.state.extended_index | BANK as u8, value),
            _ => {}
        }
    }
}

/// What a PC's firmware leaves in CMOS about memory: KiB below 640 KiB, KiB
/// above 1 MiB (twice), 64 KiB units above 16 MiB and above 4 GiB.
fn memory_bytes(memory: CmosMemory) -> [(u8, u8); 11] {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let above = |start: u64, unit: u64| memory.below_4g.saturating_sub(start) / unit;
    let base = (memory.below_4g / KIB).min(640).to_le_bytes();
    let extended = above(MIB, KIB).min(0xffff).to_le_bytes();
    let high = above(16 * MIB, 64 * KIB).min(0xffff).to_le_bytes();
    let above_4g = (memory.above_4g / (64 * KIB)).min(0xff_ffff).to_le_bytes();
    [
        (0x15, base[0]),
        (0x16, base[1]),
        (0x17, extended[0]),
        (0x18, extended[1]),
        (0x30, extended[0]),
        (0x31, extended[1]),
        (0x34, high[0]),
        (0x35, high[1]),
        (0x5b, above_4g[0]),
        (0x5c, above_4g[1]),
        (0x5d, above_4g[2]),
    ]
}

impl Device for Rtc {
    /// The battery keeps time and memory; only interrupts are switched off.
    fn reset(&mut self, now: VmTime) {
        self.catch_up(now);
        self.state.index = 0;
        self.state.extended_index = 0;
        self.set(reg::B, self.get(reg::B) & !(INTERRUPTS | B_SQWE));
        self.set(reg::C, 0);
        self.drive();
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        self.catch_up(now);
        read_bytes(port, size, |port| self.read(port))
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        self.catch_up(now);
        write_bytes(port, size, value, |port, byte| self.write(now, port, byte));
    }

    fn deadline(&self) -> Option<VmTime> {
        let waited = self.get(reg::B) & !self.get(reg::C);
        let clock = self.state.seen;
        let next = |period: u64| (clock / period).saturating_add(1).saturating_mul(period);
        let periodic = self.period().filter(|_| waited & C_PF != 0).map(next);
        let second = (self.updates() && waited & (C_AF | C_UF) != 0).then(|| next(CLOCK_HZ));
        periodic.into_iter().chain(second).min().map(|clock| self.time_of(clock))
    }

    fn advance(&mut self, now: VmTime) {
        self.catch_up(now);
    }
}
