//! LLDT, LTR, SLDT and STR (SDM 2A, 2B).

use iced_x86::{Instruction, Mnemonic};
use x86::descriptor::{Descriptor, check_ldt_load, check_tss_load};
use x86::{Exception, Segment, Selector};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Lldt => lldt,
        M::Ltr => ltr,
        M::Sldt => |cpu, insn| store(cpu, insn, cpu.state.ldtr.selector),
        M::Str => |cpu, insn| store(cpu, insn, cpu.state.tr.selector),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

/// #UD in real and virtual-8086 mode.
pub(super) fn require_protected(cpu: &mut Cpu) -> Exec {
    if cpu.state.real_or_v86() { Err(cpu.ud()) } else { Ok(()) }
}

fn store(cpu: &mut Cpu, insn: &Insn, selector: Selector) -> Exec {
    require_protected(cpu)?;
    cpu.require_no_umip()?;
    cpu.store_selector(insn, u64::from(selector.0))
}

type Check = fn(Descriptor, Option<u64>, Selector) -> Result<(), Exception>;

/// Reads and checks a system descriptor; 16 bytes of it in IA-32e mode.
fn system_segment(cpu: &mut Cpu, selector: Selector, check: Check) -> Exec<(Descriptor, Segment)> {
    if selector.is_ldt() {
        return cpu.selector_fault(Exception::gp, selector);
    }
    let descriptor = cpu.descriptor(selector, Exception::gp)?;
    let high = if cpu.state.long_mode() { Some(cpu.upper_half(selector, Exception::gp)?) } else { None };
    if let Err(fault) = check(descriptor, high, selector) {
        return Err(cpu.raise(fault));
    }
    let segment = match high {
        Some(high) => descriptor.system_segment64(high, selector),
        None => descriptor.segment(selector),
    };
    if high.is_some() && !cpu.loadable(segment.base) {
        return cpu.selector_fault(Exception::gp, selector);
    }
    Ok((descriptor, segment))
}

fn lldt(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = Selector(cpu.operand16(insn)?);
    cpu.state.ldtr = if selector.is_null() {
        Segment::null(selector)
    } else {
        system_segment(cpu, selector, check_ldt_load)?.1
    };
    Ok(())
}

fn ltr(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = Selector(cpu.operand16(insn)?);
    if selector.is_null() {
        return Err(cpu.gp0());
    }
    let (descriptor, mut segment) = system_segment(cpu, selector, check_tss_load)?;
    cpu.set_busy(selector, descriptor, true)?;
    segment.attributes = descriptor.with_busy(true).attributes();
    cpu.state.tr = segment;
    Ok(())
}
