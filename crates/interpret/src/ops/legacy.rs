//! Instructions that 64-bit mode no longer has, and a few that it has in
//! another form: decimal adjustments, SALC, XLAT, the direction flag.

use iced_x86::{Instruction, Mnemonic};
use x86::{Exception, Rflags};

use super::arith::Arith;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// AH, as a register number.
const AH: u8 = 16;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Aaa => |cpu, _| ascii_adjust(cpu, true),
        M::Aas => |cpu, _| ascii_adjust(cpu, false),
        M::Aad => aad,
        M::Aam => aam,
        M::Daa => |cpu, _| decimal_adjust(cpu, true),
        M::Das => |cpu, _| decimal_adjust(cpu, false),
        M::Salc => salc,
        M::Xlatb => xlat,
        M::Cld => |cpu, _| set_direction(cpu, false),
        M::Std => |cpu, _| set_direction(cpu, true),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn set_direction(cpu: &mut Cpu, down: bool) -> Exec {
    cpu.state.rflags.set(Rflags::DF, down);
    Ok(())
}

/// SDM 2A "AAA" and "AAS".
fn ascii_adjust(cpu: &mut Cpu, add: bool) -> Exec {
    let al = cpu.reg(0, 1);
    let adjust = al & 0xf > 9 || cpu.state.rflags.contains(Rflags::AF);
    if adjust {
        let ax = cpu.reg(0, 2);
        let ax = if add { ax.wrapping_add(0x106) } else { ax.wrapping_sub(0x106) };
        cpu.set_reg(0, 2, ax);
    }
    let al = cpu.reg(0, 1) & 0xf;
    cpu.set_reg(0, 1, al);
    cpu.state.rflags.set(Rflags::AF, adjust);
    cpu.state.rflags.set(Rflags::CF, adjust);
    Ok(())
}

fn set_result_flags(cpu: &mut Cpu, value: u8) {
    let (_, flags) = u8::or(value, 0);
    cpu.set_flags(Rflags::ZF.union(Rflags::SF).union(Rflags::PF), flags);
}

/// SDM 2A "AAD".
fn aad(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (al, ah) = (cpu.reg(0, 1) as u8, cpu.reg(AH, 1) as u8);
    let result = al.wrapping_add(ah.wrapping_mul(insn.imm as u8));
    cpu.set_reg(0, 2, u64::from(result));
    set_result_flags(cpu, result);
    Ok(())
}

/// SDM 2A "AAM".
fn aam(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (al, base) = (cpu.reg(0, 1) as u8, insn.imm as u8);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.raise(Exception::DE));
    };
    cpu.set_reg(AH, 1, u64::from(high));
    cpu.set_reg(0, 1, u64::from(low));
    set_result_flags(cpu, low);
    Ok(())
}

/// SDM 2A "DAA" and "DAS".
fn decimal_adjust(cpu: &mut Cpu, add: bool) -> Exec {
    let old = cpu.reg(0, 1) as u8;
    let old_carry = cpu.state.rflags.contains(Rflags::CF);
    let low = old & 0xf > 9 || cpu.state.rflags.contains(Rflags::AF);
    let high = old > 0x99 || old_carry;
    let apply = |value: u8, by: u8| if add { value.overflowing_add(by) } else { value.overflowing_sub(by) };
    let (mut al, mut carry) = (old, false);
    if low {
        let (value, wrapped) = apply(al, 6);
        al = value;
        carry = old_carry || wrapped;
    }
    if high {
        al = apply(al, 0x60).0;
        carry = true;
    } else if add {
        carry = false;
    }
    cpu.set_reg(0, 1, u64::from(al));
    cpu.state.rflags.set(Rflags::AF, low);
    cpu.state.rflags.set(Rflags::CF, carry);
    set_result_flags(cpu, al);
    Ok(())
}

/// SALC (undocumented, opcode D6): AL becomes all copies of CF.
fn salc(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    let value = if cpu.state.rflags.contains(Rflags::CF) { 0xff } else { 0 };
    cpu.set_reg(0, 1, value);
    Ok(())
}

/// The memory operand is `[rBX + AL]` (SDM 2B "XLAT").
fn xlat(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let offset = cpu.reg(3, 8).wrapping_add(cpu.reg(0, 1)) & insn.address.mask;
    let value: u8 = cpu.read(insn.address.segment, offset)?;
    cpu.set_reg(0, 1, u64::from(value));
    Ok(())
}
