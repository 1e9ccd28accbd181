//! Real mode: the 16-bit runner, its interrupt vector table, and the way back up.
//!
//! The section `.real` is copied to [`REAL_CODE`] and runs with CS = DS =
//! [`REAL_SEGMENT`], so an offset in it is a label minus the section's start. The part of the
//! segment above the code holds the runner's variables and results:
//!
//! ```text
//! 8000  code and fragments          (REAL_SEGMENT:0000)
//! 9c00  fragment offsets            REAL_OFFSETS
//! 9f00  variables of the runner     CURRENT, SAVED_SP, INDEX
//! a000  one Outcome for each probe  REAL_RESULTS
//! ```
//!
//! Every exception vector leads to a stub that records it and gives up the fragment, as
//! a kernel's handler would; the table is the real-mode IVT at address 0.

use core::arch::global_asm;

use crate::probe::{Fragment, Outcome, fragments};
use crate::selectors::{DATA16, KERNEL_CODE};

pub use crate::real_probes::PROBES;

/// The segment of all 16-bit code and data.
pub const REAL_SEGMENT: usize = 0x800;
/// Where the 16-bit section is copied.
pub const REAL_CODE: usize = REAL_SEGMENT * 16;
/// Offset of the table of fragment offsets.
pub const REAL_OFFSETS: usize = 0x1C00;
/// Offset of the results.
pub const REAL_RESULTS: usize = 0x2000;
/// Offset of the current record's offset.
const CURRENT: usize = 0x1F00;
/// Offset of the stack pointer to return to.
const SAVED_SP: usize = 0x1F02;
/// Offset of the current probe's index.
const INDEX: usize = 0x1F04;
/// Where the real-mode stack starts (SS = 0).
pub const REAL_STACK: usize = 0x7000;
/// The software interrupt with a handler of our own.
pub const REAL_VECTOR: u8 = 0x60;

/// The fragments in the table's order, for the runner.
#[unsafe(no_mangle)]
static REAL_FRAGMENTS: [Fragment; PROBES.len()] = fragments(&PROBES, 0, enter_real);

unsafe extern "C" {
    fn enter_real();
}

/// The results of real mode.
pub fn results() -> &'static [Outcome; PROBES.len()] {
    // SAFETY: the runner filled this memory before the Rust part was entered and
    // nothing writes to it afterwards; an Outcome is plain numbers.
    unsafe { &*((REAL_SEGMENT * 16 + REAL_RESULTS) as *const [Outcome; PROBES.len()]) }
}

// From 16-bit protected mode to real mode (SDM 3A 10.9.2): segments with 64 KiB
// limits, the IVT, PE off, and a far jump that reloads CS.
global_asm!(
    ".section .real,\"ax\"",
    ".p2align 4",
    ".globl enter_real",
    "enter_real:",
    ".code16",
    "mov ax, {data16}",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov ss, ax",
    ".byte 0x0f, 0x01, 0x1e // lidt [disp16]",
    ".word ivt_pointer - .real",
    "mov eax, cr0",
    "and al, 0xfe",
    "mov cr0, eax",
    ".byte 0xea",
    ".word real_start - .real, {segment}",
    "ivt_pointer: .word 0x3ff, 0, 0",
    "real_start:",
    "xor ax, ax",
    "mov ss, ax",
    "mov sp, {stack}",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov ax, {segment}",
    "mov ds, ax",
    // The interrupt vector table: 32 stubs of 8 bytes, and one software interrupt.
    "xor di, di",
    ".byte 0xb8 // mov ax, imm16",
    ".word stubs16 - .real",
    "3:",
    "mov word ptr es:[di], ax",
    "mov word ptr es:[di + 2], {segment}",
    "add ax, 8",
    "add di, 4",
    "cmp di, 32 * 4",
    "jb 3b",
    ".byte 0xb8 // mov ax, imm16",
    ".word software16 - .real",
    "mov word ptr es:[{vector} * 4], ax",
    "mov word ptr es:[{vector} * 4 + 2], {segment}",
    "push ds",
    "pop es",
    "xor si, si",
    // One probe after the other.
    "next16:",
    "cmp si, {count}",
    "jae done16",
    "mov word ptr [{index}], si",
    "mov di, si",
    "shl di, 6",
    "add di, {results}",
    "mov word ptr [{current}], di",
    "mov word ptr [di + {vector_offset}], {no_fault}",
    "mov word ptr [{saved_sp}], sp",
    "mov bx, si",
    "add bx, bx",
    "call word ptr [bx + {offsets}]",
    "recover16:",
    "cli",
    "cld",
    "mov ax, {segment}",
    "mov ds, ax",
    "mov es, ax",
    "mov sp, word ptr [{saved_sp}]",
    "mov si, word ptr [{index}]",
    "inc si",
    "jmp next16",
    // Exceptions: the stub's number, IP, CS and FLAGS are on the stack.
    "common16:",
    "mov ax, {segment}",
    "mov ds, ax",
    "mov di, word ptr [{current}]",
    "pop ax",
    "mov word ptr [di + {vector_offset}], ax",
    "pop ax",
    "mov word ptr [di + {ip_offset}], ax",
    "jmp recover16",
    // INT 60h: the CS and FLAGS it finds pushed, and FLAGS as they are here.
    "software16:",
    "mov bp, sp",
    "mov ax, word ptr [bp + 2]",
    "mov word ptr [di], ax",
    "mov ax, word ptr [bp + 4]",
    "mov word ptr [di + 8], ax",
    "pushf",
    "pop word ptr [di + 16]",
    "iret",
    ".p2align 3",
    "stubs16:",
    ".set vector16, 0",
    ".rept 32",
    ".p2align 3",
    ".byte 0x6a, vector16",
    "jmp common16",
    ".set vector16, vector16 + 1",
    ".endr",
    // Up again (SDM 3A 10.9.1): PE on, and a far jump into 32-bit code above 1 MiB.
    "done16:",
    "cli",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long enter_protected",
    ".word {kernel_code}",
    ".code64",
    ".text",
    data16 = const DATA16,
    segment = const REAL_SEGMENT,
    stack = const REAL_STACK,
    vector = const REAL_VECTOR,
    count = const PROBES.len(),
    index = const INDEX,
    results = const REAL_RESULTS,
    current = const CURRENT,
    saved_sp = const SAVED_SP,
    offsets = const REAL_OFFSETS,
    no_fault = const Outcome::NO_FAULT,
    vector_offset = const Outcome::VECTOR,
    ip_offset = const Outcome::IP,
    kernel_code = const KERNEL_CODE,
);
