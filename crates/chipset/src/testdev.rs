//! A device for test kernels, with the registers of QEMU's `pc-testdev`, which
//! kvm-unit-tests drive: a latch at ports, memory that is reached by exits
//! only, and ports that raise the ISA bus's lines. A machine has it only when
//! it is asked for.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Device, Line, VmTime};

/// The first port of the latch.
const LATCH: u16 = 0xe0;
/// Asks for one page to be made slow to reach; a machine that has nothing to
/// make slow takes it and does nothing.
const FLUSH_PAGE: u16 = 0xe4;
/// The first of a port for each line of the ISA bus.
const LINES: u16 = 0x2000;
/// Lines of the ISA bus.
const LINE_COUNT: usize = 16;
/// Bytes of memory.
const MEMORY_SIZE: usize = 0x1_0000;

/// The registers of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestDeviceState {
    latch: u32,
    memory: Vec<u8>,
}

impl Default for TestDeviceState {
    fn default() -> Self {
        Self { latch: 0, memory: vec![0; MEMORY_SIZE] }
    }
}

/// The device.
#[derive(Debug)]
pub struct TestDevice {
    state: TestDeviceState,
    lines: [Line; LINE_COUNT],
}

impl TestDevice {
    /// The ports that it decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] =
        &[LATCH..=FLUSH_PAGE + 3, LINES..=LINES + LINE_COUNT as u16 - 1];
    /// Where its memory lies, as guest-physical addresses.
    pub const MEMORY: RangeInclusive<u64> = 0xff00_0000..=0xff00_0000 + MEMORY_SIZE as u64 - 1;

    /// A device that drives the lines of the ISA bus, from 0 on.
    pub fn new(lines: [Line; LINE_COUNT]) -> Self {
        Self { state: TestDeviceState::default(), lines }
    }

    /// The whole state.
    pub fn state(&self) -> TestDeviceState {
        self.state.clone()
    }

    /// Restores what [`TestDevice::state`] returned.
    pub fn set_state(&mut self, state: TestDeviceState) {
        self.state = state;
        self.state.memory.resize(MEMORY_SIZE, 0);
    }
}

/// Where an access at `port` lies in the latch: the bits to shift it by.
fn latch_shift(port: u16) -> Option<u32> {
    (LATCH..LATCH + 4).contains(&port).then(|| u32::from(port - LATCH) * 8)
}

/// Which of the latch's bits an access of `size` bytes concerns, before the
/// shift.
fn latch_mask(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
}

impl Device for TestDevice {
    fn reset(&mut self, _now: VmTime) {
        self.state = TestDeviceState::default();
        self.lines.iter().for_each(|line| line.set(false));
    }

    fn port_read(&mut self, _now: VmTime, port: u16, _size: u8) -> u32 {
        latch_shift(port).map_or(u32::MAX, |shift| self.state.latch >> shift)
    }

    fn port_write(&mut self, _now: VmTime, port: u16, size: u8, value: u32) {
        if let Some(shift) = latch_shift(port) {
            let mask = latch_mask(size) << shift;
            self.state.latch = self.state.latch & !mask | value << shift & mask;
        } else if let Some(line) = self.lines.get(usize::from(port.wrapping_sub(LINES))) {
            line.set(value != 0);
        }
    }

    fn mmio_read(&mut self, _now: VmTime, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for (byte, stored) in data.iter_mut().zip(memory_from(&mut self.state.memory, offset)) {
            *byte = *stored;
        }
    }

    fn mmio_write(&mut self, _now: VmTime, offset: u64, data: &[u8]) {
        for (byte, stored) in data.iter().zip(memory_from(&mut self.state.memory, offset)) {
            *stored = *byte;
        }
    }
}

fn memory_from(memory: &mut [u8], offset: u64) -> impl Iterator<Item = &mut u8> {
    memory.iter_mut().skip(usize::try_from(offset).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Probe, hammer};

    const NOW: VmTime = VmTime::ZERO;

    fn device() -> TestDevice {
        TestDevice::new(std::array::from_fn(|_| Line::unconnected()))
    }

    #[test]
    fn the_latch_keeps_bytes_words_and_doublewords() {
        let mut device = device();
        device.port_write(NOW, 0xe0, 4, 0x1234_5678);
        assert_eq!(device.port_read(NOW, 0xe0, 4), 0x1234_5678);
        device.port_write(NOW, 0xe1, 1, 0xaa);
        device.port_write(NOW, 0xe2, 2, 0xbbcc);
        assert_eq!(device.port_read(NOW, 0xe0, 4), 0xbbcc_aa78);
        assert_eq!(device.port_read(NOW, 0xe1, 1) as u8, 0xaa);
        device.port_write(NOW, 0xe4, 4, 1);
        assert_eq!(device.port_read(NOW, 0xe0, 4), 0xbbcc_aa78);
    }

    #[test]
    fn its_memory_ends() {
        let mut device = device();
        device.mmio_write(NOW, 0xfffc, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut data = [0; 8];
        device.mmio_read(NOW, 0xfffc, &mut data);
        assert_eq!(data, [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]);
        device.mmio_read(NOW, u64::MAX, &mut data);
        assert_eq!(data, [0xff; 8]);
        device.reset(NOW);
        device.mmio_read(NOW, 0xfff8, &mut data);
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn ports_raise_and_lower_lines() {
        let (probe, line) = Probe::new();
        let mut device = TestDevice::new(std::array::from_fn(|irq| match irq {
            14 => line.clone(),
            _ => Line::unconnected(),
        }));
        device.port_write(NOW, 0x200e, 1, 1);
        assert!(probe.level());
        device.port_write(NOW, 0x200f, 1, 0);
        assert!(probe.level(), "the next port is the next line");
        device.port_write(NOW, 0x200e, 1, 0);
        assert!(!probe.level());
    }

    #[test]
    fn survives_random_use() {
        hammer(&mut device(), TestDevice::PORTS, 5);
    }
}
