//! The environments in which guests start: modes, tables, stacks.
//!
//! Protected- and long-mode environments share one GDT layout, which serves
//! SYSCALL, SYSRET, SYSENTER and SYSEXIT as well (SDM 3A 5.8.7, 5.8.8).

use engine::Mode;
use x86::{Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags, Segment, SegmentAttributes, SegmentName, Selector};

use crate::asm::Code;
use crate::guest::{FrameSize, Guest};
use crate::layout::*;

/// Real mode: all segments at zero, vectors to the stubs.
pub(crate) fn real(code: Code) -> Guest {
    let mut guest = Guest::new(Mode::Real, FrameSize::Word, code);
    let state = &mut guest.state;
    state.segments = [Segment::real_mode(0); 6];
    state.segments[SegmentName::Cs as usize].attributes = SegmentAttributes::from_bits(0x9b);
    state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
    state.cr0 = Cr0::ET | Cr0::NE;
    state.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    state.set_reg(Gpr::Rsp, STACK);
    state.set_reg(Gpr::Rdx, 0);
    let vectors = (0..=255).flat_map(|vector| Guest::stub(vector).to_le_bytes()).collect::<Vec<u8>>();
    stubs(guest).bytes(0, &vectors)
}

fn stubs(guest: Guest) -> Guest {
    let stub = [0xe6, STUB_PORT as u8, 0xf4, 0xf4];
    guest.bytes(STUBS, &stub.repeat(256))
}

/// GDT, IDT, TSS, LDT and the registers that point to them.
fn tables(mut guest: Guest, long: bool) -> Guest {
    let code = descriptor(0, 0xf_ffff, CODE, if long { FLAT64 } else { FLAT32 });
    let user_data = descriptor(0, 0xf_ffff, WRITABLE | DPL3, FLAT32);
    let table = [
        (KCODE, code),
        (KDATA, descriptor(0, 0xf_ffff, WRITABLE, FLAT32)),
        (UCODE32, descriptor(0, 0xf_ffff, CODE | DPL3, FLAT32)),
        (UDATA, user_data),
        (UCODE64, descriptor(0, 0xf_ffff, CODE | DPL3, FLAT64)),
        (0x30, user_data),
        (KCODE16, descriptor(0, 0xffff, CODE, SMALL16)),
        (KDATA16, descriptor(0, 0xffff, WRITABLE, SMALL16)),
        (KCODE32, descriptor(0, 0xf_ffff, CODE, FLAT32)),
        (TSS_SELECTOR, descriptor(TSS as u32, TSS_LIMIT.into(), 0x8b, 0)),
        (LDT_SELECTOR, descriptor(LDT as u32, 0xff, 0x82, 0)),
    ];
    for (selector, raw) in table {
        guest = guest.gdt(selector, raw);
    }
    let state = &mut guest.state;
    state.gdtr = DescriptorTable { base: GDT, limit: 0xff };
    state.tr = system_segment(TSS_SELECTOR, TSS, TSS_LIMIT, 0x8b);
    state.ldtr = system_segment(LDT_SELECTOR, LDT, 0xff, 0x82);
    state.cr0 = Cr0::PE | Cr0::ET | Cr0::NE;
    state.cr4 = Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    state.set_reg(Gpr::Rdx, 0);
    state.set_reg(Gpr::Rsp, STACK);
    guest = task_segment(guest, long);
    let guest = stubs(guest);
    idt(guest, long)
}

fn system_segment(selector: u16, base: u64, limit: u16, access: u16) -> Segment {
    Segment {
        base,
        limit: limit.into(),
        selector: Selector(selector),
        attributes: SegmentAttributes::from_bits(access),
    }
}

/// The TSS: ring-0 stack, and no port permitted.
fn task_segment(mut guest: Guest, long: bool) -> Guest {
    guest = guest.tss(4, RING0_STACK as u32);
    if long {
        guest = guest.qword(TSS + 0x24, OTHER_STACK);
    } else {
        guest = guest.tss(8, KDATA.into());
    }
    guest
        .word(TSS + 0x66, TSS_IO_MAP as u16)
        .bytes(TSS + TSS_REDIRECTION, &[0xff; 0x20])
        .bytes(TSS + TSS_IO_MAP, &[0xff; 0x21])
}

/// Interrupt gates of DPL 3 for vectors 3, 4 and from 32, else of DPL 0, all
/// to the stubs.
fn idt(mut guest: Guest, long: bool) -> Guest {
    let size: u16 = if long { 16 } else { 8 };
    let mut gates = Vec::new();
    for vector in 0..=255 {
        let access = if vector >= 32 || vector == 3 || vector == 4 { 0xee } else { 0x8e };
        gates.extend(gate(KCODE, Guest::stub(vector), access, 0).to_le_bytes());
        gates.resize(gates.len() + usize::from(size - 8), 0);
    }
    guest.state.idtr = DescriptorTable { base: IDT, limit: size * 256 - 1 };
    guest.bytes(IDT, &gates)
}

fn load_segments(guest: &mut Guest, code: u16, data: u16) {
    let raw = |selector: u16| {
        let at = GDT + u64::from(selector & !7);
        let bytes = guest.memory.iter().rev().find(|(address, _)| *address == at);
        bytes.map_or(0, |(_, bytes)| bytes.iter().rev().fold(0, |value, &b| value << 8 | u64::from(b)))
    };
    let (code_raw, data_raw) = (raw(code), raw(data));
    guest.state.segments = [Segment::from_descriptor(Selector(data), data_raw); 6];
    *guest.state.segment_mut(SegmentName::Cs) = Segment::from_descriptor(Selector(code), code_raw);
}

/// Protected mode, ring 0, 32-bit segments from 0 to 4 GiB.
pub(crate) fn protected32(code: Code) -> Guest {
    let mut guest = tables(Guest::new(Mode::Protected32, FrameSize::Dword, code), false);
    load_segments(&mut guest, KCODE, KDATA);
    guest
}

/// Protected mode, ring 0, 16-bit code and data segments; gates are 32-bit.
pub(crate) fn protected16(code: Code) -> Guest {
    let mut guest = tables(Guest::new(Mode::Protected16, FrameSize::Dword, code), false);
    load_segments(&mut guest, KCODE16, KDATA16);
    guest
}

/// Protected mode, ring 3, IOPL 0.
pub(crate) fn user32(code: Code) -> Guest {
    let mut guest = tables(Guest::new(Mode::Protected32, FrameSize::Dword, code), false);
    load_segments(&mut guest, UCODE32, UDATA);
    guest.with(Gpr::Rsp, USER_STACK)
}

/// Virtual-8086 mode, all segments at zero, IOPL 3.
pub(crate) fn v86(code: Code) -> Guest {
    let mut guest = tables(Guest::new(Mode::Virtual8086, FrameSize::Dword, code), false);
    let segment = Segment { attributes: SegmentAttributes::from_bits(0xf3), ..Segment::real_mode(0) };
    guest.state.segments = [segment; 6];
    guest.with(Gpr::Rsp, USER_STACK).with_flags(Rflags::VM).iopl(3)
}

/// IA-32e mode with 4-level paging; the first 2 MiB map to themselves.
fn long(mode: Mode, code: Code, cs: u16, ss: u16) -> Guest {
    let mut guest = tables(Guest::new(mode, FrameSize::Qword, code), true);
    load_segments(&mut guest, cs, ss);
    guest.state.efer = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    guest.state.cr3 = PML4;
    let guest = guest.qword(PML4, PDPT | TABLE).qword(PDPT, PD | TABLE);
    guest.page_tables(8, Cr4::PAE)
}

/// 64-bit mode, ring 0.
pub(crate) fn long64(code: Code) -> Guest {
    long(Mode::Long64, code, KCODE, KDATA)
}

/// 64-bit mode, ring 3, IOPL 0.
pub(crate) fn user64(code: Code) -> Guest {
    long(Mode::Long64, code, UCODE64, UDATA).with(Gpr::Rsp, USER_STACK)
}

/// Compatibility mode, ring 3, 32-bit.
pub(crate) fn compatibility(code: Code) -> Guest {
    long(Mode::Compatibility, code, UCODE32, UDATA).with(Gpr::Rsp, USER_STACK)
}

/// Compatibility mode, ring 0, 32-bit.
pub(crate) fn compatibility0(code: Code) -> Guest {
    long(Mode::Compatibility, code, KCODE32, KDATA)
}

/// Paging for the protected-mode environments.
impl Guest {
    /// Page table, page directory and CR0.PG for entries of `size` bytes.
    fn page_tables(mut self, size: u64, cr4: Cr4) -> Self {
        let bits = if self.state.cpl() == 3 { USER_PAGE } else { KERNEL_PAGE };
        let mut entries = Vec::new();
        for page in 0..4096 / size {
            let entry = (page << 12 | bits).to_le_bytes();
            entries.extend(entry.iter().take(size as usize));
        }
        self.page_entry = size;
        self.state.cr0 |= Cr0::PG | Cr0::WP;
        self.state.cr4 |= cr4;
        self.bytes(PT, &entries).dword(PD, (PT | TABLE) as u32)
    }

    /// 32-bit paging; the first 4 MiB map to themselves.
    pub(crate) fn paged(mut self) -> Self {
        self.state.cr3 = PD;
        self.page_tables(4, Cr4::PSE)
    }

    /// PAE paging with execute-disable; the first 2 MiB map to themselves.
    pub(crate) fn pae(mut self) -> Self {
        self.state.cr3 = PDPT;
        self.state.pdpte = [PD | 1, 0, 0, 0];
        self.state.efer = Efer::NXE;
        self.qword(PDPT, PD | 1).page_tables(8, Cr4::PAE)
    }

    /// 5-level paging, in a long-mode environment.
    pub(crate) fn la57(mut self) -> Self {
        self.state.cr3 = PML5;
        self.state.cr4 |= Cr4::LA57;
        self.needs(x86::cpuid::Feature::La57).qword(PML5, PML4 | TABLE)
    }
}
