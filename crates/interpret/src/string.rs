//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, INS and OUTS, with their
//! repeat prefixes (SDM 2B "REP").
//!
//! A repeated instruction leaves exact registers after each element, so that a
//! fault or an interrupt finds it restartable. Plain copies and fills move what
//! lies in one page at once.

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::cpuid::Habit;
use x86::{Gpr, Rflags, SegmentName};

use crate::cpu::{Break, Cpu, Exec, mask};
use crate::decode::{Choice, Flow, operand_segment};
use crate::insn::{Handler, Insn};
use crate::ops::arith::Arith;

/// How the count register takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    Once,
    /// REP, or REPE for comparisons.
    Equal,
    NotEqual,
}

/// What a string instruction works on.
#[derive(Clone, Copy, Debug)]
struct Operation {
    /// Bytes of one element.
    element: u8,
    /// Address size in bytes.
    address: u8,
    /// Segment of the source.
    segment: SegmentName,
    repeat: Repeat,
}

/// The handler, if the instruction is one of these.
pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    use Mnemonic as M;
    if !instruction.is_string_instruction() {
        return None;
    }
    let handler: Handler = match instruction.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => |cpu, insn| repeat(cpu, insn, movs, Some(movs_chunk)),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => |cpu, insn| repeat(cpu, insn, stos, Some(stos_chunk)),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => |cpu, insn| repeat(cpu, insn, lods, None),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => |cpu, insn| repeat(cpu, insn, cmps, None),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => |cpu, insn| repeat(cpu, insn, scas, None),
        M::Insb | M::Insw | M::Insd => |cpu, insn| repeat(cpu, insn, ins, None),
        M::Outsb | M::Outsw | M::Outsd => |cpu, insn| repeat(cpu, insn, outs, None),
        _ => return None,
    };
    Some((handler, Flow::Next))
}

/// Moves one element; true if a repeated comparison goes on after it.
type Element = fn(&mut Cpu, Operation) -> Exec<bool>;
/// Moves up to so many elements at once; how many it was.
type Chunk = fn(&mut Cpu, Operation, u64) -> u64;

impl Operation {
    fn of(instruction: &Instruction) -> Self {
        let address = (0..instruction.op_count())
            .find_map(|op| match instruction.op_kind(op) {
                OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
                OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
                OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
                _ => None,
            })
            .unwrap_or(8);
        let repeat = if instruction.has_repne_prefix() {
            Repeat::NotEqual
        } else if instruction.has_rep_prefix() {
            Repeat::Equal
        } else {
            Repeat::Once
        };
        Self {
            element: instruction.memory_size().size() as u8,
            address,
            segment: operand_segment(instruction),
            repeat,
        }
    }
}

fn repeat(cpu: &mut Cpu, insn: &Insn, element: Element, chunk: Option<Chunk>) -> Exec {
    let Some(full) = insn.full.as_deref() else { return Err(cpu.ud()) };
    let operation = Operation::of(full);
    if operation.repeat == Repeat::Once {
        return element(cpu, operation).map(drop);
    }
    let counter = Gpr::Rcx as u8;
    let mut left = cpu.reg(counter, operation.address);
    if cpu.cpuid.has_habit(Habit::ExtendsCountOfNothing) {
        // ECX clears the upper half of RCX.
        cpu.set_reg(counter, operation.address, left);
    }
    let flags = cpu.state.rflags;
    let single = cpu.state.rflags.contains(Rflags::TF) || cpu.watching;
    while left > 0 {
        let moved = match chunk {
            Some(chunk) if !single => chunk(cpu, operation, left),
            _ => 0,
        };
        let mut goes_on = true;
        if moved == 0 {
            goes_on = element(cpu, operation).inspect_err(|_| {
                if cpu.cpuid.has_habit(Habit::RestoresFlagsOfRepetition) {
                    cpu.state.rflags = flags;
                }
            })?;
        }
        left -= moved.max(1);
        cpu.set_reg(counter, operation.address, left);
        if !goes_on {
            break;
        }
        if left > 0 && (single || cpu.signalled() || cpu.code_hit) {
            return Err(Break::Restart);
        }
    }
    Ok(())
}

impl Cpu {
    fn source(&self, operation: Operation) -> u64 {
        self.reg(Gpr::Rsi as u8, operation.address)
    }

    fn destination(&self, operation: Operation) -> u64 {
        self.reg(Gpr::Rdi as u8, operation.address)
    }

    /// Moves RSI or RDI on by `elements` elements, in the direction of DF.
    fn advance(&mut self, reg: Gpr, operation: Operation, elements: u64) {
        let distance = u64::from(operation.element).wrapping_mul(elements);
        let old = self.reg(reg as u8, operation.address);
        let new = if self.state.rflags.contains(Rflags::DF) {
            old.wrapping_sub(distance)
        } else {
            old.wrapping_add(distance)
        };
        self.set_reg(reg as u8, operation.address, new & mask(operation.address));
    }

    fn read_source(&mut self, operation: Operation) -> Exec<u64> {
        self.read_sized(operation.segment, self.source(operation), operation.element)
    }

    fn read_destination(&mut self, operation: Operation) -> Exec<u64> {
        self.read_sized(SegmentName::Es, self.destination(operation), operation.element)
    }

    /// Host memory of up to `elements` elements from `offset` upwards, if they
    /// are plain RAM in one page; the number of elements that fit.
    fn run_of(
        &mut self,
        segment: SegmentName,
        offset: u64,
        operation: Operation,
        elements: u64,
        write: bool,
    ) -> Option<(*mut u8, u64)> {
        let size = u64::from(operation.element);
        let lin = self.linear(segment, offset, size, write).ok()?;
        let to_wrap = (mask(operation.address) - offset) / size;
        let fits = ((0x1000 - (lin & 0xfff)) / size).min(elements).min(to_wrap);
        if fits < 2 || self.linear(segment, offset, fits * size, write).ok()? != lin {
            return None;
        }
        let host = match self.tlb.lookup(self.view, write, lin, fits * size) {
            Some(host) => host,
            None => {
                // A miss fills the TLB; a fault here comes again below.
                self.probe_linear(self.view, lin, size, write).ok()?;
                self.tlb.lookup(self.view, write, lin, fits * size)?
            }
        };
        Some((host, fits))
    }
}

fn movs(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let value = cpu.read_source(operation)?;
    let to = cpu.destination(operation);
    cpu.write_sized(SegmentName::Es, to, operation.element, value)?;
    cpu.advance(Gpr::Rsi, operation, 1);
    cpu.advance(Gpr::Rdi, operation, 1);
    Ok(true)
}

/// Forward copies whose destination does not lie ahead in the source.
fn movs_chunk(cpu: &mut Cpu, operation: Operation, elements: u64) -> u64 {
    if cpu.state.rflags.contains(Rflags::DF) {
        return 0;
    }
    let (from, to) = (cpu.source(operation), cpu.destination(operation));
    let Some((source, first)) = cpu.run_of(operation.segment, from, operation, elements, false) else {
        return 0;
    };
    let Some((target, count)) = cpu.run_of(SegmentName::Es, to, operation, first, true) else { return 0 };
    let bytes = (count * u64::from(operation.element)) as usize;
    let ahead = (target as usize).wrapping_sub(source as usize);
    if ahead != 0 && ahead < bytes {
        return 0;
    }
    // SAFETY: both runs lie in one page of guest RAM each.
    unsafe { std::ptr::copy(source, target, bytes) };
    cpu.advance(Gpr::Rsi, operation, count);
    cpu.advance(Gpr::Rdi, operation, count);
    count
}

fn stos(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let value = cpu.reg(0, operation.element);
    let to = cpu.destination(operation);
    cpu.write_sized(SegmentName::Es, to, operation.element, value)?;
    cpu.advance(Gpr::Rdi, operation, 1);
    Ok(true)
}

fn stos_chunk(cpu: &mut Cpu, operation: Operation, elements: u64) -> u64 {
    if cpu.state.rflags.contains(Rflags::DF) {
        return 0;
    }
    let to = cpu.destination(operation);
    let Some((target, count)) = cpu.run_of(SegmentName::Es, to, operation, elements, true) else { return 0 };
    let (value, count_of) = (cpu.reg(0, operation.element), count as usize);
    // SAFETY: the run lies in one page of guest RAM.
    unsafe {
        match operation.element {
            1 => target.write_bytes(value as u8, count_of),
            2 => fill(target.cast(), value as u16, count_of),
            4 => fill(target.cast(), value as u32, count_of),
            _ => fill(target.cast(), value, count_of),
        }
    }
    cpu.advance(Gpr::Rdi, operation, count);
    count
}

/// Writes `value` to `count` places from `target` on.
///
/// # Safety
/// All of them must be valid for writes; they need not be aligned.
unsafe fn fill<T: Copy>(target: *mut T, value: T, count: usize) {
    for place in 0..count {
        // SAFETY: the caller answers for it.
        unsafe { target.add(place).write_unaligned(value) };
    }
}

fn lods(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let value = cpu.read_source(operation)?;
    cpu.set_reg(0, operation.element, value);
    cpu.advance(Gpr::Rsi, operation, 1);
    Ok(true)
}

/// Compares as CMP does; true if the repeat prefix goes on.
fn compare(cpu: &mut Cpu, operation: Operation, left: u64, right: u64) -> bool {
    let flags = match operation.element {
        1 => u8::sub(left as u8, right as u8).1,
        2 => u16::sub(left as u16, right as u16).1,
        4 => u32::sub(left as u32, right as u32).1,
        _ => u64::sub(left, right).1,
    };
    cpu.set_flags(Rflags::ARITHMETIC, flags);
    (left == right) == (operation.repeat == Repeat::Equal)
}

/// The first that is read tells which of two bad operands faults.
fn cmps(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let source_first = match (operation.element, operation.repeat) {
        (1, Repeat::Equal) => Habit::ReadsSourceFirstInRepeCmpsb,
        _ => Habit::ReadsSourceFirstInCmps,
    };
    let (left, right) = if cpu.cpuid.has_habit(source_first) {
        let left = cpu.read_source(operation)?;
        (left, cpu.read_destination(operation)?)
    } else {
        let right = cpu.read_destination(operation)?;
        (cpu.read_source(operation)?, right)
    };
    let goes_on = compare(cpu, operation, left, right);
    cpu.advance(Gpr::Rsi, operation, 1);
    cpu.advance(Gpr::Rdi, operation, 1);
    Ok(goes_on)
}

fn scas(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let right = cpu.read_destination(operation)?;
    let left = cpu.reg(0, operation.element);
    let goes_on = compare(cpu, operation, left, right);
    cpu.advance(Gpr::Rdi, operation, 1);
    Ok(goes_on)
}

/// The destination is checked before the port is read: a fault must not lose
/// what the device has given.
fn ins(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let port = cpu.reg(Gpr::Rdx as u8, 2) as u16;
    cpu.check_port(port, operation.element)?;
    let to = cpu.destination(operation);
    cpu.probe_write(SegmentName::Es, to, u64::from(operation.element))?;
    let value = cpu.port_in(port, operation.element);
    cpu.write_sized(SegmentName::Es, to, operation.element, value)?;
    cpu.advance(Gpr::Rdi, operation, 1);
    Ok(true)
}

fn outs(cpu: &mut Cpu, operation: Operation) -> Exec<bool> {
    let port = cpu.reg(Gpr::Rdx as u8, 2) as u16;
    cpu.check_port(port, operation.element)?;
    let value = cpu.read_source(operation)?;
    cpu.port_out(port, operation.element, value);
    cpu.advance(Gpr::Rsi, operation, 1);
    Ok(true)
}
