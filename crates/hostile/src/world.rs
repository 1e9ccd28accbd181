//! Where random code starts: a processor state in every mode, with tables that
//! are in order, or with garbage instead.

use engine::Mode;
use x86::{
    Cr0, Cr4, DescriptorTable, Dr7, Efer, Gpr, Rflags, Segment, SegmentAttributes, SegmentName, Selector,
    X87State,
};

use crate::board::{ROM, Rig, processor};
use crate::dice::Dice;

/// RAM of the worlds.
pub(crate) const RAM: u64 = 4 << 20;
/// Code begins here, and one page of it is filled.
pub(crate) const CODE: u64 = 0x2_0000;
pub(crate) const GDT: u64 = 0x1000;
pub(crate) const IDT: u64 = 0x2000;
pub(crate) const TSS: u64 = 0x3000;
pub(crate) const OTHER_TSS: u64 = 0x6000;
pub(crate) const LDT: u64 = 0x7000;
pub(crate) const HANDLERS: u64 = 0x9000;
/// Page tables: 4-level at the start, then PAE, then 32-bit ones.
pub(crate) const TABLES: u64 = 0x1_0000;
const PDPT: u64 = TABLES + 0x1000;
const DIRECTORY: u64 = TABLES + 0x2000;
/// What PAE paging loads from [`PAE_PDPT`].
pub(crate) const PDPTES: [u64; 4] =
    [DIRECTORY + 1, DIRECTORY + 0x1001, DIRECTORY + 0x2001, DIRECTORY + 0x3001];
/// The table for the first 2 MiB, with 4 KiB pages.
const PAGES: u64 = TABLES + 0x6000;
pub(crate) const PAE_PDPT: u64 = TABLES + 0x7000;
pub(crate) const NARROW: u64 = TABLES + 0x8000;
const NARROW_PAGES: u64 = TABLES + 0x9000;
pub(crate) const PML5: u64 = TABLES + 0xa000;
pub(crate) const STACK: u64 = 0x5_0000;
pub(crate) const DATA: u64 = 0x8_0000;
/// Pages of [`DATA`] that paging treats in special ways.
const ABSENT: u64 = DATA + 0x3000;
const READ_ONLY: u64 = DATA + 0x5000;
const SUPERVISOR: u64 = DATA + 0x7000;
const DEVICE: u64 = DATA + 0x9000;
const IN_ROM: u64 = DATA + 0xb000;
const RESERVED: u64 = DATA + 0xd000;
/// Guest-physical address of nothing but devices.
pub(crate) const MMIO: u64 = 0xd000_0000;

const ACCESSED_PRESENT: u64 = 0x23;
const USER: u64 = 4;
const LARGE: u64 = 0x80;

pub(crate) const KCODE32: u16 = 0x08;
pub(crate) const KDATA32: u16 = 0x10;
const KCODE16: u16 = 0x18;
const KDATA16: u16 = 0x20;
const UCODE32: u16 = 0x28;
const UDATA32: u16 = 0x30;
const UCODE16: u16 = 0x38;
const UDATA16: u16 = 0x40;
pub(crate) const KCODE64: u16 = 0x48;
const UCODE64: u16 = 0x50;
pub(crate) const TSS_SELECTOR: u16 = 0x58;
const LDT_SELECTOR: u16 = 0x68;
pub(crate) const OTHER_TSS_SELECTOR: u16 = 0x78;
const CALL_GATE: u16 = 0x88;
pub(crate) const TASK_GATE: u16 = 0x98;
const TSS16: u16 = 0xa0;
const CODE_ODD: u16 = 0xa8;
const DATA_ODD: u16 = 0xb0;
const STACK_DOWN: u16 = 0xb8;
/// 16-bit code that begins at [`CODE`].
const CODE16: u16 = 0xc0;

/// An 8-byte descriptor; `flags` are G, D/B, L and AVL.
pub(crate) const fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// The low 8 bytes of a gate.
pub(crate) const fn gate(selector: u16, offset: u64, access: u64) -> u64 {
    offset & 0xffff | (selector as u64) << 16 | access << 40 | (offset >> 16 & 0xffff) << 48
}

/// What to start with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) mode: Mode,
    pub(crate) ring: u8,
    /// Segments with odd bases and limits (protected mode).
    pub(crate) segmented: bool,
    /// Tables are in order.
    pub(crate) orderly: bool,
}

impl Start {
    /// Bits of an instruction's default size.
    pub(crate) const fn bitness(self) -> u32 {
        match self.mode {
            Mode::Real | Mode::Protected16 | Mode::Virtual8086 => 16,
            Mode::Protected32 | Mode::Compatibility => 32,
            Mode::Long64 => 64,
        }
    }

    const fn long(self) -> bool {
        matches!(self.mode, Mode::Compatibility | Mode::Long64)
    }

    /// Orderly tables in `mode` at `ring`.
    pub(crate) const fn orderly(mode: Mode, ring: u8) -> Self {
        Self { mode, ring, segmented: false, orderly: true }
    }

    /// The state in which code at [`CODE`] begins.
    pub(crate) fn state(self, dice: &mut Dice) -> x86::CpuState {
        let mut state = x86::CpuState::reset();
        registers(dice, &mut state);
        self.segments(&mut state);
        self.control(dice, &mut state);
        state.gdtr = DescriptorTable { base: GDT, limit: 0x1ff };
        state.idtr = DescriptorTable { base: IDT, limit: 0xfff };
        if self.mode == Mode::Real {
            state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        }
        let system = |selector, base, limit, access| Segment {
            base,
            limit,
            selector: Selector(selector),
            attributes: SegmentAttributes::from_bits(access),
        };
        state.tr = system(TSS_SELECTOR, TSS, 0x2089, 0x8b);
        state.ldtr = system(LDT_SELECTOR, LDT, 0xff, 0x82);
        state.rip = if self.bitness() == 16 { 0 } else { CODE };
        if self.segmented {
            state.rip = CODE - 0x1000;
        }
        let stack = if self.bitness() == 16 { 0x8000 } else { STACK };
        state.set_reg(Gpr::Rsp, stack);
        if !self.orderly {
            spoil(dice, &mut state);
        }
        state
    }

    /// The same without surprises: empty registers, paging only where the mode
    /// demands it; the tables are written too.
    pub(crate) fn plain(self, rig: &Rig) -> x86::CpuState {
        let mut dice = Dice::new(0);
        self.write(&mut dice, rig);
        let drawn = self.state(&mut dice);
        let mut state = x86::CpuState { gpr: [0; 16], ..drawn.clone() };
        state.set_reg(Gpr::Rsp, drawn.reg(Gpr::Rsp));
        state.rflags = Rflags::FIXED | drawn.rflags & Rflags::VM;
        (state.dr, state.dr7) = ([0; 4], Dr7::FIXED);
        state.fpu = x86::FpuState { x87: X87State::INIT, ..x86::FpuState::RESET };
        let needed = if self.long() { Cr0::PG | Cr0::PE } else { Cr0::PE };
        state.cr0 = Cr0::ET | Cr0::NE | drawn.cr0 & needed;
        state.cr4 = (Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE) & processor().features().cr4();
        if self.long() {
            state.cr4 |= Cr4::PAE;
            state.cr3 = TABLES;
        }
        state
    }

    fn segments(self, state: &mut x86::CpuState) {
        let user = self.ring == 3;
        let (code, data, stack) = match self.mode {
            Mode::Real | Mode::Virtual8086 => {
                state.segments = [Segment::real_mode((DATA >> 4) as u16); 6];
                *state.segment_mut(SegmentName::Cs) = Segment::real_mode((CODE >> 4) as u16);
                *state.segment_mut(SegmentName::Ss) = Segment::real_mode((STACK >> 4) as u16);
                if self.mode == Mode::Virtual8086 {
                    for segment in &mut state.segments {
                        segment.attributes.set_dpl(3);
                    }
                }
                return;
            }
            _ if self.segmented => (CODE_ODD, DATA_ODD, STACK_DOWN),
            Mode::Protected16 if user => (CODE16, UDATA16, UDATA16),
            Mode::Protected16 => (CODE16, KDATA16, KDATA16),
            Mode::Long64 if user => (UCODE64, UDATA32, UDATA32),
            Mode::Long64 => (KCODE64, KDATA32, KDATA32),
            _ if user => (UCODE32, UDATA32, UDATA32),
            _ => (KCODE32, KDATA32, KDATA32),
        };
        let load = |selector: u16| {
            let raw = global_descriptors(self.ring).find(|&(at, _)| at == selector).map_or(0, |(_, raw)| raw);
            Segment::from_descriptor(Selector(selector | u16::from(self.ring)), raw)
        };
        state.segments = [load(data); 6];
        *state.segment_mut(SegmentName::Cs) = load(code);
        *state.segment_mut(SegmentName::Ss) = load(stack);
    }

    fn control(self, dice: &mut Dice, state: &mut x86::CpuState) {
        state.cr0 = Cr0::ET | Cr0::NE;
        if self.mode != Mode::Real {
            state.cr0 |= Cr0::PE;
        }
        let offered = processor().features().cr4();
        let optional = offered - Cr4::PAE - Cr4::LA57 - Cr4::PCIDE;
        let choice = Cr4::from_bits_retain(dice.next()) & optional;
        state.cr4 = choice | (Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE) & offered;
        if dice.one_in(2) {
            state.cr4 -= Cr4::SMEP | Cr4::SMAP;
        }
        state.xcr0 = processor().xcr0();
        if self.long() {
            state.cr0 |= Cr0::PG;
            state.cr4 |= Cr4::PAE;
            state.efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE;
            state.cr3 = TABLES;
            if offered.contains(Cr4::LA57) && dice.one_in(4) {
                state.cr4 |= Cr4::LA57;
                state.cr3 = PML5;
            }
        } else if self.mode != Mode::Real && dice.one_in(2) {
            state.cr0 |= Cr0::PG;
            state.cr3 = NARROW;
            if dice.one_in(2) {
                state.cr4 |= Cr4::PAE;
                state.cr3 = PAE_PDPT;
                state.pdpte = PDPTES;
            }
        }
        if dice.one_in(3) {
            state.cr0 |= dice.pick(&[Cr0::WP, Cr0::AM, Cr0::TS, Cr0::EM, Cr0::MP, Cr0::WP | Cr0::AM]);
        }
        let flags = dice.next() & (Rflags::DEFINED - Rflags::VM - Rflags::RF - Rflags::TF).bits();
        state.rflags = Rflags::from_bits_retain(flags) | Rflags::FIXED;
        if dice.one_in(8) {
            state.rflags |= Rflags::TF;
            state.dr7 = Dr7::from_bits_retain(0x400 | dice.next() & 0xffff_00ff);
            state.dr = [CODE + dice.below(64), DATA + dice.below(64), DATA, dice.next()];
        }
        if self.mode == Mode::Virtual8086 {
            state.rflags |= Rflags::VM;
        }
    }

    /// Writes the tables of this world into memory.
    pub(crate) fn write(self, dice: &mut Dice, rig: &Rig) {
        if !self.orderly {
            let mut page = [0; 0x1000];
            for at in [GDT, IDT, TSS, OTHER_TSS, LDT, HANDLERS, TABLES, PDPT, DIRECTORY, PAGES, NARROW] {
                dice.fill(&mut page);
                rig.write(at, &page);
            }
            return;
        }
        let mut table = [0; 0x200];
        dice.fill(&mut table[0xc0..]);
        for (selector, raw) in global_descriptors(self.ring) {
            table[usize::from(selector)..][..8].copy_from_slice(&raw.to_le_bytes());
        }
        rig.write(GDT, &table);
        rig.write(LDT, &table);
        page_tables(rig);
        task_segments(rig, self.long());
        self.interrupts(dice, rig);
    }

    fn interrupts(self, dice: &mut Dice, rig: &Rig) {
        let mut handlers = [0; 0x400];
        crate::program::fill(dice, self.bitness(), &mut handlers);
        // Half of the handlers return at once, half of those after dropping an
        // error code.
        let returns: &[u8] = match self.bitness() {
            64 => &[0x48, 0x83, 0xc4, 8, 0x48, 0xcf],
            32 => &[0x83, 0xc4, 4, 0xcf],
            _ => &[0x83, 0xc4, 2, 0xcf],
        };
        for slot in 0..8 {
            let code = if slot % 2 == 0 {
                returns
            } else {
                &returns[returns.len() - self.bitness() as usize / 64 - 1..]
            };
            handlers[slot * 0x40..][..code.len()].copy_from_slice(code);
        }
        rig.write(HANDLERS, &handlers);
        let mut table = Vec::new();
        for _ in 0..256 {
            let handler = HANDLERS + dice.below(16) * 0x40;
            if self.mode == Mode::Real {
                table.extend((handler as u32).to_le_bytes());
                continue;
            }
            let selector = match self.mode {
                _ if dice.one_in(16) => dice.next() as u16 & 0xff,
                Mode::Compatibility | Mode::Long64 => KCODE64,
                Mode::Protected16 => KCODE16,
                _ => KCODE32,
            };
            let access = dice.pick(&[0x8e, 0xee, 0xee, 0xef, 0xef, 0xe6, 0x85, 0xe5, 0x0e]);
            let selector = if access & 0xf == 5 {
                dice.pick(&[OTHER_TSS_SELECTOR, TSS_SELECTOR, TSS16])
            } else {
                selector
            };
            table.extend(gate(selector, handler, access).to_le_bytes());
            if self.long() {
                table.extend([0; 8]);
            }
        }
        rig.write(if self.mode == Mode::Real { 0 } else { IDT }, &table);
    }
}

/// The GDT; `ring` decides who may use the odd segments.
fn global_descriptors(ring: u8) -> impl Iterator<Item = (u16, u64)> {
    let dpl = u64::from(ring) << 5;
    [
        (KCODE32, descriptor(0, 0xf_ffff, 0x9b, 0xc)),
        (KDATA32, descriptor(0, 0xf_ffff, 0x93, 0xc)),
        (KCODE16, descriptor(0, 0xffff, 0x9b, 0)),
        (KDATA16, descriptor(STACK, 0xffff, 0x93, 0)),
        (UCODE32, descriptor(0, 0xf_ffff, 0xfb, 0xc)),
        (UDATA32, descriptor(0, 0xf_ffff, 0xf3, 0xc)),
        (UCODE16, descriptor(0, 0xffff, 0xfb, 0)),
        (UDATA16, descriptor(STACK, 0xffff, 0xf3, 0)),
        (KCODE64, descriptor(0, 0xf_ffff, 0x9b, 0xa)),
        (UCODE64, descriptor(0, 0xf_ffff, 0xfb, 0xa)),
        (TSS_SELECTOR, descriptor(TSS, 0x2089, 0x8b, 0)),
        (LDT_SELECTOR, descriptor(LDT, 0xff, 0x82, 0)),
        (OTHER_TSS_SELECTOR, descriptor(OTHER_TSS, 0x67, 0xe9, 0)),
        (CALL_GATE, gate(KCODE32, HANDLERS, 0xec)),
        (TASK_GATE, gate(OTHER_TSS_SELECTOR, 0, 0xe5)),
        (TSS16, descriptor(OTHER_TSS, 0x2b, 0xe1, 0)),
        (CODE_ODD, descriptor(0x1000, 0x7_ffff, 0x9a | dpl, 4)),
        (DATA_ODD, descriptor(DATA - 0x123, 0x1_2345, 0x92 | dpl, 4)),
        (STACK_DOWN, descriptor(0, 0xf, 0x96 | dpl, 0xc)),
        (CODE16, descriptor(CODE, 0xffff, 0x9a | dpl, 0)),
    ]
    .into_iter()
}

fn task_segments(rig: &Rig, long: bool) {
    let mut tss = [0_u8; 0x68];
    if long {
        for place in [4, 0xc, 0x14, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54] {
            tss[place..place + 8].copy_from_slice(&(STACK + 0x8000).to_le_bytes());
        }
    } else {
        let words = [
            (4, STACK + 0x8000),
            (8, KDATA32.into()),
            (0x20, HANDLERS),
            (0x24, 2),
            (0x38, STACK),
            (0x48, KDATA32.into()),
            (0x4c, KCODE32.into()),
            (0x50, KDATA32.into()),
            (0x54, KDATA32.into()),
        ];
        for (place, value) in words {
            tss[place..place + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
    }
    tss[0x66] = 0x68;
    rig.write(TSS, &tss);
    rig.write(TSS + 0x68, &[0; 0x2022]);
    rig.write(OTHER_TSS, &tss);
}

/// Everything is mapped one to one; a few pages of [`DATA`] have surprises.
fn page_tables(rig: &Rig) {
    let entry = |value: u64| (value | ACCESSED_PRESENT | USER).to_le_bytes();
    rig.write(PML5, &entry(TABLES));
    rig.write(TABLES, &entry(PDPT));
    let directory: Vec<u8> = (0..2048).flat_map(|i: u64| entry(i << 21 | LARGE)).collect();
    rig.write(DIRECTORY, &directory);
    for i in 0..4 {
        rig.write(PDPT + 8 * i, &entry(DIRECTORY + 0x1000 * i));
        rig.write(PAE_PDPT + 8 * i, &(DIRECTORY + 0x1000 * i + 1).to_le_bytes());
    }
    rig.write(DIRECTORY, &entry(PAGES));
    let narrow: Vec<u8> = (0..1024).flat_map(|i: u64| narrow_entry(i << 22 | LARGE)).collect();
    rig.write(NARROW, &narrow);
    rig.write(NARROW, &narrow_entry(NARROW_PAGES));
    for page in 0..1024 {
        let value = special(page << 12);
        if page < 512 {
            rig.write(PAGES + 8 * page, &value.to_le_bytes());
        }
        rig.write(NARROW_PAGES + 4 * page, &(value as u32).to_le_bytes());
    }
}

fn narrow_entry(value: u64) -> [u8; 4] {
    ((value | ACCESSED_PRESENT | USER) as u32).to_le_bytes()
}

fn special(at: u64) -> u64 {
    match at {
        ABSENT => 0,
        READ_ONLY => at | 5,
        SUPERVISOR => at | 3,
        DEVICE => MMIO | 7,
        IN_ROM => ROM | 7,
        RESERVED => at | 7 | 1 << 51,
        _ => at | 7,
    }
}

/// Registers with values that lead to interesting places.
fn registers(dice: &mut Dice, state: &mut x86::CpuState) {
    for reg in 0..16 {
        state.gpr[reg] = interesting(dice);
    }
    let mut bytes = [0; 512];
    dice.fill(&mut bytes);
    for zmm in &mut state.fpu.zmm {
        let start = dice.below(448) as usize;
        zmm.0.copy_from_slice(&bytes[start..start + 64]);
    }
    state.fpu.x87 = X87State::INIT;
    if dice.one_in(4) {
        state.fpu.x87.fcw = dice.next() as u16;
        state.fpu.x87.fsw = dice.next() as u16;
        state.fpu.x87.ftw = dice.next() as u8;
        state.fpu.mxcsr = dice.next() as u32 & 0xffff;
    }
    for st in &mut state.fpu.x87.st {
        dice.fill(&mut st[..10]);
    }
    state.fpu.k = [0; 8].map(|_: u64| dice.next());
}

/// A number that an address, a count, a selector or an index may be.
pub(crate) fn interesting(dice: &mut Dice) -> u64 {
    const NUMBERS: [u64; 36] = [
        0,
        1,
        2,
        0x40,
        0x7f,
        0xff,
        0x7fff,
        0x8000,
        0xfffc,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fff8,
        0xffff_ffff,
        0x1_0000_0000,
        0x7fff_ffff_ffff,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        u64::MAX,
        u64::MAX - 7,
        DATA,
        DATA + 0xff8,
        ABSENT - 3,
        ABSENT,
        READ_ONLY - 8,
        READ_ONLY,
        SUPERVISOR,
        DEVICE,
        IN_ROM,
        RESERVED,
        MMIO,
        ROM + 0xfffc,
        RAM - 4,
        0xc000_0080,
        0x4b56_4d00,
    ];
    match dice.below(8) {
        0 => dice.next(),
        1 => dice.below(0x100),
        2 => DATA + dice.below(0x1_0000),
        3 => CODE + dice.below(0x1000),
        _ => dice.pick(&NUMBERS),
    }
}

/// Makes a mess of what the processor needs for itself.
fn spoil(dice: &mut Dice, state: &mut x86::CpuState) {
    for _ in 0..2 {
        let table = DescriptorTable { base: interesting(dice), limit: dice.next() as u16 };
        match dice.below(6) {
            0 => state.gdtr = table,
            1 => state.idtr = table,
            2 => state.tr.base = table.base,
            3 => state.ldtr.base = table.base,
            4 => state.set_reg(Gpr::Rsp, table.base),
            _ => state.cr3 = interesting(dice),
        }
    }
}
