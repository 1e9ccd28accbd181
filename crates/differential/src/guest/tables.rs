//! The guest's tables: page tables, GDT, IDT, TSS and the stubs by which every
//! exception ends the run. They lie in the upper half of the address space,
//! where user code reaches nothing natively either.

use memory::{GuestMemory, MemoryError};
use x86::cpuid::CpuidModel;
use x86::{
    CpuState, Cr0, Cr4, DescriptorTable, Efer, GuestPhysAddr, Segment, SegmentAttributes, SegmentName,
    Selector,
};

use crate::layout::{GS_BASE, PAGE, RIGHTS, Rights, WINDOW, selector};
use crate::state::{Bits, Registers};

/// RAM of the guest.
pub(super) const RAM: u64 = 2 << 20;
/// Where the upper half maps guest-physical address 0.
pub(super) const UPPER: u64 = 0xffff_8000_0000_0000;
/// Guest-physical address of the window.
pub(super) const WINDOW_IN_RAM: u64 = 0x2_0000;
/// Guest-physical address of the window where it is not RAM.
pub(super) const MMIO: u64 = 0x1000_0000;
/// Writing here ends the run.
pub(super) const END_PORT: u16 = 0xf4;
/// The vector whose handler only returns.
pub(super) const INTERRUPT_VECTOR: u8 = 0x20;
/// The end of the ring-0 stack.
pub(super) const RING0_STACK: u64 = 0xb000;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
const UPPER_PDPT: u64 = 0x5000;
const UPPER_PD: u64 = 0x6000;
const GDT: u64 = 0x7000;
const TSS: u64 = 0x7800;
const IDT: u64 = 0x8000;
const STUBS: u64 = 0x9000;
/// From the tables of the window in RAM to those of the window in MMIO.
const OTHER_TABLES: u64 = 0xb000;
const STUB_SIZE: u64 = 8;
const KERNEL_CODE: u16 = 0x08;
const TSS_SELECTOR: u16 = 0x40;

const TABLE: u64 = 0x67;
const LARGE: u64 = 0xe3;
const NO_EXECUTE: u64 = 1 << 63;

const KERNEL_CODE_RAW: u64 = 0x00af_9b00_0000_ffff;
const CODE32_RAW: u64 = 0x00cf_fb00_0000_ffff;
const DATA_RAW: u64 = 0x00cf_f300_0000_ffff;
const CODE64_RAW: u64 = 0x00af_fb00_0000_ffff;

/// Writes all tables; they stay the same from run to run.
pub(super) fn write(memory: &GuestMemory) -> Result<(), MemoryError> {
    page_tables(memory, 0, WINDOW_IN_RAM, false)?;
    page_tables(memory, OTHER_TABLES, MMIO, true)?;
    descriptors(memory)?;
    for vector in 0..=255 {
        // OUT END_PORT, AL; HLT. Or IRETQ.
        let stub = if vector == INTERRUPT_VECTOR { [0x48, 0xcf, 0xf4] } else { [0xe6, END_PORT as u8, 0xf4] };
        memory.write(GuestPhysAddr(STUBS + u64::from(vector) * STUB_SIZE), &stub)?;
        memory.write(GuestPhysAddr(IDT + u64::from(vector) * 16), &gate(vector).to_le_bytes())?;
    }
    // The I/O permission map begins behind the limit: no port is permitted.
    memory.write(GuestPhysAddr(TSS + 0x66), &[0xff, 0xff])?;
    memory.write(GuestPhysAddr(TSS + 4), &(UPPER + RING0_STACK).to_le_bytes())
}

/// The tables at `base`, with the window at guest-physical `window`. Code is
/// always in RAM; if `mmio`, data and stack are not.
fn page_tables(memory: &GuestMemory, base: u64, window: u64, mmio: bool) -> Result<(), MemoryError> {
    let entry = |table: u64, index: u64, value: u64| {
        memory.write(GuestPhysAddr(base + table + index * 8), &value.to_le_bytes())
    };
    entry(PML4, WINDOW >> 39 & 0x1ff, (base + PDPT) | TABLE)?;
    entry(PDPT, WINDOW >> 30 & 0x1ff, (base + PD) | TABLE)?;
    entry(PD, WINDOW >> 21 & 0x1ff, (base + PT) | TABLE)?;
    entry(PML4, UPPER >> 39 & 0x1ff, (base + UPPER_PDPT) | TABLE)?;
    entry(UPPER_PDPT, UPPER >> 30 & 0x1ff, (base + UPPER_PD) | TABLE)?;
    entry(UPPER_PD, UPPER >> 21 & 0x1ff, LARGE)?;
    for (page, rights) in (0..).zip(RIGHTS) {
        let in_ram = !mmio || rights.executes();
        let at = page * PAGE + if in_ram { WINDOW_IN_RAM } else { window };
        let value = match rights {
            Rights::Absent => 0,
            Rights::Code => at | 0x65,
            Rights::All => at | 0x67,
            Rights::Data => at | 0x67 | NO_EXECUTE,
            Rights::ReadOnly => at | 0x65 | NO_EXECUTE,
        };
        entry(PT, page, value)?;
    }
    Ok(())
}

fn descriptors(memory: &GuestMemory) -> Result<(), MemoryError> {
    let set = |selector: u16, raw: u64| {
        memory.write(GuestPhysAddr(GDT + u64::from(selector & !7)), &raw.to_le_bytes())
    };
    set(KERNEL_CODE, KERNEL_CODE_RAW)?;
    set(selector::CODE32, CODE32_RAW)?;
    set(selector::DATA, DATA_RAW)?;
    set(selector::CODE64, CODE64_RAW)?;
    let base = UPPER + TSS;
    set(TSS_SELECTOR, 0x67 | (base & 0xff_ffff) << 16 | 0x8b << 40 | (base >> 24 & 0xff) << 56)?;
    set(TSS_SELECTOR + 8, base >> 32)
}

/// An interrupt gate to the vector's stub. INT3 and INTO may be executed by
/// user code.
fn gate(vector: u8) -> u128 {
    let target = UPPER + STUBS + u64::from(vector) * STUB_SIZE;
    let access: u128 = if matches!(vector, 3 | 4) { 0xee } else { 0x8e };
    let target = u128::from(target);
    target & 0xffff
        | u128::from(KERNEL_CODE) << 16
        | access << 40
        | (target >> 16 & 0xffff) << 48
        | target >> 32 << 64
}

/// The vector whose stub holds the linear address `rip`.
pub(super) fn vector_at(rip: u64) -> Option<u8> {
    let offset = rip.checked_sub(UPPER + STUBS)?;
    u8::try_from(offset / STUB_SIZE).ok()
}

/// The vCPU's state with the user's `registers`.
pub(super) fn initial_state(model: &CpuidModel, registers: &Registers, bits: Bits, mmio: bool) -> CpuState {
    let mut state = CpuState::reset();
    state.gpr = registers.gpr;
    state.rip = registers.rip;
    state.rflags = x86::Rflags::from_bits_retain(registers.rflags);
    state.fpu = registers.fpu.clone();
    state.cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.cr3 = PML4 + if mmio { OTHER_TABLES } else { 0 };
    state.cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE;
    state.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
    state.xcr0 = model.xcr0();
    state.gdtr = DescriptorTable { base: UPPER + GDT, limit: 0x7f };
    state.idtr = DescriptorTable { base: UPPER + IDT, limit: 0xfff };
    state.tr = Segment {
        base: UPPER + TSS,
        limit: 0x67,
        selector: Selector(TSS_SELECTOR),
        attributes: SegmentAttributes::from_bits(0x8b),
    };
    state.ldtr = Segment::null(Selector::NULL);
    let data = Segment::from_descriptor(Selector(selector::DATA), DATA_RAW);
    state.segments = [data; 6];
    *state.segment_mut(SegmentName::Cs) = match bits {
        Bits::B64 => Segment::from_descriptor(Selector(selector::CODE64), CODE64_RAW),
        Bits::B32 => Segment::from_descriptor(Selector(selector::CODE32), CODE32_RAW),
    };
    *state.segment_mut(SegmentName::Fs) = Segment::null(Selector::NULL);
    *state.segment_mut(SegmentName::Gs) = Segment { base: GS_BASE, ..Segment::null(Selector::NULL) };
    state
}
