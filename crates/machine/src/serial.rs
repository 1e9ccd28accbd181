//! The console: a serial port whose input comes from the host through a
//! bounded queue.
//!
//! The other end of the line keeps the hardware handshake: it sends only while
//! the guest's driver asserts RTS, so that what is typed (or piped in) before a
//! guest has opened its port waits rather than being lost when the driver
//! clears the FIFO. A guest without handshake that polls the line status for
//! input is understood too.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use chipset::uart::Uart;
use chipset::{Device, VmTime};

use crate::sync::lock;

/// How much input waits for the guest; whoever brings more waits himself.
const CAPACITY: usize = 4096;
/// As much as the receiver's FIFO holds.
const CHUNK: usize = 16;

const REGISTER: u16 = 7;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const RTS: u32 = 0x02;
const LOOPBACK: u32 = 0x10;
/// One look at the line status is enough to send. A guest that looks this
/// often, and does nothing else, waits for input.
const POLLS: u32 = 8;

#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// Input on its way to the guest.
#[derive(Default)]
pub(crate) struct Input {
    queue: Mutex<Queue>,
    room: Condvar,
}

impl Input {
    /// Adds what fits of `bytes`, once there is room for at least one; returns
    /// how many, and None when nobody will read them.
    pub(crate) fn push(&self, bytes: &[u8]) -> Option<usize> {
        let full = |queue: &mut Queue| queue.bytes.len() >= CAPACITY && !queue.closed;
        let queue = lock(&self.queue);
        let mut queue = self.room.wait_while(queue, full).unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return None;
        }
        let taken = bytes.len().min(CAPACITY.saturating_sub(queue.bytes.len()));
        queue.bytes.extend(bytes.iter().take(taken));
        Some(taken)
    }

    /// Opens or closes the queue. Closing wakes everybody who waits.
    pub(crate) fn set_closed(&self, closed: bool) {
        lock(&self.queue).closed = closed;
        self.room.notify_all();
    }

    /// Hands the oldest bytes to `take`, which says how many it took, until it
    /// takes no more.
    fn drain(&self, mut take: impl FnMut(&[u8]) -> usize) {
        let mut queue = lock(&self.queue);
        while !queue.bytes.is_empty() {
            let chunk: Vec<u8> = queue.bytes.iter().take(CHUNK).copied().collect();
            let taken = take(&chunk).min(chunk.len());
            if taken == 0 {
                break;
            }
            queue.bytes.drain(..taken);
            self.room.notify_all();
        }
    }
}

/// A serial port with its input.
pub(crate) struct SerialPort {
    uart: Uart,
    input: Arc<Input>,
    rts: bool,
    polls: u32,
}

impl SerialPort {
    pub(crate) fn new(uart: Uart, input: Arc<Input>) -> Self {
        Self { uart, input, rts: false, polls: 0 }
    }

    /// Moves input into the port, as much as it takes.
    pub(crate) fn refill(&mut self, now: VmTime) {
        if (self.rts || self.polls >= POLLS) && self.uart.can_receive() {
            let uart = &mut self.uart;
            self.input.drain(|bytes| if uart.can_receive() { uart.enqueue(now, bytes) } else { 0 });
        }
    }
}

impl Device for SerialPort {
    fn reset(&mut self, now: VmTime) {
        self.uart.reset(now);
        (self.rts, self.polls) = (false, 0);
    }

    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        if port & REGISTER == LINE_STATUS {
            self.polls = self.polls.saturating_add(1);
            self.refill(now);
        }
        let value = self.uart.port_read(now, port, size);
        self.refill(now);
        value
    }

    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        self.polls = 0;
        if port & REGISTER == MODEM_CONTROL {
            self.rts = value & (RTS | LOOPBACK) == RTS;
        }
        self.uart.port_write(now, port, size, value);
        self.refill(now);
    }

    fn deadline(&self) -> Option<VmTime> {
        self.uart.deadline()
    }

    fn advance(&mut self, now: VmTime) {
        self.uart.advance(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chipset::Line;
    use chipset::uart::COM1;

    use super::*;

    fn port() -> (SerialPort, Arc<Input>) {
        let input = Arc::new(Input::default());
        let uart = Uart::new(Box::new(|_| {}), Line::unconnected());
        (SerialPort::new(uart, Arc::clone(&input)), input)
    }

    fn read(port: &mut SerialPort, register: u16) -> u8 {
        port.port_read(VmTime::ZERO, COM1 + register, 1) as u8
    }

    fn write(port: &mut SerialPort, register: u16, value: u32) {
        port.port_write(VmTime::ZERO, COM1 + register, 1, value);
    }

    #[test]
    fn input_waits_for_rts_and_survives_the_drivers_start() {
        let (mut port, input) = port();
        input.push(b"hello, guest of more than sixteen bytes").unwrap();
        write(&mut port, 4, 0x1a);
        write(&mut port, 2, 0x07);
        assert_eq!(read(&mut port, 5) & 1, 0, "loopback is no handshake");
        write(&mut port, 4, 0x0b);
        let mut got = Vec::new();
        while read(&mut port, 5) & 1 != 0 {
            got.push(read(&mut port, 0));
        }
        assert_eq!(got, b"hello, guest of more than sixteen bytes");
    }

    #[test]
    fn a_guest_that_polls_gets_its_input() {
        let (mut port, input) = port();
        input.push(b"x").unwrap();
        for _ in 0..3 {
            read(&mut port, 5);
            write(&mut port, 0, b'.'.into());
            assert_eq!(read(&mut port, 5) & 1, 0, "that was sending");
        }
        let polls = (0..100).find(|_| read(&mut port, 5) & 1 != 0);
        assert!(polls.is_some());
        assert_eq!(read(&mut port, 0), b'x');
    }

    #[test]
    fn a_full_queue_makes_its_writer_wait_until_the_guest_reads() {
        let (mut port, input) = port();
        assert_eq!(input.push(&[7; 5000]), Some(4096));
        let writer = std::thread::spawn({
            let input = Arc::clone(&input);
            move || (input.push(b"tail"), input.push(&[7; 5000]), input.push(b"!"))
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!writer.is_finished());
        write(&mut port, 4, 0x03);
        while !writer.is_finished() && lock(&input.queue).bytes.len() < CAPACITY {
            std::thread::yield_now();
        }
        input.set_closed(true);
        let (tail, rest, closed) = writer.join().unwrap();
        assert_eq!(tail, Some(1), "one byte went into the port without FIFO");
        assert!(rest.is_none() && closed.is_none());
    }
}
