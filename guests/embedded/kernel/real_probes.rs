//! The probes of real mode: the sensitive instructions as an 8086 had them, the ones
//! that real mode does not have, and what segmentation shows.
//!
//! In real mode everything runs with full privilege; what can be seen is that the
//! instructions which need protected mode's tables are invalid (SDM 2A, "Real-Address
//! Mode Exceptions"), that POPF changes all that it can, and that segment registers are
//! plain numbers with a limit behind them.

use crate::entry::MULTIBOOT_MAGIC;
use crate::probe::{Expect, Probe, UD, flags, fragments16, is, sees, sees2, sees3};
use crate::real::{REAL_SEGMENT, REAL_VECTOR};
use crate::selectors::KERNEL_DATA;

/// The real-mode segment as a value.
const CS: u64 = REAL_SEGMENT as u64;

/// Real mode's table.
pub const PROBES: [Probe; 35] = [
    Probe::ring0(1, "SGDT", sgdt, |m| sees2(is("base", m.gdt.0 & 0xFF_FFFF), is("limit", m.gdt.1.into()))),
    Probe::ring0(2, "SIDT", sidt, |_| sees2(is("base", 0), is("limit", 0x3FF))),
    Probe::ring0(3, "SLDT", sldt, |_| UD),
    Probe::ring0(4, "SMSW", smsw, |m| sees(is("msw", m.cr0 & 0xFFFE))),
    Probe::ring0(5, "PUSHF", pushf, |_| sees2(flags("cli", 0), flags("sti", 0x200))),
    Probe::ring0(6, "POPF all set", popf, |_| sees2(flags("flags", 0x7200), flags("cleared", 0))),
    Probe::ring0(7, "LAR", lar, |_| UD),
    Probe::ring0(8, "LSL", lsl, |_| UD),
    Probe::ring0(9, "VERR", verr, |_| UD),
    Probe::ring0(10, "VERW", verw, |_| UD),
    Probe::ring0(11, "POP ES", pop_seg, |_| sees(is("es", 0x1234))),
    Probe::ring0(12, "PUSH CS", push_seg, |_| sees(is("cs", CS))),
    Probe::ring0(13, "CALL far", call_far, |_| sees2(is("cs", CS), is("pushed", CS))),
    Probe::ring0(14, "JMP far", jmp_far, |_| sees(is("cs", CS))),
    Probe::ring0(15, "INT 60h by the IVT", int_n, |_| {
        sees3(is("cs", CS), flags("pushed", 0x200), flags("inside", 0))
    }),
    Probe::ring0(16, "RET far", ret_far, |_| sees(is("cs", CS))),
    Probe::ring0(17, "STR", str_, |_| UD),
    Probe::ring0(18, "MOV AX,CS", mov_seg, |_| sees(is("cs", CS))),
    Probe::ring0(0, "CLI, STI", cli_sti, |_| sees2(flags("cli", 0), flags("sti", 0x200))),
    Probe::ring0(0, "LIDT", lidt, |_| sees2(is("base", 0), is("limit", 0x1FF))),
    Probe::ring0(0, "LMSW same", lmsw, |m| sees(is("msw", m.cr0 & 0xFFFE))),
    Probe::ring0(0, "MOV EAX,CR0", mov_cr0, |m| sees(is("cr0", m.cr0 & !1))),
    Probe::ring0(0, "CLTS", clts, |_| sees2(is("ts", 8), is("after", 0))),
    Probe::ring0(0, "RDMSR EFER", rdmsr, |_| sees(is("efer", 0))),
    Probe::ring0(0, "IN AL,21h", in_port, |_| sees(is("mask", 0xFF))),
    Probe::ring0(0, "OUT 21h,AL", out_port, |_| sees(is("mask", 0xFE))),
    Probe::ring0(0, "LLDT", lldt, |_| UD),
    Probe::ring0(0, "LTR", ltr, |_| UD),
    Probe::ring0(0, "DIV by zero", div_zero, |_| Expect::Fault(0, 0)),
    Probe::ring0(0, "INT3", int3, |_| Expect::Fault(3, 0)),
    Probe::ring0(0, "UD2", ud2, |_| UD),
    Probe::ring0(0, "9F0:20 is 9F1:10", segments, |_| sees(is("word", 0xBEEF))),
    Probe::ring0(0, "FFFF:10 is 1 MiB", high_memory, |_| sees(is("word", MULTIBOOT_MAGIC as u64))),
    Probe::ring0(0, "offset > 64 KiB", beyond_limit, |_| Expect::Fault(13, 0)),
    Probe::ring0(0, "unreal: FS:100000", unreal, |_| sees(is("word", MULTIBOOT_MAGIC as u64))),
];

// A far return is spelled in bytes for the same reason as the near one.
fragments16! {
    sgdt: ["sub sp, 8", "mov bp, sp", "sgdt [bp]", "mov eax, dword ptr [bp + 2]",
        "and eax, 0xffffff", "mov dword ptr [di], eax", "mov ax, word ptr [bp]",
        "mov word ptr [di + 8], ax", "add sp, 8"];
    sidt: ["sub sp, 8", "mov bp, sp", "sidt [bp]", "mov eax, dword ptr [bp + 2]",
        "and eax, 0xffffff", "mov dword ptr [di], eax", "mov ax, word ptr [bp]",
        "mov word ptr [di + 8], ax", "add sp, 8"];
    sldt: ["sldt word ptr [di]"];
    smsw: ["smsw word ptr [di]"];
    pushf: ["cli", "pushf", "pop word ptr [di]", "sti", "pushf", "cli", "pop word ptr [di + 8]"];
    /// IOPL 3, NT and IF: real mode lets POPF change them all.
    popf: ["push 0x7202", "popf", "pushf", "push 2", "popf", "pop word ptr [di]",
        "pushf", "pop word ptr [di + 8]"];
    lar: ["mov ax, {data}", "lar cx, ax"], data = const KERNEL_DATA;
    lsl: ["mov ax, {data}", "lsl cx, ax"], data = const KERNEL_DATA;
    verr: ["mov ax, {data}", "verr ax"], data = const KERNEL_DATA;
    verw: ["mov ax, {data}", "verw ax"], data = const KERNEL_DATA;
    pop_seg: ["push 0x1234", "pop es", "mov word ptr [di], es"];
    push_seg: ["push cs", "pop word ptr [di]"];
    call_far: [".byte 0x9a", ".word 2f - .real, {segment}", "jmp 3f",
        "2:", "mov word ptr [di], cs", "mov bp, sp", "mov ax, word ptr [bp + 2]",
        "mov word ptr [di + 8], ax", ".byte 0xcb", "3:"], segment = const REAL_SEGMENT;
    jmp_far: [".byte 0xea", ".word 2f - .real, {segment}", "2:", "mov word ptr [di], cs"],
        segment = const REAL_SEGMENT;
    int_n: ["sti", "int {vector}", "cli"], vector = const REAL_VECTOR;
    ret_far: ["push cs", ".byte 0x68", ".word 2f - .real", ".byte 0xcb", "2:", "mov word ptr [di], cs"];
    str_: ["str word ptr [di]"];
    mov_seg: ["mov ax, cs", "mov word ptr [di], ax"];
    cli_sti: ["sti", "cli", "pushf", "pop word ptr [di]", "sti", "pushf", "cli", "pop word ptr [di + 8]"];
    lidt: ["sub sp, 8", "mov bp, sp", "sidt [bp]", "mov word ptr [bp], 0x1ff", "lidt [bp]",
        "sidt [bp]", "mov eax, dword ptr [bp + 2]", "and eax, 0xffffff", "mov dword ptr [di], eax",
        "mov ax, word ptr [bp]", "mov word ptr [di + 8], ax", "mov word ptr [bp], 0x3ff",
        "lidt [bp]", "add sp, 8"];
    lmsw: ["smsw ax", "lmsw ax", "smsw ax", "mov word ptr [di], ax"];
    mov_cr0: ["mov eax, cr0", "mov dword ptr [di], eax"];
    clts: ["mov eax, cr0", "or al, 8", "mov cr0, eax", "smsw ax", "and ax, 8",
        "mov word ptr [di], ax", "clts", "smsw ax", "and ax, 8", "mov word ptr [di + 8], ax"];
    rdmsr: ["mov ecx, 0xc0000080", "rdmsr", "mov dword ptr [di], eax"];
    in_port: ["in al, 0x21", "mov byte ptr [di], al"];
    out_port: ["mov al, 0xfe", "out 0x21, al", "in al, 0x21", "mov byte ptr [di], al",
        "mov al, 0xff", "out 0x21, al"];
    lldt: ["xor ax, ax", "lldt ax"];
    ltr: ["xor ax, ax", "ltr ax"];
    div_zero: ["xor cx, cx", "div cx"];
    int3: ["int3"];
    ud2: ["ud2"];
    /// Two segments, one address: 0x9F20, behind the runner's variables.
    segments: ["push 0x9f0", "pop es", "mov word ptr es:[0x20], 0xbeef", "push 0x9f1", "pop es",
        "mov ax, word ptr es:[0x10]", "mov word ptr [di], ax"];
    /// With A20 open the last 64 KiB segment reaches beyond 1 MiB, where our image starts.
    high_memory: ["push 0xffff", "pop es", "mov eax, dword ptr es:[0x10]", "mov dword ptr [di], eax"];
    beyond_limit: ["mov ebx, 0xf8000", "mov eax, dword ptr [ebx]"];
    /// A limit loaded in protected mode stays when real mode is entered again
    /// (SDM 3A 10.9.2 says why one must reload): a flat FS under real mode.
    unreal: ["mov eax, cr0", "or al, 1", "mov cr0, eax", "mov cx, {data}", "mov fs, cx",
        "and al, 0xfe", "mov cr0, eax", "xor cx, cx", "mov fs, cx", "mov ebx, 0x100000",
        "mov eax, dword ptr fs:[ebx]", "mov dword ptr [di], eax"], data = const KERNEL_DATA;
}
