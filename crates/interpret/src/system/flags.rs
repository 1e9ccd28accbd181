//! PUSHF, POPF, CLI, STI, CLAC and STAC: the flags that guest and host must
//! not share (SDM 2B "PUSHF", "POPF", 2A "CLI", "STI", 3B 21.3).

use iced_x86::{Code, Instruction, Mnemonic};
use x86::{Cr4, Exception, InterruptShadow, Rflags};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let (handler, flow): (Handler, Flow) = match instruction.mnemonic() {
        M::Pushf | M::Pushfd | M::Pushfq => (pushf, Flow::Next),
        M::Popf | M::Popfd | M::Popfq => (popf, Flow::End),
        M::Cli => (cli, Flow::Next),
        M::Sti => (sti, Flow::End),
        M::Clac => (|cpu, _| set_ac(cpu, false), Flow::Next),
        M::Stac => (|cpu, _| set_ac(cpu, true), Flow::Next),
        _ => return None,
    };
    Some((handler, flow))
}

fn operand_bytes(insn: &Insn) -> u8 {
    match insn.full.as_ref().map(|full| full.code()) {
        Some(Code::Pushfw | Code::Popfw) => 2,
        Some(Code::Pushfd | Code::Popfd) => 4,
        _ => 8,
    }
}

/// Whether IOPL keeps the current code from IF.
fn iopl_forbids(cpu: &Cpu) -> bool {
    cpu.state.protected_mode() && cpu.cpl() > cpu.state.rflags.iopl()
}

fn pushf(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = operand_bytes(insn);
    let mut image = cpu.state.rflags.difference(Rflags::VM.union(Rflags::RF));
    if cpu.state.virtual_8086() && cpu.state.rflags.iopl() < 3 {
        if bytes != 2 || !cpu.state.cr4.contains(Cr4::VME) {
            return Err(cpu.gp0());
        }
        // The program sees its virtual interrupt flag, and IOPL 3.
        image.set(Rflags::IF, image.contains(Rflags::VIF));
        image.insert(Rflags::IOPL);
    }
    cpu.push(bytes, image.bits())
}

fn popf(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let bytes = operand_bytes(insn);
    let virtual_8086 = cpu.state.virtual_8086();
    let old = cpu.state.rflags;
    if virtual_8086 && old.iopl() < 3 {
        return popf_vme(cpu, bytes);
    }
    let image = Rflags::from_bits_retain(cpu.pop(bytes)?);
    let mut settable = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
    if bytes > 2 {
        settable |= Rflags::AC | Rflags::ID;
    }
    if !iopl_forbids(cpu) {
        settable |= Rflags::IF;
    }
    if cpu.cpl() == 0 {
        settable |= Rflags::IOPL;
    }
    cpu.state.rflags = old.difference(settable).difference(Rflags::RF) | image.intersection(settable);
    if bytes > 2 && cpu.cpl() == 0 {
        cpu.state.rflags.remove(Rflags::VIF | Rflags::VIP);
    }
    cpu.refresh_view();
    Ok(())
}

/// POPF in virtual-8086 mode below IOPL 3 (SDM 2B "POPF", table 4-21).
fn popf_vme(cpu: &mut Cpu, bytes: u8) -> Exec {
    if bytes != 2 || !cpu.state.cr4.contains(Cr4::VME) {
        return Err(cpu.gp0());
    }
    let sp = cpu.stack_pointer();
    let image = Rflags::from_bits_retain(u64::from(cpu.read::<u16>(x86::SegmentName::Ss, sp)?));
    let old = cpu.state.rflags;
    if image.contains(Rflags::IF) && old.contains(Rflags::VIP) || image.contains(Rflags::TF) {
        return Err(cpu.gp0());
    }
    let settable = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
    cpu.state.rflags = old.difference(settable.union(Rflags::RF)) | image.intersection(settable);
    cpu.state.rflags.set(Rflags::VIF, image.contains(Rflags::IF));
    cpu.set_stack_pointer(sp.wrapping_add(2));
    Ok(())
}

/// Whether CLI and STI work on VIF instead: VME in virtual-8086 mode, PVI at
/// CPL 3 (SDM 3B 21.4).
fn virtual_interrupts(cpu: &Cpu) -> bool {
    if cpu.state.virtual_8086() {
        cpu.state.cr4.contains(Cr4::VME)
    } else {
        cpu.cpl() == 3 && cpu.state.cr4.contains(Cr4::PVI)
    }
}

fn cli(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if !iopl_forbids(cpu) {
        cpu.state.rflags.remove(Rflags::IF);
        return Ok(());
    }
    if !virtual_interrupts(cpu) {
        return Err(cpu.gp0());
    }
    cpu.state.rflags.remove(Rflags::VIF);
    Ok(())
}

fn sti(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    if !iopl_forbids(cpu) {
        if !cpu.state.rflags.contains(Rflags::IF) {
            cpu.state.rflags.insert(Rflags::IF);
            cpu.state.interrupt_shadow = InterruptShadow::Sti;
        }
        return Ok(());
    }
    if !virtual_interrupts(cpu) || cpu.state.rflags.contains(Rflags::VIP) {
        return Err(cpu.gp0());
    }
    cpu.state.rflags.insert(Rflags::VIF);
    Ok(())
}

/// CLAC and STAC are #UD at any CPL but 0 (SDM 2A "CLAC").
fn set_ac(cpu: &mut Cpu, on: bool) -> Exec {
    if cpu.cpl() != 0 {
        return Err(cpu.raise(Exception::UD));
    }
    cpu.state.rflags.set(Rflags::AC, on);
    cpu.refresh_view();
    Ok(())
}
