//! A guest: initial state, memory, and the end that the manual demands.

use engine::Mode;
use x86::{CpuState, Gpr, Rflags, SegmentName, Vector};

use crate::asm::Code;
use crate::bench::Io;
use crate::expect::{Ending, Event, Expect, FrameItem};
use crate::layout::{DATA, GDT, IDT, MAIN, PT, STUBS, TSS};
use x86::cpuid::{Feature, Vendor};

/// How wide the gates are through which events reach the stubs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// Real mode, 16-bit gates.
    Word = 2,
    /// 32-bit gates.
    Dword = 4,
    /// IA-32e gates.
    Qword = 8,
}

/// One tiny program and what must come of it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Unique: `topic::name`.
    pub name: String,
    /// What it checks, with the manual's section.
    pub doc: String,
    /// The mode that it starts in.
    pub mode: Mode,
    /// What the processor model must offer for it.
    pub needs: Vec<Feature>,
    /// Whose processor the model must be for it, where Intel's and AMD's
    /// manuals differ.
    pub vendor: Option<Vendor>,
    /// The state that it starts with.
    pub state: Box<CpuState>,
    pub(crate) memory: Vec<(u64, Vec<u8>)>,
    pub(crate) frame: FrameSize,
    pub(crate) page_entry: u64,
    pub(crate) mark: u64,
    pub(crate) ending: Ending,
    pub(crate) expect: Vec<Expect>,
}

/// Setting up.
impl Guest {
    pub(crate) fn new(mode: Mode, frame: FrameSize, main: Code) -> Self {
        let mut state = Box::new(CpuState::reset());
        state.rip = MAIN;
        let guest = Self {
            name: String::new(),
            doc: String::new(),
            mode,
            needs: Vec::new(),
            vendor: None,
            state,
            memory: Vec::new(),
            frame,
            page_entry: 8,
            mark: main.marked(),
            ending: Ending::Exit,
            expect: Vec::new(),
        };
        guest.code(main)
    }

    pub(crate) fn named(mut self, topic: &str, name: &str, doc: &[&str]) -> Self {
        self.name = format!("{topic}::{name}");
        self.doc = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        self
    }

    /// Needs a processor feature.
    pub(crate) fn needs(mut self, feature: Feature) -> Self {
        self.needs.push(feature);
        self
    }

    /// Is for the processors of `vendor` alone.
    pub(crate) fn only(mut self, vendor: Vendor) -> Self {
        self.vendor = Some(vendor);
        self
    }

    /// Adds a piece of code.
    pub(crate) fn code(self, code: Code) -> Self {
        self.bytes(u64::from(code.at), code.bytes)
    }

    /// Adds a piece of code that holds the mark.
    pub(crate) fn marked_code(mut self, code: Code) -> Self {
        self.mark = code.marked();
        self.code(code)
    }

    /// Puts bytes into memory.
    pub(crate) fn bytes(mut self, at: u64, bytes: &[u8]) -> Self {
        self.memory.push((at, bytes.to_vec()));
        self
    }

    /// Puts a 16-bit value into memory.
    pub(crate) fn word(self, at: u64, value: u16) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a 32-bit value into memory.
    pub(crate) fn dword(self, at: u64, value: u32) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a 64-bit value into memory.
    pub(crate) fn qword(self, at: u64, value: u64) -> Self {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts a 64-bit value into the first data page.
    pub(crate) fn data(self, value: u64) -> Self {
        self.qword(DATA, value)
    }

    /// Writes a descriptor into the GDT.
    pub(crate) fn gdt(self, selector: u16, descriptor: u64) -> Self {
        self.qword(GDT + u64::from(selector & !7), descriptor)
    }

    /// Writes an 8-byte gate into the IDT.
    pub(crate) fn idt(self, vector: u8, gate: u64) -> Self {
        self.qword(IDT + u64::from(vector) * 8, gate)
    }

    /// Points an existing gate, of 8 or 16 bytes, or a real-mode vector
    /// elsewhere (below 64 KiB).
    pub(crate) fn handler(mut self, vector: u8, code: Code) -> Self {
        let at = match self.frame {
            FrameSize::Word if self.mode == Mode::Real => u64::from(vector) * 4,
            FrameSize::Qword => IDT + u64::from(vector) * 16,
            _ => IDT + u64::from(vector) * 8,
        };
        self = self.word(at, code.at as u16);
        self.code(code)
    }

    /// Changes the byte of type, DPL and present bit of a gate.
    pub(crate) fn gate_access(self, vector: u8, access: u8) -> Self {
        let size = if self.frame == FrameSize::Qword { 16 } else { 8 };
        self.bytes(IDT + u64::from(vector) * size + 5, &[access])
    }

    /// Changes the selector of a gate.
    pub(crate) fn gate_selector(self, vector: u8, selector: u16) -> Self {
        let size = if self.frame == FrameSize::Qword { 16 } else { 8 };
        self.word(IDT + u64::from(vector) * size + 2, selector)
    }

    /// Writes the page-table entry of a 4 KiB page: itself with `bits`.
    pub(crate) fn page(self, address: u64, bits: u64) -> Self {
        self.page_to(address, address, bits)
    }

    /// Maps a 4 KiB page elsewhere.
    pub(crate) fn page_to(self, address: u64, physical: u64, bits: u64) -> Self {
        let at = PT + (address >> 12) * self.page_entry;
        let entry = (physical & !0xfff | bits).to_le_bytes();
        let size = self.page_entry as usize;
        self.bytes(at, entry.get(..size).unwrap_or(&entry))
    }

    /// Writes a 32-bit field of the task-state segment.
    pub(crate) fn tss(self, offset: u64, value: u32) -> Self {
        self.dword(TSS + offset, value)
    }

    /// Sets a general register.
    pub(crate) fn with(mut self, reg: Gpr, value: u64) -> Self {
        self.state.set_reg(reg, value);
        self
    }

    /// Sets more flags.
    pub(crate) fn with_flags(mut self, flags: Rflags) -> Self {
        self.state.rflags |= flags;
        self
    }

    /// Sets the I/O privilege level.
    pub(crate) fn iopl(mut self, level: u64) -> Self {
        let bits = self.state.rflags.bits() & !Rflags::IOPL.bits() | level << 12;
        self.state.rflags = Rflags::from_bits_retain(bits);
        self
    }

    /// Changes the initial state.
    pub(crate) fn patch(mut self, change: impl FnOnce(&mut CpuState)) -> Self {
        change(&mut self.state);
        self
    }
}

/// Expecting an end.
impl Guest {
    fn ends(mut self, vector: Vector, code: Option<u32>, ip: u64) -> Self {
        self.ending = Ending::Event(Event { vector: vector.0, code, ip: Some(ip) });
        self
    }

    /// A fault with an error code at the marked instruction.
    pub(crate) fn fault(self, vector: Vector, code: u32) -> Self {
        let ip = self.mark;
        self.ends(vector, Some(code), ip)
    }

    /// An event without error code that saves the marked instruction's
    /// address: a fault there, or a trap or interrupt before it.
    pub(crate) fn event(self, vector: Vector) -> Self {
        let ip = self.mark;
        self.ends(vector, None, ip)
    }

    /// An event whose saved instruction pointer is given.
    pub(crate) fn event_at(self, vector: Vector, code: Option<u32>, ip: u64) -> Self {
        self.ends(vector, code, ip)
    }

    /// An event whose saved instruction pointer is undefined.
    pub(crate) fn event_anywhere(mut self, vector: Vector, code: Option<u32>) -> Self {
        self.ending = Ending::Event(Event { vector: vector.0, code, ip: None });
        self
    }

    /// A page fault at the marked instruction.
    pub(crate) fn page_fault(self, code: u32, address: u64) -> Self {
        self.fault(Vector::PF, code).item("CR2", |s| s.cr2, address)
    }

    /// HLT that nothing can end.
    pub(crate) fn halts(mut self) -> Self {
        self.ending = Ending::HaltedForGood;
        self
    }

    /// Shutdown.
    pub(crate) fn triple_fault(mut self) -> Self {
        self.ending = Ending::TripleFault;
        self
    }

    fn expecting(mut self, expect: Expect) -> Self {
        self.expect.push(expect);
        self
    }

    /// A general register, all 64 bits.
    pub(crate) fn reg(self, reg: Gpr, value: u64) -> Self {
        self.expecting(Expect::Register { reg, mask: u64::MAX, value })
    }

    /// Some bits of a general register.
    pub(crate) fn reg_masked(self, reg: Gpr, mask: u64, value: u64) -> Self {
        self.expecting(Expect::Register { reg, mask, value })
    }

    /// Flags, as far as `mask` goes, when the run ends.
    pub(crate) fn flags(self, mask: Rflags, value: Rflags) -> Self {
        self.masked_item("RFLAGS", |s| s.rflags.bits(), mask.bits(), value.bits())
    }

    /// Any other item of state.
    pub(crate) fn item(self, name: &'static str, read: fn(&CpuState) -> u64, value: u64) -> Self {
        self.masked_item(name, read, u64::MAX, value)
    }

    /// Some bits of any other item of state.
    pub(crate) fn masked_item(
        self,
        name: &'static str,
        read: fn(&CpuState) -> u64,
        mask: u64,
        value: u64,
    ) -> Self {
        self.expecting(Expect::Item { name, read, mask, value })
    }

    /// A segment register's selector, base, limit and attributes.
    pub(crate) fn segment(
        self,
        name: SegmentName,
        selector: u16,
        base: u64,
        limit: u32,
        attributes: u16,
    ) -> Self {
        self.expecting(Expect::Segment { name, selector, base, limit, attributes: Some(attributes) })
    }

    /// A segment register's selector, base and limit.
    pub(crate) fn segment_base(self, name: SegmentName, selector: u16, base: u64, limit: u32) -> Self {
        self.expecting(Expect::Segment { name, selector, base, limit, attributes: None })
    }

    /// The selector in CS when the run ends.
    pub(crate) fn cs(self, selector: u16) -> Self {
        self.item("CS", |s| u64::from(s.segment(SegmentName::Cs).selector.0), u64::from(selector))
    }

    /// Bytes of memory.
    pub(crate) fn memory(self, at: u64, bytes: &[u8]) -> Self {
        self.expecting(Expect::Memory { at, bytes: bytes.to_vec() })
    }

    /// A 16-bit value in memory.
    pub(crate) fn mem16(self, at: u64, value: u16) -> Self {
        self.memory(at, &value.to_le_bytes())
    }

    /// A 32-bit value in memory.
    pub(crate) fn mem32(self, at: u64, value: u32) -> Self {
        self.memory(at, &value.to_le_bytes())
    }

    /// A 64-bit value in memory.
    pub(crate) fn mem64(self, at: u64, value: u64) -> Self {
        self.memory(at, &value.to_le_bytes())
    }

    /// The values written to the log port, in order and complete.
    pub(crate) fn reports(self, values: &[u32]) -> Self {
        self.expecting(Expect::Reports(values.to_vec()))
    }

    /// All port and MMIO accesses but the end, in order and complete.
    pub(crate) fn io(self, accesses: &[Io]) -> Self {
        self.expecting(Expect::Io(accesses.to_vec()))
    }

    /// Some bits of an item in the frame that the event pushed.
    pub(crate) fn pushed(self, item: FrameItem, mask: u64, value: u64) -> Self {
        self.expecting(Expect::Frame { item, mask, value })
    }

    /// The flags that the event pushed, as far as `mask` goes.
    pub(crate) fn pushed_flags(self, mask: Rflags, value: Rflags) -> Self {
        self.pushed(FrameItem::Flags, mask.bits(), value.bits())
    }

    /// The code segment that the event pushed.
    pub(crate) fn pushed_cs(self, selector: u16) -> Self {
        self.pushed(FrameItem::Cs, 0xffff, u64::from(selector))
    }

    /// The stub of a vector, as an offset.
    pub(crate) const fn stub(vector: u8) -> u32 {
        STUBS as u32 + vector as u32 * 4
    }
}

/// Declares the guests of one topic: a doc comment, a name, and an expression.
macro_rules! guests {
    ($topic:literal; $($(#[doc = $doc:literal])+ $name:ident: $guest:expr;)+) => {
        /// The guests of this topic.
        pub(super) fn guests() -> Vec<$crate::Guest> {
            vec![$($name()),+]
        }

        $(
            $(#[doc = $doc])+
            fn $name() -> $crate::Guest {
                $guest.named($topic, stringify!($name), &[$($doc),+])
            }
        )+
    };
}

pub(crate) use guests;
