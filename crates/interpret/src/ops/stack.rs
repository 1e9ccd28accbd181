//! PUSH, POP, PUSHA, POPA, ENTER and LEAVE.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::{Gpr, SegmentName};

use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// Whether the handler needs nothing but the operands.
pub(super) fn is_plain(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Push | M::Pop)
        && instruction.op_kind(0) == OpKind::Register
        && instruction.op_register(0).is_gpr()
}

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let kind = if instruction.op_count() > 0 { instruction.op_kind(0) } else { OpKind::Immediate8 };
    let segment = kind == OpKind::Register && instruction.op_register(0).is_segment_register();
    let handler: Handler = match instruction.mnemonic() {
        M::Push | M::Pop if segment => return None,
        M::Push => match kind {
            OpKind::Register if instruction.op_register(0).is_gpr64() => push_reg64,
            OpKind::Register => push_reg,
            OpKind::Memory => push_mem,
            _ => push_imm,
        },
        M::Pop if kind == OpKind::Memory => pop_mem,
        M::Pop if instruction.op_register(0).is_gpr64() => pop_reg64,
        M::Pop => pop_reg,
        M::Pusha | M::Pushad => pusha,
        M::Popa | M::Popad => popa,
        M::Enter => enter,
        M::Leave => leave,
        _ => return None,
    };
    Some((handler, Flow::Next))
}

impl Cpu {
    /// Pushes the low `bytes` bytes of `value`; RSP changes only if the write
    /// succeeds.
    #[inline(always)]
    pub(crate) fn push(&mut self, bytes: u8, value: u64) -> Exec {
        let sp = self.stack_pointer().wrapping_sub(u64::from(bytes)) & self.stack_mask;
        self.write_sized(SegmentName::Ss, sp, bytes, value)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Pops `bytes` bytes.
    #[inline(always)]
    pub(crate) fn pop(&mut self, bytes: u8) -> Exec<u64> {
        let sp = self.stack_pointer();
        let value = self.read_sized(SegmentName::Ss, sp, bytes)?;
        self.set_stack_pointer(sp.wrapping_add(u64::from(bytes)));
        Ok(value)
    }
}

/// How much one push or pop of this instruction moves the stack pointer.
fn stack_bytes(insn: &Insn) -> u8 {
    insn.full.as_ref().map_or(8, |full| full.stack_pointer_increment().unsigned_abs() as u8)
}

fn push_reg(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.reg(insn.reg1, insn.size);
    cpu.push(insn.size, value)
}

fn push_reg64(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.reg64(insn.reg1);
    cpu.push(8, value)
}

fn pop_reg64(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.pop(8)?;
    cpu.set_reg(insn.reg1, 8, value);
    Ok(())
}

fn push_imm(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.push(stack_bytes(insn), insn.imm)
}

fn push_mem(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.load_sized(insn)?;
    cpu.push(insn.size, value)
}

fn pop_reg(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.pop(insn.size)?;
    cpu.set_reg(insn.reg1, insn.size, value);
    Ok(())
}

/// An address that uses RSP sees it already popped (SDM 2B "POP").
fn pop_mem(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let before = cpu.state.reg(Gpr::Rsp);
    let value = cpu.pop(insn.size)?;
    cpu.store_sized(insn, value).inspect_err(|_| cpu.state.set_reg(Gpr::Rsp, before))
}

fn pusha(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = stack_bytes(insn) / 8;
    let start = cpu.stack_pointer();
    let step = u64::from(bytes);
    for place in [1, 8] {
        let sp = start.wrapping_sub(step * place) & cpu.stack_mask;
        cpu.probe_write(SegmentName::Ss, sp, step)?;
    }
    for reg in 0..8 {
        let value = cpu.reg(reg, bytes);
        let sp = start.wrapping_sub(step * (u64::from(reg) + 1)) & cpu.stack_mask;
        cpu.write_sized(SegmentName::Ss, sp, bytes, value)?;
    }
    cpu.set_stack_pointer(start.wrapping_sub(step * 8));
    Ok(())
}

fn popa(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = stack_bytes(insn) / 8;
    let start = cpu.stack_pointer();
    for place in 0..8 {
        let sp = start.wrapping_add(u64::from(bytes) * u64::from(place)) & cpu.stack_mask;
        let value = cpu.read_sized(SegmentName::Ss, sp, bytes)?;
        let reg = 7 - place;
        if reg != Gpr::Rsp as u8 {
            cpu.set_reg(reg, bytes, value);
        }
    }
    cpu.set_stack_pointer(start.wrapping_add(u64::from(bytes) * 8));
    Ok(())
}

fn leave(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = operand_bytes(insn);
    let frame = cpu.state.reg(Gpr::Rbp) & cpu.stack_mask;
    let value = cpu.read_sized(SegmentName::Ss, frame, bytes)?;
    cpu.set_stack_pointer(frame.wrapping_add(u64::from(bytes)));
    cpu.set_reg(Gpr::Rbp as u8, bytes, value);
    Ok(())
}

/// ENTER and LEAVE name no operand that has their size.
fn operand_bytes(insn: &Insn) -> u8 {
    use iced_x86::Code;
    match insn.full.as_ref().map(|full| full.code()) {
        Some(Code::Leavew | Code::Enterw_imm16_imm8) => 2,
        Some(Code::Leaved | Code::Enterd_imm16_imm8) => 4,
        _ => 8,
    }
}

/// SDM 2A "ENTER": all of the frame is written before a register changes.
fn enter(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = operand_bytes(insn);
    let level = insn.full.as_ref().map_or(0, |full| full.immediate8_2nd() % 32);
    let step = u64::from(bytes);
    let mut sp = cpu.stack_pointer().wrapping_sub(step) & cpu.stack_mask;
    let frame = sp;
    let base = cpu.state.reg(Gpr::Rbp);
    cpu.write_sized(SegmentName::Ss, sp, bytes, base)?;
    for place in 1..u64::from(level) {
        let from = base.wrapping_sub(step * place) & cpu.stack_mask;
        let link = cpu.read_sized(SegmentName::Ss, from, bytes)?;
        sp = sp.wrapping_sub(step) & cpu.stack_mask;
        cpu.write_sized(SegmentName::Ss, sp, bytes, link)?;
    }
    if level > 0 {
        sp = sp.wrapping_sub(step) & cpu.stack_mask;
        cpu.write_sized(SegmentName::Ss, sp, bytes, frame)?;
    }
    sp = sp.wrapping_sub(insn.imm & 0xffff) & cpu.stack_mask;
    // The new top must be writable too.
    cpu.probe_write(SegmentName::Ss, sp, step)?;
    let kept = if cpu.stack_mask == 0xffff { base & !0xffff & mask(bytes) } else { 0 };
    cpu.set_reg(Gpr::Rbp as u8, bytes, kept | frame & mask(bytes));
    cpu.set_stack_pointer(sp);
    Ok(())
}
