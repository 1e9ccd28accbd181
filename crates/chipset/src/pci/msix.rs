//! MSI-X: the capability, the table and the pending bits (PCI Local Bus 3.0,
//! 6.8.2).

use serde::{Deserialize, Serialize};

use super::{ConfigSpace, MsiMessage};

/// MSI-X's identity among the capabilities.
pub const MSIX_CAPABILITY: u8 = 0x11;
/// Bytes of an entry of the table.
const ENTRY: u64 = 16;
const MASKED: u32 = 1;
const ENABLE: u32 = 1 << 15;
const FUNCTION_MASK: u32 = 1 << 14;
/// The most vectors whose table and pending bits fit one page.
pub const MAX_VECTORS: u16 = 128;
/// Where the pending bits lie, behind the table.
const PENDING: u64 = ENTRY * MAX_VECTORS as u64;
/// Bytes of the region with table and pending bits.
pub const MSIX_REGION: u32 = 0x1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

/// The whole state of a function's MSI-X.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    entries: Vec<Entry>,
    pending: Vec<bool>,
    enabled: bool,
    masked: bool,
}

/// The table of a function's vectors.
#[derive(Clone, Debug)]
pub struct Msix {
    state: MsixState,
}

impl Msix {
    /// A table for `vectors` vectors, all masked.
    pub fn new(vectors: u16) -> Self {
        let count = usize::from(vectors.clamp(1, MAX_VECTORS));
        let entry = Entry { control: MASKED, ..Entry::default() };
        let state = MsixState {
            entries: vec![entry; count],
            pending: vec![false; count],
            enabled: false,
            masked: false,
        };
        Self { state }
    }

    /// Adds the capability, with table and pending bits in BAR `bar`; returns
    /// its offset, None if there is no room.
    pub fn add_capability(&self, config: &mut ConfigSpace, bar: u8) -> Option<u8> {
        let size = u16::try_from(self.state.entries.len().saturating_sub(1)).unwrap_or(0);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..10].copy_from_slice(&(PENDING as u32 | u32::from(bar)).to_le_bytes());
        config.add_capability(MSIX_CAPABILITY, &body, &[0x00, 0xc0])
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.state.entries.len()).unwrap_or(u16::MAX)
    }

    /// Whether the guest uses MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.state.enabled
    }

    /// Returns to the state at power-on.
    pub fn reset(&mut self) {
        *self = Self::new(self.vectors());
    }

    /// The whole state.
    pub fn state(&self) -> MsixState {
        self.state.clone()
    }

    /// Restores what [`Msix::state`] returned, if it fits this table.
    pub fn set_state(&mut self, state: MsixState) {
        let count = self.state.entries.len();
        if state.entries.len() == count && state.pending.len() == count {
            self.state = state;
        }
    }

    /// The guest has written the capability's control word; the messages that
    /// were held back until now.
    pub fn set_control(&mut self, control: u32) -> Vec<MsiMessage> {
        self.state.enabled = control & ENABLE != 0;
        self.state.masked = control & FUNCTION_MASK != 0;
        self.release()
    }

    /// Vector `vector` is to be sent: the message, or None if it is held back
    /// or does not exist.
    pub fn notify(&mut self, vector: u16) -> Option<MsiMessage> {
        let index = usize::from(vector);
        let entry = *self.state.entries.get(index)?;
        if !self.state.enabled {
            return None;
        }
        if self.state.masked || entry.control & MASKED != 0 {
            if let Some(pending) = self.state.pending.get_mut(index) {
                *pending = true;
            }
            return None;
        }
        Some(MsiMessage { address: entry.address, data: entry.data })
    }

    fn release(&mut self) -> Vec<MsiMessage> {
        if !self.state.enabled || self.state.masked {
            return Vec::new();
        }
        let vectors = self.state.entries.iter().zip(&mut self.state.pending);
        let due = vectors.filter(|(entry, pending)| **pending && entry.control & MASKED == 0);
        due.map(|(entry, pending)| {
            *pending = false;
            MsiMessage { address: entry.address, data: entry.data }
        })
        .collect()
    }

    /// Reads dwords of the region; others read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (index, dword) in data.chunks_mut(4).enumerate() {
            let value = self.dword(offset.wrapping_add(4 * index as u64)).to_le_bytes();
            let len = dword.len();
            dword.copy_from_slice(&value[..len]);
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        if !offset.is_multiple_of(4) {
            return 0;
        }
        if let Some(at) = offset.checked_sub(PENDING) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            let bits = self.state.pending.iter().skip(first).take(32).enumerate();
            return bits.fold(0, |word, (bit, pending)| word | u32::from(*pending) << bit);
        }
        let Some(entry) = self.state.entries.get((offset / ENTRY) as usize) else { return 0 };
        match offset % ENTRY {
            0 => entry.address as u32,
            4 => (entry.address >> 32) as u32,
            8 => entry.data,
            _ => entry.control,
        }
    }

    /// Writes dwords of the table; the messages that were held back until now.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<MsiMessage> {
        if offset.is_multiple_of(4) {
            for (index, dword) in data.chunks_exact(4).enumerate() {
                let value = dword.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                self.set_dword(offset.wrapping_add(4 * index as u64), value);
            }
        }
        self.release()
    }

    fn set_dword(&mut self, offset: u64, value: u32) {
        let index = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
        let Some(entry) = self.state.entries.get_mut(index) else { return };
        match offset % ENTRY {
            0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
            4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
            8 => entry.data = value,
            _ => entry.control = value & MASKED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(msix: &mut Msix, offset: u64, value: u32) -> Vec<MsiMessage> {
        msix.write(offset, &value.to_le_bytes())
    }

    #[test]
    fn masked_vectors_are_sent_once_they_are_unmasked() {
        let mut msix = Msix::new(3);
        assert_eq!(msix.notify(1), None, "off");
        assert!(msix.set_control(ENABLE).is_empty());
        write(&mut msix, 16, 0xfee0_1003);
        write(&mut msix, 24, 0x41);
        assert_eq!(msix.notify(1), None);
        let mut pending = [0; 8];
        msix.read(0x800, &mut pending);
        assert_eq!(pending, [2, 0, 0, 0, 0, 0, 0, 0]);
        let message = MsiMessage { address: 0xfee0_1000, data: 0x41 };
        assert_eq!(write(&mut msix, 28, 0), [message]);
        assert_eq!(msix.notify(1), Some(message));
        assert_eq!(msix.notify(3), None);
        assert!(msix.set_control(ENABLE | FUNCTION_MASK).is_empty());
        assert_eq!(msix.notify(1), None);
        assert_eq!(msix.set_control(ENABLE), [message]);
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let mut msix = Msix::new(200);
        assert_eq!(msix.vectors(), 128);
        for offset in [0, 1, 0x7ff, 0x800, 0xfff, 0x1000, u64::MAX - 2, u64::MAX] {
            for len in 1..=8 {
                msix.read(offset, &mut vec![0; len]);
                msix.write(offset, &vec![0xff; len]);
            }
        }
        let state = msix.state();
        msix.reset();
        msix.set_state(state.clone());
        assert_eq!(msix.state(), state);
        Msix::new(1).set_state(state);
    }
}
