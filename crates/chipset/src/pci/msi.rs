//! Message-signalled interrupts: the MSI capability with one vector and 64-bit
//! addresses (PCI Local Bus 3.0, 6.8.1).

use std::sync::Arc;

use super::ConfigSpace;

/// MSI's identity among the capabilities.
pub const MSI_CAPABILITY: u8 = 0x05;
/// A 64-bit address; one vector.
const CONTROL: u16 = 1 << 7;
const ENABLE: u32 = 1;

/// A write that is an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// Who takes interrupt messages of PCI functions.
pub type MsiSink = Arc<dyn Fn(MsiMessage) + Send + Sync>;

/// The capability, once it is in a configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    at: u16,
}

impl Msi {
    /// Adds the capability; None if there is no room.
    pub fn add(config: &mut ConfigSpace) -> Option<Self> {
        let mut body = [0; 12];
        body[..2].copy_from_slice(&CONTROL.to_le_bytes());
        // Control: enable and the number of vectors, of which one is allowed
        // anyway. Address (dword-aligned), its upper half, data.
        let writable = [0x71, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        config.add_capability(MSI_CAPABILITY, &body, &writable).map(|at| Self { at: at.into() })
    }

    /// What to send for an interrupt; None while MSI is off.
    pub fn message(self, config: &ConfigSpace) -> Option<MsiMessage> {
        if config.read(self.at + 2, 2) & ENABLE == 0 {
            return None;
        }
        let low = u64::from(config.read(self.at + 4, 4));
        let high = u64::from(config.read(self.at + 8, 4));
        Some(MsiMessage { address: high << 32 | low, data: config.read(self.at + 12, 2) })
    }
}
