use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Prng, Probe, assert_serializes, byte_log, hammer, survive_damaged_states};

struct Rig {
    uart: Uart,
    irq: Arc<Probe>,
    output: Arc<Mutex<Vec<u8>>>,
    now: VmTime,
}

impl Rig {
    /// A port with OUT2 set and the interrupts `ier` enabled.
    fn new(ier: u8) -> Self {
        let (irq, line) = Probe::new();
        let (output, sink) = byte_log();
        let mut rig = Self { uart: Uart::new(sink, line), irq, output, now: VmTime::ZERO };
        rig.out(4, MCR_OUT2);
        rig.out(1, ier);
        rig
    }

    fn out(&mut self, register: u16, value: u8) {
        self.uart.port_write(self.now, COM1 + register, 1, u32::from(value));
    }

    fn inb(&mut self, register: u16) -> u8 {
        self.uart.port_read(self.now, COM1 + register, 1) as u8
    }

    fn enqueue(&mut self, bytes: &[u8]) -> usize {
        self.uart.enqueue(self.now, bytes)
    }
}

#[test]
fn bytes_reach_the_sink_and_the_transmitter_is_empty() {
    let mut rig = Rig::new(0);
    for byte in b"ok" {
        assert_eq!(rig.inb(5), 0x60);
        rig.out(0, *byte);
    }
    assert_eq!(*rig.output.lock().unwrap(), b"ok");
    assert_eq!(rig.inb(2), IIR_NONE);
}

#[test]
fn the_empty_transmitter_interrupts_until_iir_is_read() {
    let mut rig = Rig::new(IER_THR_EMPTY);
    assert!(rig.irq.level(), "enabling it is enough");
    assert_eq!(rig.inb(2), IIR_THR_EMPTY);
    assert!(!rig.irq.level());
    assert_eq!(rig.inb(2), IIR_NONE);
    rig.irq.take_rises();
    rig.out(0, b'x');
    rig.out(0, b'y');
    assert_eq!(rig.irq.take_rises(), 2, "each write makes an edge");
    rig.out(1, 0);
    assert!(!rig.irq.level());
}

#[test]
fn out2_gates_the_line() {
    let mut rig = Rig::new(IER_THR_EMPTY);
    rig.out(4, 0);
    assert!(!rig.irq.level());
    assert_eq!(rig.inb(2), IIR_THR_EMPTY);
}

#[test]
fn without_fifo_one_byte_fits() {
    let mut rig = Rig::new(IER_RECEIVED);
    assert_eq!(rig.enqueue(b"ab"), 1);
    assert!(!rig.uart.can_receive() && rig.irq.level());
    assert_eq!(rig.inb(2), IIR_RECEIVED);
    assert_eq!(rig.inb(5) & DATA_READY, DATA_READY);
    assert_eq!(rig.inb(0), b'a');
    assert!(rig.uart.can_receive() && !rig.irq.level());
    assert_eq!(rig.uart.deadline(), None);
}

const DATA_READY: u8 = 1;

#[test]
fn the_fifo_interrupts_at_its_trigger_and_after_silence() {
    let mut rig = Rig::new(IER_RECEIVED);
    rig.out(2, 0x81);
    assert_eq!(rig.enqueue(b"1234567"), 7);
    assert_eq!(rig.inb(2), IIR_FIFOS | IIR_NONE, "below the trigger of 8");
    rig.enqueue(b"8");
    assert_eq!(rig.inb(2), IIR_FIFOS | IIR_RECEIVED);
    assert_eq!(rig.inb(0), b'1');
    assert!(!rig.irq.level());
    let due = rig.uart.deadline().unwrap();
    // Four characters of 7 bits (5N1 after reset) at 9600 baud.
    assert_eq!(due.nanos(), 4 * 7 * 1_000_000_000 / 9600);
    rig.now = due;
    rig.uart.advance(due);
    assert!(rig.irq.level());
    assert_eq!(rig.inb(2), IIR_FIFOS | IIR_TIMEOUT);
    assert_eq!(rig.inb(0), b'2');
    assert!(!rig.irq.level());
    assert!(rig.uart.deadline().unwrap() > due);
    for expected in b"345678" {
        assert_eq!(rig.inb(0), *expected);
    }
    assert_eq!((rig.uart.deadline(), rig.inb(5)), (None, 0x60));
}

#[test]
fn sixteen_bytes_fit() {
    let mut rig = Rig::new(0);
    rig.out(2, 1);
    assert_eq!(rig.enqueue(&[7; 20]), 16);
    assert!(!rig.uart.can_receive());
    rig.out(2, 3);
    assert!(rig.uart.can_receive());
    assert_eq!(rig.inb(5), 0x60);
    rig.enqueue(b"x");
    rig.out(2, 0);
    assert_eq!(rig.inb(5), 0x60, "switching the FIFO off empties it");
}

#[test]
fn causes_are_ranked() {
    let mut rig = Rig::new(0x0f);
    rig.out(2, 1);
    rig.uart.set_modem_inputs(ModemInputs { dcd: false, ..ModemInputs::CONNECTED });
    rig.uart.receive_break(rig.now);
    let mut causes = vec![rig.inb(2) & 0x0f];
    assert_eq!(rig.inb(5), 0x60 | 0x80 | BREAK | DATA_READY);
    causes.push(rig.inb(2) & 0x0f);
    rig.inb(0);
    causes.push(rig.inb(2) & 0x0f);
    causes.push(rig.inb(2) & 0x0f);
    assert_eq!(rig.inb(6), 0x38, "DCD gone");
    causes.push(rig.inb(2) & 0x0f);
    assert_eq!(causes, [IIR_LINE_STATUS, IIR_RECEIVED, IIR_THR_EMPTY, IIR_MODEM_STATUS, IIR_NONE]);
}

#[test]
fn loopback_joins_data_and_modem_lines() {
    let mut rig = Rig::new(0);
    rig.out(4, 0x1a);
    assert_eq!(rig.inb(6) & 0xf0, 0x90, "RTS is CTS and OUT2 is DCD");
    rig.out(0, 0x5a);
    assert_eq!(rig.inb(0), 0x5a);
    assert!(rig.output.lock().unwrap().is_empty());
    assert_eq!(rig.enqueue(b"x"), 0);
    rig.inb(6);
    rig.out(4, 0x1e);
    assert_eq!(rig.inb(6) & 0x0f, 0, "RI rising does not count");
    rig.out(4, 0x1a);
    assert_eq!(rig.inb(6) & 0x0f, 0x04, "its end does");
    rig.out(3, 0x43);
    assert_eq!(rig.inb(5) & BREAK, BREAK);
}

#[test]
fn overrun_is_told_once() {
    let mut rig = Rig::new(IER_LINE_STATUS);
    rig.out(4, 0x18);
    rig.out(0, 1);
    rig.out(0, 2);
    assert!(rig.irq.level());
    assert_eq!(rig.inb(5), 0x63);
    assert!(!rig.irq.level());
    assert_eq!((rig.inb(5), rig.inb(0)), (0x61, 2), "the newer byte is in the register");
    rig.out(2, 1);
    for byte in 0..17 {
        rig.out(0, byte);
    }
    assert_eq!((rig.inb(5), rig.inb(0)), (0x63, 0), "the FIFO keeps what it has");
}

#[test]
fn divisor_latch_and_plain_registers() {
    let mut rig = Rig::new(0x05);
    rig.out(3, 0x83);
    rig.out(0, 0x34);
    rig.out(1, 0x12);
    assert_eq!((rig.inb(0), rig.inb(1)), (0x34, 0x12));
    rig.out(3, 0x03);
    assert_eq!((rig.inb(1), rig.inb(3)), (0x05, 0x03));
    rig.out(7, 0xa5);
    assert_eq!(rig.inb(7), 0xa5);
    rig.out(4, 0xff);
    assert_eq!(rig.inb(4), 0x1f);
    rig.out(1, 0xff);
    assert_eq!(rig.inb(1), 0x0f);
}

#[test]
fn state_moves_to_another_port() {
    let mut first = Rig::new(IER_RECEIVED);
    first.out(2, 1);
    first.enqueue(b"abc");
    assert_serializes(&first.uart.state());
    let mut second = Rig::new(0);
    second.uart.set_state(first.uart.state());
    assert!(second.irq.level());
    assert_eq!(second.inb(0), b'a');
    second.uart.reset(VmTime::ZERO);
    assert!(!second.irq.level());
    assert_eq!(second.uart.state(), UartState::new(ModemInputs::CONNECTED));
}

#[test]
fn survives_random_use() {
    let mut rig = Rig::new(0);
    hammer(&mut rig.uart, &[Uart::ports(COM1)], 5);
    let mut rig = Rig::new(0x0f);
    let mut rng = Prng::new(6);
    for _ in 0..150_000 {
        rig.now = VmTime::from_nanos(rig.now.nanos() + rng.below(3_000_000));
        match rng.below(4) {
            0 => drop(rig.enqueue(&[1; 20][..rng.below(20) as usize])),
            1 => drop(rig.inb(rng.below(8) as u16)),
            2 => rig.out(rng.below(8) as u16, rng.next() as u8),
            _ => {
                rig.uart.advance(rig.now);
                assert!(rig.uart.deadline().is_none_or(|at| at > rig.now));
            }
        }
    }
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(|| Rig::new(0x0f).uart, &[Uart::ports(COM1)], Uart::state, Uart::set_state);
}
