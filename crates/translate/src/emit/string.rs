//! REP MOVS and REP STOS within one page: the host's own string instruction on
//! host addresses. Everything else is left to the interpreter.

use iced_x86::{Instruction, Mnemonic, Register};

use super::{Body, Flow};
use crate::asm::{R9, R10, R11, RCX, RDI, RSI, Reg, at, field, indexed};
use crate::blocks::Access;
use crate::context::offset;

/// RCX for the time of the instruction holds guest RCX.
const COUNT: Reg = R9;

impl Body<'_> {
    /// Writes the instruction if it is one of these: `None` if it is not one,
    /// `Some(None)` if it is the interpreter's.
    pub(super) fn string(&mut self, instruction: &Instruction) -> Option<Option<Flow>> {
        use Mnemonic as M;
        let (moves, scale, opcode): (bool, u8, &[u8]) = match instruction.mnemonic() {
            M::Movsb => (true, 0, &[0xa4]),
            M::Movsd if instruction.is_string_instruction() => (true, 2, &[0xa5]),
            M::Movsq => (true, 3, &[0x48, 0xa5]),
            M::Stosb => (false, 0, &[0xaa]),
            M::Stosd => (false, 2, &[0xab]),
            M::Stosq => (false, 3, &[0x48, 0xab]),
            _ => return None,
        };
        let inline = self.mode.long()
            && instruction.has_rep_prefix()
            && instruction.segment_prefix() == Register::None
            && has_wide_registers(instruction);
        Some(if inline { Some(self.repeat(moves, scale, opcode)) } else { None })
    }

    fn repeat(&mut self, moves: bool, scale: u8, opcode: &[u8]) -> Flow {
        let asm = self.asm();
        asm.load(RCX, field(offset!(system_flags)));
        asm.pext(RCX, RCX, field(offset!(direction_mask)));
        self.interpret_unless_rcx_is_zero();
        // With a count of zero there is nothing to test.
        let asm = self.asm();
        asm.mov(RCX, COUNT);
        let nothing = asm.jrcxz_hole();
        asm.lea(true, RCX, at(COUNT, -1));
        asm.page_number(RCX, RCX);
        self.interpret_unless_rcx_is_zero();
        if moves {
            self.test_run(RSI, scale, false);
            self.asm().store(field(offset!(temporary)), R11);
        }
        self.test_run(RDI, scale, true);
        let asm = self.asm();
        asm.lea(true, RDI, indexed(Some(RDI), R11, 0, 0));
        if moves {
            asm.load(R10, field(offset!(temporary)));
            asm.lea(true, RSI, indexed(Some(RSI), R10, 0, 0));
        }
        asm.mov(RCX, COUNT);
        asm.bytes(&[0xf3]);
        asm.bytes(opcode);
        for (reg, addend) in [(RDI, R11), (RSI, R10)].into_iter().take(1 + usize::from(moves)) {
            asm.not(addend);
            asm.lea(true, reg, indexed(Some(reg), addend, 0, 1));
        }
        asm.constant(COUNT, 0);
        asm.fill(nothing);
        Flow::Next
    }

    /// R11 becomes the distance from linear to host addresses of the elements
    /// that `from` points to; leaves for the interpreter if they are not in one
    /// page.
    fn test_run(&mut self, from: Reg, scale: u8, write: bool) {
        self.accesses(Access::Run);
        self.asm().mov(R10, from);
        self.check(write, 1 << scale);
        let asm = self.asm();
        asm.lea(true, RCX, indexed(Some(R10), COUNT, scale, -1));
        asm.page_number(RCX, RCX);
        asm.page_number(R10, R10);
        asm.not(R10);
        asm.lea(true, RCX, indexed(Some(RCX), R10, 0, 1));
        self.interpret_unless_rcx_is_zero();
    }
}

/// Whether its addresses have 64 bits.
fn has_wide_registers(instruction: &Instruction) -> bool {
    use iced_x86::OpKind as K;
    (0..instruction.op_count()).all(|op| {
        !matches!(
            instruction.op_kind(op),
            K::MemorySegDI
                | K::MemorySegEDI
                | K::MemorySegSI
                | K::MemorySegESI
                | K::MemoryESDI
                | K::MemoryESEDI
        )
    })
}
