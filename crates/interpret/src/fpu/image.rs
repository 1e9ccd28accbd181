//! FXSAVE, FXRSTOR and the XSAVE family (SDM 1 chapter 13, 2A "FXSAVE", 2D
//! "XSAVE" to "XRSTOR"). All faults come before any change.

use iced_x86::{Code, Instruction};
use x86::cpuid::Feature;
use x86::xsave::{self, Form, Header, LEGACY_SIZE, MIN_SIZE};
use x86::{Cr0, Cr4, Exception, FpuState, Gpr, Xcr0};

use super::area::Area;
use super::environment::settle;
use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

const FXSAVE_ALIGN: u64 = 16;
const XSAVE_ALIGN: u64 = 64;

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let handler: Handler = match instruction.code() {
        Code::Fxsave_m512byte => fxsave::<false>,
        Code::Fxsave64_m512byte => fxsave::<true>,
        Code::Fxrstor_m512byte => fxrstor::<false>,
        Code::Fxrstor64_m512byte => fxrstor::<true>,
        Code::Xsave_mem => |cpu, insn| save(cpu, insn, false, xsave::save),
        Code::Xsave64_mem => |cpu, insn| save(cpu, insn, true, xsave::save),
        Code::Xsaveopt_mem => |cpu, insn| save(cpu, insn, false, xsave::save_optimized),
        Code::Xsaveopt64_mem => |cpu, insn| save(cpu, insn, true, xsave::save_optimized),
        Code::Xsavec_mem => xsavec::<false>,
        Code::Xsavec64_mem => xsavec::<true>,
        Code::Xrstor_mem => xrstor::<false>,
        Code::Xrstor64_mem => xrstor::<true>,
        _ => return None,
    };
    Some((handler, Flow::Next))
}

fn form(cpu: &Cpu, wide: bool) -> Form {
    Form { wide, mode64: cpu.long }
}

/// FXSAVE and FXRSTOR do not ask for CR4.OSFXSR: it only decides whether the
/// XMM registers are part of the image, which is left to the implementation.
fn require_fxsr(cpu: &mut Cpu) -> Exec {
    if cpu.state.cr0.contains(Cr0::EM) {
        return Err(cpu.ud());
    }
    require_not_switched(cpu)
}

fn require_xsave(cpu: &mut Cpu) -> Exec {
    if !cpu.state.cr4.contains(Cr4::OSXSAVE) {
        return Err(cpu.ud());
    }
    require_not_switched(cpu)
}

fn require_not_switched(cpu: &mut Cpu) -> Exec {
    if cpu.state.cr0.contains(Cr0::TS) { Err(cpu.raise(Exception::NM)) } else { Ok(()) }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_fxsr(cpu)?;
    let area = Area::of(cpu, insn, FXSAVE_ALIGN)?;
    let mut bytes = area.read_to_write(cpu, LEGACY_SIZE as usize)?;
    if let Ok(image) = bytes.as_mut_slice().try_into() {
        xsave::fxsave(&cpu.state.fpu, form(cpu, WIDE), image);
    }
    area.write(cpu, &bytes)
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_fxsr(cpu)?;
    let area = Area::of(cpu, insn, FXSAVE_ALIGN)?;
    let bytes = area.read(cpu, LEGACY_SIZE as usize)?;
    let form = form(cpu, WIDE);
    let Ok(image) = bytes.as_slice().try_into() else { return Err(cpu.gp0()) };
    let outcome = xsave::fxrstor(&mut cpu.state.fpu, form, image);
    outcome.map_err(|fault| cpu.raise(fault))?;
    settle(&mut cpu.state.fpu.x87);
    Ok(())
}

/// The requested-feature bitmap: EDX:EAX as far as XCR0 allows.
fn requested(cpu: &Cpu) -> Xcr0 {
    let mask = cpu.reg(Gpr::Rdx as u8, 4) << 32 | cpu.reg(Gpr::Rax as u8, 4);
    Xcr0::from_bits_retain(mask) & cpu.state.xcr0
}

/// How XSAVE and XSAVEOPT fill an area in standard format.
type Save = fn(&FpuState, &xsave::XsaveLayout, Xcr0, Form, &mut [u8]);

fn save(cpu: &mut Cpu, insn: &Insn, wide: bool, fill: Save) -> Exec {
    require_xsave(cpu)?;
    let rfbm = requested(cpu);
    let size = cpu.cpuid.xsave_layout().standard_size(rfbm);
    let area = Area::of(cpu, insn, XSAVE_ALIGN)?;
    let mut bytes = area.read_to_write(cpu, size as usize)?;
    fill(&cpu.state.fpu, cpu.cpuid.xsave_layout(), rfbm, form(cpu, wide), &mut bytes);
    area.write(cpu, &bytes)
}

fn xsavec<const WIDE: bool>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_xsave(cpu)?;
    let rfbm = requested(cpu);
    let size = cpu.cpuid.xsave_layout().compacted_size(rfbm);
    let area = Area::of(cpu, insn, XSAVE_ALIGN)?;
    let mut bytes = area.read_to_write(cpu, size as usize)?;
    xsave::save_compacted(&cpu.state.fpu, cpu.cpuid.xsave_layout(), rfbm, form(cpu, WIDE), &mut bytes);
    area.write(cpu, &bytes)
}

fn xrstor<const WIDE: bool>(cpu: &mut Cpu, insn: &Insn) -> Exec {
    require_xsave(cpu)?;
    let (rfbm, xcr0, form) = (requested(cpu), cpu.state.xcr0, form(cpu, WIDE));
    let area = Area::of(cpu, insn, XSAVE_ALIGN)?;
    let header = Header::parse(&area.read(cpu, MIN_SIZE as usize)?);
    let compaction = cpu.cpuid.has(Feature::Xsavec);
    let plan = xsave::restore_plan(&header, cpu.cpuid.xsave_layout(), rfbm, xcr0, compaction);
    let size = plan.map_err(|fault| cpu.raise(fault))?;
    let bytes = area.read(cpu, size as usize)?;
    let pkru = cpu.state.fpu.pkru;
    let layout = cpu.cpuid.xsave_layout();
    let outcome = xsave::restore(&mut cpu.state.fpu, layout, rfbm, xcr0, form, &bytes);
    outcome.map_err(|fault| cpu.raise(fault))?;
    settle(&mut cpu.state.fpu.x87);
    if cpu.state.fpu.pkru != pkru {
        cpu.paging_changed();
    }
    Ok(())
}
