//! Where a character device's output goes.

/// Takes the bytes that a guest sends through a serial port or debug console.
///
/// Called with the device's lock held: it must not wait for long.
pub trait SerialSink: Send {
    /// Takes one byte.
    fn write(&mut self, byte: u8);
}

impl<F: FnMut(u8) + Send> SerialSink for F {
    fn write(&mut self, byte: u8) {
        self(byte);
    }
}
