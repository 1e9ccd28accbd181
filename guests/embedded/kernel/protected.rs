//! 32-bit protected mode without paging: tables, gates, and the runner for both rings.
//!
//! Entered from real mode. The descriptor table was loaded before real mode and stays;
//! added here are an IDT, a TSS with a ring-0 stack, an LDT and a call gate. All
//! fragments run at ring 0, then at ring 3 (through IRETD, the stack and the code
//! segment of the user), and the results wait for the Rust part in long mode to judge
//! them. Then the way leads to [`crate::long`].

use core::arch::global_asm;
use core::ptr::addr_of;

use crate::entry::CR0_PROTECTED;
use crate::probe::{Facts, Fragment, Outcome, fragments};
pub use crate::protected_probes::PROBES;
use crate::selectors::*;

/// Number of probes in the table.
const COUNT: usize = PROBES.len();

/// Limit of the TSS: its 104 bytes, no I/O bitmap (SDM 3A 8.2.1).
const TSS_LIMIT: u16 = 0x67;
/// Offset of the I/O map base, which is set beyond the limit: no port is allowed.
const TSS_IO_MAP: usize = 0x66;
/// Vectors in the IDT: exceptions, [`HIDDEN_VECTOR`], and the two software interrupts.
const IDT_ENTRIES: usize = 0x82;
/// A gate with DPL 0, which ring 3 may not call.
pub const HIDDEN_VECTOR: u8 = 0x30;
/// A gate with DPL 3: the system call.
pub const OPEN_VECTOR: u8 = 0x80;
/// The gate by which a ring-3 fragment ends.
pub const EXIT_VECTOR: u8 = 0x81;
/// What a fragment at ring 3 starts with: IF on, IOPL 0.
pub const USER_FLAGS: u32 = 0x202;

/// The ring-0 fragments for the runner.
#[unsafe(no_mangle)]
static PROTECTED_RING0: [Fragment; COUNT] = fragments(&PROBES, 0, skip32);
/// The ring-3 fragments for the runner.
#[unsafe(no_mangle)]
static PROTECTED_RING3: [Fragment; COUNT] = fragments(&PROBES, 3, skip32);
/// What the fragments left: ring 0, then ring 3.
#[unsafe(no_mangle)]
static mut PROTECTED_RESULTS: [[Outcome; COUNT]; 2] = [[Outcome::new(); COUNT]; 2];

crate::probe::fragments32! {
    /// Stands where a table has no case for a ring.
    skip32: ["nop"];
}

unsafe extern "C" {
    static gdt32: u8;
    static idt32: u8;
}

/// The results of ring 0 and of ring 3.
pub fn results() -> &'static [[Outcome; COUNT]; 2] {
    // SAFETY: written only by the 32-bit runner, which is over when Rust runs.
    unsafe { &*addr_of!(PROTECTED_RESULTS) }
}

/// What was loaded in this mode.
pub fn facts() -> Facts {
    let (gdt, idt) = (addr_of!(gdt32) as u64, addr_of!(idt32) as u64);
    Facts {
        gdt: (gdt, GDT_LIMIT),
        idt: (idt, (IDT_ENTRIES * 8 - 1) as u16),
        cr0: CR0_PROTECTED.into(),
        cr3: 0,
        cr4: 0,
        efer: 0,
        pic_mask: 0xFF,
        tss_limit: TSS_LIMIT.into(),
        kernel_code: KERNEL_CODE,
        user_code: USER_CODE32,
        kernel_rights: 0x00C0_9B00,
        gate_ss: KERNEL_DATA,
    }
}

// The descriptor table. The base addresses that an assembler cannot split into a
// descriptor's fields are filled in by prepare_gdt32, which the entry code calls.
global_asm!(
    ".section .data.gdt32,\"aw\"",
    ".p2align 3",
    ".globl gdt32",
    "gdt32:",
    ".quad 0, {code}, {data}, {user_code}, {user_data}, 0",
    ".quad 0x0000890000000000 + {tss_limit}, 0", // TSS32, available
    ".quad 0x000082000000000f, 0",               // LDT of two empty descriptors
    ".quad 0x0000ec0000000000 + ({code_selector} << 16), 0", // call gate, DPL 3
    ".quad {not_present}",
    ".quad 0x00009b008000ffff, 0x000093008000ffff", // 16-bit segments at 0x8000
    ".globl gdt32_pointer",
    "gdt32_pointer: .word {limit}",
    ".long gdt32",
    "idt32_pointer: .word {idt_limit}",
    ".long idt32",
    ".section .boot,\"ax\"",
    ".code32",
    "prepare_gdt32:",
    "mov eax, offset tss32",
    "mov edi, offset gdt32 + {tss}",
    "call set_base32",
    "mov eax, offset ldt32",
    "mov edi, offset gdt32 + {ldt}",
    "call set_base32",
    "mov eax, offset gate_target32",
    "mov word ptr [gdt32 + {gate}], ax",
    "shr eax, 16",
    "mov word ptr [gdt32 + {gate} + 6], ax",
    "ret",
    "set_base32:",
    "mov word ptr [edi + 2], ax",
    "shr eax, 16",
    "mov byte ptr [edi + 4], al",
    "mov byte ptr [edi + 7], ah",
    "ret",
    ".code64",
    ".section .bss.tables32,\"aw\",@nobits",
    ".p2align 4",
    ".globl idt32",
    "idt32: .skip {idt_limit} + 1",
    ".p2align 4",
    "tss32: .skip 104",
    "ldt32: .skip 16",
    ".p2align 4",
    ".skip 4096",
    "trap_stack32_top:",
    "current32: .skip 4",
    "saved_esp32: .skip 4",
    ".text",
    code = const CODE32_DESCRIPTOR,
    data = const DATA_DESCRIPTOR,
    user_code = const USER_CODE32_DESCRIPTOR,
    user_data = const USER_DATA_DESCRIPTOR,
    not_present = const NOT_PRESENT_DESCRIPTOR,
    code_selector = const KERNEL_CODE,
    tss_limit = const TSS_LIMIT,
    limit = const GDT_LIMIT,
    idt_limit = const IDT_ENTRIES * 8 - 1,
    tss = const TSS,
    ldt = const LDT,
    gate = const CALL_GATE & !3,
);

// Set-up, and the loop over the fragments of both rings.
global_asm!(
    ".section .boot,\"ax\"",
    ".code32",
    ".globl enter_protected",
    "enter_protected:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    "mov esp, offset stack32_top",
    // The TSS: where a trap from ring 3 finds its stack, and no I/O permission.
    "mov dword ptr [tss32 + 4], offset trap_stack32_top",
    "mov dword ptr [tss32 + 8], {data}",
    "mov word ptr [tss32 + {io_map}], 0x68",
    "mov eax, {tss}",
    "ltr ax",
    "mov eax, {ldt}",
    "lldt ax",
    // The IDT: 32 exceptions, then the software interrupts.
    "mov eax, offset stubs32",
    "mov edi, offset idt32",
    "mov ecx, 32",
    "mov edx, 0x8e00",
    "2:",
    "call set_gate32",
    "add eax, 16",
    "add edi, 8",
    "dec ecx",
    "jnz 2b",
    "mov eax, offset software32",
    "mov edi, offset idt32 + {hidden} * 8",
    "call set_gate32",
    "mov edx, 0xee00",
    "mov edi, offset idt32 + {open} * 8",
    "call set_gate32",
    "mov eax, offset exit32",
    "mov edi, offset idt32 + {exit} * 8",
    "call set_gate32",
    "lidt [idt32_pointer]",
    // ESI walks the fragments, EDI the results.
    "mov esi, offset PROTECTED_RING0",
    "mov edi, offset PROTECTED_RESULTS",
    "mov ebp, offset call_ring0",
    "call run_all32",
    "mov esi, offset PROTECTED_RING3",
    "mov ebp, offset call_ring3",
    "call run_all32",
    "jmp enter_long",
    // A gate with handler EAX and type EDX at [EDI] (SDM 3A 7.11).
    "set_gate32:",
    "push eax",
    "mov word ptr [edi], ax",
    "mov word ptr [edi + 2], {code}",
    "mov word ptr [edi + 4], dx",
    "shr eax, 16",
    "mov word ptr [edi + 6], ax",
    "pop eax",
    "ret",
    "run_all32:",
    "mov ecx, {count}",
    "3:",
    "pushad",
    "mov dword ptr [current32], edi",
    "mov dword ptr [saved_esp32], esp",
    "mov eax, dword ptr [esi]",
    "jmp ebp",
    "recover32:",
    "cli",
    "cld",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    "mov esp, dword ptr [saved_esp32]",
    "popad",
    "add esi, 8",
    "add edi, 64",
    "dec ecx",
    "jnz 3b",
    "ret",
    "call_ring0:",
    "call eax",
    "jmp recover32",
    "call_ring3:",
    "mov ecx, {user_data}",
    "mov ds, ecx",
    "mov es, ecx",
    "push ecx",
    ".byte 0x68 // push imm32",
    ".long USER_STACK_TOP",
    "push {user_flags}",
    "push {user_code}",
    ".byte 0x68 // push imm32",
    ".long start_user32",
    "iretd",
    ".code64",
    // EAX is the fragment: runs at ring 3 here and in compatibility mode.
    ".section .user.text,\"ax\"",
    ".code32",
    ".globl start_user32",
    "start_user32:",
    "call eax",
    "int {exit}",
    ".code64",
    ".text",
    data = const KERNEL_DATA,
    code = const KERNEL_CODE,
    user_data = const USER_DATA,
    user_code = const USER_CODE32,
    user_flags = const USER_FLAGS,
    tss = const TSS,
    ldt = const LDT,
    io_map = const TSS_IO_MAP,
    hidden = const HIDDEN_VECTOR,
    open = const OPEN_VECTOR,
    exit = const EXIT_VECTOR,
    count = const COUNT,
);

// Handlers. Stubs are 16 bytes apart; those whose exception has no error code push 0.
global_asm!(
    ".section .boot,\"ax\"",
    ".code32",
    ".p2align 4",
    "stubs32:",
    ".set vector32, 0",
    ".rept 32",
    ".p2align 4",
    ".if (0x227d00 >> vector32) & 1",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x6a, vector32",
    "jmp common32",
    ".set vector32, vector32 + 1",
    ".endr",
    "common32:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov edi, dword ptr [current32]",
    "pop eax",
    "mov dword ptr [edi + {vector}], eax",
    "pop eax",
    "mov dword ptr [edi + {error}], eax",
    "pop eax",
    "mov dword ptr [edi + {ip}], eax",
    "jmp recover32",
    "exit32:",
    "mov eax, {data}",
    "mov ds, eax",
    "jmp recover32",
    // INT 30h, INT 80h: the CS and SS it runs with, and the CS that was pushed.
    "software32:",
    "mov eax, dword ptr [esp + 4]",
    "mov dword ptr [edi + 8], eax",
    "xor eax, eax",
    "mov ax, cs",
    "mov dword ptr [edi], eax",
    "mov ax, ss",
    "mov dword ptr [edi + 16], eax",
    "iretd",
    // The call gate's target: the same, and back by RET far.
    "gate_target32:",
    "mov eax, dword ptr [esp + 4]",
    "mov dword ptr [edi + 8], eax",
    "xor eax, eax",
    "mov ax, cs",
    "mov dword ptr [edi], eax",
    "mov ax, ss",
    "mov dword ptr [edi + 16], eax",
    "retf",
    ".code64",
    ".text",
    data = const KERNEL_DATA,
    vector = const Outcome::VECTOR,
    error = const Outcome::ERROR,
    ip = const Outcome::IP,
);
