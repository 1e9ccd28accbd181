//! LAR, LSL, VERR, VERW and ARPL: questions about selectors (SDM 3A 5.10).

use iced_x86::{Instruction, Mnemonic};
use x86::descriptor::{Descriptor, lar_allows, lsl_allows, verr_allows, verw_allows};
use x86::{Rflags, Selector};

use super::system_segments::require_protected;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The part of a descriptor's upper doubleword that LAR gives.
const LAR_MASK: u64 = 0x00ff_ff00;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Lar => lar,
        M::Lsl => lsl,
        M::Verr => |cpu, insn| verify(cpu, insn, verr_allows),
        M::Verw => |cpu, insn| verify(cpu, insn, verw_allows),
        M::Arpl => arpl,
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn set_zf(cpu: &mut Cpu, on: bool) {
    cpu.state.rflags.set(Rflags::ZF, on);
}

/// Reads the descriptor that memory or register `reg` names, if there is one.
fn named(cpu: &mut Cpu, insn: &Insn, reg: u8) -> Exec<Option<(Selector, Descriptor)>> {
    require_protected(cpu)?;
    let selector = Selector(if insn.mem_size > 0 { cpu.load(insn)? } else { cpu.reg(reg, 2) as u16 });
    if selector.is_null() {
        return Ok(None);
    }
    Ok(cpu.find_descriptor(selector)?.map(|descriptor| (selector, descriptor)))
}

fn query(
    cpu: &mut Cpu,
    insn: &Insn,
    allows: fn(Descriptor, Selector, u8, bool) -> bool,
    answer: fn(Descriptor) -> u64,
) -> Exec {
    let (cpl, long) = (cpu.cpl(), cpu.state.long_mode());
    let found = named(cpu, insn, insn.reg2)?
        .filter(|&(selector, descriptor)| allows(descriptor, selector, cpl, long));
    set_zf(cpu, found.is_some());
    if let Some((_, descriptor)) = found {
        cpu.set_reg(insn.reg1, insn.size, answer(descriptor));
    }
    Ok(())
}

fn lar(cpu: &mut Cpu, insn: &Insn) -> Exec {
    query(cpu, insn, lar_allows, |descriptor| descriptor.0 >> 32 & LAR_MASK)
}

fn lsl(cpu: &mut Cpu, insn: &Insn) -> Exec {
    query(cpu, insn, lsl_allows, |descriptor| u64::from(descriptor.limit()))
}

fn verify(cpu: &mut Cpu, insn: &Insn, allows: fn(Descriptor, Selector, u8) -> bool) -> Exec {
    let cpl = cpu.cpl();
    let found = named(cpu, insn, insn.reg1)?;
    set_zf(cpu, found.is_some_and(|(selector, descriptor)| allows(descriptor, selector, cpl)));
    Ok(())
}

/// Raises the RPL of the first operand to that of the second.
fn arpl(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_protected(cpu)?;
    let memory = insn.mem_size > 0;
    let (source, destination) =
        if memory { (insn.reg1, cpu.load::<u16>(insn)?) } else { (insn.reg2, cpu.reg(insn.reg1, 2) as u16) };
    let wanted = cpu.reg(source, 2) as u16 & 3;
    let raise = destination & 3 < wanted;
    if raise {
        let value = destination & !3 | wanted;
        if memory {
            cpu.store(insn, value)?;
        } else {
            cpu.set_reg(insn.reg1, 2, u64::from(value));
        }
    }
    set_zf(cpu, raise);
    Ok(())
}
