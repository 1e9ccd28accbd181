//! RDMSR, WRMSR, the time-stamp counter and the FS and GS bases.

use engine::{Callout, TraceEvent};
use iced_x86::{Instruction, Mnemonic};
use x86::msr::{self, Limits};
use x86::{Cr4, Gpr, SegmentName};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let (handler, flow): (Handler, Flow) = match instruction.mnemonic() {
        M::Rdmsr => (rdmsr, Flow::End),
        M::Wrmsr => (wrmsr, Flow::End),
        M::Rdtsc => (rdtsc, Flow::Next),
        M::Rdtscp => (rdtscp, Flow::Next),
        M::Rdpid => (rdpid, Flow::Next),
        M::Rdpmc => (rdpmc, Flow::Next),
        M::Rdfsbase => (|cpu, insn| read_base(cpu, insn, SegmentName::Fs), Flow::Next),
        M::Rdgsbase => (|cpu, insn| read_base(cpu, insn, SegmentName::Gs), Flow::Next),
        M::Wrfsbase => (|cpu, insn| write_base(cpu, insn, SegmentName::Fs), Flow::Next),
        M::Wrgsbase => (|cpu, insn| write_base(cpu, insn, SegmentName::Gs), Flow::Next),
        _ => return None,
    };
    Some((handler, flow))
}

fn set_edx_eax(cpu: &mut Cpu, value: u64) {
    cpu.set_reg(Gpr::Rax as u8, 4, value & 0xffff_ffff);
    cpu.set_reg(Gpr::Rdx as u8, 4, value >> 32);
}

fn rdmsr(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::Msr);
    let index = cpu.reg(Gpr::Rcx as u8, 4) as u32;
    let value = read_msr(cpu, index);
    if cpu.tracing.msr {
        cpu.report(&TraceEvent::Msr { index, value, write: false });
    }
    match value {
        Some(value) => {
            set_edx_eax(cpu, value);
            Ok(())
        }
        None => Err(cpu.gp0()),
    }
}

fn read_msr(cpu: &mut Cpu, index: u32) -> Option<u64> {
    match index {
        msr::IA32_TIME_STAMP_COUNTER => Some(cpu.tsc()),
        _ => msr::read(&cpu.state, index, &Limits::of(&cpu.cpuid))
            .or_else(|| cpu.platform().msr_read(cpu.id, index)?.ok()),
    }
}

fn wrmsr(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::Msr);
    let index = cpu.reg(Gpr::Rcx as u8, 4) as u32;
    let value = cpu.reg(Gpr::Rdx as u8, 4) << 32 | cpu.reg(Gpr::Rax as u8, 4);
    let outcome = write_msr(cpu, index, value);
    if cpu.tracing.msr {
        let value = outcome.is_ok().then_some(value);
        cpu.report(&TraceEvent::Msr { index, value, write: true });
    }
    outcome
}

fn write_msr(cpu: &mut Cpu, index: u32, value: u64) -> Exec {
    if index == msr::IA32_TIME_STAMP_COUNTER {
        let machine = cpu.platform().tsc();
        cpu.state.msrs.tsc_adjust = value.wrapping_sub(machine);
        cpu.platform().tsc_adjusted(cpu.id, cpu.state.msrs.tsc_adjust);
        return Ok(());
    }
    let limits = Limits::of(&cpu.cpuid);
    let adjust = cpu.state.msrs.tsc_adjust;
    match msr::write(&mut cpu.state, index, value, &limits) {
        Some(Ok(())) => {
            if cpu.state.msrs.tsc_adjust != adjust {
                cpu.platform().tsc_adjusted(cpu.id, cpu.state.msrs.tsc_adjust);
            }
            if index == msr::IA32_EFER {
                cpu.paging_changed();
            }
            cpu.refresh();
            Ok(())
        }
        Some(Err(fault)) => Err(cpu.raise(fault)),
        None => match cpu.platform().msr_write(cpu.id, index, value) {
            Some(Ok(())) => Ok(()),
            _ => Err(cpu.gp0()),
        },
    }
}

impl Cpu {
    /// The guest's time-stamp counter.
    pub(crate) fn tsc(&self) -> u64 {
        self.platform().tsc().wrapping_add(self.state.msrs.tsc_adjust)
    }

    /// CR4.TSD keeps the counter from programs.
    fn require_tsc(&mut self) -> Exec {
        if self.state.cr4.contains(Cr4::TSD) && self.cpl() != 0 { Err(self.gp0()) } else { Ok(()) }
    }
}

fn rdtsc(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_tsc()?;
    let tsc = cpu.tsc();
    set_edx_eax(cpu, tsc);
    Ok(())
}

fn rdtscp(cpu: &mut Cpu, insn: &Insn) -> Exec {
    rdtsc(cpu, insn)?;
    let aux = cpu.state.msrs.tsc_aux;
    cpu.set_reg(Gpr::Rcx as u8, 4, aux & 0xffff_ffff);
    Ok(())
}

fn rdpid(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let aux = cpu.state.msrs.tsc_aux;
    cpu.set_reg(insn.reg1, 8, aux);
    Ok(())
}

/// There are no performance counters: any index is out of range.
fn rdpmc(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    Err(cpu.gp0())
}

/// #UD unless CR4.FSGSBASE allows it; the decoder knows them only in 64-bit
/// mode.
fn require_fsgsbase(cpu: &mut Cpu) -> Exec {
    if cpu.state.cr4.contains(Cr4::FSGSBASE) { Ok(()) } else { Err(cpu.ud()) }
}

fn read_base(cpu: &mut Cpu, insn: &Insn, segment: SegmentName) -> Exec {
    require_fsgsbase(cpu)?;
    let base = cpu.state.segment(segment).base;
    cpu.set_reg(insn.reg1, insn.size, base & crate::cpu::mask(insn.size));
    Ok(())
}

fn write_base(cpu: &mut Cpu, insn: &Insn, segment: SegmentName) -> Exec {
    require_fsgsbase(cpu)?;
    let base = cpu.reg(insn.reg1, insn.size);
    if !cpu.loadable(base) {
        return Err(cpu.gp0());
    }
    cpu.state.segment_mut(segment).base = base;
    Ok(())
}
