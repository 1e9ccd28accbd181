//! XSAVE areas and FXSAVE images: where each state component lies, and the
//! conversion to and from [`FpuState`](crate::FpuState) (SDM 1 chapter 13 and
//! 10.5). Bytes only: alignment and access checks are the engine's.

mod area;
mod layout;
mod legacy;
#[cfg(test)]
mod tests;

pub use area::{Header, in_use, save, save_compacted, save_optimized};
pub use area::{restore, restore_plan};
pub use layout::{Component, XsaveLayout};
pub use legacy::{fxrstor, fxsave};

/// MXCSR after reset and in its initial configuration.
pub const MXCSR_INIT: u32 = 0x1f80;
/// The MXCSR bits that software may set; any other raises #GP(0).
pub const MXCSR_MASK: u32 = 0xffff;
/// Bytes of the legacy region.
pub const LEGACY_SIZE: u32 = 512;
/// Bytes of legacy region and header: the smallest XSAVE area.
pub const MIN_SIZE: u32 = 576;

/// In which mode and with which operand size an instruction saves or restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// REX.W: 64-bit x87 pointers instead of selector and offset.
    pub wide: bool,
    /// 64-bit mode: registers 8 to 31 exist.
    pub mode64: bool,
}

impl Form {
    /// Vector registers that the mode can see, of the first sixteen.
    const fn registers(self) -> usize {
        if self.mode64 { 16 } else { 8 }
    }
}

/// Writes `bytes` at `offset`, as far as the area reaches.
fn put(area: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = area.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// Reads `N` bytes at `offset`; zeros behind the end of the area.
fn get<const N: usize>(area: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(place) = area.get(offset..).and_then(|rest| rest.get(..N)) {
        bytes.copy_from_slice(place);
    }
    bytes
}
