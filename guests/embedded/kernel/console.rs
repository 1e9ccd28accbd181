//! The report's way out: the serial port at 0x3F8, polled.

use core::fmt;

use crate::cpu::{inb, outb};

/// The first serial port.
const COM1: u16 = 0x3F8;
/// Line status: the transmit holding register is empty.
const THR_EMPTY: u8 = 0x20;
/// Polls after which a port that is not there is given up, so that the guest ends.
const PATIENCE: u32 = 100_000;

/// Sets 115200 baud, 8 data bits, no parity, FIFO on, no interrupts.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        outb(COM1 + register, value);
    }
}

/// The serial port as a writer.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    for _ in 0..PATIENCE {
        if inb(COM1 + 5) & THR_EMPTY != 0 {
            break;
        }
    }
    outb(COM1, byte);
}

/// Prints to the serial port.
macro_rules! print {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        // The writer cannot fail.
        let _ = write!($crate::console::Console, $($part)*);
    }};
}
pub(crate) use print;

/// Prints a line to the serial port.
macro_rules! println {
    () => { $crate::console::print!("\n") };
    ($($part:tt)*) => {{
        $crate::console::print!($($part)*);
        $crate::console::print!("\n");
    }};
}
pub(crate) use println;
