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
use x86::{Exception, Vector};

use crate::cpu::{Break, Cpu, Exec};
use crate::insn::{Handler, Insn};
use crate::native::{Hole, Thunk};
use crate::ops::native::Unit;

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
fn packs(mnemonic: Mnemonic) -> bool {
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
struct Reach {
    /// The fault of the first page.
    first: Option<Exception>,
    /// The fault of the second page, if there is one.
    second: Option<Exception>,
    crosses: bool,
}

impl Reach {
    fn of(cpu: &mut Cpu, lin: u64, size: u64, write: bool) -> Exec<Self> {
        let in_first = size.min(0x1000 - (lin & 0xfff));
        let first = fault_of(cpu, lin, in_first, write)?;
        let crosses = in_first < size;
        let second = if crosses {
            fault_of(cpu, lin.wrapping_add(in_first) & cpu.linear_mask, size - in_first, write)?
        } else {
            None
        };
        Ok(Self { first, second, crosses })
    }
}

/// Why the range, in one page, cannot be accessed. Alignment checks are no
/// matter of the mask.
fn fault_of(cpu: &mut Cpu, lin: u64, size: u64, write: bool) -> Exec<Option<Exception>> {
    match cpu.probe_linear(cpu.view, lin, size, write) {
        Ok(()) => Ok(None),
        Err(Break::Fault) if cpu.fault.vector != Vector::AC => Ok(Some(cpu.fault)),
        Err(other) => Err(other),
    }
}

/// An operand on its way to the host.
struct Operand {
    thunk: Thunk,
    lin: u64,
    size: usize,
}

fn prepare(cpu: &mut Cpu, insn: &Insn, write: bool) -> Exec<Operand> {
    cpu.require(Unit::from_number(insn.reg1))?;
    let Some(thunk) = insn.thunk else { return Err(cpu.ud()) };
    let size = usize::from(insn.mem_size).clamp(1, MAX);
    let offset = cpu.effective_address(insn);
    let lin = cpu.linear(insn.address.segment, offset, size as u64, write)?;
    Ok(Operand { thunk, lin, size })
}

fn load(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let operand = prepare(cpu, insn, false)?;
    if let Some(host) = cpu.tlb.lookup(cpu.view, false, operand.lin, operand.size as u64) {
        return cpu.call(operand.thunk, host);
    }
    load_slowly(cpu, &operand).map_err(|cause| cpu.as_stack_fault(cause, insn.address.segment))
}

fn load_slowly(cpu: &mut Cpu, operand: &Operand) -> Exec {
    let size = operand.size as u64;
    let reach = Reach::of(cpu, operand.lin, size, false)?;
    match (reach.first, reach.second) {
        (None, None) => cpu.call_on_copy(operand.thunk, operand.lin, size, false),
        (None, Some(fault)) => {
            let there = (0x1000 - (operand.lin & 0xfff)) as usize;
            load_beside(cpu, operand, Hole::Second, 0..there, fault)
        }
        (Some(fault), None) if reach.crosses => {
            let gone = (0x1000 - (operand.lin & 0xfff)) as usize;
            load_beside(cpu, operand, Hole::First, gone..operand.size, fault)
        }
        (Some(first), second) => nothing_there(cpu, operand, first, second),
    }
}

/// Loads from the part `there` of the operand, beside a hole that stands for
/// `fault`.
fn load_beside(cpu: &mut Cpu, operand: &Operand, hole: Hole, there: Range<usize>, fault: Exception) -> Exec {
    let mut bytes = [0; MAX];
    let bytes = &mut bytes[..there.len()];
    let lin = operand.lin.wrapping_add(there.start as u64) & cpu.linear_mask;
    cpu.read_slow(cpu.view, lin, bytes)?;
    let Some(guard) = cpu.bounce.guard() else { return Err(cpu.raise(fault)) };
    guard.part(operand.lin, operand.size, hole).copy_from_slice(bytes);
    let memory = guard.operand(operand.lin, hole);
    call_beside(cpu, operand.thunk, memory, fault)
}

/// Calls a thunk; the host's page fault is the guest's `fault`.
fn call_beside(cpu: &mut Cpu, thunk: Thunk, memory: *mut u8, fault: Exception) -> Exec {
    cpu.call(thunk, memory).map_err(|cause| {
        let hit = cause == Break::Fault && cpu.fault.vector == Vector::PF;
        if hit { cpu.raise(fault) } else { cause }
    })
}

/// No page of the operand can be accessed: this is fine if the mask selects
/// nothing. Else the fault is that of the lowest selected element.
fn nothing_there(cpu: &mut Cpu, operand: &Operand, first: Exception, second: Option<Exception>) -> Exec {
    let holes: &[(Hole, Exception)] = match second {
        Some(second) => &[(Hole::First, first), (Hole::Second, second)],
        None => &[(Hole::Both, first)],
    };
    let before = cpu.state.fpu.clone();
    for &(hole, fault) in holes {
        cpu.state.fpu.clone_from(&before);
        let Some(guard) = cpu.bounce.guard() else { return Err(cpu.raise(fault)) };
        let memory = guard.operand(operand.lin, hole);
        if let Err(cause) = call_beside(cpu, operand.thunk, memory, fault) {
            cpu.state.fpu = before;
            return Err(cause);
        }
    }
    Ok(())
}

fn store(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let operand = prepare(cpu, insn, true)?;
    if let Some(host) = cpu.tlb.lookup(cpu.view, true, operand.lin, operand.size as u64) {
        return cpu.call(operand.thunk, host);
    }
    store_slowly(cpu, &operand).map_err(|cause| cpu.as_stack_fault(cause, insn.address.segment))
}

fn store_slowly(cpu: &mut Cpu, operand: &Operand) -> Exec {
    let hits = cpu.debug_hits;
    let reach = Reach::of(cpu, operand.lin, operand.size as u64, true)?;
    // Only what is written counts as touched.
    cpu.debug_hits = hits;
    let split = ((0x1000 - (operand.lin & 0xfff)) as usize).min(operand.size);
    match (reach.first, reach.second) {
        (None, None) => store_beside(cpu, operand, None, 0..operand.size),
        (None, Some(fault)) => store_beside(cpu, operand, Some((Hole::Second, fault)), 0..split),
        (Some(fault), None) if reach.crosses => {
            store_beside(cpu, operand, Some((Hole::First, fault)), split..operand.size)
        }
        (Some(first), second) => nothing_there(cpu, operand, first, second),
    }
}

/// Stores to the part `there` of the operand. The host stores twice, over
/// zeros and over ones: what is then the same has been written.
fn store_beside(
    cpu: &mut Cpu,
    operand: &Operand,
    hole: Option<(Hole, Exception)>,
    there: Range<usize>,
) -> Exec {
    let mut results = [[0; MAX]; 2];
    for (result, fill) in results.iter_mut().zip([0, 0xff]) {
        let result = &mut result[..there.len()];
        result.fill(fill);
        match hole {
            None => {
                let copy = cpu.bounce.operand(operand.lin, operand.size);
                copy.fill(fill);
                let memory = copy.as_mut_ptr();
                cpu.call(operand.thunk, memory)?;
                result.copy_from_slice(cpu.bounce.operand(operand.lin, operand.size));
            }
            Some((hole, fault)) => {
                let Some(guard) = cpu.bounce.guard() else { return Err(cpu.raise(fault)) };
                guard.part(operand.lin, operand.size, hole).fill(fill);
                let memory = guard.operand(operand.lin, hole);
                call_beside(cpu, operand.thunk, memory, fault)?;
                if let Some(guard) = cpu.bounce.guard() {
                    result.copy_from_slice(guard.part(operand.lin, operand.size, hole));
                }
            }
        }
    }
    let [zeros, ones] = results;
    for run in runs(there.len(), |at| zeros[at] == ones[at]) {
        let lin = operand.lin.wrapping_add((there.start + run.start) as u64) & cpu.linear_mask;
        cpu.write_slow(cpu.view, lin, &zeros[run])?;
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
