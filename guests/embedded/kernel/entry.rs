//! Where the machine starts us: PVH or multiboot, 32-bit protected mode, paging off.
//!
//! Two headers lead here. The ELF note `XEN_ELFNOTE_PHYS32_ENTRY` (18) is PVH's; the
//! multiboot 1 header, with its address fields, is for loaders that know no 64-bit ELF.
//! Both promise flat 32-bit segments and little else, so the first thing done is to
//! load a descriptor table of our own. Then the 16-bit part is copied below 1 MiB and
//! entered, which is the start of the journey: real mode ([`crate::real`]), protected
//! mode ([`crate::protected`]), long mode ([`crate::long`]).

use core::arch::global_asm;

use crate::real::{PROBES as PROBES16, REAL_CODE, REAL_OFFSETS, REAL_RESULTS, REAL_SEGMENT};
use crate::selectors::{CODE16, DATA16, KERNEL_CODE, KERNEL_DATA};

/// CR0 in protected mode: PE, ET and NE (SDM 3A 2.5); paging and caches' CD, NW off.
pub const CR0_PROTECTED: u32 = 0x31;

/// The number that starts a multiboot header; also what unreal mode looks for.
pub const MULTIBOOT_MAGIC: u32 = 0x1BAD_B002;
/// Header flag: the address fields are valid.
const MULTIBOOT_ADDRESSES: u32 = 1 << 16;

/// EFER, cleared on entry so that every later value in it is ours.
pub const EFER: u32 = 0xC000_0080;

unsafe extern "C" {
    /// EAX as the loader left it: multiboot's magic, or anything.
    pub static BOOT_EAX: u32;
    /// The first word at EBX, `hvm_start_info` under PVH, read before low memory is reused.
    pub static BOOT_MAGIC: u32;
}

global_asm!(
    ".section .multiboot,\"a\"",
    ".p2align 2",
    "multiboot_header:",
    ".long {magic}, {flags}, -({magic} + {flags})",
    ".long multiboot_header, __image_start, __load_end, __image_end, entry32",
    ".section .note.Xen,\"a\",@note",
    ".p2align 2",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad entry32",
    ".text",
    magic = const MULTIBOOT_MAGIC,
    flags = const MULTIBOOT_ADDRESSES,
);

global_asm!(
    ".section .boot,\"ax\"",
    ".code32",
    ".globl entry32",
    "entry32:",
    "cli",
    "cld",
    "mov dword ptr [BOOT_EAX], eax",
    "mov eax, dword ptr [ebx]",
    "mov dword ptr [BOOT_MAGIC], eax",
    // Nothing may interrupt until the 8259s are ours.
    "mov al, 0xff",
    "out 0x21, al",
    "out 0xa1, al",
    "mov esp, offset stack32_top",
    "call prepare_gdt32",
    "lgdt [gdt32_pointer]",
    "push {kernel_code}",
    ".byte 0x68 // push imm32",
    ".long 2f",
    "retf",
    "2:",
    "mov eax, {kernel_data}",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ss, eax",
    // Control registers as we want them, whatever the loader left.
    "mov eax, {cr0}",
    "mov cr0, eax",
    "xor eax, eax",
    "mov cr4, eax",
    "xor edx, edx",
    "mov ecx, {efer}",
    "wrmsr",
    // The 16-bit code goes to its place, its results are cleared.
    "mov esi, offset __real_start",
    "mov edi, {real_code}",
    "mov ecx, offset __real_end",
    "sub ecx, esi",
    "rep movsb",
    "mov edi, {real_results}",
    "mov ecx, {count} * 64",
    "rep stosb",
    // Each fragment's linked address becomes an offset in the real-mode segment.
    "mov esi, offset REAL_FRAGMENTS",
    "mov edi, {real_offsets}",
    "mov ecx, {count}",
    "3:",
    "mov eax, dword ptr [esi]",
    "sub eax, offset __real_start",
    "stosw",
    "add esi, 8",
    "dec ecx",
    "jnz 3b",
    // Far jump into a 16-bit segment, the last step before PE is cleared.
    ".byte 0xea",
    ".long enter_real - .real",
    ".word {code16}",
    ".code64",
    ".section .bss.boot,\"aw\",@nobits",
    ".globl BOOT_EAX",
    ".globl BOOT_MAGIC",
    ".p2align 4",
    "BOOT_EAX: .skip 4",
    "BOOT_MAGIC: .skip 4",
    ".p2align 4",
    ".skip 8192",
    ".globl stack32_top",
    "stack32_top:",
    ".text",
    kernel_code = const KERNEL_CODE,
    kernel_data = const KERNEL_DATA,
    code16 = const CODE16,
    cr0 = const CR0_PROTECTED,
    efer = const EFER,
    real_code = const REAL_CODE,
    real_results = const REAL_SEGMENT * 16 + REAL_RESULTS,
    real_offsets = const REAL_SEGMENT * 16 + REAL_OFFSETS,
    count = const PROBES16.len(),
);

// DATA16 is used by the code on the other side of the jump.
const _: () = assert!(DATA16 == CODE16 + 8);
