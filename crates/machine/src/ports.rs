//! Which part decodes which I/O port.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::mount::PortTarget;

/// No part decodes the port.
const NOBODY: u8 = u8::MAX;

/// The 64 Ki ports.
pub(crate) struct PortMap {
    owner: Box<[u8]>,
    targets: Vec<Arc<dyn PortTarget>>,
    /// A port whose byte accesses go to another part than its wider ones.
    byte_only: Option<(u16, Arc<dyn PortTarget>)>,
}

impl PortMap {
    pub(crate) fn new() -> Self {
        Self { owner: vec![NOBODY; 1 << 16].into(), targets: Vec::new(), byte_only: None }
    }

    /// Gives `ranges` to `target`. What somebody else decodes already stays
    /// his.
    pub(crate) fn claim(&mut self, ranges: &[RangeInclusive<u16>], target: Arc<dyn PortTarget>) {
        let Some(index) = u8::try_from(self.targets.len()).ok().filter(|index| *index != NOBODY) else {
            debug_assert!(false, "more parts than a PC has");
            return;
        };
        self.targets.push(target);
        for port in ranges.iter().cloned().flatten() {
            if let Some(owner) = self.owner.get_mut(usize::from(port)).filter(|owner| **owner == NOBODY) {
                *owner = index;
            }
        }
    }

    /// Gives the byte accesses of `port` to `target`.
    pub(crate) fn claim_byte(&mut self, port: u16, target: Arc<dyn PortTarget>) {
        self.byte_only = Some((port, target));
    }

    fn owner(&self, port: u16) -> u8 {
        self.owner.get(usize::from(port)).copied().unwrap_or(NOBODY)
    }

    fn target(&self, port: u16, size: u8) -> Option<&dyn PortTarget> {
        if size == 1
            && let Some((_, target)) = self.byte_only.as_ref().filter(|(byte_port, _)| *byte_port == port)
        {
            return Some(target.as_ref());
        }
        self.targets.get(usize::from(self.owner(port))).map(AsRef::as_ref)
    }

    /// Whether one part, or nobody, decodes all bytes of an access.
    fn is_whole(&self, port: u16, size: u8) -> bool {
        let owner = self.owner(port);
        bytes(port, size).all(|(_, port)| self.owner(port) == owner)
    }

    /// Reads `size` (1, 2 or 4) bytes; what nobody decodes reads as ones.
    pub(crate) fn read(&self, port: u16, size: u8) -> u32 {
        if self.is_whole(port, size) {
            return self.target(port, size).map_or(u32::MAX, |target| target.port_read(port, size));
        }
        bytes(port, size).fold(u32::MAX, |value, (shift, port)| {
            let byte = self.target(port, 1).map_or(0xff, |target| target.port_read(port, 1) & 0xff);
            value & !(0xff << shift) | byte << shift
        })
    }

    /// Writes `size` (1, 2 or 4) bytes.
    pub(crate) fn write(&self, port: u16, size: u8, value: u32) {
        if self.is_whole(port, size) {
            if let Some(target) = self.target(port, size) {
                target.port_write(port, size, value);
            }
            return;
        }
        for (shift, port) in bytes(port, size) {
            if let Some(target) = self.target(port, 1) {
                target.port_write(port, 1, value >> shift & 0xff);
            }
        }
    }
}

/// The bytes of an access: how far each is shifted, and its port.
fn bytes(port: u16, size: u8) -> impl Iterator<Item = (u32, u16)> {
    (0..u16::from(size.min(4))).map(move |index| (8 * u32::from(index), port.wrapping_add(index)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::sync::lock;

    #[derive(Default)]
    struct Log(u32, Mutex<Vec<(u16, u8, u32)>>);

    impl PortTarget for Log {
        fn port_read(&self, _port: u16, _size: u8) -> u32 {
            self.0
        }
        fn port_write(&self, port: u16, size: u8, value: u32) {
            lock(&self.1).push((port, size, value));
        }
    }

    fn log(reads: u32) -> Arc<Log> {
        Arc::new(Log(reads, Mutex::default()))
    }

    #[test]
    fn accesses_go_whole_to_one_part_and_split_between_two() {
        let (low, high) = (log(0x1111_1111), log(0x2222_2222));
        let mut map = PortMap::new();
        map.claim(&[0x10..=0x12], low.clone());
        map.claim(&[0x12..=0x13], high.clone());
        assert_eq!(map.read(0x10, 2), 0x1111_1111);
        assert_eq!(map.read(0x10, 4), 0x2211_1111);
        assert_eq!(map.read(0x13, 2) & 0xffff, 0xff22);
        assert_eq!(map.read(0x0f, 4), 0x1111_11ff);
        assert_eq!(map.read(0xffff, 4), u32::MAX);
        map.write(0x11, 4, 0x4433_2211);
        map.write(0x10, 2, 0xabcd);
        assert_eq!(*lock(&low.1), [(0x11, 1, 0x11), (0x12, 1, 0x22), (0x10, 2, 0xabcd)]);
        assert_eq!(*lock(&high.1), [(0x13, 1, 0x33)]);
    }

    #[test]
    fn bytes_of_one_port_can_have_another_owner() {
        let (wide, byte) = (log(1), log(2));
        let mut map = PortMap::new();
        map.claim(&[0xcf8..=0xcff], wide);
        map.claim_byte(0xcf9, byte);
        assert_eq!([map.read(0xcf9, 1), map.read(0xcf9, 2), map.read(0xcf8, 1)], [2, 1, 1]);
    }
}
