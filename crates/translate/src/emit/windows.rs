//! Windows: several accesses of a block near one register share one test.
//!
//! Programs access the stack and the fields of a structure by small constant
//! distances from a register, or from the sum of two. Where a block does so more than once, the whole
//! range is tested before the first access, as one access would be; the
//! distance from linear to host addresses is kept for the others. A range that
//! is not in one page ready for all of its accesses is no fault: the block is
//! left for one without windows, which accesses piece by piece.

use iced_x86::{
    Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};
use interpret::slow::operand_segment;
use x86::SegmentName;

use super::Body;
use super::memory::address_bytes;
use super::unroll::Step;
use crate::asm::{Mem, R10, R11, RSP, Reg, at, indexed};
use crate::mode::Mode;
use crate::registers::{GUEST_RSP, Place, number_of, place_of};
use crate::runtime::MAX_SPAN;

/// The most windows in a block.
const MAX_WINDOWS: usize = 10;
/// Where the first distance is kept, from RSP: beyond what calls use, before
/// signal frames.
const FIRST_SLOT: i32 = -36;

/// What accesses are near to: a register, or the sum of one and a scaled other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    base: u8,
    /// A register, and the binary logarithm of its scale.
    index: Option<(u8, u8)>,
}

/// Accesses near one anchor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    anchor: Anchor,
    version: (u32, u32),
    /// The instruction that opens it.
    first: usize,
    /// The anchor's distance there from where its version began.
    at_first: i64,
    /// The range, counted from where the anchor's version began.
    low: i64,
    high: i64,
    write: bool,
    accesses: usize,
    /// One access is enough: see [`Near::alone`].
    alone: bool,
}

/// An access by its instruction's memory operand, or by what it does to the
/// stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Operand = 0,
    Stack = 1,
}

/// Which accesses of a block go through which window.
#[derive(Default)]
pub(super) struct Plan {
    windows: Vec<Window>,
    /// Number of a window, by instruction and part.
    through: Vec<[Option<u8>; 2]>,
}

/// One access.
struct Near {
    part: Part,
    anchor: Anchor,
    disp: i64,
    size: i64,
    write: bool,
    /// Worth a window even if it is the only access: it is tested before the
    /// target of an indirect call is known, which nothing should hold up.
    alone: bool,
}

/// What is known of a register while a block is looked through.
#[derive(Clone, Copy, Default)]
struct Known {
    version: u32,
    distance: i64,
}

impl Known {
    /// What is known of an anchor: versions of both registers, and how far it
    /// has been moved.
    fn of(anchor: Anchor, known: &[Self; 16]) -> ((u32, u32), i64) {
        let base = known[usize::from(anchor.base)];
        match anchor.index {
            None => ((base.version, 0), base.distance),
            Some((index, scale)) => {
                let index = known[usize::from(index)];
                ((base.version, index.version), base.distance + (index.distance << scale))
            }
        }
    }
}

impl Plan {
    /// Looks through a block's instructions.
    pub(super) fn of(block: &[Step], mode: Mode, info: &mut InstructionInfoFactory) -> Self {
        let mut plan = Self::default();
        if !mode.has_windows() {
            return plan;
        }
        let mut known = [Known::default(); 16];
        for (number, Step { instruction, .. }) in block.iter().enumerate() {
            plan.through.push([None; 2]);
            let used = info.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
            for near in
                accesses(instruction, mode, used.op_access(0), used.op_access(1)).into_iter().flatten()
            {
                plan.add(number, &near, Known::of(near.anchor, &known));
            }
            let moved = moved_by_constant(instruction, mode);
            for register in used.used_registers() {
                let full = register.register().full_register();
                let writes = !matches!(register.access(), OpAccess::Read | OpAccess::CondRead);
                if full.is_gpr()
                    && writes
                    && moved.is_none_or(|(guest, _)| usize::from(guest) != full.number())
                {
                    known[full.number()] = Known { version: known[full.number()].version + 1, distance: 0 };
                }
            }
            if let Some((guest, by)) = moved {
                known[usize::from(guest)].distance += by;
            }
        }
        plan.keep_shared();
        plan
    }

    fn add(&mut self, number: usize, near: &Near, (version, distance): ((u32, u32), i64)) {
        let (low, high) = (distance + near.disp, distance + near.disp + near.size);
        let fits = |window: &Window| {
            window.anchor == near.anchor
                && window.version == version
                && high.max(window.high) - low.min(window.low) <= MAX_SPAN
        };
        let index = self.windows.iter().position(fits).unwrap_or(self.windows.len());
        if index == self.windows.len() {
            if index > usize::from(u8::MAX) {
                return;
            }
            let (anchor, at_first, write, accesses, alone) = (near.anchor, distance, false, 0, false);
            self.windows.push(Window {
                anchor,
                version,
                first: number,
                at_first,
                low,
                high,
                write,
                accesses,
                alone,
            });
        }
        let window = &mut self.windows[index];
        window.low = window.low.min(low);
        window.high = window.high.max(high);
        window.write |= near.write;
        window.accesses += 1;
        window.alone |= near.alone;
        self.through[number][near.part as usize] = Some(index as u8);
    }

    /// Leaves only the windows that more than one access share, and no more
    /// than there is room for.
    fn keep_shared(&mut self) {
        let mut renumbered = vec![None; self.windows.len()];
        let mut kept = Vec::new();
        for (index, window) in self.windows.iter().enumerate() {
            if (window.accesses > 1 || window.alone) && kept.len() < MAX_WINDOWS {
                renumbered[index] = Some(kept.len() as u8);
                kept.push(*window);
            }
        }
        self.windows = kept;
        for through in &mut self.through {
            for part in through {
                *part = part.and_then(|index| renumbered[usize::from(index)]);
            }
        }
    }

    fn window(&self, number: usize, part: Part) -> Option<usize> {
        self.through.get(number)?[part as usize].map(usize::from)
    }
}

/// The accesses of an instruction that have a constant distance from a
/// register.
fn accesses(instruction: &Instruction, mode: Mode, first: OpAccess, second: OpAccess) -> [Option<Near>; 2] {
    [operand(instruction, mode, first, second), stack(instruction, mode)]
}

fn operand(instruction: &Instruction, mode: Mode, first: OpAccess, second: OpAccess) -> Option<Near> {
    let op = (0..instruction.op_count().min(2)).find(|&op| instruction.op_kind(op) == OpKind::Memory)?;
    let access = if op == 0 { first } else { second };
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let plain = base.is_gpr()
        && (index == Register::None || index.is_gpr() && mode.long())
        && address_bytes(instruction) == Some(mode.word())
        && !matches!(operand_segment(instruction), SegmentName::Fs | SegmentName::Gs | SegmentName::Cs)
        && !matches!(access, OpAccess::None | OpAccess::NoMemAccess)
        && instruction.mnemonic() != Mnemonic::Lea;
    let disp = instruction.memory_displacement64();
    let disp = if mode.long() { disp as i64 } else { i64::from(disp as i32) };
    let size = instruction.memory_size().size() as i64;
    let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
    let index = (index != Register::None)
        .then(|| (number_of(index), instruction.memory_index_scale().trailing_zeros() as u8));
    (plain && (1..=64).contains(&size) && disp.abs() < 1 << 30).then(|| Near {
        part: Part::Operand,
        anchor: Anchor { base: number_of(base), index },
        disp,
        size,
        write,
        alone: false,
    })
}

fn stack(instruction: &Instruction, mode: Mode) -> Option<Near> {
    use Mnemonic as M;
    let slot = i64::from(mode.word());
    let (base, disp, write) = match instruction.mnemonic() {
        M::Push | M::Call | M::Pushfq | M::Pushfd => (GUEST_RSP, -slot, true),
        M::Pop | M::Ret | M::Popfq | M::Popfd => (GUEST_RSP, 0, false),
        M::Leave => (number_of(Register::RBP), 0, false),
        _ => return None,
    };
    let near =
        instruction.mnemonic() == M::Leave || instruction.stack_pointer_increment().abs() >= slot as i32;
    let anchor = Anchor { base, index: None };
    let alone = instruction.is_call_near_indirect();
    near.then_some(Near { part: Part::Stack, anchor, disp, size: slot, write, alone })
}

/// A register that the instruction moves by a constant, and how far.
fn moved_by_constant(instruction: &Instruction, mode: Mode) -> Option<(u8, i64)> {
    use Mnemonic as M;
    match instruction.mnemonic() {
        // POP RSP loads it.
        M::Pop
            if instruction.op_kind(0) == OpKind::Register
                && number_of(instruction.op_register(0)) == GUEST_RSP =>
        {
            None
        }
        M::Push | M::Pop | M::Pushfq | M::Pushfd | M::Popfq | M::Popfd => {
            Some((GUEST_RSP, i64::from(instruction.stack_pointer_increment())))
        }
        M::Add | M::Sub if instruction.op_kind(0) == OpKind::Register => {
            let register = instruction.op_register(0);
            let immediate = !matches!(instruction.op_kind(1), OpKind::Register | OpKind::Memory);
            if !immediate || register.size() != usize::from(mode.word()) {
                return None;
            }
            let by = if mode.long() {
                instruction.immediate(1) as i64
            } else {
                i64::from(instruction.immediate(1) as i32)
            };
            let by = if instruction.mnemonic() == M::Add { by } else { by.checked_neg()? };
            (by.abs() < 1 << 30).then_some((number_of(register), by))
        }
        M::Inc | M::Dec if instruction.op_kind(0) == OpKind::Register => {
            let register = instruction.op_register(0);
            let by = if instruction.mnemonic() == M::Inc { 1 } else { -1 };
            (register.size() == usize::from(mode.word())).then_some((number_of(register), by))
        }
        M::Lea => {
            let register = instruction.op_register(0);
            let disp = instruction.memory_displacement64();
            let by = if mode.long() { disp as i64 } else { i64::from(disp as i32) };
            let same = instruction.memory_base() == register && instruction.memory_index() == Register::None;
            (same && register.size() == usize::from(mode.word()) && by.abs() < 1 << 30)
                .then_some((number_of(register), by))
        }
        _ => None,
    }
}

/// A window that has just been opened: R10 is its anchor and `from` as long as
/// nothing has been written behind `end`.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    number: usize,
    from: i32,
    end: usize,
}

/// Where window `index` keeps its distance.
fn slot(index: usize) -> Mem {
    at(RSP, FIRST_SLOT - 8 * index as i32)
}

impl Body<'_> {
    /// Opens the windows that begin with the current instruction.
    pub(super) fn open_windows(&mut self) {
        for index in 0..self.plan.windows.len() {
            let window = self.plan.windows[index];
            if window.first == self.number {
                self.open_window(index, &window);
            }
        }
    }

    fn open_window(&mut self, number: usize, window: &Window) {
        let from = (window.low - window.at_first) as i32;
        self.anchor_and(window.anchor, from);
        let place = i64::from(self.place);
        let hole = self.check_window(window.write, (window.high - window.low) as usize);
        self.holes.push((hole, place, true));
        self.asm().store(slot(number), R11);
        self.held = Some(number);
        self.opened = Some(Opened { number, from, end: self.asm().len() });
    }

    /// R10 becomes an anchor's value and `more`.
    fn anchor_and(&mut self, anchor: Anchor, more: i32) {
        let base = self.guest_register(anchor.base, R10);
        let from = match anchor.index {
            None if more == 0 && base == R10 => return,
            None if more == 0 => return self.asm().mov(R10, base),
            None => at(base, more),
            Some((index, scale)) => {
                let index = self.guest_register(index, R11);
                indexed(Some(base), index, scale, more)
            }
        };
        self.asm().lea(true, R10, from);
    }

    /// The host register with a guest register's value, `scratch` if that is
    /// not at home in one.
    fn guest_register(&mut self, guest: u8, scratch: Reg) -> Reg {
        match place_of(guest) {
            Place::Host(host) => host,
            Place::Home(home) => {
                self.held = self.held.filter(|_| scratch != R11);
                self.asm().load(scratch, home.mem());
                scratch
            }
        }
    }

    /// Whether a window begins with the current instruction.
    pub(super) fn opens_window(&self) -> bool {
        self.plan.windows.iter().any(|window| window.first == self.number)
    }

    /// Whether this part of the current instruction goes through a window.
    pub(super) fn has_window(&self, part: Part) -> bool {
        self.plan.window(self.number, part).is_some()
    }

    /// If this part of the current instruction goes through a window: the
    /// registers, R11 and another, that give the host address of the anchor,
    /// and what is to be added to their sum.
    pub(super) fn through_window(&mut self, part: Part) -> Option<(Reg, Reg, i32)> {
        let number = self.plan.window(self.number, part)?;
        let anchor = self.plan.windows[number].anchor;
        let end = self.asm().len();
        let opened = self.opened.take().filter(|opened| opened.number == number && opened.end == end);
        let (base, more) = match (anchor.index, opened) {
            (None, _) => (self.guest_register(anchor.base, R10), 0),
            (Some(_), Some(opened)) => (R10, -opened.from),
            (Some(_), None) => {
                self.anchor_and(anchor, 0);
                (R10, 0)
            }
        };
        if self.held.replace(number) != Some(number) {
            self.asm().load(R11, slot(number));
        }
        Some((R11, base, more))
    }
}
