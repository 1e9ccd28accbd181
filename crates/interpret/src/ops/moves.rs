//! MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc and NOPs.

use iced_x86::{ConditionCode, FlowControl, Instruction, Mnemonic, OpKind};

use super::Form;
use super::branch::{condition, instantiate};
use crate::access::Value;
use crate::cpu::{Cpu, Exec, mask};
use crate::insn::{Handler, Insn};

/// Chooses one of two generic handlers, by operand and by condition.
macro_rules! by_condition {
    ($condition:expr, $memory:expr, $mem:ident, $reg:ident) => {
        if $memory { instantiate!($condition, $mem) } else { instantiate!($condition, $reg) }
    };
}

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Mov => mov(instruction),
        M::Movzx => {
            Some(extend(instruction, movzx_reg::<u8>, movzx_reg::<u16>, movzx_mem::<u8>, movzx_mem::<u16>))
        }
        M::Movsx => Some(extend(instruction, movsx_reg::<1>, movsx_reg::<2>, movsx_mem::<1>, movsx_mem::<2>)),
        M::Movsxd => {
            let memory = instruction.op_kind(1) == OpKind::Memory;
            Some(match (source_bytes(instruction), memory) {
                (2, false) => movsx_reg::<2>,
                (2, true) => movsx_mem::<2>,
                (_, false) => movsx_reg::<4>,
                (_, true) => movsx_mem::<4>,
            })
        }
        M::Lea => Some(lea),
        M::Nop
        | M::Reservednop
        | M::Cldemote
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq
        | M::Prefetch
        | M::Prefetchit0
        | M::Prefetchit1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1 => Some(nop),
        M::Pause => Some(pause),
        _ => conditional(instruction),
    }
}

fn mov(instruction: &Instruction) -> Option<Handler> {
    if instruction.op_kind(0) == OpKind::Register && !instruction.op_register(0).is_gpr()
        || instruction.op_kind(1) == OpKind::Register && !instruction.op_register(1).is_gpr()
    {
        return None;
    }
    let bytes = match instruction.op_kind(0) {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op_register(0).size(),
    };
    let form = Form::of(instruction)?;
    Some(match bytes {
        1 => mov_form::<u8>(form),
        2 => mov_form::<u16>(form),
        4 => mov_form::<u32>(form),
        8 => mov_form::<u64>(form),
        _ => return None,
    })
}

fn mov_form<T: Value>(form: Form) -> Handler {
    match form {
        Form::RegReg => mov_reg_reg::<T>,
        Form::RegImm => mov_reg_imm::<T>,
        Form::RegMem => mov_reg_mem::<T>,
        Form::MemReg => mov_mem_reg::<T>,
        Form::MemImm => mov_mem_imm::<T>,
    }
}

fn mov_reg_reg<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.reg(insn.reg2, T::SIZE as u8);
    cpu.set_reg(insn.reg1, T::SIZE as u8, value);
    Ok(())
}

fn mov_reg_imm<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.set_reg(insn.reg1, T::SIZE as u8, insn.imm);
    Ok(())
}

fn mov_reg_mem<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value: T = cpu.load(insn)?;
    cpu.set_reg(insn.reg1, T::SIZE as u8, value.to_u64());
    Ok(())
}

fn mov_mem_reg<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.reg(insn.reg1, T::SIZE as u8);
    cpu.store(insn, T::truncate(value))
}

fn mov_mem_imm<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.store(insn, T::truncate(insn.imm))
}

fn source_bytes(instruction: &Instruction) -> usize {
    match instruction.op_kind(1) {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op_register(1).size(),
    }
}

fn extend(
    instruction: &Instruction,
    reg8: Handler,
    reg16: Handler,
    mem8: Handler,
    mem16: Handler,
) -> Handler {
    match (source_bytes(instruction), instruction.op_kind(1) == OpKind::Memory) {
        (1, false) => reg8,
        (1, true) => mem8,
        (_, false) => reg16,
        (_, true) => mem16,
    }
}

fn movzx_reg<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = cpu.reg(insn.reg2, T::SIZE as u8);
    cpu.set_reg(insn.reg1, insn.size, value);
    Ok(())
}

fn movzx_mem<T: Value>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value: T = cpu.load(insn)?;
    cpu.set_reg(insn.reg1, insn.size, value.to_u64());
    Ok(())
}

/// Sign-extends the low `N` bytes.
fn sign_extend<const N: u8>(value: u64) -> u64 {
    match N {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        _ => value as i32 as u64,
    }
}

fn movsx_reg<const N: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = sign_extend::<N>(cpu.reg(insn.reg2, N));
    cpu.set_reg(insn.reg1, insn.size, value & mask(insn.size));
    Ok(())
}

pub(super) fn movsx_mem<const N: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (segment, offset) = (insn.address.segment, cpu.effective_address(insn));
    let value = sign_extend::<N>(cpu.read_sized(segment, offset, N)?);
    cpu.set_reg(insn.reg1, insn.size, value & mask(insn.size));
    Ok(())
}

fn lea(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let offset = cpu.effective_address(insn);
    cpu.set_reg(insn.reg1, insn.size, offset & mask(insn.size));
    Ok(())
}

/// Prefetches and CLDEMOTE are hints: they never fault, so they do nothing.
fn nop(_cpu: &mut Cpu, _insn: &Insn) -> Exec {
    Ok(())
}

/// After so many PAUSEs, some tens of microseconds, other threads of the host
/// may run: what the guest waits for may be one of them.
const PAUSES: u64 = 256;

fn pause(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.pauses += 1;
    if cpu.pauses >= PAUSES {
        cpu.pauses = 0;
        std::thread::yield_now();
    }
    Ok(())
}

/// CMOVcc and SETcc.
fn conditional(instruction: &Instruction) -> Option<Handler> {
    let condition = instruction.condition_code();
    if condition == ConditionCode::None || instruction.flow_control() != FlowControl::Next {
        return None;
    }
    let memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    match instruction.op_count() {
        1 => Some(by_condition!(condition, memory, setcc_mem, setcc_reg)),
        2 => Some(by_condition!(condition, memory, cmov_mem, cmov_reg)),
        _ => None,
    }
}

fn setcc_reg<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = u64::from(condition::<C>(cpu));
    cpu.set_reg(insn.reg1, 1, value);
    Ok(())
}

fn setcc_mem<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let value = u8::from(condition::<C>(cpu));
    cpu.store(insn, value)
}

fn cmov_reg<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let source = if condition::<C>(cpu) { insn.reg2 } else { insn.reg1 };
    let value = cpu.reg(source, insn.size);
    cpu.set_reg(insn.reg1, insn.size, value);
    Ok(())
}

/// The memory operand is read in any case (SDM 2A "CMOVcc").
fn cmov_mem<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let loaded = cpu.load_sized(insn)?;
    let value = if condition::<C>(cpu) { loaded } else { cpu.reg(insn.reg1, insn.size) };
    cpu.set_reg(insn.reg1, insn.size, value);
    Ok(())
}
