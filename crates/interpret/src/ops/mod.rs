//! Instructions that every program uses: moves, arithmetic, stack, near
//! branches. The hot ones act themselves; the rest lets the host execute them.

mod alu;
pub(crate) mod arith;
mod bits;
mod branch;
mod legacy;
mod moves;
pub(crate) mod native;
mod stack;

use iced_x86::{Instruction, OpKind};

use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler of an instruction of this group, if it is one.
pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    branch::choose(instruction)
        .or_else(|| stack::choose(instruction))
        .or_else(|| legacy::choose(instruction))
        .or_else(|| bits::choose(instruction))
        .or_else(|| next(moves::choose(instruction)))
        .or_else(|| next(alu::choose(instruction)))
}

/// Makes a MOVSXD from 16 bits in memory one from 32.
pub(crate) fn widen_source(insn: &mut Insn) {
    if insn.mem_size > 0 {
        insn.mem_size = 4;
        insn.handler = moves::movsx_mem::<4>;
    }
}

/// Whether the instruction does more than the host would do with its operands
/// replaced: control transfer, the stack, bit strings, BCD.
pub(crate) fn needs_handler(instruction: &Instruction) -> bool {
    branch::choose(instruction).is_some()
        || stack::choose(instruction).is_some()
        || legacy::choose(instruction).is_some()
        || bits::choose(instruction).is_some()
}

fn next(handler: Option<Handler>) -> Option<Choice> {
    handler.map(|handler| (handler, Flow::Next))
}

/// Whether the handler needs nothing but the operands.
pub(crate) fn is_plain(instruction: &Instruction) -> bool {
    alu::choose(instruction).is_some()
        || moves::choose(instruction).is_some()
        || branch::is_plain(instruction)
        || stack::is_plain(instruction)
}

/// Where the operands of a two-operand instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

impl Form {
    fn of(instruction: &Instruction) -> Option<Self> {
        if instruction.op_count() != 2 {
            return None;
        }
        let second = instruction.op_kind(1);
        Some(match (instruction.op_kind(0), second) {
            (OpKind::Register, OpKind::Register) => Self::RegReg,
            (OpKind::Register, OpKind::Memory) => Self::RegMem,
            (OpKind::Memory, OpKind::Register) => Self::MemReg,
            (OpKind::Register, _) => Self::RegImm,
            (OpKind::Memory, _) => Self::MemImm,
            _ => return None,
        })
    }
}
