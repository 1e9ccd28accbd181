//! A decoded instruction, ready to run: what to call and with which operands.
//!
//! It is independent of its address: branch displacements and RIP-relative
//! operands count from the next instruction.

use iced_x86::Instruction;
use x86::SegmentName;

use crate::cpu::{Cpu, Exec};
use crate::native::Thunk;

/// Executes one decoded instruction.
pub(crate) type Handler = fn(&mut Cpu, &Insn) -> Exec;

/// No register.
pub(crate) const NONE: u8 = 0xff;
/// RIP as the base of an address.
pub(crate) const RIP: u8 = 0x10;

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) disp: u64,
    /// Bits that the address has.
    pub(crate) mask: u64,
    /// Number of a register, [`RIP`] or [`NONE`].
    pub(crate) base: u8,
    /// Number of a register or [`NONE`].
    pub(crate) index: u8,
    /// Binary logarithm of the scale.
    pub(crate) scale: u8,
    pub(crate) segment: SegmentName,
}

impl Address {
    pub(crate) const NOTHING: Self =
        Self { disp: 0, mask: u64::MAX, base: NONE, index: NONE, scale: 0, segment: SegmentName::Ds };
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Insn {
    pub(crate) handler: Handler,
    /// Host code for the instruction proper, where the handler wants some.
    pub(crate) thunk: Option<Thunk>,
    /// Immediate operand, or displacement of a near branch.
    pub(crate) imm: u64,
    pub(crate) address: Address,
    /// Bytes.
    pub(crate) len: u8,
    /// Operand size in bytes.
    pub(crate) size: u8,
    /// Size of the memory operand in bytes.
    pub(crate) mem_size: u16,
    /// First register operand, by number; byte registers 16 to 19 are AH, CH,
    /// DH and BH.
    pub(crate) reg1: u8,
    /// Second register operand.
    pub(crate) reg2: u8,
    /// Whether it may change floating-point or vector registers.
    pub(crate) touches_fpu: bool,
    /// Everything else, for the instructions that are rare.
    pub(crate) full: Option<Box<Instruction>>,
}

impl Cpu {
    /// The offset of an instruction's memory operand in its segment.
    #[inline(always)]
    pub(crate) fn effective_address(&self, insn: &Insn) -> u64 {
        let address = &insn.address;
        let mut offset = address.disp;
        if address.base < 16 {
            offset = offset.wrapping_add(self.state.gpr[usize::from(address.base)]);
        } else if address.base == RIP {
            offset = offset.wrapping_add(self.next_rip);
        }
        if address.index < 16 {
            offset = offset.wrapping_add(self.state.gpr[usize::from(address.index)] << address.scale);
        }
        offset & address.mask
    }

    /// Reads an instruction's memory operand.
    #[inline(always)]
    pub(crate) fn load<T: crate::access::Value>(&mut self, insn: &Insn) -> Exec<T> {
        self.read(insn.address.segment, self.effective_address(insn))
    }

    /// Writes an instruction's memory operand.
    #[inline(always)]
    pub(crate) fn store<T: crate::access::Value>(&mut self, insn: &Insn, value: T) -> Exec {
        self.write(insn.address.segment, self.effective_address(insn), value)
    }

    /// Reads a memory operand of `insn.size` bytes.
    pub(crate) fn load_sized(&mut self, insn: &Insn) -> Exec<u64> {
        let (segment, offset) = (insn.address.segment, self.effective_address(insn));
        self.read_sized(segment, offset, insn.size)
    }

    /// Writes a memory operand of `insn.size` bytes.
    pub(crate) fn store_sized(&mut self, insn: &Insn, value: u64) -> Exec {
        let (segment, offset) = (insn.address.segment, self.effective_address(insn));
        self.write_sized(segment, offset, insn.size, value)
    }

    /// Reads 1, 2, 4 or 8 bytes.
    #[inline(always)]
    pub(crate) fn read_sized(&mut self, segment: SegmentName, offset: u64, bytes: u8) -> Exec<u64> {
        match bytes {
            1 => self.read::<u8>(segment, offset).map(u64::from),
            2 => self.read::<u16>(segment, offset).map(u64::from),
            4 => self.read::<u32>(segment, offset).map(u64::from),
            _ => self.read::<u64>(segment, offset),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes.
    #[inline(always)]
    pub(crate) fn write_sized(&mut self, segment: SegmentName, offset: u64, bytes: u8, value: u64) -> Exec {
        match bytes {
            1 => self.write(segment, offset, value as u8),
            2 => self.write(segment, offset, value as u16),
            4 => self.write(segment, offset, value as u32),
            _ => self.write(segment, offset, value),
        }
    }
}
