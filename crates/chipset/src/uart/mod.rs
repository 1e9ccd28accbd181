//! The 16550A serial port (National Semiconductor PC16550D).
//!
//! Sending takes no time: the transmitter is always empty again when the guest
//! looks, but its interrupts come and go as the manual says. The line is gated
//! by OUT2, as on every PC. Written here rather than taken from a crate, for
//! virtual time (the receiver's time-out), trigger levels and a state that can
//! be saved.

mod receiver;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::bytes::{read_bytes, write_bytes};
use crate::{Device, Line, SerialSink, VmTime};
pub use receiver::ReceiverState;
use receiver::{BREAK, ERRORS};

/// The I/O base of COM1.
pub const COM1: u16 = 0x3f8;
/// The I/O base of COM2.
pub const COM2: u16 = 0x2f8;
/// The I/O base of COM3.
pub const COM3: u16 = 0x3e8;
/// The I/O base of COM4.
pub const COM4: u16 = 0x2e8;

/// The crystal, after the fixed division by 16.
const BAUD_BASE: u64 = 115_200;

const IER_RECEIVED: u8 = 0x01;
const IER_THR_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;
const IER_MASK: u8 = 0x0f;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RX: u8 = 0x02;
const LCR_BREAK: u8 = 0x40;
const LCR_DLAB: u8 = 0x80;
const LSR_THRE_TEMT: u8 = 0x60;

const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const MCR_MASK: u8 = 0x1f;

const MSR_RI: u8 = 0x40;
const MSR_INPUTS: u8 = 0xf0;
const MSR_DELTAS: u8 = 0x0f;

/// The modem status inputs, as the upper bits of the MSR show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModemInputs {
    /// Clear to send.
    pub cts: bool,
    /// Data set ready.
    pub dsr: bool,
    /// Ring indicator.
    pub ri: bool,
    /// Data carrier detect.
    pub dcd: bool,
}

impl ModemInputs {
    /// A null modem with somebody at the other end.
    pub const CONNECTED: Self = Self { cts: true, dsr: true, ri: false, dcd: true };

    fn bits(self) -> u8 {
        let Self { cts, dsr, ri, dcd } = self;
        u8::from(cts) << 4 | u8::from(dsr) << 5 | u8::from(ri) << 6 | u8::from(dcd) << 7
    }
}

/// The state of one serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartState {
    receiver: ReceiverState,
    ier: u8,
    lcr: u8,
    mcr: u8,
    msr: u8,
    scratch: u8,
    divisor: u16,
    thr_empty_pending: bool,
    inputs: ModemInputs,
}

impl UartState {
    fn new(inputs: ModemInputs) -> Self {
        Self {
            receiver: ReceiverState::default(),
            ier: 0,
            lcr: 0,
            mcr: 0,
            msr: inputs.bits(),
            scratch: 0,
            divisor: 12,
            thr_empty_pending: false,
            inputs,
        }
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// The cause of highest priority, without the FIFO bits.
    fn cause(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_LINE_STATUS) && self.receiver.line_status() & ERRORS != 0 {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && self.receiver.at_trigger() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.receiver.timed_out() {
            IIR_TIMEOUT
        } else if enabled(IER_THR_EMPTY) && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.msr & MSR_DELTAS != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Four characters of start, data, parity and stop bits.
    fn timeout(&self) -> std::time::Duration {
        let data = 5 + u64::from(self.lcr & 3);
        let bits = 2 + data + u64::from(self.lcr >> 2 & 1) + u64::from(self.lcr >> 3 & 1);
        let per_second = BAUD_BASE / u64::from(self.divisor.max(1));
        std::time::Duration::from_nanos(4 * bits * crate::NANOS_PER_SEC / per_second.max(1))
    }

    /// The modem inputs that the port sees: its own outputs in loopback.
    fn update_modem_status(&mut self) {
        let inputs = if self.looped() {
            let bit = |index: u8| self.mcr >> index & 1 != 0;
            ModemInputs { cts: bit(1), dsr: bit(0), ri: bit(2), dcd: bit(3) }
        } else {
            self.inputs
        };
        let old = self.msr & MSR_INPUTS;
        let new = inputs.bits();
        // RI counts when it ends, the others when they change.
        let changed = ((old ^ new) & !MSR_RI) | (old & !new & MSR_RI);
        self.msr = new | (self.msr & MSR_DELTAS) | changed >> 4;
    }
}

/// A 16550A.
pub struct Uart {
    state: UartState,
    sink: Box<dyn SerialSink>,
    irq: Line,
}

impl Uart {
    /// A port whose output goes to `sink` and that interrupts by `irq`.
    pub fn new(sink: Box<dyn SerialSink>, irq: Line) -> Self {
        Self { state: UartState::new(ModemInputs::CONNECTED), sink, irq }
    }

    /// The eight ports of a UART at `base` (which is a multiple of 8).
    pub const fn ports(base: u16) -> RangeInclusive<u16> {
        base..=base | 7
    }

    /// The whole state.
    pub fn state(&self) -> UartState {
        self.state.clone()
    }

    /// Restores what [`Uart::state`] returned and drives the line accordingly.
    pub fn set_state(&mut self, mut state: UartState) {
        state.receiver.sanitize();
        self.state = state;
        self.drive();
    }

    /// Whether at least one byte of input fits.
    pub fn can_receive(&self) -> bool {
        !self.state.looped() && self.state.receiver.room() > 0
    }

    /// Receives as many of `bytes` as fit and returns how many those were.
    pub fn enqueue(&mut self, now: VmTime, bytes: &[u8]) -> usize {
        let room = if self.state.looped() { 0 } else { self.state.receiver.room() };
        let taken = bytes.len().min(room);
        for byte in bytes.iter().take(taken) {
            self.receive(now, *byte, 0);
        }
        self.drive();
        taken
    }

    /// Receives a break condition, if there is room.
    pub fn receive_break(&mut self, now: VmTime) -> bool {
        let accepted = self.can_receive();
        if accepted {
            self.receive(now, 0, BREAK);
            self.drive();
        }
        accepted
    }

    /// Changes what the other end drives.
    pub fn set_modem_inputs(&mut self, inputs: ModemInputs) {
        self.state.inputs = inputs;
        self.state.update_modem_status();
        self.drive();
    }

    fn receive(&mut self, now: VmTime, byte: u8, errors: u8) {
        let timeout = self.state.timeout();
        self.state.receiver.push(byte, errors, now + timeout);
    }

    fn drive(&self) {
        self.irq.set(self.state.cause() != IIR_NONE && self.state.mcr & MCR_OUT2 != 0);
    }

    fn transmit(&mut self, now: VmTime, byte: u8) {
        // The interrupt goes with the write and comes back when the byte is
        // out, which is an edge for the interrupt controller.
        self.state.thr_empty_pending = false;
        self.drive();
        if self.state.looped() {
            self.receive(now, byte, 0);
        } else {
            self.sink.write(byte);
        }
        self.state.thr_empty_pending = true;
    }

    fn read_register(&mut self, now: VmTime, register: u16) -> u8 {
        let state = &mut self.state;
        match register {
            0 if state.lcr & LCR_DLAB != 0 => state.divisor as u8,
            1 if state.lcr & LCR_DLAB != 0 => (state.divisor >> 8) as u8,
            0 => {
                let timeout = state.timeout();
                state.receiver.pop(now + timeout)
            }
            1 => state.ier,
            2 => {
                let cause = state.cause();
                if cause == IIR_THR_EMPTY {
                    state.thr_empty_pending = false;
                }
                cause | if state.receiver.fifo_enabled() { IIR_FIFOS } else { 0 }
            }
            3 => state.lcr,
            4 => state.mcr,
            5 => state.receiver.take_line_status() | LSR_THRE_TEMT,
            6 => {
                let msr = state.msr;
                state.msr &= !MSR_DELTAS;
                msr
            }
            _ => state.scratch,
        }
    }

    fn write_register(&mut self, now: VmTime, register: u16, value: u8) {
        let state = &mut self.state;
        match register {
            0 if state.lcr & LCR_DLAB != 0 => {
                state.divisor = state.divisor & 0xff00 | u16::from(value);
            }
            1 if state.lcr & LCR_DLAB != 0 => {
                state.divisor = state.divisor & 0x00ff | u16::from(value) << 8;
            }
            0 => self.transmit(now, value),
            1 => {
                // Enabling the interrupt of an empty transmitter raises it.
                state.thr_empty_pending |= value & !state.ier & IER_THR_EMPTY != 0;
                state.ier = value & IER_MASK;
            }
            2 => {
                state.receiver.set_fifo(value & FCR_ENABLE != 0, value >> 6);
                if value & (FCR_ENABLE | FCR_CLEAR_RX) == FCR_ENABLE | FCR_CLEAR_RX {
                    state.receiver.clear();
                }
            }
            3 => {
                let broke = value & !state.lcr & LCR_BREAK != 0;
                state.lcr = value;
                if broke && state.looped() {
                    self.receive(now, 0, BREAK);
                }
            }
            4 => {
                state.mcr = value & MCR_MASK;
                state.update_modem_status();
            }
            7 => state.scratch = value,
            _ => {}
        }
    }
}

impl fmt::Debug for Uart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uart").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Ports are taken modulo 8.
impl Device for Uart {
    fn reset(&mut self, _now: VmTime) {
        self.state = UartState::new(self.state.inputs);
        self.drive();
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        self.advance(now);
        let value = read_bytes(port, size, |port| self.read_register(now, port & 7));
        self.drive();
        value
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        self.advance(now);
        write_bytes(port, size, value, |port, byte| self.write_register(now, port & 7, byte));
        self.drive();
    }

    fn deadline(&self) -> Option<VmTime> {
        let wanted = self.state.ier & IER_RECEIVED != 0;
        self.state.receiver.timeout_at().filter(|_| wanted)
    }

    fn advance(&mut self, now: VmTime) {
        if self.state.receiver.expire(now) {
            self.drive();
        }
    }
}
