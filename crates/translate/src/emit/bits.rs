//! BT and its kin with a bit string in memory: the number of the bit reaches
//! beyond the operand (SDM 2A "BT").

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::stack::OPERAND;
use super::{Body, Flow};
use crate::asm::{R10, R11, RCX, Reg, field, indexed};
use crate::context::offset;
use crate::registers::{Place, number_of, place_of};

impl Body<'_> {
    /// Writes the instruction if it is one of these: `None` if it is not one,
    /// `Some(None)` if it is the interpreter's.
    pub(super) fn bit_string(&mut self, instruction: &Instruction) -> Option<Option<Flow>> {
        let opcode = match instruction.mnemonic() {
            Mnemonic::Bt => 0xa3,
            Mnemonic::Bts => 0xab,
            Mnemonic::Btr => 0xb3,
            Mnemonic::Btc => 0xbb,
            _ => return None,
        };
        let memory = instruction.op_kind(0) == OpKind::Memory && instruction.op_kind(1) == OpKind::Register;
        memory.then(|| self.bit_in_memory(instruction, opcode))
    }

    fn bit_in_memory(&mut self, instruction: &Instruction, opcode: u8) -> Option<Flow> {
        let bytes = instruction.memory_size().size();
        let (shift, scale, mask) = match bytes {
            4 => (5, 2, offset!(mask_31)),
            8 => (6, 3, offset!(mask_63)),
            _ => return None,
        };
        let number = place_of(number_of(instruction.op_register(1)));
        self.linear(instruction)?;
        self.load_number(number, RCX);
        let wide = super::memory::address_bytes(instruction) == Some(8) && self.mode.long();
        let asm = self.asm();
        if bytes == 4 {
            asm.sign_extend_32(RCX, RCX);
        }
        asm.constant(R11, shift);
        asm.sarx(RCX, RCX, R11);
        asm.lea(wide, R10, indexed(Some(R10), RCX, scale, 0));
        self.check(opcode != 0xa3, bytes);
        self.load_number(number, RCX);
        let asm = self.asm();
        asm.pext(RCX, RCX, field(mask));
        let prefix: &[u8] = if instruction.has_lock_prefix() { &[0xf0] } else { &[] };
        asm.raw_mem(prefix, bytes == 8, &[0x0f, opcode], RCX, OPERAND);
        Some(Flow::Next)
    }

    fn load_number(&mut self, place: Place, to: Reg) {
        match place {
            Place::Host(host) => self.asm().mov(to, host),
            Place::Home(home) => self.asm().load(to, home.mem()),
        }
    }
}
