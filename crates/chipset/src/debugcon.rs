//! A debug console: one port that takes bytes (Bochs's 0xE9, SeaBIOS's 0x402).
//! It has no state.

use std::fmt;

use crate::{Device, SerialSink, VmTime};

/// The port that Bochs made common.
pub const BOCHS_PORT: u16 = 0xe9;
/// The port that SeaBIOS and OVMF log to.
pub const FIRMWARE_PORT: u16 = 0x402;

/// What a read gives, so that a guest can tell that somebody listens.
const PRESENT: u32 = 0xe9;

/// A debug console at one port.
pub struct DebugConsole {
    port: u16,
    sink: Box<dyn SerialSink>,
}

impl DebugConsole {
    /// A console at `port` whose bytes go to `sink`.
    pub fn new(port: u16, sink: Box<dyn SerialSink>) -> Self {
        Self { port, sink }
    }

    /// The port that it decodes.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Debug for DebugConsole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugConsole").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Device for DebugConsole {
    fn reset(&mut self, _now: VmTime) {}

    fn port_read(&mut self, _now: VmTime, port: u16, _size: u8) -> u32 {
        if port == self.port { u32::MAX << 8 | PRESENT } else { u32::MAX }
    }

    fn port_write(&mut self, _now: VmTime, port: u16, _size: u8, value: u32) {
        if port == self.port {
            self.sink.write(value as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{byte_log, hammer};

    #[test]
    fn bytes_come_out_and_presence_is_told() {
        let (log, sink) = byte_log();
        let mut console = DebugConsole::new(FIRMWARE_PORT, sink);
        assert_eq!(console.port_read(VmTime::ZERO, 0x402, 1) as u8, 0xe9);
        assert_eq!(console.port_read(VmTime::ZERO, 0xe9, 1), u32::MAX);
        for byte in *b"ok" {
            console.port_write(VmTime::ZERO, 0x402, 1, byte.into());
            console.port_write(VmTime::ZERO, 0x403, 1, byte.into());
        }
        assert_eq!(*log.lock().unwrap(), b"ok");
    }

    #[test]
    fn survives_random_use() {
        let (_, sink) = byte_log();
        hammer(&mut DebugConsole::new(BOCHS_PORT, sink), &[0xe8..=0xea], 11);
    }
}
