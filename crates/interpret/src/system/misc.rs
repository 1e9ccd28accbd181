//! CPUID, HLT, MONITOR and MWAIT, cache and TLB control, hypercalls.

use std::time::{Duration, Instant};

use engine::{Callout, Hypercall};
use iced_x86::{Instruction, Mnemonic};
use x86::cpuid::Feature;
use x86::{Activity, Cr4, Gpr, msr};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// How long MWAIT sleeps at the most.
const MWAIT_LIMIT: Duration = Duration::from_millis(1);

/// The APIC flag in EDX of CPUID leaf 1, and of AMD's copy in leaf 8000_0001.
const APIC: u32 = 1 << 9;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let (handler, flow): (Handler, Flow) = match instruction.mnemonic() {
        // What serializes ends a block: another processor may have changed what
        // follows (SDM 3A 9.3).
        M::Cpuid => (cpuid, Flow::End),
        M::Hlt => (hlt, Flow::End),
        M::Monitor => (monitor, Flow::Next),
        M::Mwait => (mwait, Flow::End),
        M::Invlpg => (invlpg, Flow::End),
        M::Invpcid => (invpcid, Flow::End),
        M::Invd | M::Wbinvd | M::Wbnoinvd => (privileged_nop, Flow::End),
        M::Clflush | M::Clflushopt | M::Clwb => (flush_line, Flow::Next),
        M::Vmcall | M::Vmmcall => (hypercall, Flow::End),
        M::Ud0 | M::Ud1 | M::Ud2 => (super::undefined, Flow::End),
        _ => return None,
    };
    Some((handler, flow))
}

fn cpuid(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.stats.count(Callout::Cpuid);
    let (leaf, subleaf) = (cpu.reg(Gpr::Rax as u8, 4) as u32, cpu.reg(Gpr::Rcx as u8, 4) as u32);
    let mut answer = cpu.cpuid.query(leaf, subleaf, &cpu.state);
    if matches!(leaf, 1 | 0x8000_0001) && apic_disabled(cpu) {
        answer.edx &= !APIC;
    }
    for (reg, value) in
        [(Gpr::Rax, answer.eax), (Gpr::Rbx, answer.ebx), (Gpr::Rcx, answer.ecx), (Gpr::Rdx, answer.edx)]
    {
        cpu.set_reg(reg as u8, 4, u64::from(value));
    }
    Ok(())
}

/// A local APIC that IA32_APIC_BASE has disabled is not there for CPUID either
/// (SDM 3A 11.4.3).
fn apic_disabled(cpu: &Cpu) -> bool {
    const ENABLE: u64 = 1 << 11;
    matches!(cpu.platform().msr_read(cpu.id, msr::IA32_APIC_BASE), Some(Ok(base)) if base & ENABLE == 0)
}

fn hlt(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::Halt);
    cpu.state.activity = Activity::Halted;
    Ok(())
}

/// Checks the address and remembers nothing: MWAIT may end at any time.
fn monitor(cpu: &mut Cpu, insn: &Insn) -> Exec {
    if cpu.cpl() != 0 {
        return Err(cpu.ud());
    }
    if cpu.reg(Gpr::Rcx as u8, if cpu.long { 8 } else { 4 }) != 0 {
        return Err(cpu.gp0());
    }
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    let bytes = (full.op_code().address_size() / 8) as u8;
    let offset = cpu.reg(Gpr::Rax as u8, bytes);
    let prefix = full.segment_prefix();
    let segment = if prefix == iced_x86::Register::None {
        x86::SegmentName::Ds
    } else {
        crate::decode::segment_name(prefix)
    };
    cpu.read::<u8>(segment, offset).map(drop)
}

/// Waits for a signal, but not for long: nobody watches the monitored line, and
/// MWAIT may end at any time without a reason (SDM 2B "MWAIT").
fn mwait(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if cpu.cpl() != 0 {
        return Err(cpu.ud());
    }
    if cpu.reg(Gpr::Rcx as u8, if cpu.long { 8 } else { 4 }) & !1 != 0 {
        return Err(cpu.gp0());
    }
    let start = Instant::now();
    cpu.signals.wait(Some(MWAIT_LIMIT));
    cpu.stats.halted += start.elapsed();
    Ok(())
}

fn invlpg(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    let offset = cpu.effective_address(insn);
    let segment = insn.address.segment;
    let based = matches!(segment, x86::SegmentName::Fs | x86::SegmentName::Gs) || !cpu.long;
    let base = if based { cpu.state.segment(segment).base } else { 0 };
    let lin = base.wrapping_add(offset) & cpu.linear_mask;
    // An address that is not canonical has no translation to forget.
    if cpu.canonical(lin) {
        cpu.flush_page(lin);
    }
    Ok(())
}

/// SDM 2A "INVPCID".
fn invpcid(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    let segment = insn.address.segment;
    let offset = cpu.effective_address(insn);
    let kind = cpu.reg(insn.reg1, if cpu.long { 8 } else { 4 });
    let pcid: u64 = cpu.read(segment, offset)?;
    let linear: u64 = cpu.read(segment, offset.wrapping_add(8) & insn.address.mask)?;
    let reserved = pcid >> 12 != 0;
    let wrong = match kind {
        0 => !cpu.loadable(linear) || needs_pcide(cpu, pcid),
        1 => needs_pcide(cpu, pcid),
        2 | 3 => false,
        _ => true,
    };
    if reserved || wrong {
        return Err(cpu.gp0());
    }
    cpu.stats.count(Callout::TlbFlush);
    let (pcid, current) = (pcid as u16, cpu.pcid());
    match kind {
        0 if pcid == current => cpu.tlb.flush_page(linear),
        0 => cpu.tlb.flush_page_of(pcid, linear),
        1 => cpu.tlb.flush_space(pcid, pcid == current),
        2 => cpu.tlb.flush(),
        _ => cpu.tlb.flush_local(current),
    }
    Ok(())
}

fn needs_pcide(cpu: &Cpu, pcid: u64) -> bool {
    pcid != 0 && !cpu.state.cr4.contains(Cr4::PCIDE)
}

/// INVD, WBINVD: memory is coherent here.
fn privileged_nop(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_cpl0()
}

/// CLFLUSH and its kin fault like a load of the byte (SDM 2A "CLFLUSH").
fn flush_line(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.load::<u8>(insn).map(drop)
}

/// VMCALL and VMMCALL reach the machine's paravirtual interface, if it has one.
fn hypercall(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    let mut call = Hypercall {
        rax: cpu.state.reg(Gpr::Rax),
        rbx: cpu.state.reg(Gpr::Rbx),
        rcx: cpu.state.reg(Gpr::Rcx),
        rdx: cpu.state.reg(Gpr::Rdx),
        rsi: cpu.state.reg(Gpr::Rsi),
        rdi: cpu.state.reg(Gpr::Rdi),
        r8_to_r10: [cpu.state.reg(Gpr::R8), cpu.state.reg(Gpr::R9), cpu.state.reg(Gpr::R10)],
        cpl: cpu.cpl(),
        long: cpu.long,
    };
    if !cpu.cpuid.has(Feature::Hypervisor) || !cpu.platform().hypercall(cpu.id, &mut call) {
        return Err(cpu.ud());
    }
    cpu.state.set_reg(Gpr::Rax, call.rax);
    cpu.state.set_reg(Gpr::Rbx, call.rbx);
    cpu.state.set_reg(Gpr::Rcx, call.rcx);
    cpu.state.set_reg(Gpr::Rdx, call.rdx);
    Ok(())
}
