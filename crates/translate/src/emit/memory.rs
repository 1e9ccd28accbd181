//! Memory operands: the linear address, and the TLB test.

use iced_x86::{Instruction, Register};
use interpret::slow::operand_segment;
use x86::SegmentName;

use super::Body;
use super::plain::replace_memory;
use super::windows::Part;
use crate::asm::{Hole, Mem, R10, R11, RCX, Reg, absolute, at, element, field, indexed};
use crate::context::{addends, offset, tags};
use crate::registers::{Place, number_of, place_of, sized};
use crate::runtime::CHECK_LENGTH;

impl Body<'_> {
    /// R10 becomes the linear address of the instruction's memory operand; R11
    /// is used. `None` if that is not simple.
    pub(super) fn linear(&mut self, instruction: &Instruction) -> Option<()> {
        let segment = operand_segment(instruction);
        if !self.mode.plain_segment(segment) {
            return None;
        }
        self.effective_address(R10, instruction)?;
        let base = match segment {
            SegmentName::Fs => offset!(fs_base),
            SegmentName::Gs => offset!(gs_base),
            _ => return Some(()),
        };
        let wide = self.mode.long();
        self.held = None;
        let asm = self.asm();
        asm.load(R11, field(base));
        asm.lea(wide, R10, indexed(Some(R10), R11, 0, 0));
        Some(())
    }

    /// `to` becomes the offset of the memory operand in its segment. R10 and R11
    /// are used.
    pub(super) fn effective_address(&mut self, to: Reg, instruction: &Instruction) -> Option<()> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        if matches!(base, Register::RIP) {
            self.load_rip(to, instruction.memory_displacement64() as i64);
            return Some(());
        }
        if base == Register::EIP || index.is_vector_register() {
            return None;
        }
        let wide = address_bytes(instruction)? == 8;
        let base = self.address_register(base, R10);
        let index = self.address_register(index, R11);
        let scale = instruction.memory_index_scale().trailing_zeros() as u8;
        let disp = instruction.memory_displacement64();
        let disp = if wide { i32::try_from(disp as i64).ok() } else { Some(disp as i32) };
        let asm = self.asm();
        match (base, index, disp) {
            (None, None, None) => asm.constant(to, instruction.memory_displacement64()),
            (None, None, Some(disp)) => asm.lea(wide, to, absolute(disp)),
            (Some(base), None, Some(0)) if wide => {
                if base != to {
                    asm.mov(to, base);
                }
            }
            (Some(base), None, Some(0)) => asm.mov32(to, base),
            (Some(base), None, Some(disp)) => asm.lea(wide, to, at(base, disp)),
            (base, Some(index), Some(disp)) => asm.lea(wide, to, indexed(base, index, scale, disp)),
            (_, _, None) => return None,
        }
        Some(())
    }

    /// The host register that holds a register of an address, loaded into
    /// `scratch` if need be.
    fn address_register(&mut self, register: Register, scratch: Reg) -> Option<Reg> {
        if register == Register::None {
            return None;
        }
        match place_of(number_of(register)) {
            Place::Host(host) => Some(host),
            Place::Home(slot) => {
                self.held = self.held.filter(|_| scratch != R11);
                self.asm().load(scratch, slot.mem());
                Some(scratch)
            }
        }
    }

    /// Tests that `size` bytes at the linear address R10 are plain RAM that may
    /// be accessed so; they are then at `[R10 + R11]`. RCX is used; flags stay.
    pub(super) fn check(&mut self, write: bool, size: usize) {
        self.check_at(None, write, size);
    }

    /// The same for an address that may be known already.
    fn check_at(&mut self, known: Option<u64>, write: bool, size: usize) {
        self.held = None;
        self.count_test();
        let array = self.mode.array();
        let miss = self.emitter.runtime.miss(array, write);
        let asm = self.asm();
        let start = asm.len();
        match known {
            Some(lin) => asm.constant_of_7(R11, interpret::tlb::index(lin) as i32),
            None => asm.pext(R11, R10, field(offset!(index_mask))),
        }
        asm.load(RCX, element(R11, 3, tags(array, write)));
        asm.lea(true, RCX, indexed(Some(RCX), R10, 0, size as i32 - 1).with_disp8());
        asm.page_number(RCX, RCX);
        asm.unless_rcx_is_zero(|asm| asm.call(miss));
        debug_assert_eq!(asm.len() - start, CHECK_LENGTH);
        asm.load(R11, element(R11, 3, addends(array, write)));
    }
}

impl Body<'_> {
    /// The linear address of a memory operand, if it is the same whenever the
    /// block runs.
    fn known_address(&self, instruction: &Instruction) -> Option<u64> {
        let plain = !matches!(operand_segment(instruction), SegmentName::Fs | SegmentName::Gs);
        match (instruction.memory_base(), instruction.memory_index()) {
            (Register::RIP, _) if !self.mode.position_independent() => {
                Some(self.page.wrapping_add(instruction.memory_displacement64()))
            }
            (Register::None, Register::None) if plain => Some(instruction.memory_displacement64()),
            _ => None,
        }
    }

    fn count_test(&mut self) {
        if self.emitter.style.counts {
            let asm = self.asm();
            asm.load(RCX, field(offset!(tests)));
            asm.lea(true, RCX, at(RCX, 1));
            asm.store(field(offset!(tests)), RCX);
        }
    }

    /// The same for a window of `size` bytes; the branch that is given back is
    /// taken if it cannot be opened.
    pub(super) fn check_window(&mut self, write: bool, size: usize) -> Hole {
        let array = self.mode.array();
        self.held = None;
        self.count_test();
        let miss = self.emitter.runtime.window(array, write);
        let asm = self.asm();
        asm.pext(R11, R10, field(offset!(index_mask)));
        asm.load(RCX, element(R11, 3, tags(array, write)));
        asm.lea(true, RCX, indexed(Some(RCX), R10, 0, size as i32 - 1).with_disp32());
        asm.page_number(RCX, RCX);
        let hole = asm.unless_rcx_is_zero(|asm| {
            asm.call(miss);
            asm.jmp_hole()
        });
        asm.load(R11, element(R11, 3, addends(array, write)));
        hole
    }

    /// R10 and R11 become parts of the host address of the memory operand,
    /// which may be accessed so; gives what is to be added to their sum. Or,
    /// through a window, R11 and another register.
    pub(super) fn reach(&mut self, instruction: &Instruction, write: bool) -> Option<Reached> {
        if let Some((base, index, more)) = self.through_window(Part::Operand) {
            let disp = instruction.memory_displacement64() as i32 + more;
            return Some(Reached { base, index, disp });
        }
        self.linear(instruction)?;
        self.check_at(self.known_address(instruction), write, instruction.memory_size().size());
        Some(Reached { base: R10, index: R11, disp: 0 })
    }
}

/// The host address of an operand that has been tested.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) base: Reg,
    pub(super) index: Reg,
    pub(super) disp: i32,
}

impl Reached {
    pub(super) const fn mem(self) -> Mem {
        indexed(Some(self.base), self.index, 0, self.disp)
    }

    /// Puts it into an instruction.
    pub(super) fn put(self, out: &mut Instruction) {
        replace_memory(out, sized(self.base, 8), sized(self.index, 8));
        if self.disp != 0 {
            out.set_memory_displacement64(self.disp as i64 as u64);
            out.set_memory_displ_size(1);
        }
    }
}

/// The bytes of the operand's address; `None` for 16-bit addresses.
pub(super) fn address_bytes(instruction: &Instruction) -> Option<u8> {
    let of = |register: Register| match register {
        Register::None => None,
        Register::RIP => Some(8),
        Register::EIP => Some(4),
        other => Some(other.size() as u8),
    };
    let bytes = of(instruction.memory_base())
        .or_else(|| of(instruction.memory_index()))
        .unwrap_or(instruction.memory_displ_size() as u8);
    matches!(bytes, 4 | 8).then_some(bytes)
}
