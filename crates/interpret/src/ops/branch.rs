//! Near jumps, calls, returns and loops.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};
use x86::cpuid::Habit;
use x86::{Rflags, SegmentName};

use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// Makes a handler generic over the condition for the condition at hand.
macro_rules! instantiate {
    ($condition:expr, $handler:ident) => {
        match $condition as u8 {
            1 => $handler::<0>,
            2 => $handler::<1>,
            3 => $handler::<2>,
            4 => $handler::<3>,
            5 => $handler::<4>,
            6 => $handler::<5>,
            7 => $handler::<6>,
            8 => $handler::<7>,
            9 => $handler::<8>,
            10 => $handler::<9>,
            11 => $handler::<10>,
            12 => $handler::<11>,
            13 => $handler::<12>,
            14 => $handler::<13>,
            15 => $handler::<14>,
            _ => $handler::<15>,
        }
    };
}
pub(super) use instantiate;

/// The condition with number `C`, in the order of opcodes (SDM 1 table B-1).
#[inline(always)]
pub(super) fn condition<const C: u8>(cpu: &Cpu) -> bool {
    let flags = cpu.state.rflags;
    let has = |flag| flags.contains(flag);
    let less = has(Rflags::SF) != has(Rflags::OF);
    let holds = match C >> 1 {
        0 => has(Rflags::OF),
        1 => has(Rflags::CF),
        2 => has(Rflags::ZF),
        3 => flags.intersects(Rflags::CF.union(Rflags::ZF)),
        4 => has(Rflags::SF),
        5 => has(Rflags::PF),
        6 => less,
        _ => less || has(Rflags::ZF),
    };
    holds != (C & 1 != 0)
}

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let code = instruction.code();
    let memory = instruction.op_count() > 0 && instruction.op_kind(0) == OpKind::Memory;
    let handler: Handler = if code.is_jcc_short_or_near() {
        jcc(instruction)
    } else if code.is_jmp_short_or_near() {
        sized(instruction, jmp::<2>, jmp::<4>, jmp::<8>)
    } else if code.is_jmp_near_indirect() {
        if memory { jmp_mem } else { jmp_reg }
    } else if code.is_call_near() {
        sized(instruction, call::<2>, call::<4>, call::<8>)
    } else if code.is_call_near_indirect() {
        if memory { call_mem } else { call_reg }
    } else if instruction.mnemonic() == M::Ret {
        let bytes = return_bytes(instruction);
        if bytes == 2 {
            ret::<2>
        } else if bytes == 4 {
            ret::<4>
        } else {
            ret::<8>
        }
    } else if code.is_loop() || code.is_loopcc() || code.is_jcx_short() {
        counted
    } else {
        return None;
    };
    Some((handler, Flow::End))
}

/// Whether the handler needs nothing but the operands.
pub(super) fn is_plain(instruction: &Instruction) -> bool {
    choose(instruction).is_some_and(|(handler, _)| !std::ptr::fn_addr_eq(handler, counted as Handler))
}

/// By the size of the branch's operand.
fn sized(instruction: &Instruction, word: Handler, dword: Handler, qword: Handler) -> Handler {
    match instruction.op_kind(0) {
        OpKind::NearBranch16 => word,
        OpKind::NearBranch32 => dword,
        _ => qword,
    }
}

fn jcc(instruction: &Instruction) -> Handler {
    let condition: ConditionCode = instruction.condition_code();
    match instruction.op_kind(0) {
        OpKind::NearBranch16 => instantiate!(condition, jcc16),
        OpKind::NearBranch32 => instantiate!(condition, jcc32),
        _ => instantiate!(condition, jcc64),
    }
}

fn return_bytes(instruction: &Instruction) -> u8 {
    use iced_x86::Code;
    match instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    }
}

fn jcc16<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    if condition::<C>(cpu) { jmp::<2>(cpu, insn) } else { Ok(()) }
}

fn jcc32<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    if condition::<C>(cpu) { jmp::<4>(cpu, insn) } else { Ok(()) }
}

fn jcc64<const C: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    if condition::<C>(cpu) { jmp::<8>(cpu, insn) } else { Ok(()) }
}

#[inline(always)]
fn jmp<const SIZE: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.next_rip.wrapping_add(insn.imm) & mask(SIZE);
    cpu.branch_to(target)
}

fn jmp_reg(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.reg(insn.reg1, insn.size);
    cpu.branch_to(target)
}

fn jmp_mem(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.load_sized(insn)?;
    cpu.branch_to(target)
}

fn call<const SIZE: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.next_rip.wrapping_add(insn.imm) & mask(SIZE);
    cpu.call_near(target, SIZE)
}

fn call_reg(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.reg(insn.reg1, insn.size);
    cpu.call_near(target, insn.size)
}

fn call_mem(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let target = cpu.load_sized(insn)?;
    cpu.call_near(target, insn.size)
}

fn ret<const SIZE: u8>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let sp = cpu.stack_pointer();
    let target = cpu.read_sized(SegmentName::Ss, sp, SIZE)?;
    cpu.branch_to(target)?;
    cpu.set_stack_pointer(sp.wrapping_add(u64::from(SIZE)).wrapping_add(insn.imm & 0xffff));
    Ok(())
}

/// LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ.
fn counted(cpu: &mut Cpu, insn: &Insn) -> Exec {
    use iced_x86::Mnemonic as M;
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    let (mnemonic, count_bytes) = (full.mnemonic(), (full.op_code().address_size() / 8) as u8);
    let zero_flag = cpu.state.rflags.contains(Rflags::ZF);
    let before = cpu.reg(1, count_bytes);
    let after = before.wrapping_sub(1) & mask(count_bytes);
    let (taken, counts) = match mnemonic {
        M::Loop => (after != 0, true),
        M::Loope => (after != 0 && zero_flag, true),
        M::Loopne => (after != 0 && !zero_flag, true),
        _ => (before == 0, false),
    };
    if taken {
        let target = cpu.next_rip.wrapping_add(insn.imm) & mask(insn.size);
        cpu.branch_to(target)?;
    }
    if counts {
        cpu.set_reg(1, count_bytes, after);
    }
    Ok(())
}

impl Cpu {
    /// Continues at `target`, if the code segment goes that far.
    #[inline(always)]
    pub(crate) fn branch_to(&mut self, target: u64) -> Exec {
        let reachable = if self.long {
            self.canonical(target)
        } else {
            target <= u64::from(self.state.segment(SegmentName::Cs).limit)
        };
        if !reachable {
            return Err(self.gp0());
        }
        self.next_rip = target;
        Ok(())
    }

    #[inline(always)]
    fn call_near(&mut self, target: u64, bytes: u8) -> Exec {
        let back = self.next_rip;
        if let Err(fault) = self.branch_to(target) {
            self.check_push(bytes)?;
            return Err(fault);
        }
        self.push(bytes, back)
    }

    /// What a CALL with a bad target has found before, on some processors.
    #[cold]
    fn check_push(&mut self, bytes: u8) -> Exec {
        if !self.cpuid.has_habit(Habit::ChecksStackBeforeTarget) {
            return Ok(());
        }
        let sp = self.stack_pointer().wrapping_sub(u64::from(bytes)) & self.stack_mask;
        self.probe_write(SegmentName::Ss, sp, bytes.into())
    }
}
