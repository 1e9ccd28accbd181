//! Memory operands of which a mask selects elements: EVEX masks, VMASKMOV and
//! VPMASKMOV, compressing stores and expanding loads. Elements that are not
//! selected are not accessed and cannot fault (SDM 1 15.6.4).
//!
//! Which elements an instruction selects, and whether it suppresses faults at
//! all, the host knows best: where a page of the operand cannot be accessed,
//! the host executes the instruction beside a page that it cannot access
//! either.

use std::ops::Range;

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};
use x86::cpuid::Habit;
use x86::{Exception, Vector};

use crate::cpu::{Break, Cpu, Exec};
use crate::insn::{Handler, Insn};
use crate::native::Hole;
use crate::ops::native::{Operand, Touch, Unit};

/// The longest operand: a whole ZMM register.
const MAX: usize = 64;

/// How to execute an instruction with a masked memory operand.
pub(crate) struct Masked {
    pub(crate) handler: Handler,
    /// Bytes of memory that it accesses at most.
    pub(crate) size: u16,
}

/// Whether the instruction, which has a thunk, has a masked memory operand.
pub(crate) fn masked(instruction: &Instruction) -> Option<Masked> {
    let position = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)?;
    let evex = instruction.code().op_code().encoding() == EncodingKind::EVEX;
    let by_opmask = evex && instruction.op_mask() != Register::None;
    let packs = packs(instruction.mnemonic());
    if !by_opmask && !packs && !is_vex_maskmov(instruction.mnemonic()) {
        return None;
    }
    let register = (0..instruction.op_count())
        .filter(|&op| instruction.op_kind(op) == OpKind::Register)
        .map(|op| instruction.op_register(op))
        .find(|register| register.is_vector_register());
    let size = match register {
        Some(register) if packs => register.size(),
        _ => instruction.memory_size().size(),
    };
    let handler = if position == 0 { store } else { load };
    Some(Masked { handler, size: size.min(MAX) as u16 })
}

/// Compressing and expanding moves: as much memory as the mask has bits.
pub(crate) fn packs(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vcompressps
            | M::Vcompresspd
            | M::Vpcompressb
            | M::Vpcompressw
            | M::Vpcompressd
            | M::Vpcompressq
            | M::Vexpandps
            | M::Vexpandpd
            | M::Vpexpandb
            | M::Vpexpandw
            | M::Vpexpandd
            | M::Vpexpandq
    )
}

fn is_vex_maskmov(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(mnemonic, M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq)
}

/// What of an operand can be accessed.
#[derive(Clone, Copy)]
struct Reach {
    /// The fault of the first page.
    first: Option<Exception>,
    /// The fault of the second page, if there is one.
    second: Option<Exception>,
    /// Bytes in the first page.
    in_first: u64,
    /// Bytes of an element, and its fault if it lies in both pages.
    between: Option<(u64, Exception)>,
}

/// What stands between an operand and the instruction.
struct Gap {
    hole: Hole,
    reach: Reach,
    /// The bytes that can be accessed.
    there: Range<usize>,
}

impl Reach {
    /// Nothing can be accessed.
    fn nothing(fault: Exception, operand: &Operand) -> Self {
        Self { first: Some(fault), second: Some(fault), in_first: in_first(operand), between: None }
    }

    fn of(cpu: &mut Cpu, operand: &Operand, write: bool) -> Exec<Self> {
        let in_first = in_first(operand);
        let first = fault_of(cpu, operand, 0..in_first, write)?;
        let second = if in_first < operand.size {
            fault_of(cpu, operand, in_first..operand.size, write)?
        } else {
            None
        };
        Ok(Self { first, second, in_first, between: None })
    }

    /// The gap, unless all can be accessed.
    fn gap(self, operand: &Operand) -> Option<Gap> {
        let (split, end) = (self.in_first as usize, operand.size as usize);
        let (hole, there) = match (&self.first, &self.second) {
            (None, None) => return None,
            (None, Some(_)) => (Hole::Second, 0..split),
            (Some(_), None) if split < end => (Hole::First, split..end),
            (Some(_), _) => (Hole::Both, 0..0),
        };
        Some(Gap { hole, reach: self, there })
    }

    /// The fault of the byte that is `offset` bytes into the operand.
    fn fault_at(&self, operand: &Operand, offset: u64, mask: u64) -> Option<Exception> {
        if let Some((element, fault)) = self.between {
            let start = offset - offset % element;
            if (start + 1..start + element).contains(&self.in_first) {
                return Some(fault);
            }
        }
        let fault = if offset < self.in_first { self.first } else { self.second }?;
        let cr2 = fault.cr2.map(|_| operand.lin.wrapping_add(offset) & mask);
        Some(Exception { cr2, ..fault })
    }
}

/// Bytes of the operand in its first page.
fn in_first(operand: &Operand) -> u64 {
    operand.size.min(0x1000 - (operand.lin & 0xfff))
}

/// Why the part of the operand, in one page, cannot be accessed.
fn fault_of(cpu: &mut Cpu, operand: &Operand, part: Range<u64>, write: bool) -> Exec<Option<Exception>> {
    let lin = operand.lin.wrapping_add(part.start) & cpu.linear_mask;
    match cpu.reach(operand, lin, part.end - part.start, write) {
        Ok(()) => Ok(None),
        Err(Break::Fault) => Ok(Some(cpu.fault)),
        Err(other) => Err(other),
    }
}

/// The operand, with its fault if it is outside its segment.
fn prepare(cpu: &mut Cpu, insn: &Insn, write: bool) -> Exec<(Operand, Option<Exception>)> {
    cpu.require(Unit::from_number(insn.reg1))?;
    let Some(thunk) = insn.thunk else { return Err(cpu.ud()) };
    let size = u64::from(insn.mem_size).clamp(1, MAX as u64);
    let segment = insn.address.segment;
    let offset = cpu.effective_address(insn);
    match cpu.linear(segment, offset, size, write) {
        Ok(lin) => Ok((Operand { thunk, segment, lin, size }, None)),
        Err(_) => {
            let lin = cpu.without_checks(segment, offset);
            Ok((Operand { thunk, segment, lin, size }, Some(cpu.fault)))
        }
    }
}

/// What of an operand can be accessed, which is outside its segment or not.
fn reach(
    cpu: &mut Cpu,
    insn: &Insn,
    operand: &Operand,
    outside: Option<Exception>,
    write: bool,
) -> Exec<Reach> {
    let matters = cpu.view.aligned() || outside.is_some();
    let element = insn.full.as_deref().filter(|_| matters).and_then(|full| element(cpu, full, operand));
    let parts = element.filter(|_| cpu.ends_at_4_gib(operand.segment, write));
    if let (Some(fault), None) = (outside, parts) {
        return Ok(Reach::nothing(fault, operand));
    }
    let aligned = element.map_or(operand.size, |element| element.aligned);
    let mut reach = if cpu.misaligned(cpu.view, operand.lin, aligned) {
        Reach::nothing(Exception::with_code(Vector::AC, 0), operand)
    } else {
        cpu.unaligned(|cpu| Reach::of(cpu, operand, write))?
    };
    if let (Some(fault), Some(element)) = (outside, parts) {
        reach.between = Some((element.bytes, fault));
        if !element.wraps {
            reach.second = Some(fault);
        }
    }
    Ok(reach)
}

/// An element that is checked for itself.
#[derive(Clone, Copy)]
struct Element {
    bytes: u64,
    /// The size of operands that must be aligned alike.
    aligned: u64,
    /// Behind 4 GiB its address wraps around.
    wraps: bool,
}

/// The elements of the operand, if each is checked for itself and the
/// instruction accesses nothing but those that the mask selects.
#[cold]
fn element(cpu: &mut Cpu, instruction: &Instruction, operand: &Operand) -> Option<Element> {
    if !cpu.cpuid.has_habit(Habit::ChecksMaskedElements) || !selects(cpu, instruction, operand) {
        return None;
    }
    let code = instruction.code().op_code();
    // What the decoder calls an element may be a part of what a bit of the mask
    // stands for, but what can be broadcast is not.
    let bytes = match code.can_broadcast() {
        true => code.broadcast_memory_size().size(),
        false => instruction.memory_size().element_size(),
    };
    let bytes = bytes.max(1) as u64;
    let vex = is_vex_maskmov(instruction.mnemonic());
    let wraps = vex && cpu.cpuid.has_habit(Habit::WrapsMaskedMoves);
    Some(Element { bytes, aligned: if vex { 1 } else { bytes }, wraps })
}

/// Whether the instruction accesses only the elements that its mask selects:
/// whether it accesses nothing with an empty one.
fn selects(cpu: &mut Cpu, instruction: &Instruction, operand: &Operand) -> bool {
    let compresses = packs(instruction.mnemonic()) && instruction.op_kind(0) == OpKind::Memory;
    if compresses || is_vex_maskmov(instruction.mnemonic()) {
        return true;
    }
    let mask = instruction.op_mask();
    let Some(guard) = cpu.bounce.guard().filter(|_| mask != Register::None) else { return false };
    let memory = guard.operand(operand.lin, Hole::Both);
    let fpu = cpu.state.fpu.clone();
    cpu.state.fpu.k[mask.number() & 7] = 0;
    // SAFETY: the operand lies in the guard's hole.
    let outcome = unsafe { cpu.call(operand.thunk, memory) };
    cpu.state.fpu = fpu;
    outcome.is_ok()
}

fn load(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (operand, outside) = prepare(cpu, insn, false)?;
    if outside.is_none()
        && let Some(host) = cpu.tlb.lookup(cpu.view, false, operand.lin, operand.size)
    {
        // SAFETY: the TLB holds only pages of guest RAM, and the operand lies in
        // one page.
        return unsafe { cpu.call(operand.thunk, host) };
    }
    let reach = reach(cpu, insn, &operand, outside, false)?;
    cpu.unaligned(|cpu| match reach.gap(&operand) {
        None => cpu.call_on_copy(&operand, Touch::Load),
        Some(gap) => load_beside(cpu, &operand, &gap),
    })
}

/// Loads from the part of the operand that is there, beside a hole that stands
/// for the rest.
fn load_beside(cpu: &mut Cpu, operand: &Operand, gap: &Gap) -> Exec {
    let mut bytes = [0; MAX];
    let bytes = &mut bytes[..gap.there.len()];
    if !bytes.is_empty() {
        let lin = operand.lin.wrapping_add(gap.there.start as u64) & cpu.linear_mask;
        cpu.read_slow(cpu.view, lin, bytes)?;
    }
    if let Some(guard) = cpu.bounce.guard() {
        guard.part(operand.lin, operand.size as usize, gap.hole).copy_from_slice(bytes);
    }
    call_beside(cpu, operand, gap)
}

/// Calls a thunk beside a hole. Where the host's page fault is in the operand,
/// there is the guest's: at the first element that is selected and cannot be
/// accessed, or wherever the host's processor finds it.
fn call_beside(cpu: &mut Cpu, operand: &Operand, gap: &Gap) -> Exec {
    let Some(guard) = cpu.bounce.guard() else {
        let fault = gap.reach.first.or(gap.reach.second);
        return Err(fault.map_or(Break::Fault, |fault| cpu.raise(fault)));
    };
    let memory = guard.operand(operand.lin, gap.hole);
    // SAFETY: the operand lies in the guard: in its page or in its hole.
    let outcome = unsafe { cpu.call(operand.thunk, memory) };
    outcome.map_err(|cause| {
        let host = cpu.fault.cr2.filter(|_| cause == Break::Fault && cpu.fault.vector == Vector::PF);
        let offset = host.map(|host| host.wrapping_sub(memory as u64));
        let fault = offset.and_then(|offset| gap.reach.fault_at(operand, offset, cpu.linear_mask));
        fault.map_or(cause, |fault| cpu.raise(fault))
    })
}

fn store(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let (operand, outside) = prepare(cpu, insn, true)?;
    if outside.is_none()
        && let Some(host) = cpu.tlb.lookup(cpu.view, true, operand.lin, operand.size)
    {
        // SAFETY: the TLB holds only pages of guest RAM, and the operand lies in
        // one page.
        return unsafe { cpu.call(operand.thunk, host) };
    }
    let hits = cpu.debug_hits;
    let reach = reach(cpu, insn, &operand, outside, true)?;
    // Only what is written counts as touched.
    cpu.debug_hits = hits;
    match reach.gap(&operand) {
        Some(gap) if gap.there.is_empty() => call_beside(cpu, &operand, &gap),
        gap => store_beside(cpu, &operand, gap.as_ref()),
    }
}

/// Stores to the part of the operand that is there. The host stores twice, over
/// zeros and over ones: what is then the same has been written.
fn store_beside(cpu: &mut Cpu, operand: &Operand, gap: Option<&Gap>) -> Exec {
    let size = operand.size as usize;
    let there = gap.map_or(0..size, |gap| gap.there.clone());
    let mut results = [[0; MAX]; 2];
    for (result, fill) in results.iter_mut().zip([0, 0xff]) {
        let result = &mut result[..there.len()];
        match gap {
            None => {
                let copy = cpu.bounce.operand(operand.lin, size);
                copy.fill(fill);
                let memory = copy.as_mut_ptr();
                // SAFETY: the bounce buffer has room for the operand.
                unsafe { cpu.call(operand.thunk, memory) }?;
                result.copy_from_slice(cpu.bounce.operand(operand.lin, size));
            }
            Some(gap) => {
                if let Some(guard) = cpu.bounce.guard() {
                    guard.part(operand.lin, size, gap.hole).fill(fill);
                }
                call_beside(cpu, operand, gap)?;
                if let Some(guard) = cpu.bounce.guard() {
                    result.copy_from_slice(guard.part(operand.lin, size, gap.hole));
                }
            }
        }
    }
    let [zeros, ones] = results;
    for run in runs(there.len(), |at| zeros[at] == ones[at]) {
        let lin = operand.lin.wrapping_add((there.start + run.start) as u64) & cpu.linear_mask;
        cpu.write_slow(cpu.view.unaligned(), lin, &zeros[run])?;
    }
    Ok(())
}

/// The maximal runs of positions below `len` for which `selected` holds.
pub(super) fn runs(len: usize, selected: impl Fn(usize) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = (next..len).find(|&at| selected(at))?;
        let end = (start..len).find(|&at| !selected(at)).unwrap_or(len);
        next = end;
        Some(start..end)
    })
}
