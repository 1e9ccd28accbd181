//! A stand-in for memory operands that cannot be accessed in place.

use super::Guard;

/// Bytes of the largest operand that an instruction accesses through a thunk.
pub(crate) const MAX_OPERAND: usize = 512;
const ALIGN: usize = 64;

/// Room for one operand at any alignment within 64 bytes, so that alignment
/// checks of the instruction see what they would see in guest memory.
#[repr(C, align(64))]
pub(crate) struct Bounce {
    bytes: [u8; MAX_OPERAND + ALIGN],
    guard: Option<Guard>,
}

impl Bounce {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self { bytes: [0; MAX_OPERAND + ALIGN], guard: None })
    }

    /// The `size` bytes that stand for linear address `lin`.
    pub(crate) fn operand(&mut self, lin: u64, size: usize) -> &mut [u8] {
        let start = lin as usize % ALIGN;
        &mut self.bytes[start..start + size.min(MAX_OPERAND)]
    }

    /// A stand-in for operands that can be accessed in part; `None` if the
    /// host has no memory for it.
    pub(crate) fn guard(&mut self) -> Option<&mut Guard> {
        if self.guard.is_none() {
            self.guard = Guard::new().ok();
        }
        self.guard.as_mut()
    }
}
