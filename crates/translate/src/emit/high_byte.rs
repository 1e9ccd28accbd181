//! Instructions that name AH, CH, DH or BH: no REX prefix may be about, so
//! only the low eight host registers can take part.

use iced_x86::{Instruction, OpAccess, OpKind, Register};

use super::{Body, Flow};
use crate::asm::{R9, RCX};
use crate::registers::{GUEST_RCX, GUEST_RSP, number_of};

impl Body<'_> {
    /// Writes the instruction with guest RCX in host RCX for its time, or with
    /// the operand's host address there.
    pub(super) fn high_byte(&mut self, instruction: &Instruction, access: Option<OpAccess>) -> Option<Flow> {
        let mut out = *instruction;
        let registers: Vec<Register> = (0..out.op_count())
            .filter(|&op| out.op_kind(op) == OpKind::Register)
            .map(|op| out.op_register(op))
            .collect();
        let uses = |guest| registers.iter().any(|&register| number_of(register) == guest);
        let foreign = registers.iter().any(|&register| number_of(register) >= 8);
        if foreign || uses(GUEST_RSP) || uses(GUEST_RCX) && access.is_some() {
            return None;
        }
        if let Some(access) = access {
            let reached = self.reach(instruction, access != OpAccess::Read)?;
            self.asm().lea(true, RCX, reached.mem());
            super::plain::replace_memory(&mut out, Register::RCX, Register::None);
        }
        let through_rcx = uses(GUEST_RCX);
        if through_rcx {
            self.asm().mov(RCX, R9);
        }
        self.encode(&out)?;
        if through_rcx {
            self.asm().mov(R9, RCX);
        }
        Some(Flow::Next)
    }
}
