//! Control and debug registers (SDM 3A 2.5, 3B 18.2).

use engine::Callout;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::paging::load_pdptes;
use x86::{Cr0, Cr4, Dr6, Dr7, Efer, Exception, SegmentName, Vector};

use crate::cpu::{Cpu, Exec};
use crate::decode::{Choice, Flow};
use crate::insn::{Handler, Insn};

/// CR0 bits that exist.
const CR0_DEFINED: u64 = 0xe005_003f;
/// Bits of CR3 that a PCID takes.
const PCID: u64 = 0xfff;
/// CR3: keep the TLB entries of the new PCID.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// CR0 and CR4 bits that change how addresses are translated.
const CR0_PAGING: Cr0 = Cr0::PG.union(Cr0::WP).union(Cr0::PE);
const CR4_PAGING: Cr4 = Cr4::PAE
    .union(Cr4::PSE)
    .union(Cr4::PGE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .union(Cr4::PCIDE)
    .union(Cr4::LA57)
    .union(Cr4::PKE);
/// CR0 and CR4 bits whose change reloads the PDPTEs (SDM 3A 4.4.1).
const CR0_PDPTE: Cr0 = Cr0::CD.union(Cr0::NW).union(Cr0::PG);
const CR4_PDPTE: Cr4 = Cr4::PAE.union(Cr4::PGE).union(Cr4::PSE).union(Cr4::SMEP);

/// The handler, if the instruction is one of these.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    let register = |op| {
        if instruction.op_count() > op && instruction.op_kind(op) == OpKind::Register {
            instruction.op_register(op)
        } else {
            Register::None
        }
    };
    let (first, second) = (register(0), register(1));
    let handler: Handler = match instruction.mnemonic() {
        M::Mov if second.is_cr() => read_cr,
        M::Mov if first.is_cr() => write_cr,
        M::Mov if second.is_dr() => read_dr,
        M::Mov if first.is_dr() => write_dr,
        M::Mov if first.is_tr() || second.is_tr() => super::undefined,
        M::Lmsw => lmsw,
        M::Smsw => smsw,
        M::Clts => clts,
        _ => return None,
    };
    Some((handler, Flow::End))
}

/// The number of the control or debug register, and of the general one.
fn numbers(insn: &Insn, special: u32) -> (usize, u8) {
    let Some(full) = insn.full.as_deref() else { return (16, 0) };
    (full.op_register(special).number(), full.op_register(1 - special).number() as u8)
}

/// These moves have the size of the mode, whatever the prefixes say.
fn move_bytes(cpu: &Cpu) -> u8 {
    if cpu.long { 8 } else { 4 }
}

fn read_cr(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (number, reg) = numbers(insn, 1);
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::ControlRegister);
    let value = match number {
        0 => cpu.state.cr0.bits(),
        2 => cpu.state.cr2,
        3 => cpu.state.cr3,
        4 => cpu.state.cr4.bits(),
        8 => u64::from(cpu.platform().task_priority(cpu.id)),
        _ => return Err(cpu.ud()),
    };
    cpu.set_reg(reg, move_bytes(cpu), value);
    Ok(())
}

fn write_cr(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (number, reg) = numbers(insn, 0);
    cpu.require_cpl0()?;
    cpu.stats.count(Callout::ControlRegister);
    let value = cpu.reg(reg, move_bytes(cpu));
    match number {
        0 => cpu.write_cr0(value),
        2 => {
            cpu.state.cr2 = value;
            Ok(())
        }
        3 => cpu.write_cr3(value),
        4 => cpu.write_cr4(value),
        8 if value > 15 => Err(cpu.gp0()),
        8 => {
            cpu.platform().set_task_priority(cpu.id, value as u8);
            Ok(())
        }
        _ => Err(cpu.ud()),
    }
}

impl Cpu {
    /// MOV to CR0 with all its rules.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Exec {
        let old = self.state.cr0;
        if value >> 32 != 0 {
            return Err(self.gp0());
        }
        let new = Cr0::from_bits_retain(value & CR0_DEFINED) | Cr0::ET;
        let paging = new.contains(Cr0::PG);
        let enters = paging && !old.contains(Cr0::PG);
        let leaves = !paging && old.contains(Cr0::PG);
        let long = self.state.efer.contains(Efer::LME);
        let impossible = paging && !new.contains(Cr0::PE)
            || new.contains(Cr0::NW) && !new.contains(Cr0::CD)
            || enters && long && (!self.state.cr4.contains(Cr4::PAE) || self.code_segment_is_long())
            || leaves && (self.long || self.state.cr4.contains(Cr4::PCIDE));
        if impossible {
            return Err(self.gp0());
        }
        if !long && paging && self.state.cr4.contains(Cr4::PAE) && (old ^ new).intersects(CR0_PDPTE) {
            self.load_pdptes(self.state.cr3)?;
        }
        self.state.cr0 = new;
        if enters && long {
            self.state.efer.insert(Efer::LMA);
        }
        if leaves {
            self.state.efer.remove(Efer::LMA);
        }
        // The paging digest holds the PDPTEs.
        if (old ^ new).intersects(CR0_PAGING | CR0_PDPTE) {
            self.paging_changed();
        }
        self.refresh();
        Ok(())
    }

    fn code_segment_is_long(&self) -> bool {
        self.state.segment(SegmentName::Cs).attributes.long()
    }

    /// MOV to CR3 with all its rules.
    pub(crate) fn write_cr3(&mut self, value: u64) -> Exec {
        let pcids = self.state.cr4.contains(Cr4::PCIDE);
        let keep = pcids && value & CR3_NO_FLUSH != 0;
        let value = if pcids { value & !CR3_NO_FLUSH } else { value };
        if self.state.long_mode() {
            if value >> self.cpuid.phys_bits() != 0 {
                return Err(self.gp0());
            }
        } else if self.state.cr0.contains(Cr0::PG) && self.state.cr4.contains(Cr4::PAE) {
            self.load_pdptes(value)?;
        }
        self.state.cr3 = value;
        self.space_changed(keep);
        Ok(())
    }

    /// MOV to CR4 with all its rules.
    pub(crate) fn write_cr4(&mut self, value: u64) -> Exec {
        let old = self.state.cr4;
        let new = Cr4::from_bits_retain(value);
        let changed = old ^ new;
        let sets = |bit| new.contains(bit) && !old.contains(bit);
        let long = self.state.long_mode();
        let impossible = value & !self.cpuid.features().cr4().bits() != 0
            || long && changed.intersects(Cr4::PAE.union(Cr4::LA57))
            || sets(Cr4::PCIDE) && (!long || self.state.cr3 & PCID != 0);
        if impossible {
            return Err(self.gp0());
        }
        let pae = !long && self.state.cr0.contains(Cr0::PG) && new.contains(Cr4::PAE);
        if pae && changed.intersects(CR4_PDPTE) {
            self.load_pdptes(self.state.cr3)?;
        }
        self.state.cr4 = new;
        if changed.intersects(CR4_PAGING) {
            self.paging_changed();
        }
        self.refresh();
        Ok(())
    }

    /// Loads the four entries that PAE paging keeps in the processor.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Exec {
        match load_pdptes(&self.memory, cr3, self.cpuid.phys_bits()) {
            Ok(entries) => {
                self.state.pdpte = entries;
                Ok(())
            }
            Err(fault) => Err(self.raise(fault)),
        }
    }
}

/// LMSW can set PE and never clear it (SDM 2A "LMSW").
fn lmsw(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    let value = cpu.operand16(insn)?;
    let old = cpu.state.cr0.bits();
    let new = old & !0xe | u64::from(value) & 0xe | (old | u64::from(value)) & 1;
    cpu.write_cr0(new)
}

fn smsw(cpu: &mut Cpu, insn: &Insn) -> Exec {
    cpu.require_no_umip()?;
    let value = cpu.state.cr0.bits();
    cpu.store_selector(insn, value)
}

fn clts(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    cpu.require_cpl0()?;
    cpu.state.cr0.remove(Cr0::TS);
    Ok(())
}

impl Cpu {
    /// The 16-bit register or memory operand of LMSW, LLDT and their kin.
    pub(crate) fn operand16(&mut self, insn: &Insn) -> Exec<u16> {
        if insn.mem_size > 0 { self.load::<u16>(insn) } else { Ok(self.reg(insn.reg1, 2) as u16) }
    }

    /// Stores as SMSW, SLDT and STR do: 16 bits to memory, the operand's size
    /// to a register.
    pub(crate) fn store_selector(&mut self, insn: &Insn, value: u64) -> Exec {
        if insn.mem_size > 0 {
            self.store(insn, value as u16)
        } else {
            self.set_reg(insn.reg1, insn.size, value);
            Ok(())
        }
    }

    /// #GP(0) if user-mode instruction prevention forbids SGDT and its kin.
    pub(crate) fn require_no_umip(&mut self) -> Exec {
        if self.cpl() != 0 && self.state.cr4.contains(Cr4::UMIP) { Err(self.gp0()) } else { Ok(()) }
    }
}

/// DR4 and DR5 are aliases of DR6 and DR7 unless CR4.DE is set.
fn debug_register(cpu: &mut Cpu, number: usize) -> Exec<usize> {
    let number = match number {
        4 | 5 if cpu.state.cr4.contains(Cr4::DE) => return Err(cpu.ud()),
        4 | 5 => number + 2,
        0..=7 => number,
        _ => return Err(cpu.ud()),
    };
    cpu.require_cpl0()?;
    if cpu.state.dr7.contains(Dr7::GD) {
        cpu.state.dr7.remove(Dr7::GD);
        cpu.state.dr6.insert(Dr6::BD);
        return Err(cpu.raise(Exception::plain(Vector::DB)));
    }
    Ok(number)
}

fn read_dr(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (number, reg) = numbers(insn, 1);
    let number = debug_register(cpu, number)?;
    let value = match number {
        6 => cpu.state.dr6.bits(),
        7 => cpu.state.dr7.bits(),
        _ => cpu.state.dr[number & 3],
    };
    cpu.set_reg(reg, move_bytes(cpu), value);
    Ok(())
}

fn write_dr(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (number, reg) = numbers(insn, 0);
    let number = debug_register(cpu, number)?;
    let value = cpu.reg(reg, move_bytes(cpu));
    if number >= 6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    match number {
        6 => {
            let always_set = Dr6::RESET.bits();
            let settable = Dr6::B.union(Dr6::BD).union(Dr6::BS).union(Dr6::BT).bits();
            cpu.state.dr6 = Dr6::from_bits_retain(always_set | value & settable);
        }
        7 => cpu.state.dr7 = Dr7::from_bits_retain(value & 0xffff_2bff) | Dr7::FIXED,
        _ => cpu.state.dr[number & 3] = value,
    }
    cpu.refresh();
    Ok(())
}
