//! ACPI fixed hardware (ACPI 6.5 chapter 4.8): the PM1a event, enable and
//! control registers, the PM timer, one GPE block, the SMI command port and the
//! reset register at 0xCF9 (Intel PIIX4 and ICH datasheets).
//!
//! The port numbers here are what the ACPI tables tell the guest.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, EventSink, Line, MachineEvent, VmTime};

/// PM1a event block: status (2 bytes), enable (2 bytes).
pub const PM1A_EVT_PORT: u16 = 0x600;
/// Bytes in the PM1a event block.
pub const PM1_EVT_LEN: u8 = 4;
/// PM1a control block.
pub const PM1A_CNT_PORT: u16 = 0x604;
/// Bytes in the PM1a control block.
pub const PM1_CNT_LEN: u8 = 2;
/// The PM timer.
pub const PM_TMR_PORT: u16 = 0x608;
/// Bytes of the PM timer.
pub const PM_TMR_LEN: u8 = 4;
/// General-purpose event block 0: status (2 bytes), enable (2 bytes).
pub const GPE0_PORT: u16 = 0x620;
/// Bytes in GPE block 0.
pub const GPE0_LEN: u8 = 4;
/// The interrupt that the machine wires the SCI to.
pub const SCI_IRQ: u8 = 9;
/// The SMI command port.
pub const SMI_CMD_PORT: u16 = 0xb2;
/// A byte that firmware may pass along with an SMI command.
pub const SMI_DATA_PORT: u16 = 0xb3;
/// Written to [`SMI_CMD_PORT`], switches to ACPI mode.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to [`SMI_CMD_PORT`], switches to legacy mode.
pub const ACPI_DISABLE: u8 = 0xf0;
/// The reset register.
pub const RESET_PORT: u16 = 0xcf9;
/// What resets the machine when written to [`RESET_PORT`]: a hard reset of the
/// whole platform.
pub const RESET_VALUE: u8 = 0x0e;
/// SLP_TYP of the soft-off state S5, for the \_S5 package. Zero as in QEMU, so
/// that small guests may write 0x2000 to port 0x604 without reading the tables.
pub const SLP_TYP_S5: u8 = 0;
/// Ticks per second of the PM timer.
pub const PM_TMR_HZ: u64 = 3_579_545;

const TMR_STS: u16 = 1 << 0;
const PWRBTN_STS: u16 = 1 << 8;
/// TMR, GBL, PWRBTN, SLPBTN and RTC.
const PM1_EN_MASK: u16 = 0x0721;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// SCI_EN, BM_RLD and SLP_TYP stay; GBL_RLS and SLP_EN read as zero.
const PM1_CNT_MASK: u16 = 0x1c03;
/// TMR_STS is set when the timer's top bit changes.
const TMR_HALF: u64 = 1 << 31;

const RST_CPU: u8 = 0x04;
const RESET_MASK: u8 = 0x0e;

/// The state of the fixed hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmState {
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: u16,
    gpe0_status: u16,
    gpe0_enable: u16,
    reset_control: u8,
    smi_data: u8,
    /// The timer's tick up to which TMR_STS is current.
    seen: u64,
}

impl PmState {
    fn sci(&self) -> bool {
        let events = self.pm1_status & self.pm1_enable & PM1_EN_MASK;
        let gpes = self.gpe0_status & self.gpe0_enable;
        self.pm1_control & SCI_EN != 0 && (events != 0 || gpes != 0)
    }

    /// The registers' bytes, in the order of their ports from 0x600 on.
    fn fixed(&self, tick: u64) -> [u8; 12] {
        let [s0, s1] = self.pm1_status.to_le_bytes();
        let [e0, e1] = self.pm1_enable.to_le_bytes();
        let [c0, c1] = self.pm1_control.to_le_bytes();
        let [t0, t1, t2, t3] = (tick as u32).to_le_bytes();
        [s0, s1, e0, e1, c0, c1, 0, 0, t0, t1, t2, t3]
    }
}

/// A status register: ones clear.
fn clear(register: &mut u16, high: bool, value: u8) {
    *register &= !(u16::from(value) << if high { 8 } else { 0 });
}

fn set_byte(register: &mut u16, high: bool, value: u8) {
    let [l, h] = register.to_le_bytes();
    *register = u16::from_le_bytes(if high { [l, value] } else { [value, h] });
}

/// The power management unit.
pub struct Pm {
    state: PmState,
    sci: Line,
    events: EventSink,
}

impl Pm {
    /// The ports that the unit decodes; of 0xCF9 only byte accesses.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[
        PM1A_EVT_PORT..=PM_TMR_PORT + 3,
        GPE0_PORT..=GPE0_PORT + 3,
        SMI_CMD_PORT..=SMI_DATA_PORT,
        RESET_PORT..=RESET_PORT,
    ];

    /// A unit in legacy mode whose SCI (active high, level) is `sci`.
    pub fn new(sci: Line, events: EventSink) -> Self {
        Self { state: PmState::default(), sci, events }
    }

    /// The whole state.
    pub fn state(&self) -> PmState {
        self.state.clone()
    }

    /// Restores what [`Pm::state`] returned and drives the SCI accordingly.
    pub fn set_state(&mut self, state: PmState) {
        self.state = state;
        self.drive();
    }

    /// Presses the power button: an ACPI guest gets an SCI.
    pub fn press_power_button(&mut self) {
        self.state.pm1_status |= PWRBTN_STS;
        self.drive();
    }

    /// Raises general-purpose event `number` (0 to 15, others are ignored).
    pub fn raise_gpe(&mut self, number: u8) {
        self.state.gpe0_status |= 1_u16.checked_shl(u32::from(number)).unwrap_or(0);
        self.drive();
    }

    fn drive(&self) {
        self.sci.set(self.state.sci());
    }

    fn catch_up(&mut self, now: VmTime) {
        let tick = now.ticks(PM_TMR_HZ);
        if tick / TMR_HALF != self.state.seen / TMR_HALF {
            self.state.pm1_status |= TMR_STS;
        }
        self.state.seen = tick;
        self.drive();
    }

    fn read(&self, port: u16) -> u8 {
        let state = &self.state;
        match port {
            PM1A_EVT_PORT..=0x60b => {
                let index = usize::from(port - PM1A_EVT_PORT);
                state.fixed(state.seen).get(index).copied().unwrap_or(0)
            }
            0x620 | 0x621 => state.gpe0_status.to_le_bytes()[usize::from(port & 1)],
            0x622 | 0x623 => state.gpe0_enable.to_le_bytes()[usize::from(port & 1)],
            SMI_CMD_PORT => 0,
            SMI_DATA_PORT => state.smi_data,
            RESET_PORT => state.reset_control,
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        let state = &mut self.state;
        let high = port & 1 != 0;
        match port {
            0x600 | 0x601 => clear(&mut state.pm1_status, high, value),
            0x602 | 0x603 => {
                set_byte(&mut state.pm1_enable, high, value);
                state.pm1_enable &= PM1_EN_MASK;
            }
            0x604 | 0x605 => self.write_control(high, value),
            0x620 | 0x621 => clear(&mut state.gpe0_status, high, value),
            0x622 | 0x623 => set_byte(&mut state.gpe0_enable, high, value),
            SMI_CMD_PORT => match value {
                ACPI_ENABLE => state.pm1_control |= SCI_EN,
                ACPI_DISABLE => state.pm1_control &= !SCI_EN,
                _ => {}
            },
            SMI_DATA_PORT => state.smi_data = value,
            RESET_PORT => self.write_reset(value),
            _ => {}
        }
    }

    fn write_control(&mut self, high: bool, value: u8) {
        let mut written = self.state.pm1_control;
        set_byte(&mut written, high, value);
        self.state.pm1_control = written & PM1_CNT_MASK;
        let sleep_type = (written >> 10 & 7) as u8;
        if written & SLP_EN != 0 && sleep_type == SLP_TYP_S5 {
            (self.events)(MachineEvent::PowerOff);
        }
    }

    /// RST_CPU going from 0 to 1 resets, softly or hard.
    fn write_reset(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.state.reset_control, value & RESET_MASK);
        if value & !before & RST_CPU != 0 {
            (self.events)(MachineEvent::Reset);
        }
    }
}

impl fmt::Debug for Pm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pm").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Device for Pm {
    fn reset(&mut self, now: VmTime) {
        self.state = PmState { seen: now.ticks(PM_TMR_HZ), ..PmState::default() };
        self.drive();
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        self.catch_up(now);
        read_bytes(port, size, |port| self.read(port))
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        self.catch_up(now);
        // A wide write that covers 0xCF9 is for the PCI host bridge.
        if port == RESET_PORT && size != 1 {
            return;
        }
        write_bytes(port, size, value, |port, byte| self.write(port, byte));
        self.drive();
    }

    fn deadline(&self) -> Option<VmTime> {
        let state = &self.state;
        let wanted = state.pm1_enable & !state.pm1_status & TMR_STS != 0;
        if !wanted || state.pm1_control & SCI_EN == 0 {
            return None;
        }
        let next = (state.seen / TMR_HALF).saturating_add(1).saturating_mul(TMR_HALF);
        Some(VmTime::of_tick(next, PM_TMR_HZ))
    }

    fn advance(&mut self, now: VmTime) {
        self.catch_up(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::{Probe, assert_serializes, event_log, hammer, survive_damaged_states};

    fn pm() -> (Pm, Arc<Probe>, Arc<Mutex<Vec<MachineEvent>>>) {
        let (sci, line) = Probe::new();
        let (events, sink) = event_log();
        (Pm::new(line, sink), sci, events)
    }

    fn out(pm: &mut Pm, port: u16, size: u8, value: u32) {
        pm.port_write(VmTime::ZERO, port, size, value);
    }

    fn read(pm: &mut Pm, port: u16, size: u8) -> u32 {
        pm.port_read(VmTime::ZERO, port, size)
    }

    #[test]
    fn acpi_mode_is_switched_by_smi_command() {
        let (mut pm, ..) = pm();
        assert_eq!(read(&mut pm, PM1A_CNT_PORT, 2), 0);
        out(&mut pm, SMI_CMD_PORT, 1, ACPI_ENABLE.into());
        assert_eq!(read(&mut pm, PM1A_CNT_PORT, 2), 1);
        out(&mut pm, SMI_CMD_PORT, 1, ACPI_DISABLE.into());
        assert_eq!(read(&mut pm, PM1A_CNT_PORT, 2), 0);
        out(&mut pm, SMI_DATA_PORT, 1, 0x12);
        assert_eq!(read(&mut pm, SMI_DATA_PORT, 1), 0x12);
    }

    #[test]
    fn the_power_button_raises_the_sci_until_cleared() {
        let (mut pm, sci, _) = pm();
        out(&mut pm, PM1A_EVT_PORT + 2, 2, PWRBTN_STS.into());
        pm.press_power_button();
        assert!(!sci.level(), "legacy mode");
        out(&mut pm, PM1A_CNT_PORT, 2, 1);
        assert!(sci.level());
        assert_eq!(read(&mut pm, PM1A_EVT_PORT, 4), 0x0100_0100);
        out(&mut pm, PM1A_EVT_PORT, 1, 0xff);
        assert!(sci.level(), "that was the other byte");
        out(&mut pm, PM1A_EVT_PORT, 2, PWRBTN_STS.into());
        assert!(!sci.level());
    }

    #[test]
    fn gpes_have_their_own_block() {
        let (mut pm, sci, _) = pm();
        out(&mut pm, PM1A_CNT_PORT, 2, 1);
        out(&mut pm, GPE0_PORT + 2, 2, 0x0204);
        pm.raise_gpe(9);
        pm.raise_gpe(200);
        assert!(sci.level());
        assert_eq!(read(&mut pm, GPE0_PORT, 4), 0x0204_0200);
        out(&mut pm, GPE0_PORT + 1, 1, 0x02);
        assert!(!sci.level());
    }

    #[test]
    fn only_s5_with_slp_en_powers_off() {
        let (mut pm, _, events) = pm();
        out(&mut pm, PM1A_CNT_PORT, 2, u32::from(SLP_TYP_S5) << 10 | 1);
        out(&mut pm, PM1A_CNT_PORT, 2, 1 << 10 | 1 << 13);
        assert!(events.lock().unwrap().is_empty());
        out(&mut pm, PM1A_CNT_PORT, 2, u32::from(SLP_TYP_S5) << 10 | 1 << 13 | 1);
        assert_eq!(*events.lock().unwrap(), [MachineEvent::PowerOff]);
        assert_eq!(read(&mut pm, PM1A_CNT_PORT, 2), 1, "SLP_EN reads as zero");
    }

    #[test]
    fn the_reset_register_wants_a_rising_bit() {
        let (mut pm, _, events) = pm();
        out(&mut pm, RESET_PORT, 1, 0x02);
        assert_eq!(read(&mut pm, RESET_PORT, 1), 0x02);
        assert!(events.lock().unwrap().is_empty());
        out(&mut pm, RESET_PORT, 1, 0x06);
        out(&mut pm, RESET_PORT, 1, 0x06);
        assert_eq!(*events.lock().unwrap(), [MachineEvent::Reset]);
        pm.reset(VmTime::ZERO);
        out(&mut pm, RESET_PORT, 1, RESET_VALUE.into());
        assert_eq!(events.lock().unwrap().len(), 2);
        pm.reset(VmTime::ZERO);
        out(&mut pm, RESET_PORT, 4, 0x8000_0006);
        assert_eq!(events.lock().unwrap().len(), 2, "a wide write is not for this register");
    }

    #[test]
    fn the_timer_counts_and_its_top_bit_interrupts() {
        let (mut pm, sci, _) = pm();
        assert_eq!(pm.port_read(VmTime::of_tick(0x1234_5678, PM_TMR_HZ), PM_TMR_PORT, 4), 0x1234_5678);
        out(&mut pm, PM1A_CNT_PORT, 2, 1);
        out(&mut pm, PM1A_EVT_PORT + 2, 2, 1);
        let due = pm.deadline().unwrap();
        assert_eq!(due, VmTime::of_tick(1 << 31, PM_TMR_HZ));
        pm.advance(VmTime::from_nanos(due.nanos() - 1));
        assert!(!sci.level());
        pm.advance(due);
        assert!(sci.level());
        assert_eq!(pm.deadline(), None);
        pm.port_write(due, PM1A_EVT_PORT, 2, 1);
        assert!(!sci.level());
        assert_eq!(pm.deadline(), Some(VmTime::of_tick(1 << 32, PM_TMR_HZ)));
        assert_eq!(pm.port_read(VmTime::of_tick((1 << 32) + 5, PM_TMR_HZ), PM_TMR_PORT, 4), 5);
    }

    #[test]
    fn state_moves_to_another_unit() {
        let (mut first, ..) = pm();
        out(&mut first, PM1A_CNT_PORT, 2, 1);
        out(&mut first, PM1A_EVT_PORT + 2, 2, PWRBTN_STS.into());
        first.press_power_button();
        assert_serializes(&first.state());
        let (mut second, sci, _) = pm();
        second.set_state(first.state());
        assert!(sci.level());
        second.reset(VmTime::ZERO);
        assert!(!sci.level());
    }

    #[test]
    fn survives_random_use() {
        hammer(&mut pm().0, Pm::PORTS, 8);
    }

    #[test]
    fn survives_damaged_states() {
        survive_damaged_states(|| pm().0, Pm::PORTS, Pm::state, Pm::set_state);
    }
}
