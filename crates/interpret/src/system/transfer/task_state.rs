//! Task states in memory: saving the old one, loading the new one (SDM 3A 7.2.1,
//! 7.3 steps 5 to 13).

use x86::descriptor::Descriptor;
use x86::descriptor::tss::{TssKind, tss16, tss32};
use x86::paging::load_pdptes;
use x86::{Cr0, Cr4, Dr7, Exception, Rflags, Segment, SegmentName, Selector, SystemType};

use super::segments::v86_segment;
use super::stacks::null_stack;
use super::task::Leaving;
use crate::cpu::{Cpu, Exec};
use crate::tlb::View;

/// Upper halves of general registers that a 16-bit TSS does not hold.
const UPPER_HALF: u64 = 0xffff_0000;
/// The breakpoint enables that belong to a task.
const LOCAL_ENABLES: Dr7 = Dr7::from_bits_retain(0x155);

/// A task as its TSS holds it.
pub(super) struct Image {
    cr3: Option<u64>,
    pub(super) rip: u64,
    pub(super) flags: Rflags,
    gpr: [u64; 8],
    /// By number; FS and GS are null in a 16-bit TSS.
    segments: [Selector; 6],
    ldt: Selector,
    pub(super) debug_trap: bool,
}

/// The layout of the current TSS.
fn current_kind(cpu: &Cpu) -> TssKind {
    let kind = SystemType::from_kind(cpu.state.tr.attributes.kind());
    kind.and_then(|kind| TssKind::of(kind, false)).unwrap_or(TssKind::Bits32)
}

/// Makes sure that all that a switch touches is there (step 4).
pub(super) fn probe(cpu: &mut Cpu, base: u64, kind: TssKind, selector: Selector) -> Exec {
    let old = cpu.state.tr;
    let old_size = u64::from(current_kind(cpu).min_limit()) + 1;
    cpu.probe_linear(View::Supervisor, old.base, old_size, true)?;
    cpu.probe_linear(View::Supervisor, base, u64::from(kind.min_limit()) + 1, false)?;
    cpu.probe_linear(View::Supervisor, base, 2, true)?;
    for tss in [old.selector, selector] {
        if let Some(at) = cpu.descriptor_address(tss, 8) {
            cpu.probe_linear(View::Supervisor, at, 8, true)?;
        }
    }
    Ok(())
}

/// The PDPTEs of the new task, where PAE paging loads them with CR3.
pub(super) fn check_paging(cpu: &mut Cpu, base: u64, kind: TssKind) -> Exec<Option<[u64; 4]>> {
    let pae = cpu.state.cr0.contains(Cr0::PG) && cpu.state.cr4.contains(Cr4::PAE);
    if kind != TssKind::Bits32 || !pae {
        return Ok(None);
    }
    let cr3 = cpu.read_system::<u32>(base.wrapping_add(tss32::CR3))?;
    match load_pdptes(&cpu.memory, u64::from(cr3), cpu.cpuid.phys_bits()) {
        Ok(entries) => Ok(Some(entries)),
        Err(fault) => Err(cpu.raise(fault)),
    }
}

/// Saves the current task in its TSS.
pub(super) fn save(cpu: &mut Cpu, leaving: Leaving) -> Exec {
    let base = cpu.state.tr.base;
    let segments = cpu.state.segments.map(|segment| segment.selector.0);
    let gpr = cpu.state.gpr;
    let at = |offset: u64, index: usize, step: u64| base.wrapping_add(offset + index as u64 * step);
    if current_kind(cpu) == TssKind::Bits16 {
        cpu.write_system(at(tss16::IP, 0, 0), leaving.rip as u16)?;
        cpu.write_system(at(tss16::FLAGS, 0, 0), leaving.flags.bits() as u16)?;
        for (index, value) in gpr.into_iter().take(8).enumerate() {
            cpu.write_system(at(tss16::AX, index, 2), value as u16)?;
        }
        for (index, selector) in segments.into_iter().take(4).enumerate() {
            cpu.write_system(at(tss16::ES, index, 2), selector)?;
        }
        return Ok(());
    }
    cpu.write_system(at(tss32::EIP, 0, 0), leaving.rip as u32)?;
    cpu.write_system(at(tss32::EFLAGS, 0, 0), leaving.flags.bits() as u32)?;
    for (index, value) in gpr.into_iter().take(8).enumerate() {
        cpu.write_system(at(tss32::EAX, index, 4), value as u32)?;
    }
    for (index, selector) in segments.into_iter().enumerate() {
        cpu.write_system(at(tss32::ES, index, 4), selector)?;
    }
    Ok(())
}

/// Reads the new task.
pub(super) fn read(cpu: &mut Cpu, base: u64, kind: TssKind) -> Exec<Image> {
    if kind == TssKind::Bits16 { read16(cpu, base) } else { read32(cpu, base) }
}

fn read16(cpu: &mut Cpu, base: u64) -> Exec<Image> {
    let mut word = |offset: u64| cpu.read_system::<u16>(base.wrapping_add(offset));
    let mut gpr = [0; 8];
    for (index, value) in gpr.iter_mut().enumerate() {
        *value = UPPER_HALF | u64::from(word(tss16::AX + index as u64 * 2)?);
    }
    let mut segments = [Selector::NULL; 6];
    for (index, selector) in segments.iter_mut().take(4).enumerate() {
        *selector = Selector(word(tss16::ES + index as u64 * 2)?);
    }
    Ok(Image {
        cr3: None,
        rip: u64::from(word(tss16::IP)?),
        flags: Rflags::from_bits_retain(u64::from(word(tss16::FLAGS)?)),
        gpr,
        segments,
        ldt: Selector(word(tss16::LDT)?),
        debug_trap: false,
    })
}

fn read32(cpu: &mut Cpu, base: u64) -> Exec<Image> {
    let mut dword = |offset: u64| cpu.read_system::<u32>(base.wrapping_add(offset)).map(u64::from);
    let mut gpr = [0; 8];
    for (index, value) in gpr.iter_mut().enumerate() {
        *value = dword(tss32::EAX + index as u64 * 4)?;
    }
    let mut segments = [Selector::NULL; 6];
    for (index, selector) in segments.iter_mut().enumerate() {
        *selector = Selector(dword(tss32::ES + index as u64 * 4)? as u16);
    }
    Ok(Image {
        cr3: Some(dword(tss32::CR3)?),
        rip: dword(tss32::EIP)?,
        flags: Rflags::from_bits_retain(dword(tss32::EFLAGS)?),
        gpr,
        segments,
        ldt: Selector(dword(tss32::LDT)? as u16),
        debug_trap: dword(tss32::DEBUG_TRAP)? & 1 != 0,
    })
}

/// Makes the new task the current one. Its segments have their selectors only:
/// whatever is wrong with them is a fault of the new task.
pub(super) fn load(cpu: &mut Cpu, image: &Image, pdptes: Option<[u64; 4]>) {
    let state = &mut cpu.state;
    state.gpr[..8].copy_from_slice(&image.gpr);
    state.rflags = image.flags.intersection(Rflags::DEFINED) | Rflags::FIXED;
    state.rip = image.rip;
    for (segment, &selector) in state.segments.iter_mut().zip(&image.segments) {
        *segment = Segment::null(selector);
    }
    let [_, cs, ss, ..] = image.segments;
    *state.segment_mut(SegmentName::Ss) = Segment { selector: ss, ..null_stack(cs.rpl()) };
    state.ldtr = Segment::null(image.ldt);
    state.cr0.insert(Cr0::TS);
    state.dr7.remove(LOCAL_ENABLES);
    cpu.next_rip = image.rip;
    if let Some(cr3) = image.cr3.filter(|_| cpu.state.cr0.contains(Cr0::PG)) {
        cpu.state.cr3 = cr3;
        if let Some(pdptes) = pdptes {
            cpu.state.pdpte = pdptes;
        }
        cpu.paging_changed();
    }
    cpu.refresh();
}

/// Loads and checks the new task's LDT and segments.
pub(super) fn load_segments(cpu: &mut Cpu, image: &Image) -> Exec {
    load_ldt(cpu, image.ldt)?;
    if cpu.state.virtual_8086() {
        for (segment, &selector) in cpu.state.segments.iter_mut().zip(&image.segments) {
            *segment = v86_segment(selector.0);
        }
        cpu.refresh();
        return Ok(());
    }
    let [es, cs, ss, ds, fs, gs] = image.segments;
    load_code(cpu, cs)?;
    load_stack(cpu, ss, cs.rpl())?;
    for (name, selector) in
        [(SegmentName::Ds, ds), (SegmentName::Es, es), (SegmentName::Fs, fs), (SegmentName::Gs, gs)]
    {
        load_data(cpu, name, selector)?;
    }
    Ok(())
}

fn load_ldt(cpu: &mut Cpu, selector: Selector) -> Exec {
    if selector.is_null() {
        return Ok(());
    }
    if selector.is_ldt() {
        return cpu.selector_fault(Exception::ts, selector);
    }
    let descriptor = cpu.descriptor(selector, Exception::ts)?;
    if descriptor.system_type() != Some(SystemType::Ldt) || !descriptor.present() {
        return cpu.selector_fault(Exception::ts, selector);
    }
    cpu.state.ldtr = descriptor.segment(selector);
    Ok(())
}

/// A descriptor that must be named by a selector that is not null: #TS.
fn required(cpu: &mut Cpu, selector: Selector) -> Exec<Descriptor> {
    if selector.is_null() {
        return cpu.selector_fault(Exception::ts, selector);
    }
    cpu.descriptor(selector, Exception::ts)
}

fn set(cpu: &mut Cpu, name: SegmentName, selector: Selector, descriptor: Descriptor) -> Exec {
    *cpu.state.segment_mut(name) = cpu.access(selector, descriptor)?;
    cpu.refresh();
    Ok(())
}

fn load_code(cpu: &mut Cpu, selector: Selector) -> Exec {
    let descriptor = required(cpu, selector)?;
    let (attributes, rpl) = (descriptor.attributes(), selector.rpl());
    let allowed = if attributes.is_conforming() { attributes.dpl() <= rpl } else { attributes.dpl() == rpl };
    if !attributes.is_code() || !allowed {
        return cpu.selector_fault(Exception::ts, selector);
    }
    cpu.check_present(selector, descriptor)?;
    set(cpu, SegmentName::Cs, selector, descriptor)
}

fn load_stack(cpu: &mut Cpu, selector: Selector, cpl: u8) -> Exec {
    let descriptor = required(cpu, selector)?;
    let attributes = descriptor.attributes();
    if !attributes.is_writable() || attributes.dpl() != cpl || selector.rpl() != cpl {
        return cpu.selector_fault(Exception::ts, selector);
    }
    if !attributes.present() {
        return cpu.selector_fault(Exception::ss, selector);
    }
    set(cpu, SegmentName::Ss, selector, descriptor)
}

fn load_data(cpu: &mut Cpu, name: SegmentName, selector: Selector) -> Exec {
    if selector.is_null() {
        return Ok(());
    }
    let descriptor = cpu.descriptor(selector, Exception::ts)?;
    let attributes = descriptor.attributes();
    let allowed = attributes.is_conforming() || cpu.cpl().max(selector.rpl()) <= attributes.dpl();
    if !attributes.is_readable() || !allowed {
        return cpu.selector_fault(Exception::ts, selector);
    }
    cpu.check_present(selector, descriptor)?;
    set(cpu, name, selector, descriptor)
}
