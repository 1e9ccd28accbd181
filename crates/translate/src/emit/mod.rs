//! From guest code to host code: one block at a time.
//!
//! Most instructions are copied with their registers renamed and their memory
//! operand replaced ([`plain`], [`memory`]); the stack ([`stack`]) and control
//! transfer ([`branch`]) have code of their own; the rest is left to the
//! interpreter. At the start of each instruction the guest's state is exact:
//! an instruction commits only when nothing of it can fail any more.

mod bits;
mod branch;
mod high_byte;
mod iret;
mod memory;
mod plain;
mod stack;
mod string;
mod system;
mod unroll;
mod windows;

use iced_x86::{Code, DecoderError, Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic};
use interpret::slow::{Plain, SlowInsn, SlowPath, classify};

pub(crate) use branch::LARGE_PAGE;

use crate::asm::{Asm, Hole, RCX, Reg, at, field};
use crate::blocks::{Access, Mark, STUB, Way};
use crate::context::offset;
use crate::mode::Mode;
use crate::runtime::{Exit, Runtime};
use unroll::Step;

/// The longest instruction, in bytes (SDM 2A 2.3.11).
const MAX_LEN: usize = 15;

/// How blocks are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// The most guest instructions in a block.
    pub(crate) max_insns: usize,
    /// Whether blocks are counted as they are executed.
    pub(crate) counts: bool,
}

/// Guest code to be translated.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// From the block's start to the end of its page at the most, or a single
    /// instruction that crosses it.
    pub(crate) bytes: &'a [u8],
    /// The linear address of the block's start.
    pub(crate) lin: u64,
    pub(crate) mode: Mode,
    /// The page is a part of a large one.
    pub(crate) large: bool,
}

/// What became of it.
pub(crate) struct Made {
    pub(crate) guest_len: u16,
    pub(crate) inner: usize,
    pub(crate) marks: Vec<Mark>,
    pub(crate) slow: Vec<(u16, SlowInsn)>,
    pub(crate) ways: Vec<Way>,
}

/// Tools that are kept from one block to the next.
pub(crate) struct Emitter {
    pub(crate) asm: Asm,
    encoder: Encoder,
    info: InstructionInfoFactory,
    runtime: Runtime,
    style: Style,
}

/// What follows an instruction in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    End,
}

impl Emitter {
    pub(crate) fn new(runtime: Runtime, style: Style) -> Self {
        Self {
            asm: Asm::new(0),
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            runtime,
            style,
        }
    }

    /// Translates `source` for a place in the code cache that begins at
    /// `origin`; the code is in [`Emitter::asm`]. `None` if its first
    /// instruction crosses the end of the page.
    pub(crate) fn block(&mut self, source: Source<'_>, slow: &mut SlowPath, origin: usize) -> Option<Made> {
        self.asm.restart(origin);
        let mut body = Body {
            place: (source.lin & 0xfff) as u16,
            next: (source.lin & 0xfff) as u16,
            page: source.lin & !0xfff,
            mode: source.mode,
            large: source.large,
            needed: plain::Needs::default(),
            shadowed: false,
            in_shadow: false,
            more_follows: false,
            next_crosses: false,
            again: false,
            made: Made { guest_len: 0, inner: origin, marks: Vec::new(), slow: Vec::new(), ways: Vec::new() },
            holes: Vec::new(),
            plan: windows::Plan::default(),
            number: 0,
            held: None,
            opened: None,
            stack_moves: 0,
            keeps: false,
            emitter: self,
            slow,
        };
        body.prologue();
        body.instructions(source.bytes)?;
        body.stubs();
        Some(body.made)
    }
}

/// A block in the making.
struct Body<'a> {
    emitter: &'a mut Emitter,
    slow: &'a mut SlowPath,
    mode: Mode,
    /// Linear address of the code page. Position-independent code does not
    /// rely on it.
    page: u64,
    large: bool,
    /// Where the current instruction lies in the page, and where the next one.
    place: u16,
    next: u16,
    /// What of the floating-point state has been asked for.
    needed: plain::Needs,
    /// The current instruction may set IF, so that no interrupt may come
    /// before the next; and the one before did.
    shadowed: bool,
    in_shadow: bool,
    /// The block goes on behind the current instruction, unless that ends it.
    more_follows: bool,
    /// The instruction behind the block crosses the end of the page.
    next_crosses: bool,
    /// The current instruction is a branch back to the block's start, whose
    /// code follows once more.
    again: bool,
    made: Made,
    /// Branches to be given stubs, their targets in the page, and whether they
    /// lead to a block without windows.
    holes: Vec<(Hole, i64, bool)>,
    plan: windows::Plan,
    /// The current instruction's number in the block.
    number: usize,
    /// The window whose distance R11 holds.
    held: Option<usize>,
    /// The window that was opened last.
    opened: Option<windows::Opened>,
    /// By how much RSP is still to be moved.
    stack_moves: i32,
    /// The current instruction leaves R11 alone.
    keeps: bool,
}

impl Body<'_> {
    fn asm(&mut self) -> &mut Asm {
        &mut self.emitter.asm
    }

    fn exit(&self, why: Exit) -> usize {
        self.emitter.runtime.exit(why)
    }

    /// Leaves, for the current instruction.
    fn call_exit(&mut self, why: Exit) {
        let exit = self.exit(why);
        self.asm().call(exit);
    }

    /// Entered with the block's linear address in R10, position-independent
    /// code notes where it is.
    fn prologue(&mut self) {
        let place = i32::from(self.place);
        if self.mode.position_independent() {
            let asm = self.asm();
            asm.lea(true, crate::asm::R10, at(crate::asm::R10, -place));
            asm.store(field(offset!(page)), crate::asm::R10);
        }
        self.made.inner = self.asm().here();
        if self.emitter.style.counts {
            let asm = self.asm();
            asm.load(RCX, field(offset!(blocks)));
            asm.lea(true, RCX, at(RCX, 1));
            asm.store(field(offset!(blocks)), RCX);
        }
    }

    fn instructions(&mut self, bytes: &[u8]) -> Option<()> {
        let start = self.place;
        let block = self.decode_all(bytes);
        if block.is_empty() {
            return None;
        }
        self.plan = windows::Plan::of(&block, self.mode, &mut self.emitter.info);
        for (number, step) in block.iter().enumerate() {
            let at = usize::from(step.place - start);
            let len = step.instruction.len();
            self.number = number;
            self.place = step.place;
            self.next = step.place + len as u16;
            self.again = step.again;
            if !self.can_settle_later(&step.instruction) {
                self.settle_stack();
            }
            self.more_follows = number + 1 < block.len();
            self.mark(self.place);
            if !std::mem::take(&mut self.keeps) {
                self.held = None;
            }
            self.open_windows();
            let flow = self.instruction(&step.instruction, &bytes[at..at + len]);
            self.made.guest_len = self.made.guest_len.max(self.next - start);
            if flow == Flow::End {
                return Some(());
            }
        }
        self.fall_through();
        Some(())
    }

    /// The instructions of the block, up to one that certainly ends it. A loop
    /// that the block consists of is there several times.
    fn decode_all(&mut self, bytes: &[u8]) -> Vec<Step> {
        let (mut block, mut at) = (Vec::new(), 0);
        let start = self.place;
        while block.len() < self.emitter.style.max_insns && at < bytes.len() {
            let place = start + at as u16;
            let Some(instruction) = self.decode(&bytes[at..], place) else {
                self.next_crosses = usize::from(start) + bytes.len() == 0x1000;
                break;
            };
            at += instruction.len();
            block.push(Step { instruction, place, again: false });
            if usize::from(start) + at > 0x1000 {
                break;
            }
            self.unroll(&mut block);
            if !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch) {
                break;
            }
        }
        block
    }

    /// The instruction at the start of `bytes`; `None` if it is not whole. What
    /// does not decode comes back as an invalid one.
    fn decode(&mut self, bytes: &[u8], place: u16) -> Option<Instruction> {
        let bytes = &bytes[..bytes.len().min(MAX_LEN)];
        let bitness = u32::from(self.mode.word()) * 8;
        let (instruction, error) = self.slow.cpuid().decode(bitness, bytes, place.into());
        match error {
            DecoderError::NoMoreBytes if bytes.len() < MAX_LEN => None,
            DecoderError::None if self.slow.cpuid().allows_instruction(&instruction) => Some(instruction),
            _ => {
                let mut invalid = Instruction::default();
                invalid.set_code(Code::INVALID);
                invalid.set_len(instruction.len().clamp(1, bytes.len()));
                Some(invalid)
            }
        }
    }

    fn mark(&mut self, guest: u16) {
        let host = self.asm().len() as u32;
        self.made.marks.push(Mark { host, guest, access: Access::Other });
    }

    /// Notes how the current instruction accesses memory.
    fn accesses(&mut self, access: Access) {
        if let Some(mark) = self.made.marks.last_mut() {
            mark.access = access;
        }
    }

    fn instruction(&mut self, instruction: &Instruction, bytes: &[u8]) -> Flow {
        self.in_shadow = std::mem::take(&mut self.shadowed);
        let start = self.asm().len();
        let (holes, needed) = (self.holes.len(), self.needed);
        if let Some(flow) = self.inline(instruction) {
            return flow;
        }
        // Whatever was begun is not to be.
        self.asm().truncate(start);
        self.holes.truncate(holes);
        (self.needed, self.shadowed) = (needed, false);
        self.callout(bytes, instruction)
    }

    /// Writes the instruction inline; `None` if it is the interpreter's.
    fn inline(&mut self, instruction: &Instruction) -> Option<Flow> {
        use Mnemonic as M;
        if instruction.code() == Code::INVALID {
            return None;
        }
        let special = self.branch(instruction).or_else(|| self.system(instruction));
        if let Some(flow) =
            special.or_else(|| self.bit_string(instruction)).or_else(|| self.string(instruction))
        {
            return flow;
        }
        match instruction.mnemonic() {
            M::Nop
            | M::Reservednop
            | M::Endbr32
            | M::Endbr64
            | M::Cldemote
            | M::Prefetch
            | M::Prefetchit0
            | M::Prefetchit1
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
            | M::Prefetchwt1 => Some(Flow::Next),
            M::Pause => self.pause(),
            M::Push => self.push(instruction),
            M::Pop => self.pop(instruction),
            M::Leave => self.leave(instruction),
            M::Lea => self.lea(instruction),
            M::Vzeroupper => self.vzeroupper(),
            M::Ldmxcsr | M::Stmxcsr if self.mode.allows(Plain::Sse) => self.plain(instruction, Plain::Sse),
            _ => {
                let plain = classify(instruction).filter(|&plain| self.mode.allows(plain))?;
                self.plain(instruction, plain)
            }
        }
    }

    /// Leaves the instruction to the interpreter.
    fn callout(&mut self, bytes: &[u8], instruction: &Instruction) -> Flow {
        self.settle_stack();
        match self.slow.decode(bytes, instruction) {
            Some(insn) => {
                let ends = insn.ends_block;
                if let Err(index) = self.made.slow.binary_search_by_key(&self.place, |(at, _)| *at) {
                    self.made.slow.insert(index, (self.place, insn));
                }
                self.call_exit(Exit::Callout);
                if ends { Flow::End } else { Flow::Next }
            }
            None => {
                self.call_exit(Exit::Interpret);
                Flow::End
            }
        }
    }

    /// Goes on behind the last instruction.
    fn fall_through(&mut self) {
        self.settle_stack();
        self.mark(self.next);
        let next = i64::from(self.next);
        if self.next_crosses && !self.is_linkable(0x1000) {
            // It is made of two pages, one of which may be mapped elsewhere.
            self.load_rip(crate::asm::R10, next);
            self.look_up(Exit::Poll, |_| ());
        } else {
            self.jump_to(next, Exit::Poll);
        }
    }

    /// A stub for each direct branch: it leaves until the branch is linked.
    fn stubs(&mut self) {
        let link = self.exit(Exit::Link);
        for (hole, target, plain) in std::mem::take(&mut self.holes) {
            let asm = self.asm();
            asm.fill(hole);
            let from = asm.len();
            asm.call(link);
            debug_assert_eq!(asm.len() - from, STUB);
            let (stub_end, patch) = (asm.here(), asm.address_of(hole));
            self.made.ways.push(Way { stub_end, patch, target, plain, linked: None });
        }
    }

    /// Linear address (or instruction pointer: code segments are flat) at
    /// `place` in the code page.
    fn load_rip(&mut self, to: Reg, place: i64) {
        let long = self.mode.long();
        if self.mode.position_independent() {
            let asm = self.asm();
            asm.load(to, field(offset!(page)));
            asm.lea(long, to, at(to, place as i32));
        } else {
            let lin = self.page.wrapping_add(place as u64);
            self.asm().constant(to, if long { lin } else { lin & 0xffff_ffff });
        }
    }
}
