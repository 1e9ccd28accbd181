//! The common configuration structure (4.1.4.3).

use super::VirtioPci;
use crate::registers::RingPart;

impl VirtioPci {
    /// Fields are read at their width; of anything else the bytes are put
    /// together.
    pub(super) fn common_read(&mut self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            let at = offset + index as u64;
            let (start, value) = self.common_field(at);
            *byte = (value >> (8 * (at - start))) as u8;
        }
    }

    /// The field with the byte at `at`: where it starts, and its value.
    fn common_field(&self, at: u64) -> (u64, u32) {
        let registers = &self.registers;
        let address = |start: u64, part| {
            let value = registers.queue_address(part);
            if at < start + 4 { (start, value as u32) } else { (start + 4, (value >> 32) as u32) }
        };
        match at {
            0x00..0x04 => (0x00, registers.device_features_select),
            0x04..0x08 => (0x04, registers.device_features()),
            0x08..0x0c => (0x08, registers.driver_features_select),
            0x0c..0x10 => (0x0c, registers.driver_features()),
            0x10..0x12 => (0x10, self.shared.config_vector().into()),
            0x12..0x14 => (0x12, registers.queue_count().into()),
            0x14 => (0x14, registers.status().into()),
            0x15 => (0x15, registers.generation().into()),
            0x16..0x18 => (0x16, registers.queue_select.into()),
            0x18..0x1a => (0x18, registers.queue_size().into()),
            0x1a..0x1c => (0x1a, self.shared.queue_vector(registers.queue_select).into()),
            0x1c..0x1e => (0x1c, registers.queue_enabled().into()),
            0x1e..0x20 => (0x1e, registers.queue_select.into()),
            0x20..0x28 => address(0x20, RingPart::Descriptors),
            0x28..0x30 => address(0x28, RingPart::Available),
            0x30..0x38 => address(0x30, RingPart::Used),
            _ => (at, 0),
        }
    }

    /// Writes count that have a field's width (4.1.3.1), or, for 64-bit fields,
    /// that of one half or both.
    pub(super) fn common_write(&mut self, offset: u64, data: &[u8]) {
        if let (0x20 | 0x28 | 0x30, Some((low, high))) = (offset, data.split_at_checked(4))
            && high.len() == 4
        {
            self.common_write(offset, low);
            return self.common_write(offset + 4, high);
        }
        let value = data.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        let word = value as u16;
        let registers = &mut self.registers;
        match (offset, data.len()) {
            (0x00, 4) => registers.device_features_select = value,
            (0x08, 4) => registers.driver_features_select = value,
            (0x0c, 4) => registers.set_driver_features(value),
            (0x10, 2) => self.shared.set_config_vector(word),
            (0x14, 1) if registers.set_status(value as u8) => self.shared.reset_device(),
            (0x16, 2) => registers.queue_select = word,
            (0x18, 2) => registers.set_queue_size(word),
            (0x1a, 2) => self.shared.set_queue_vector(registers.queue_select, word),
            (0x1c, 2) if word == 1 => registers.enable_queue(),
            (0x20 | 0x24, 4) => registers.set_queue_address(RingPart::Descriptors, offset == 0x24, value),
            (0x28 | 0x2c, 4) => registers.set_queue_address(RingPart::Available, offset == 0x2c, value),
            (0x30 | 0x34, 4) => registers.set_queue_address(RingPart::Used, offset == 0x34, value),
            _ => {}
        }
    }
}
