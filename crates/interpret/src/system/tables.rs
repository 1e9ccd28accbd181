//! LGDT, LIDT, SGDT and SIDT (SDM 2A "LGDT/LIDT", 2B "SGDT").

use engine::Callout;
use iced_x86::{Code, Instruction, Mnemonic};
use x86::DescriptorTable;

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let handler: Handler = match instruction.mnemonic() {
        M::Lgdt => lgdt,
        M::Lidt => lidt,
        M::Sgdt => sgdt,
        M::Sidt => sidt,
        _ => return None,
    };
    // Loads of tables serialize.
    Some((handler, Flow::End))
}

/// Reads limit and base; with 16-bit operands the base has 24 bits.
fn load_table(cpu: &mut Cpu, insn: &Insn) -> Exec<DescriptorTable> {
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::SystemInstruction);
    let segment = insn.address.segment;
    let offset = cpu.effective_address(insn);
    let second = offset.wrapping_add(2) & insn.address.mask;
    let limit: u16 = cpu.read(segment, offset)?;
    let base = match insn.full.as_ref().map(|full| full.code()) {
        Some(Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) => {
            u64::from(cpu.read::<u32>(segment, second)?) & 0xff_ffff
        }
        Some(Code::Lgdt_m1664 | Code::Lidt_m1664) => cpu.read::<u64>(segment, second)?,
        _ => u64::from(cpu.read::<u32>(segment, second)?),
    };
    if cpu.long && !cpu.loadable(base) {
        return Err(cpu.gp0());
    }
    Ok(DescriptorTable { base, limit })
}

fn lgdt(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.state.gdtr = load_table(cpu, insn)?;
    Ok(())
}

fn lidt(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.state.idtr = load_table(cpu, insn)?;
    Ok(())
}

/// The whole base is stored whatever the operand size, as processors since the
/// 80386 do.
fn store_table(cpu: &mut Cpu, insn: &Insn, table: DescriptorTable) -> Exec {
    cpu.require_no_umip()?;
    cpu.stats.count(Callout::SystemInstruction);
    let segment = insn.address.segment;
    let offset = cpu.effective_address(insn);
    let size = if cpu.long { 10 } else { 6 };
    cpu.probe_write(segment, offset, size)?;
    let second = offset.wrapping_add(2) & insn.address.mask;
    cpu.write(segment, offset, table.limit)?;
    if cpu.long {
        cpu.write(segment, second, table.base)
    } else {
        cpu.write(segment, second, table.base as u32)
    }
}

fn sgdt(cpu: &mut Cpu, insn: &Insn) -> Exec {
    store_table(cpu, insn, cpu.state.gdtr)
}

fn sidt(cpu: &mut Cpu, insn: &Insn) -> Exec {
    store_table(cpu, insn, cpu.state.idtr)
}
