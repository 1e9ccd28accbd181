//! VZEROALL and VZEROUPPER (SDM 2D). They clear to the end of the widest
//! registers, and only those that the mode can see.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};
use crate::ops::native::Unit;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Vzeroall => |cpu, _: &Insn| clear(cpu, 0),
        Mnemonic::Vzeroupper => |cpu, _: &Insn| clear(cpu, 16),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

/// Clears the vector registers from byte `from` up.
fn clear(cpu: &mut Cpu, from: usize) -> Exec {
    cpu.require(Unit::Avx)?;
    let registers = if cpu.long { 16 } else { 8 };
    for zmm in cpu.state.fpu.zmm.iter_mut().take(registers) {
        zmm.0[from..].fill(0);
    }
    Ok(())
}
