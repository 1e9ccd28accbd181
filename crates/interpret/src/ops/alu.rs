//! Two-operand arithmetic, shifts and their kin, without LOCK.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::Rflags;

use super::Form;
use super::arith::{Arith, Flagged};
use crate::access::Value;
use crate::cpu::{Cpu, Exec};
use crate::insn::{Handler, Insn};

const ALL: Rflags = Rflags::ARITHMETIC;
const NOT_CARRY: Rflags = ALL.difference(Rflags::CF);

/// A two-operand operation; `STORES` is false for CMP and TEST.
trait Binary {
    const STORES: bool = true;
    fn apply<T: Arith>(a: T, b: T, flags: Rflags) -> Flagged<T>;
}

macro_rules! operation {
    ($name:ident, |$a:ident, $b:ident, $flags:ident| $body:expr $(, $stores:literal)?) => {
        struct $name;
        impl Binary for $name {
            $(const STORES: bool = $stores;)?
            #[inline(always)]
            fn apply<T: Arith>($a: T, $b: T, $flags: Rflags) -> Flagged<T> {
                $body
            }
        }
    };
}
operation!(Add, |a, b, _flags| T::add(a, b));
operation!(Or, |a, b, _flags| T::or(a, b));
operation!(Adc, |a, b, flags| T::adc(a, b, flags.contains(Rflags::CF)));
operation!(Sbb, |a, b, flags| T::sbb(a, b, flags.contains(Rflags::CF)));
operation!(And, |a, b, _flags| T::and(a, b));
operation!(Sub, |a, b, _flags| T::sub(a, b));
operation!(Xor, |a, b, _flags| T::xor(a, b));
operation!(Cmp, |a, b, _flags| T::sub(a, b), false);
operation!(Test, |a, b, _flags| T::and(a, b), false);

/// A one-operand operation and the flags that it replaces.
trait Unary {
    const FLAGS: Rflags;
    fn apply<T: Arith>(a: T) -> Flagged<T>;
}

macro_rules! unary_operation {
    ($name:ident, $flags:expr, |$a:ident| $body:expr) => {
        struct $name;
        impl Unary for $name {
            const FLAGS: Rflags = $flags;
            #[inline(always)]
            fn apply<T: Arith>($a: T) -> Flagged<T> {
                $body
            }
        }
    };
}
unary_operation!(Inc, NOT_CARRY, |a| T::inc(a));
unary_operation!(Dec, NOT_CARRY, |a| T::dec(a));
unary_operation!(Neg, ALL, |a| T::neg(a));
unary_operation!(Not, Rflags::empty(), |a| (T::not(a), Rflags::empty()));

/// A shift by a count that is not zero.
trait Shift {
    fn apply<T: Arith>(a: T, count: u8) -> Flagged<T>;
}

macro_rules! shift_operation {
    ($name:ident, $method:ident) => {
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Arith>(a: T, count: u8) -> Flagged<T> {
                T::$method(a, count)
            }
        }
    };
}
shift_operation!(Shl, shl);
shift_operation!(Shr, shr);
shift_operation!(Sar, sar);

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    if instruction.has_lock_prefix() {
        return None;
    }
    match instruction.mnemonic() {
        M::Add => binary::<Add>(instruction),
        M::Or => binary::<Or>(instruction),
        M::Adc => binary::<Adc>(instruction),
        M::Sbb => binary::<Sbb>(instruction),
        M::And => binary::<And>(instruction),
        M::Sub => binary::<Sub>(instruction),
        M::Xor => binary::<Xor>(instruction),
        M::Cmp => binary::<Cmp>(instruction),
        M::Test => binary::<Test>(instruction),
        M::Inc => unary::<Inc>(instruction),
        M::Dec => unary::<Dec>(instruction),
        M::Neg => unary::<Neg>(instruction),
        M::Not => unary::<Not>(instruction),
        M::Shl => shift::<Shl>(instruction),
        M::Shr => shift::<Shr>(instruction),
        M::Sar => shift::<Sar>(instruction),
        _ => None,
    }
}

fn operand_bytes(instruction: &Instruction) -> usize {
    match instruction.op_kind(0) {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op_register(0).size(),
    }
}

fn binary<O: Binary>(instruction: &Instruction) -> Option<Handler> {
    let form = Form::of(instruction)?;
    Some(match operand_bytes(instruction) {
        1 => binary_form::<O, u8>(form),
        2 => binary_form::<O, u16>(form),
        4 => binary_form::<O, u32>(form),
        8 => binary_form::<O, u64>(form),
        _ => return None,
    })
}

fn binary_form<O: Binary, T: Arith>(form: Form) -> Handler {
    match form {
        Form::RegReg => reg_reg::<O, T>,
        Form::RegImm => reg_imm::<O, T>,
        Form::RegMem => reg_mem::<O, T>,
        Form::MemReg => mem_reg::<O, T>,
        Form::MemImm => mem_imm::<O, T>,
    }
}

fn unary<O: Unary>(instruction: &Instruction) -> Option<Handler> {
    let memory = instruction.op_kind(0) == OpKind::Memory;
    Some(match (operand_bytes(instruction), memory) {
        (1, false) => unary_reg::<O, u8>,
        (2, false) => unary_reg::<O, u16>,
        (4, false) => unary_reg::<O, u32>,
        (8, false) => unary_reg::<O, u64>,
        (1, true) => unary_mem::<O, u8>,
        (2, true) => unary_mem::<O, u16>,
        (4, true) => unary_mem::<O, u32>,
        (8, true) => unary_mem::<O, u64>,
        _ => return None,
    })
}

/// Shifts of registers; those of memory are rare.
fn shift<O: Shift>(instruction: &Instruction) -> Option<Handler> {
    if instruction.op_kind(0) != OpKind::Register {
        return None;
    }
    let by_cl = instruction.op_kind(1) == OpKind::Register;
    Some(match (operand_bytes(instruction), by_cl) {
        (1, false) => shift_imm::<O, u8>,
        (2, false) => shift_imm::<O, u16>,
        (4, false) => shift_imm::<O, u32>,
        (8, false) => shift_imm::<O, u64>,
        (1, true) => shift_cl::<O, u8>,
        (2, true) => shift_cl::<O, u16>,
        (4, true) => shift_cl::<O, u32>,
        (8, true) => shift_cl::<O, u64>,
        _ => return None,
    })
}

#[inline(always)]
fn get<T: Value>(cpu: &Cpu, reg: u8) -> T {
    T::truncate(cpu.reg(reg, T::SIZE as u8))
}

#[inline(always)]
fn put<T: Value>(cpu: &mut Cpu, reg: u8, value: T) {
    cpu.set_reg(reg, T::SIZE as u8, value.to_u64());
}

#[inline(always)]
fn to_register<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn, b: T) -> Exec {
    let (result, flags) = O::apply(get::<T>(cpu, insn.reg1), b, cpu.state.rflags);
    if O::STORES {
        put(cpu, insn.reg1, result);
    }
    cpu.set_flags(ALL, flags);
    Ok(())
}

fn reg_reg<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let b = get(cpu, insn.reg2);
    to_register::<O, T>(cpu, insn, b)
}

fn reg_imm<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    to_register::<O, T>(cpu, insn, T::truncate(insn.imm))
}

fn reg_mem<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let b = cpu.load(insn)?;
    to_register::<O, T>(cpu, insn, b)
}

fn mem_reg<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let b = get(cpu, insn.reg1);
    to_memory::<O, T>(cpu, insn, b)
}

fn mem_imm<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    to_memory::<O, T>(cpu, insn, T::truncate(insn.imm))
}

#[inline(always)]
fn to_memory<O: Binary, T: Arith>(cpu: &mut Cpu, insn: &Insn, b: T) -> Exec {
    let flags = cpu.state.rflags;
    let flags = if O::STORES {
        cpu.modify(insn, |a| O::apply(a, b, flags))?
    } else {
        O::apply(cpu.load(insn)?, b, flags).1
    };
    cpu.set_flags(ALL, flags);
    Ok(())
}

fn unary_reg<O: Unary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (result, flags) = O::apply(get::<T>(cpu, insn.reg1));
    put(cpu, insn.reg1, result);
    cpu.set_flags(O::FLAGS, flags);
    Ok(())
}

fn unary_mem<O: Unary, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let flags = cpu.modify(insn, O::apply::<T>)?;
    cpu.set_flags(O::FLAGS, flags);
    Ok(())
}

fn shift_imm<O: Shift, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    shift_by::<O, T>(cpu, insn, insn.imm as u8);
    Ok(())
}

fn shift_cl<O: Shift, T: Arith>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let count = cpu.reg(1, 1) as u8;
    shift_by::<O, T>(cpu, insn, count);
    Ok(())
}

/// Counts are masked to 5 bits, or 6 for 64-bit operands (SDM 2B "SAL/SAR").
#[inline(always)]
fn shift_by<O: Shift, T: Arith>(cpu: &mut Cpu, insn: &Insn, count: u8) {
    let count = count & if T::SIZE == 8 { 63 } else { 31 };
    if count == 0 {
        // Even then a 32-bit destination is written.
        put(cpu, insn.reg1, get::<T>(cpu, insn.reg1));
        return;
    }
    let (result, flags) = O::apply(get::<T>(cpu, insn.reg1), count);
    put(cpu, insn.reg1, result);
    cpu.set_flags(ALL, flags);
}

impl Cpu {
    /// Reads, changes and writes a memory operand; gives the flags.
    #[inline(always)]
    fn modify<T: Arith>(&mut self, insn: &Insn, change: impl FnOnce(T) -> Flagged<T>) -> Exec<Rflags> {
        let segment = insn.address.segment;
        let offset = self.effective_address(insn);
        let lin = self.linear(segment, offset, T::SIZE, true)?;
        if let Some(host) = self.tlb.lookup(self.view, true, lin, T::SIZE) {
            // SAFETY: the TLB holds only pages of guest RAM, and the access
            // lies in one page.
            let old = unsafe { T::load(host) };
            let (new, flags) = change(old);
            // SAFETY: as above.
            unsafe { new.store(host) };
            return Ok(flags);
        }
        self.probe_linear(self.view, lin, T::SIZE, true)
            .map_err(|cause| self.as_stack_fault(cause, segment))?;
        let (new, flags) = change(self.read_linear(lin)?);
        self.write_linear(lin, new)?;
        Ok(flags)
    }
}
