//! LDMXCSR and STMXCSR, and their VEX forms (SDM 2A "LDMXCSR", 2B "STMXCSR").

use iced_x86::{Instruction, Mnemonic};
use x86::xsave::MXCSR_MASK;

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};
use crate::ops::native::Unit;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Ldmxcsr => |cpu, insn| ldmxcsr(cpu, insn, Unit::Sse),
        Mnemonic::Vldmxcsr => |cpu, insn| ldmxcsr(cpu, insn, Unit::Avx),
        Mnemonic::Stmxcsr => |cpu, insn| stmxcsr(cpu, insn, Unit::Sse),
        Mnemonic::Vstmxcsr => |cpu, insn| stmxcsr(cpu, insn, Unit::Avx),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn ldmxcsr(cpu: &mut Cpu, insn: &Insn, unit: Unit) -> Exec {
    cpu.require(unit)?;
    let value: u32 = cpu.load(insn)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.gp0());
    }
    cpu.state.fpu.mxcsr = value;
    Ok(())
}

fn stmxcsr(cpu: &mut Cpu, insn: &Insn, unit: Unit) -> Exec {
    cpu.require(unit)?;
    cpu.store(insn, cpu.state.fpu.mxcsr)
}
