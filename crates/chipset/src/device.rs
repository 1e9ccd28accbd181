//! The contract between a device and the machine: as small as it can be.

use crate::VmTime;

/// A device that the machine can reach by port, by address and by time.
///
/// All calls on one device are serialized by the machine. `now` never runs
/// backwards between calls.
pub trait Device: Send {
    /// Returns the device to its state at power-on (or platform reset).
    fn reset(&mut self, now: VmTime);

    /// Reads `size` (1, 2 or 4) bytes from I/O port `port`; the value is in the
    /// low bytes. Unclaimed bytes read as ones, as on an idle ISA bus.
    fn port_read(&mut self, now: VmTime, port: u16, size: u8) -> u32 {
        let _ = (now, port, size);
        u32::MAX
    }

    /// Writes the low `size` (1, 2 or 4) bytes of `value` to I/O port `port`.
    fn port_write(&mut self, now: VmTime, port: u16, size: u8, value: u32) {
        let _ = (now, port, size, value);
    }

    /// Reads `data.len()` (1 to 8) bytes at `offset` in the device's
    /// memory-mapped region.
    fn mmio_read(&mut self, now: VmTime, offset: u64, data: &mut [u8]) {
        let _ = (now, offset);
        data.fill(0xff);
    }

    /// Writes `data` (1 to 8 bytes) at `offset` in the device's memory-mapped
    /// region.
    fn mmio_write(&mut self, now: VmTime, offset: u64, data: &[u8]) {
        let _ = (now, offset, data);
    }

    /// When [`Device::advance`] must be called next, if ever. The machine asks
    /// again after each access and each `advance`.
    fn deadline(&self) -> Option<VmTime> {
        None
    }

    /// Does all that was due up to `now`. May be called early or late; a late
    /// call catches up.
    fn advance(&mut self, now: VmTime) {
        let _ = now;
    }
}
