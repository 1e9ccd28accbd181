//! A stand-in for memory operands that cannot be accessed in place.

/// Bytes of the largest operand that an instruction accesses through a thunk.
pub(crate) const MAX_OPERAND: usize = 512;
const ALIGN: usize = 64;

/// Room for one operand at any alignment within 64 bytes, so that alignment
/// checks of the instruction see what they would see in guest memory.
#[repr(C, align(64))]
pub(crate) struct Bounce([u8; MAX_OPERAND + ALIGN]);

impl Bounce {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; MAX_OPERAND + ALIGN]))
    }

    /// The `size` bytes that stand for linear address `lin`.
    pub(crate) fn operand(&mut self, lin: u64, size: usize) -> &mut [u8] {
        let start = lin as usize % ALIGN;
        &mut self.0[start..start + size.min(MAX_OPERAND)]
    }
}
