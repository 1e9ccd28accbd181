//! MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: selected bytes of a register go to
//! DS:rDI (SDM 2B "MASKMOVQ"). Bytes that are not selected are not written, but
//! whether they can fault is open.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::cpuid::Habit;
use x86::{Exception, Gpr, Vector, X87State};

use super::masked::runs;
use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow, operand_segment};
use crate::insn::{Handler, Insn};
use crate::ops::native::Unit;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.mnemonic() {
        Mnemonic::Maskmovq => maskmovq,
        Mnemonic::Maskmovdqu => |cpu, insn| maskmovdqu(cpu, insn, Unit::Sse),
        Mnemonic::Vmaskmovdqu => |cpu, insn| maskmovdqu(cpu, insn, Unit::Avx),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn maskmovdqu(cpu: &mut Cpu, insn: &Insn, unit: Unit) -> Exec {
    cpu.require(unit)?;
    let zmm = &cpu.state.fpu.zmm;
    let (data, mask) = (zmm[insn.reg1 as usize & 15].0, zmm[insn.reg2 as usize & 15].0);
    store_selected(cpu, insn, &data[..16], &mask[..16])
}

fn maskmovq(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require(Unit::Mmx)?;
    cpu.require_no_x87_exception()?;
    let mut after = cpu.state.fpu.x87;
    enter_mmx(&mut after);
    let (data, mask) = (after.st[insn.reg1 as usize & 7], after.st[insn.reg2 as usize & 7]);
    store_selected(cpu, insn, &data[..8], &mask[..8])?;
    cpu.state.fpu.x87 = after;
    Ok(())
}

/// What every MMX instruction but EMMS does (SDM 1 9.5.1): the top of the
/// stack becomes 0, so that ST(i) is MMi, and all registers are in use.
fn enter_mmx(x87: &mut X87State) {
    let top = usize::from(x87.fsw >> 11 & 7);
    x87.st.rotate_right(top);
    x87.fsw &= !(7 << 11);
    x87.ftw = 0xff;
}

fn store_selected(cpu: &mut Cpu, insn: &Insn, data: &[u8], selector: &[u8]) -> Exec {
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    let bytes = match full.op_kind(0) {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    let segment = operand_segment(full);
    let start = cpu.reg64(Gpr::Rdi as u8);
    let offset = |at: usize| start.wrapping_add(at as u64) & mask(bytes);
    let selected = |at: usize| selector[at] & 0x80 != 0;
    // Today's processors want all bytes to be writable.
    if cpu.cpuid.has_habit(Habit::MasksUpperQuadwordFirst) {
        for quadword in (0..data.len()).step_by(8).rev() {
            cpu.probe_write(segment, offset(quadword), 8)?;
        }
    } else {
        // Aligned as quadwords, but reached as a whole.
        let lin = cpu.linear(segment, offset(0), data.len() as u64, true)?;
        if cpu.misaligned(cpu.view, lin, 8) {
            return Err(cpu.raise(Exception::with_code(Vector::AC, 0)));
        }
        cpu.unaligned(|cpu| cpu.probe_write(segment, offset(0), data.len() as u64))?;
    }
    for run in runs(data.len(), selected) {
        let lin = cpu.linear(segment, offset(run.start), run.len() as u64, true)?;
        cpu.write_slow(cpu.view.unaligned(), lin, &data[run])?;
    }
    Ok(())
}
