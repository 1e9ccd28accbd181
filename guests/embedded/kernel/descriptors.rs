//! Long mode's descriptor tables: GDT, TSS with its stacks, LDT, IDT.

use core::arch::asm;
use core::mem::size_of;

use crate::cpu::Shared;
use crate::interrupts;
use crate::protected::{EXIT_VECTOR, HIDDEN_VECTOR, OPEN_VECTOR};
use crate::selectors::*;

/// Interrupt stack (IST 1) for everything that may arrive at any moment: NMI, double
/// fault, machine check and device interrupts.
const IST: u16 = 1;
/// Vectors in the IDT.
pub const IDT_ENTRIES: usize = 0x82;
/// Slots of the GDT.
const GDT_ENTRIES: usize = (GDT_LIMIT as usize + 1) / 8;

/// A 64-bit TSS (SDM 3A 8.7).
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

/// Limit of the TSS: no I/O permission map follows.
pub const TSS_LIMIT: u16 = (size_of::<Tss>() - 1) as u16;
const _: () = assert!(TSS_LIMIT == 0x67);

#[repr(align(16))]
struct Stack {
    _room: [u8; 16384],
}

#[repr(align(16))]
struct Table<const N: usize>([u64; N]);

#[unsafe(export_name = "gdt64")]
static GDT: Shared<Table<GDT_ENTRIES>> = Shared::new(Table([0; GDT_ENTRIES]));
static IDT: Shared<Table<{ IDT_ENTRIES * 2 }>> = Shared::new(Table([0; IDT_ENTRIES * 2]));
static LDT_TABLE: Shared<Table<2>> = Shared::new(Table([0; 2]));
static TRAP_STACK: Shared<Stack> = Shared::new(Stack { _room: [0; 16384] });
static IST_STACK: Shared<Stack> = Shared::new(Stack { _room: [0; 16384] });
static TASK: Shared<Tss> = Shared::new(Tss {
    reserved0: 0,
    rsp: [0; 3],
    reserved1: 0,
    ist: [0; 7],
    reserved2: 0,
    reserved3: 0,
    // Beyond the limit: every port is refused to ring 3 (SDM 1, "I/O Permission Bit Map").
    io_map: size_of::<Tss>() as u16,
});

/// The operand of LGDT and LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Base and limit of the GDT.
pub fn gdt() -> (u64, u16) {
    (GDT.get() as u64, GDT_LIMIT)
}

/// Base and limit of the IDT.
pub fn idt() -> (u64, u16) {
    (IDT.get() as u64, (IDT_ENTRIES * 16 - 1) as u16)
}

/// Top of the stack that a trap from ring 3 gets.
pub fn trap_stack() -> u64 {
    TRAP_STACK.get() as u64 + size_of::<Stack>() as u64
}

/// Fills and loads all tables.
pub fn init() {
    // SAFETY: single-threaded start-up; the tables are complete before they are loaded
    // and stay where they are.
    unsafe {
        (*TASK.get()).rsp[0] = trap_stack();
        (*TASK.get()).ist[0] = IST_STACK.get() as u64 + size_of::<Stack>() as u64;
        fill_gdt(&mut (*GDT.get()).0);
        fill_idt(&mut (*IDT.get()).0);
        load();
    }
}

fn fill_gdt(gdt: &mut [u64; GDT_ENTRIES]) {
    let mut set = |selector: u16, value: u64| gdt[usize::from(selector >> 3)] = value;
    set(KERNEL_CODE, CODE64_DESCRIPTOR);
    set(KERNEL_DATA, DATA_DESCRIPTOR);
    set(USER_CODE32, USER_CODE32_DESCRIPTOR);
    set(USER_DATA, USER_DATA_DESCRIPTOR);
    set(USER_CODE64, USER_CODE64_DESCRIPTOR);
    set(NOT_PRESENT, NOT_PRESENT_DESCRIPTOR);
    // 64-bit TSS (type 9) and LDT (type 2): base bits 63:32 in the second slot.
    let (tss, ldt) = (TASK.get() as u64, LDT_TABLE.get() as u64);
    set(TSS, system(tss, TSS_LIMIT, 0x89));
    set(TSS + 8, tss >> 32);
    set(LDT, system(ldt, 15, 0x82));
    set(LDT + 8, ldt >> 32);
    // 64-bit call gate (type 12) with DPL 3.
    let target = interrupts::gate_target();
    set(CALL_GATE, gate(target, 0xEC, 0));
    set(CALL_GATE + 8, target >> 32);
}

fn fill_idt(idt: &mut [u64; IDT_ENTRIES * 2]) {
    let mut set = |vector: usize, handler: u64, kind: u64, ist: u16| {
        idt[vector * 2] = gate(handler, kind, ist);
        idt[vector * 2 + 1] = handler >> 32;
    };
    for vector in 0..interrupts::STUBS {
        let asynchronous = matches!(vector, 2 | 8 | 18) || vector >= 32;
        set(vector, interrupts::stub(vector), 0x8E, if asynchronous { IST } else { 0 });
    }
    set(HIDDEN_VECTOR.into(), interrupts::software(), 0x8E, 0);
    set(OPEN_VECTOR.into(), interrupts::software(), 0xEE, 0);
    set(EXIT_VECTOR.into(), interrupts::exit(), 0xEE, 0);
}

/// The first slot of a system descriptor.
fn system(base: u64, limit: u16, kind: u64) -> u64 {
    u64::from(limit) | (base & 0xFF_FFFF) << 16 | kind << 40 | (base >> 24 & 0xFF) << 56
}

/// The first slot of a gate.
fn gate(target: u64, kind: u64, ist: u16) -> u64 {
    target & 0xFFFF
        | u64::from(KERNEL_CODE) << 16
        | u64::from(ist) << 32
        | kind << 40
        | (target >> 16 & 0xFFFF) << 48
}

/// Loads GDTR, IDTR, TR, LDTR and the data segments.
///
/// # Safety
/// The tables must be complete.
unsafe fn load() {
    let gdtr = Pointer { limit: GDT_LIMIT, base: gdt().0 };
    let idtr = Pointer { limit: idt().1, base: idt().0 };
    // SAFETY: the code selector keeps its meaning, so CS need not be reloaded.
    unsafe {
        asm!(
            "lgdt [{gdtr}]", "lidt [{idtr}]",
            "mov ds, {data:e}", "mov es, {data:e}", "mov ss, {data:e}",
            "ltr {tss:x}", "lldt {ldt:x}",
            gdtr = in(reg) &gdtr, idtr = in(reg) &idtr, data = in(reg) u32::from(KERNEL_DATA),
            tss = in(reg) u32::from(TSS), ldt = in(reg) u32::from(LDT),
        );
    }
}
