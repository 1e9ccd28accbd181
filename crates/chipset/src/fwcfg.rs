//! QEMU's firmware configuration device (QEMU docs/specs/fw_cfg): firmware asks
//! it for RAM size, processors, ACPI tables and whatever else the machine wants
//! to tell. By ports, read only, without DMA.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Device, VmTime};

/// Selects an item (16 bits).
pub const SELECTOR_PORT: u16 = 0x510;
/// Gives the next byte of the item.
pub const DATA_PORT: u16 = 0x511;

/// Keys of items that are not files.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Features, a little-endian u32.
    pub const ID: u16 = 0x01;
    /// Bytes of RAM, a little-endian u64.
    pub const RAM_SIZE: u16 = 0x03;
    /// Whether there is no display, a little-endian u16.
    pub const NOGRAPHIC: u16 = 0x04;
    /// Number of processors, a little-endian u16.
    pub const NB_CPUS: u16 = 0x05;
    /// Whether to offer a boot menu, a little-endian u16.
    pub const BOOT_MENU: u16 = 0x0e;
    /// The largest number of processors (APIC identifiers below it), a
    /// little-endian u16.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The file directory.
    pub const FILE_DIR: u16 = 0x19;
    /// The key of the first file.
    pub const FILE_FIRST: u16 = 0x20;
    /// Whether IRQ 0 is wired to I/O APIC input 2, one byte.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// The traditional interface, no DMA.
const ID_TRADITIONAL: u32 = 1;
/// Keys have 14 bits and the architecture bit; bit 14 asked for writing once.
const KEY_MASK: u16 = 0xbfff;
/// Keys from here on have no room in the files' range.
const FILES_END: u16 = 0x4000;
/// A file name with its terminating zero.
const NAME_SIZE: usize = 56;

/// Why an item cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// Key of the directory, of a file, or with reserved bits.
    #[error("firmware configuration key {0:#x} is reserved")]
    ReservedKey(u16),
    /// The name does not fit the directory.
    #[error("firmware file name {0:?} is empty, longer than 55 bytes or has a zero byte")]
    Name(String),
    /// There is such a file.
    #[error("firmware file {0:?} exists already")]
    Duplicate(String),
    /// The directory or the file cannot be counted.
    #[error("firmware file {0:?} is too large, or one too many")]
    Full(String),
}

/// What a guest can change: where it reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgState {
    selector: u16,
    offset: u32,
}

struct File {
    name: String,
    size: u32,
}

/// The configuration device.
pub struct FwCfg {
    state: FwCfgState,
    items: BTreeMap<u16, Vec<u8>>,
    /// In the order of their keys.
    files: Vec<File>,
}

impl FwCfg {
    /// The ports that it decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[SELECTOR_PORT..=DATA_PORT];

    /// A device with signature, identity and an empty directory.
    pub fn new() -> Self {
        let items = BTreeMap::from([
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, ID_TRADITIONAL.to_le_bytes().to_vec()),
        ]);
        let mut device = Self { state: FwCfgState::default(), items, files: Vec::new() };
        device.list_files();
        device
    }

    /// Adds (or replaces) the item with key `key`.
    pub fn add_item(&mut self, key: u16, bytes: impl Into<Vec<u8>>) -> Result<(), FwCfgError> {
        let of_files = key == key::FILE_DIR || (key::FILE_FIRST..FILES_END).contains(&key);
        if of_files || key & !KEY_MASK != 0 {
            return Err(FwCfgError::ReservedKey(key));
        }
        self.items.insert(key, bytes.into());
        Ok(())
    }

    /// Adds a file, such as `etc/e820`.
    pub fn add_file(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<(), FwCfgError> {
        let bytes = bytes.into();
        if name.is_empty() || name.len() >= NAME_SIZE || name.contains('\0') {
            return Err(FwCfgError::Name(name.to_owned()));
        }
        if self.files.iter().any(|file| file.name == name) {
            return Err(FwCfgError::Duplicate(name.to_owned()));
        }
        let full = || FwCfgError::Full(name.to_owned());
        let size = u32::try_from(bytes.len()).map_err(|_| full())?;
        let key = file_key(self.files.len()).ok_or_else(full)?;
        self.items.insert(key, bytes);
        self.files.push(File { name: name.to_owned(), size });
        self.list_files();
        Ok(())
    }

    /// The whole state; the items are the machine's description.
    pub fn state(&self) -> FwCfgState {
        self.state.clone()
    }

    /// Restores what [`FwCfg::state`] returned.
    pub fn set_state(&mut self, state: FwCfgState) {
        self.state = state;
    }

    /// Writes the directory: a count, then size, key and name of each file,
    /// all big-endian.
    fn list_files(&mut self) {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (index, file) in self.files.iter().enumerate() {
            let mut name = [0; NAME_SIZE];
            name.iter_mut().zip(file.name.bytes()).for_each(|(to, from)| *to = from);
            directory.extend(file.size.to_be_bytes());
            directory.extend(file_key(index).unwrap_or_default().to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(name);
        }
        self.items.insert(key::FILE_DIR, directory);
    }

    /// The next byte; zero where there is none.
    fn read_byte(&mut self) -> u8 {
        let item = self.items.get(&self.state.selector);
        let byte = item.and_then(|item| item.get(self.state.offset as usize)).copied();
        if byte.is_some() {
            self.state.offset = self.state.offset.saturating_add(1);
        }
        byte.unwrap_or(0)
    }
}

fn file_key(index: usize) -> Option<u16> {
    let key = key::FILE_FIRST.checked_add(u16::try_from(index).ok()?)?;
    (key < FILES_END).then_some(key)
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.files.iter().map(|file| &file.name).collect();
        f.debug_struct("FwCfg").field("state", &self.state).field("files", &names).finish()
    }
}

impl Device for FwCfg {
    fn reset(&mut self, _now: VmTime) {
        self.state = FwCfgState::default();
    }

    fn port_read(&mut self, _now: VmTime, port: u16, _size: u8) -> u32 {
        // The data port has 8 bits.
        if port == DATA_PORT { u32::MAX << 8 | u32::from(self.read_byte()) } else { u32::MAX }
    }

    fn port_write(&mut self, _now: VmTime, port: u16, size: u8, value: u32) {
        if port == SELECTOR_PORT {
            let selector = if size == 1 { value as u8 as u16 } else { value as u16 };
            self.state = FwCfgState { selector: selector & KEY_MASK, offset: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_serializes, hammer, survive_damaged_states};

    fn read(device: &mut FwCfg, key: u16, count: usize) -> Vec<u8> {
        device.port_write(VmTime::ZERO, SELECTOR_PORT, 2, key.into());
        (0..count).map(|_| device.port_read(VmTime::ZERO, DATA_PORT, 1) as u8).collect()
    }

    #[test]
    fn the_signature_is_there_and_items_end_in_zeros() {
        let mut device = FwCfg::new();
        assert_eq!(read(&mut device, key::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(read(&mut device, key::ID, 4), [1, 0, 0, 0]);
        assert_eq!(read(&mut device, 0x1234, 2), [0, 0]);
        assert_eq!(read(&mut device, 0x4000, 4), b"QEMU", "the write bit is ignored");
    }

    #[test]
    fn files_are_listed_with_size_and_key() {
        let mut device = FwCfg::new();
        assert_eq!(read(&mut device, key::FILE_DIR, 4), [0; 4]);
        device.add_file("etc/e820", [1, 2, 3]).unwrap();
        device.add_file("etc/table-loader", vec![9; 300]).unwrap();
        let directory = read(&mut device, key::FILE_DIR, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..21], *b"\0\0\0\x03\0\x20\0\0etc/e820\0");
        assert_eq!(directory[68..84], *b"\0\0\x01\x2c\0\x21\0\0etc/tabl");
        assert_eq!(read(&mut device, 0x20, 4), [1, 2, 3, 0]);
    }

    #[test]
    fn what_cannot_be_added_is_refused() {
        let mut device = FwCfg::new();
        device.add_item(key::NB_CPUS, 4_u16.to_le_bytes()).unwrap();
        device.add_item(key::IRQ0_OVERRIDE, [1]).unwrap();
        for key in [key::FILE_DIR, 0x20, 0x3fff, 0x4005] {
            assert_eq!(device.add_item(key, []), Err(FwCfgError::ReservedKey(key)));
        }
        for name in ["", "a\0b", &"x".repeat(56)] {
            assert_eq!(device.add_file(name, []), Err(FwCfgError::Name(name.to_owned())));
        }
        device.add_file(&"x".repeat(55), []).unwrap();
        device.add_file("a", []).unwrap();
        assert_eq!(device.add_file("a", []), Err(FwCfgError::Duplicate("a".to_owned())));
        assert_eq!(read(&mut device, key::NB_CPUS, 2), [4, 0]);
    }

    #[test]
    fn state_moves_to_another_device() {
        let mut first = FwCfg::new();
        read(&mut first, key::SIGNATURE, 2);
        assert_serializes(&first.state());
        let mut second = FwCfg::new();
        second.set_state(first.state());
        assert_eq!(second.port_read(VmTime::ZERO, DATA_PORT, 1) as u8, b'M');
        second.reset(VmTime::ZERO);
        assert_eq!(second.state(), FwCfgState::default());
    }

    #[test]
    fn survives_random_use() {
        let mut device = FwCfg::new();
        device.add_file("etc/e820", vec![1; 40]).unwrap();
        hammer(&mut device, FwCfg::PORTS, 14);
    }

    #[test]
    fn survives_damaged_states() {
        survive_damaged_states(FwCfg::new, FwCfg::PORTS, FwCfg::state, FwCfg::set_state);
    }
}
