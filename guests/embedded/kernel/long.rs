//! From protected mode to long mode (SDM 3A 10.8.5), and the first 64-bit instructions.
//!
//! Identity-mapped 2 MiB pages for the first GiB are enough to get there; the page
//! tables with proper rights are built by [`crate::paging`]. SSE is enabled here,
//! because compiled Rust uses it.

use core::arch::global_asm;

use crate::entry::EFER;
use crate::selectors::{CODE64_DESCRIPTOR, DATA_DESCRIPTOR, KERNEL_CODE, KERNEL_DATA};

/// CR0 in long mode: PG, WP, NE, ET, MP, PE.
pub const CR0_LONG: u32 = 0x8001_0033;
/// CR4 in long mode: PAE, OSFXSR, OSXMMEXCPT.
pub const CR4_LONG: u32 = 0x0000_0620;
/// EFER as this guest sets it: SCE, LME, NXE; the processor adds LMA.
pub const EFER_LONG: u32 = 0x0000_0901;
/// EFER.LMA, set by the processor while long mode is active.
pub const EFER_LMA: u64 = 1 << 10;

global_asm!(
    ".section .boot,\"ax\"",
    ".code32",
    ".globl enter_long",
    "enter_long:",
    "mov dword ptr [boot_pml4], offset boot_pdpt + 3",
    "mov dword ptr [boot_pdpt], offset boot_pd + 3",
    "mov edi, offset boot_pd",
    "mov eax, 0x83",
    "mov ecx, 512",
    "2:",
    "mov dword ptr [edi], eax",
    "add eax, 0x200000",
    "add edi, 8",
    "dec ecx",
    "jnz 2b",
    "mov eax, {cr4}",
    "mov cr4, eax",
    "mov eax, offset boot_pml4",
    "mov cr3, eax",
    "mov ecx, {efer}",
    "mov eax, {efer_value}",
    "xor edx, edx",
    "wrmsr",
    "mov eax, {cr0}",
    "mov cr0, eax",
    "lgdt [boot_gdt64_pointer]",
    "push {code}",
    ".byte 0x68 // push imm32",
    ".long start64",
    "retf",
    ".code64",
    "start64:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "lldt ax",
    "mov rsp, offset kernel_stack_top",
    "xor ebp, ebp",
    "call kernel_main",
    "ud2",
    ".section .rodata.boot_gdt64,\"a\"",
    ".p2align 3",
    "boot_gdt64: .quad 0, {code_descriptor}, {data_descriptor}",
    "boot_gdt64_pointer: .word 23",
    ".long boot_gdt64",
    ".section .bss.long,\"aw\",@nobits",
    ".p2align 12",
    "boot_pml4: .skip 4096",
    "boot_pdpt: .skip 4096",
    "boot_pd: .skip 4096",
    ".skip 32768",
    ".globl kernel_stack_top",
    "kernel_stack_top:",
    ".text",
    cr4 = const CR4_LONG,
    efer = const EFER,
    efer_value = const EFER_LONG,
    cr0 = const CR0_LONG,
    code = const KERNEL_CODE,
    data = const KERNEL_DATA,
    code_descriptor = const CODE64_DESCRIPTOR,
    data_descriptor = const DATA_DESCRIPTOR,
);
