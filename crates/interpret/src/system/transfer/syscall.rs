//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and RSM (SDM 2B; APM 3).

use iced_x86::{Instruction, Mnemonic};
use x86::{Efer, Gpr, Rflags, Segment, SegmentAttributes, SegmentName, Selector};

use super::code::Target;
use super::stacks::null_stack;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow, undefined};
use crate::insn::{Handler, Insn};

/// Flags that SYSRET loads from R11.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;
/// Access rights of flat segments at privilege level 0.
const CODE64: u16 = 0xa09b;
const CODE32: u16 = 0xc09b;
const STACK: u16 = 0xc093;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Syscall => syscall,
        M::Sysret => |cpu, _| sysret(cpu, false),
        M::Sysretq => |cpu, _| sysret(cpu, true),
        M::Sysenter => sysenter,
        M::Sysexit => |cpu, _| sysexit(cpu, false),
        M::Sysexitq => |cpu, _| sysexit(cpu, true),
        M::Swapgs => swapgs,
        // There is no system-management mode to return from.
        M::Rsm => undefined,
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// A flat segment with `attributes` at privilege level `cpl`.
fn flat(selector: u16, attributes: u16, cpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector: Selector(selector).with_rpl(cpl),
        attributes: SegmentAttributes::from_bits(attributes).with_dpl(cpl),
    }
}

/// Enters flat segments: CS from `code`, SS from `stack`.
fn go_flat(cpu: &mut Cpu, code: (u16, u16), stack: u16, cpl: u8, offset: u64) {
    *cpu.state.segment_mut(SegmentName::Ss) = flat(stack, STACK, cpl);
    cpu.go(Target { code: flat(code.0, code.1, cpl), offset });
}

/// Whether SYSCALL and SYSRET exist here: Intel's only in 64-bit mode, AMD's
/// in compatibility mode too.
fn has_syscall(cpu: &Cpu) -> bool {
    let mode = cpu.long || cpu.state.long_mode() && cpu.cpuid.vendor().has_syscall_in_compatibility_mode();
    mode && cpu.state.efer.contains(Efer::SCE)
}

fn syscall(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if !has_syscall(cpu) {
        return Err(cpu.ud());
    }
    let msrs = &cpu.state.msrs;
    let (star, fmask) = (msrs.star, msrs.fmask);
    let entry = if cpu.long { msrs.lstar } else { msrs.cstar };
    let flags = cpu.state.rflags.difference(Rflags::RF);
    cpu.state.set_reg(Gpr::Rcx, cpu.next_rip);
    cpu.state.set_reg(Gpr::R11, flags.bits());
    cpu.state.rflags = flags.difference(Rflags::from_bits_retain(fmask)) | Rflags::FIXED;
    // With TF masked there is no single step into the handler.
    cpu.entered_handler |= fmask & Rflags::TF.bits() != 0;
    let selector = (star >> 32) as u16 & !3;
    go_flat(cpu, (selector, CODE64), selector.wrapping_add(8), 0, entry);
    Ok(())
}

/// CS and SS become those that SYSCALL loads.
pub(crate) fn load_syscall_segments(cpu: &mut Cpu) {
    let selector = (cpu.state.msrs.star >> 32) as u16 & !3;
    *cpu.state.segment_mut(SegmentName::Cs) = flat(selector, CODE64, 0);
    *cpu.state.segment_mut(SegmentName::Ss) = flat(selector.wrapping_add(8), STACK, 0);
}

/// The same with a null SS, which IRETQ may load.
pub(crate) fn load_syscall_code_segment(cpu: &mut Cpu) {
    load_syscall_segments(cpu);
    *cpu.state.segment_mut(SegmentName::Ss) = null_stack(0);
}

/// CS and SS become those that SYSRET to 64-bit code loads.
pub(crate) fn load_sysret_segments(cpu: &mut Cpu) {
    let base = (cpu.state.msrs.star >> 48) as u16;
    *cpu.state.segment_mut(SegmentName::Cs) = flat(base.wrapping_add(16), CODE64, 3);
    *cpu.state.segment_mut(SegmentName::Ss) = flat(base.wrapping_add(8), STACK, 3);
}

fn sysret(cpu: &mut Cpu, to_64bit: bool) -> Exec {
    if !has_syscall(cpu) {
        return Err(cpu.ud());
    }
    cpu.require_cpl0()?;
    let rcx = cpu.state.reg(Gpr::Rcx);
    if to_64bit && !cpu.canonical(rcx) {
        return Err(cpu.gp0());
    }
    let base = (cpu.state.msrs.star >> 48) as u16;
    let flags = cpu.state.reg(Gpr::R11) & SYSRET_FLAGS;
    cpu.state.rflags = Rflags::from_bits_retain(flags) | Rflags::FIXED;
    let (code, offset) =
        if to_64bit { ((base.wrapping_add(16), CODE64), rcx) } else { ((base, CODE32), rcx & 0xffff_ffff) };
    go_flat(cpu, code, base.wrapping_add(8), 3, offset);
    Ok(())
}

/// IA32_SYSENTER_CS; #GP(0) where it or protected mode is missing, #UD where
/// AMD leaves the instructions out.
fn sysenter_selector(cpu: &mut Cpu) -> Exec<u16> {
    if cpu.state.long_mode() && !cpu.cpuid.vendor().has_sysenter_in_long_mode() {
        return Err(cpu.ud());
    }
    let selector = cpu.state.msrs.sysenter_cs as u16 & !3;
    if !cpu.state.protected_mode() || selector == 0 {
        return Err(cpu.gp0());
    }
    Ok(selector)
}

fn sysenter(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    let selector = sysenter_selector(cpu)?;
    let (long, msrs) = (cpu.state.long_mode(), &cpu.state.msrs);
    let width = if long { u64::MAX } else { 0xffff_ffff };
    let (rsp, rip) = (msrs.sysenter_esp & width, msrs.sysenter_eip & width);
    cpu.state.rflags.remove(Rflags::VM | Rflags::IF | Rflags::RF);
    cpu.state.set_reg(Gpr::Rsp, rsp);
    let attributes = if long { CODE64 } else { CODE32 };
    go_flat(cpu, (selector, attributes), selector.wrapping_add(8), 0, rip);
    Ok(())
}

fn sysexit(cpu: &mut Cpu, to_64bit: bool) -> Exec {
    let selector = sysenter_selector(cpu)?;
    cpu.require_cpl0()?;
    let (rcx, rdx) = (cpu.state.reg(Gpr::Rcx), cpu.state.reg(Gpr::Rdx));
    if to_64bit && !(cpu.canonical(rcx) && cpu.canonical(rdx)) {
        return Err(cpu.gp0());
    }
    let (offset, attributes, width) =
        if to_64bit { (32, CODE64, u64::MAX) } else { (16, CODE32, 0xffff_ffff) };
    let code = selector.wrapping_add(offset);
    cpu.state.set_reg(Gpr::Rsp, rcx & width);
    go_flat(cpu, (code, attributes), code.wrapping_add(8), 3, rdx & width);
    Ok(())
}

fn swapgs(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if !cpu.long {
        return Err(cpu.ud());
    }
    cpu.require_cpl0()?;
    let gs = &mut cpu.state.segments[SegmentName::Gs as usize];
    std::mem::swap(&mut gs.base, &mut cpu.state.msrs.kernel_gs_base);
    cpu.refresh();
    Ok(())
}
