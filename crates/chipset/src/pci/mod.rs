//! The PCI bus behind configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2):
//! CONFIG_ADDRESS at 0xCF8, CONFIG_DATA at 0xCFC; and behind the memory-mapped
//! mechanism ECAM (PCI Express Base 7.2.2), which also decodes the memory of
//! the functions' BARs.
//!
//! Only dword accesses reach CONFIG_ADDRESS, so that the byte-wide reset
//! register at 0xCF9 can live inside it.

mod bells;
mod config;
mod host_bridge;
mod memory;
mod msi;
mod msix;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Device, VmTime};
pub use bells::{BellSink, PlacedBell, RegisterBell};
pub use config::{ConfigSpace, ConfigState, Identity, MemoryRange};
pub use host_bridge::{HostBridge, HostBridgeState};
pub use memory::{ECAM_BASE, ECAM_SIZE};
pub use msi::{MSI_CAPABILITY, Msi, MsiMessage, MsiSink};
pub use msix::{MAX_VECTORS, MSIX_CAPABILITY, MSIX_REGION, Msix, MsixState};

/// CONFIG_ADDRESS.
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// CONFIG_DATA, four bytes.
pub const CONFIG_DATA_PORT: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;
/// Bits 30 to 24 and 1 to 0 of CONFIG_ADDRESS are reserved.
const ADDRESS_MASK: u32 = 0x80ff_fffc;
const HEADER_TYPE: u16 = 0x0e;
const MULTI_FUNCTION: u8 = 0x80;

/// One function on the bus, as its configuration space sees it.
pub trait PciFunction: Send {
    /// Returns the function to its state at power-on.
    fn reset(&mut self);

    /// Reads `size` (1, 2 or 4) bytes at `offset`; the access does not cross a
    /// dword.
    fn config_read(&mut self, offset: u16, size: u8) -> u32;

    /// Writes the low `size` (1, 2 or 4) bytes of `value` at `offset`; the
    /// access does not cross a dword.
    fn config_write(&mut self, offset: u16, size: u8, value: u32);

    /// The memory that the function decodes at present.
    fn memory(&self) -> Vec<MemoryRange> {
        Vec::new()
    }

    /// The registers whose writes only ring a bell.
    fn bells(&self) -> Vec<RegisterBell> {
        Vec::new()
    }

    /// Reads 1 to 8 bytes of BAR `bar`.
    fn memory_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        let _ = (bar, offset);
        data.fill(0xff);
    }

    /// Writes 1 to 8 bytes to BAR `bar`.
    fn memory_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let _ = (bar, offset, data);
    }

    /// Does what firmware would: places the BARs at `next` and behind, and
    /// notes the interrupt line.
    fn configure(&mut self, next: &mut u32, line: u8) {
        let _ = (next, line);
    }
}

/// Where a function sits on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciSlot {
    device: u8,
    function: u8,
}

impl PciSlot {
    /// Where the host bridge is.
    pub const HOST_BRIDGE: Self = Self { device: 0, function: 0 };

    /// Device 0 to 31, function 0 to 7.
    pub fn new(device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self { device, function })
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device, self.function)
    }
}

/// Two functions cannot share a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PCI slot {0} is taken")]
pub struct SlotTaken(pub PciSlot);

/// The state of the mechanism and of the host bridge; the other functions keep
/// their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    host_bridge: HostBridgeState,
}

/// The PCI bus with its host bridge at 00.0.
pub struct PciBus {
    address: u32,
    host_bridge: HostBridge,
    functions: BTreeMap<PciSlot, Box<dyn PciFunction>>,
    /// Who decodes which memory.
    ranges: Vec<(PciSlot, MemoryRange)>,
    bells: Vec<PlacedBell>,
    /// Who wants to know where the bells are.
    listener: Option<BellSink>,
}

impl PciBus {
    /// The ports that the mechanism decodes; of 0xCF8 to 0xCFB only dwords.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[CONFIG_ADDRESS_PORT..=CONFIG_DATA_PORT + 3];

    /// A bus with nothing but the host bridge.
    pub fn new() -> Self {
        Self {
            address: 0,
            host_bridge: HostBridge::new(),
            functions: BTreeMap::new(),
            ranges: Vec::new(),
            bells: Vec::new(),
            listener: None,
        }
    }

    /// Puts `function` on the bus.
    pub fn insert(&mut self, slot: PciSlot, function: Box<dyn PciFunction>) -> Result<(), SlotTaken> {
        if slot == PciSlot::HOST_BRIDGE || self.functions.contains_key(&slot) {
            return Err(SlotTaken(slot));
        }
        self.functions.insert(slot, function);
        Ok(())
    }

    /// The whole state.
    pub fn state(&self) -> PciState {
        PciState { address: self.address, host_bridge: self.host_bridge.state() }
    }

    /// Restores what [`PciBus::state`] returned.
    pub fn set_state(&mut self, state: PciState) {
        self.address = state.address & ADDRESS_MASK;
        self.host_bridge.set_state(state.host_bridge);
    }

    fn function(&mut self, slot: PciSlot) -> Option<&mut dyn PciFunction> {
        if slot == PciSlot::HOST_BRIDGE {
            return Some(&mut self.host_bridge);
        }
        match self.functions.get_mut(&slot) {
            Some(function) => Some(function.as_mut()),
            None => None,
        }
    }

    /// The slot and offset that CONFIG_ADDRESS and a port in CONFIG_DATA name.
    fn target(&self, port: u16) -> Option<(PciSlot, u16)> {
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        let enabled = self.address & ENABLE != 0 && bus == 0;
        let slot = PciSlot { device: devfn >> 3, function: devfn & 7 };
        enabled.then(|| (slot, u16::from(register & 0xfc) | (port & 3)))
    }

    fn read_data(&mut self, port: u16, size: u8) -> u32 {
        self.target(port).map_or(u32::MAX, |(slot, offset)| self.read_config(slot, offset, size))
    }

    fn read_config(&mut self, slot: PciSlot, offset: u16, size: u8) -> u32 {
        let multi_function = self.has_more_functions(slot);
        let Some(function) = self.function(slot) else { return u32::MAX };
        let value = function.config_read(offset, size);
        // The header type of function 0 tells whether to look for others.
        let header_type = HEADER_TYPE.wrapping_sub(offset);
        if multi_function && header_type < u16::from(size) {
            return value | u32::from(MULTI_FUNCTION) << (8 * header_type);
        }
        value
    }

    fn has_more_functions(&self, slot: PciSlot) -> bool {
        let others = PciSlot { function: 1, ..slot }..=PciSlot { function: 7, ..slot };
        slot.function == 0 && self.functions.range(others).next().is_some()
    }

    fn write_data(&mut self, port: u16, size: u8, value: u32) {
        if let Some((slot, offset)) = self.target(port) {
            self.write_config(slot, offset, size, value);
        }
    }

    fn write_config(&mut self, slot: PciSlot, offset: u16, size: u8, value: u32) {
        if let Some(function) = self.function(slot) {
            function.config_write(offset, size, value);
            self.find_ranges();
        }
    }
}

impl Default for PciBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots: Vec<_> = self.functions.keys().collect();
        f.debug_struct("PciBus").field("address", &self.address).field("slots", &slots).finish()
    }
}

/// Whether an access to CONFIG_DATA stays within its dword.
fn within_data(port: u16, size: u8) -> bool {
    port >= CONFIG_DATA_PORT && matches!(size, 1 | 2 | 4) && (port & 3) + u16::from(size) <= 4
}

impl Device for PciBus {
    fn reset(&mut self, _now: VmTime) {
        self.address = 0;
        self.host_bridge.reset();
        self.functions.values_mut().for_each(|function| function.reset());
        self.find_ranges();
    }

    fn port_read(&mut self, _now: VmTime, port: u16, size: u8) -> u32 {
        match (port, size) {
            (CONFIG_ADDRESS_PORT, 4) => self.address,
            _ if within_data(port, size) => self.read_data(port, size),
            _ => u32::MAX,
        }
    }

    fn port_write(&mut self, _now: VmTime, port: u16, size: u8, value: u32) {
        match (port, size) {
            (CONFIG_ADDRESS_PORT, 4) => self.address = value & ADDRESS_MASK,
            _ if within_data(port, size) => self.write_data(port, size, value),
            _ => {}
        }
    }
}
