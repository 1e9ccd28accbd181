//! XGETBV, XSETBV, RDPKRU and WRPKRU (SDM 2B "RDPKRU", 2D "XGETBV").

use iced_x86::{Instruction, Mnemonic};
use x86::cpuid::Feature;
use x86::{Cr4, Gpr, Xcr0, xsave};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    let (handler, flow): (Handler, Flow) = match instruction.mnemonic() {
        Mnemonic::Xgetbv => (xgetbv, Flow::Next),
        Mnemonic::Xsetbv => (xsetbv, Flow::End),
        Mnemonic::Rdpkru => (rdpkru, Flow::Next),
        Mnemonic::Wrpkru => (wrpkru, Flow::Next),
        _ => return None,
    };
    Some((handler, flow))
}

fn require_osxsave(cpu: &mut Cpu) -> Exec {
    if cpu.state.cr4.contains(Cr4::OSXSAVE) { Ok(()) } else { Err(cpu.ud()) }
}

fn ecx(cpu: &Cpu) -> u64 {
    cpu.reg(Gpr::Rcx as u8, 4)
}

fn edx_eax(cpu: &Cpu) -> u64 {
    cpu.reg(Gpr::Rdx as u8, 4) << 32 | cpu.reg(Gpr::Rax as u8, 4)
}

fn set_edx_eax(cpu: &mut Cpu, value: u64) {
    cpu.set_reg(Gpr::Rax as u8, 4, value);
    cpu.set_reg(Gpr::Rdx as u8, 4, value >> 32);
}

fn xgetbv(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    require_osxsave(cpu)?;
    let value = match ecx(cpu) {
        0 => cpu.state.xcr0,
        1 if cpu.cpuid.has(Feature::Xgetbv1) => cpu.state.xcr0 & xsave::in_use(&cpu.state.fpu),
        _ => return Err(cpu.gp0()),
    };
    set_edx_eax(cpu, value.bits());
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    require_osxsave(cpu)?;
    cpu.require_cpl0()?;
    let value = Xcr0::from_bits_retain(edx_eax(cpu));
    if ecx(cpu) != 0 || !is_valid(value, cpu.cpuid.xcr0()) {
        return Err(cpu.gp0());
    }
    cpu.state.xcr0 = value;
    Ok(())
}

/// The combinations that XCR0 takes (SDM 1 13.3): x87 always, AVX only with
/// SSE, and AVX-512 whole and only with AVX.
fn is_valid(value: Xcr0, supported: Xcr0) -> bool {
    let avx512 = value & Xcr0::AVX512;
    value.bits() & !supported.bits() == 0
        && value.contains(Xcr0::X87)
        && (!value.contains(Xcr0::AVX) || value.contains(Xcr0::SSE))
        && (avx512.is_empty() || avx512 == Xcr0::AVX512 && value.contains(Xcr0::AVX))
}

fn require_pke(cpu: &mut Cpu) -> Exec {
    if !cpu.state.cr4.contains(Cr4::PKE) {
        return Err(cpu.ud());
    }
    if ecx(cpu) == 0 { Ok(()) } else { Err(cpu.gp0()) }
}

fn rdpkru(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    require_pke(cpu)?;
    set_edx_eax(cpu, u64::from(cpu.state.fpu.pkru));
    Ok(())
}

fn wrpkru(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    require_pke(cpu)?;
    let value = edx_eax(cpu);
    if value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.state.fpu.pkru = value as u32;
    cpu.paging_changed();
    Ok(())
}
