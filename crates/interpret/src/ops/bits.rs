//! BT, BTS, BTR and BTC with a memory operand and a bit number in a register:
//! the number reaches far beyond the operand (SDM 2A "BT").

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::Rflags;

use crate::cpu::{Cpu, Exec, mask};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    if instruction.op_count() != 2
        || instruction.op_kind(0) != OpKind::Memory
        || instruction.op_kind(1) != OpKind::Register
    {
        return None;
    }
    let handler: Handler = match instruction.mnemonic() {
        M::Bt => |cpu, insn| bit_test(cpu, insn, None),
        M::Bts => |cpu, insn| bit_test(cpu, insn, Some(|word, bit| word | bit)),
        M::Btr => |cpu, insn| bit_test(cpu, insn, Some(|word, bit| word & !bit)),
        M::Btc => |cpu, insn| bit_test(cpu, insn, Some(|word, bit| word ^ bit)),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn bit_test(cpu: &mut Cpu, insn: &Insn, change: Option<fn(u64, u64) -> u64>) -> Exec {
    let bytes = insn.size;
    let bits = u64::from(bytes) * 8;
    let number = sign_extend(cpu.reg(insn.reg1, bytes), bytes);
    let step = (number >> bits.trailing_zeros()).wrapping_mul(i64::from(bytes));
    let offset = cpu.effective_address(insn).wrapping_add(step as u64) & insn.address.mask;
    let bit = 1 << (number as u64 % bits);
    let segment = insn.address.segment;
    let locked = insn.full.as_deref().is_some_and(Instruction::has_lock_prefix);
    if let Some(change) = change.filter(|_| locked) {
        let word = cpu.update_sized(segment, offset, bytes, |word| change(word, bit))?;
        cpu.state.rflags.set(Rflags::CF, word & bit != 0);
        return Ok(());
    }
    if change.is_some() {
        cpu.probe_write(segment, offset, u64::from(bytes))?;
    }
    let word = cpu.read_sized(segment, offset, bytes)?;
    if let Some(change) = change {
        cpu.write_sized(segment, offset, bytes, change(word, bit) & mask(bytes))?;
    }
    cpu.state.rflags.set(Rflags::CF, word & bit != 0);
    Ok(())
}

fn sign_extend(value: u64, bytes: u8) -> i64 {
    match bytes {
        2 => i64::from(value as i16),
        4 => i64::from(value as i32),
        _ => value as i64,
    }
}
