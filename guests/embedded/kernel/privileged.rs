//! Privileged instructions in 64-bit mode: they do their work at ring 0 and fault at
//! ring 3, which is all that Popek and Goldberg asked for. Where ring 0 must put
//! something back, ring 3 runs the bare instruction.

use crate::probe::{Expect, Facts, Probe, UD, flags, fragments64, gp, is, sees, sees2};
use crate::selectors::*;

/// The instruction needs ring 0.
fn denied(_: &Facts) -> Expect {
    gp(0)
}

/// The 64-bit table.
pub const PROBES: [Probe; 30] = [
    Probe::both(0, "CLI", cli, |_| sees(flags("flags", 0)), denied),
    Probe::both(0, "STI", sti, |_| sees(flags("flags", 0x200)), denied),
    Probe::split(0, "HLT until a tick", (hlt, |_| sees(is("woken", 1))), (hlt3, denied)),
    Probe::both(0, "IN AL,21h", in_port, |m| sees(is("mask", m.pic_mask.into())), denied),
    Probe::both(0, "OUT 21h,AL", out_port, |_| sees(is("mask", 0xFF)), denied),
    Probe::split(
        0,
        "LGDT",
        (lgdt, |m| sees2(is("base", m.gdt.0), is("limit", u64::from(m.gdt.1) + 8))),
        (lgdt3, denied),
    ),
    Probe::split(
        0,
        "LIDT",
        (lidt, |m| sees2(is("base", m.idt.0), is("limit", u64::from(m.idt.1) + 8))),
        (lidt3, denied),
    ),
    Probe::both(0, "LLDT 0", lldt, |_| sees2(is("ldt", 0), is("again", LDT.into())), denied),
    Probe::split(0, "LTR", (ltr, |_| sees2(is("tr", TSS.into()), is("busy", 2))), (ltr3, denied)),
    Probe::ring0(0, "LTR a busy TSS", ltr3, |_| gp(TSS.into())),
    Probe::both(0, "LMSW clear PE", lmsw, |m| sees(is("msw", m.cr0 & 0xFFFF)), denied),
    Probe::both(
        0,
        "MOV CR0 flip WP",
        mov_cr0,
        |m| sees2(is("cr0", m.cr0), is("set", m.cr0 ^ 0x1_0000)),
        denied,
    ),
    Probe::ring0(0, "MOV CR0 NW without CD", cr0_invalid, |_| gp(0)),
    Probe::both(0, "MOV CR2", mov_cr2, |_| sees(is("cr2", 0x1234_5678_9000)), denied),
    Probe::both(0, "MOV CR3", mov_cr3, |m| sees(is("cr3", m.cr3)), denied),
    Probe::both(0, "MOV CR4 flip TSD", mov_cr4, |m| sees2(is("cr4", m.cr4), is("set", m.cr4 ^ 4)), denied),
    Probe::both(0, "MOV CR8", mov_cr8, |_| sees(is("tpr", 5)), denied),
    Probe::both(0, "MOV DR7", mov_dr7, |_| sees2(is("dr0", 0x1234), is("dr7", 0x400)), denied),
    Probe::both(0, "RDMSR EFER", rdmsr, |m| sees(is("efer", m.efer)), denied),
    Probe::both(0, "WRMSR KERNEL_GS_BASE", wrmsr, |_| sees(is("msr", 0x1122_3344_5566)), denied),
    Probe::ring0(0, "WRMSR not canonical", wrmsr_invalid, |_| gp(0)),
    Probe::ring0(0, "RDMSR no such MSR", rdmsr_invalid, |_| gp(0)),
    Probe::both(0, "INVLPG", invlpg, |_| sees(is("done", 1)), denied),
    Probe::both(0, "WBINVD", wbinvd, |_| sees(is("done", 1)), denied),
    Probe::split(0, "CLTS", (clts, |_| sees2(is("ts", 8), is("after", 0))), (clts3, denied)),
    Probe::split(
        0,
        "SWAPGS",
        (swapgs, |_| sees2(is("gs", 0x7777_8888), is("kernel", 0x5555_6666))),
        (swapgs3, denied),
    ),
    Probe::split(
        0,
        "SYSRETQ to ring 3",
        (sysret, |_| sees2(is("cs", USER_CODE64.into()), is("ss", USER_DATA.into()))),
        (sysret3, denied),
    ),
    Probe::both(
        0,
        "IRETQ to own ring",
        iret,
        |_| sees2(is("cs", KERNEL_CODE.into()), flags("flags", 0x3000)),
        |_| sees2(is("cs", USER_CODE64.into()), flags("flags", 0x200)),
    ),
    Probe::ring3(0, "IRETQ to ring 0", iret_kernel, |_| gp(KERNEL_CODE.into())),
    Probe::both(0, "PUSH CS (no such)", push_cs, |_| UD, |_| UD),
];

fragments64! {
    cli: ["cli", "pushfq", "pop [rdi]"];
    sti: ["sti", "pushfq", "cli", "pop [rdi]"];
    /// The 8254 ticks on; its interrupt ends the HLT.
    hlt: ["mov rax, [TICKS]", "sti", "hlt", "cli", "cmp rax, [TICKS]", "setne [rdi]"];
    hlt3: ["hlt"];
    in_port: ["in al, 0x21", "mov [rdi], al"];
    out_port: ["mov al, 0xff", "out 0x21, al", "in al, 0x21", "mov [rdi], al", "mov al, 0xfe", "out 0x21, al"];
    lgdt: ["sub rsp, 16", "sgdt [rsp]", "add word ptr [rsp], 8", "lgdt [rsp]", "sgdt [rsp]",
        "movzx eax, word ptr [rsp]", "mov [rdi + 8], rax", "mov rax, [rsp + 2]", "mov [rdi], rax",
        "sub word ptr [rsp], 8", "lgdt [rsp]", "add rsp, 16"];
    lgdt3: ["lgdt [rdi]"];
    lidt: ["sub rsp, 16", "sidt [rsp]", "add word ptr [rsp], 8", "lidt [rsp]", "sidt [rsp]",
        "movzx eax, word ptr [rsp]", "mov [rdi + 8], rax", "mov rax, [rsp + 2]", "mov [rdi], rax",
        "sub word ptr [rsp], 8", "lidt [rsp]", "add rsp, 16"];
    lidt3: ["lidt [rdi]"];
    lldt: ["xor eax, eax", "lldt ax", "sldt word ptr [rdi]", "mov eax, {ldt}", "lldt ax", "sldt word ptr [rdi + 8]"],
        ldt = const LDT;
    /// The descriptor is made available, loaded, and found busy.
    ltr: ["and byte ptr [gdt64 + {tss} + 5], 0xfd", "mov eax, {tss}", "ltr ax", "str word ptr [rdi]",
        "mov al, byte ptr [gdt64 + {tss} + 5]", "and al, 2", "mov [rdi + 8], al"], tss = const TSS;
    ltr3: ["mov eax, {tss}", "ltr ax"], tss = const TSS;
    lmsw: ["smsw eax", "and eax, 0xfffffffe", "lmsw ax", "smsw word ptr [rdi]"];
    mov_cr0: ["mov rax, cr0", "mov [rdi], rax", "mov rcx, rax", "xor eax, 0x10000", "mov cr0, rax",
        "mov rax, cr0", "mov [rdi + 8], rax", "mov cr0, rcx"];
    /// NW without CD (SDM 3A 2.5); harmless where it does not fault.
    cr0_invalid: ["mov rax, cr0", "mov rcx, rax", "or eax, 0x20000000", "mov cr0, rax", "mov cr0, rcx"];
    mov_cr2: ["mov rax, 0x123456789000", "mov cr2, rax", "xor eax, eax", "mov rax, cr2", "mov [rdi], rax"];
    mov_cr3: ["mov rax, cr3", "mov cr3, rax", "mov [rdi], rax"];
    mov_cr4: ["mov rax, cr4", "mov [rdi], rax", "mov rcx, rax", "xor eax, 4", "mov cr4, rax",
        "mov rax, cr4", "mov [rdi + 8], rax", "mov cr4, rcx"];
    mov_cr8: ["mov eax, 5", "mov cr8, rax", "mov rax, cr8", "mov [rdi], rax", "xor eax, eax", "mov cr8, rax"];
    mov_dr7: ["mov eax, 0x400", "mov dr7, rax", "mov ecx, 0x1234", "mov dr0, rcx", "mov rcx, dr0",
        "mov [rdi], rcx", "mov rcx, dr7", "mov [rdi + 8], rcx"];
    rdmsr: ["mov ecx, 0xc0000080", "rdmsr", "mov [rdi], eax", "mov [rdi + 4], edx"];
    wrmsr: ["mov ecx, 0xc0000102", "mov eax, 0x33445566", "mov edx, 0x1122", "wrmsr", "xor eax, eax",
        "xor edx, edx", "rdmsr", "mov [rdi], eax", "mov [rdi + 4], edx"];
    wrmsr_invalid: ["mov ecx, 0xc0000102", "xor eax, eax", "mov edx, 0x80000000", "wrmsr"];
    rdmsr_invalid: ["mov ecx, 0xdead", "rdmsr"];
    invlpg: ["invlpg [rdi]", "mov byte ptr [rdi], 1"];
    wbinvd: ["wbinvd", "mov byte ptr [rdi], 1"];
    clts: ["mov rax, cr0", "or eax, 8", "mov cr0, rax", "smsw eax", "and eax, 8", "mov [rdi], eax",
        "clts", "smsw eax", "and eax, 8", "mov [rdi + 8], eax"];
    clts3: ["clts"];
    /// GS base and its shadow, set, exchanged, read.
    swapgs: ["mov ecx, 0xc0000101", "mov eax, 0x55556666", "xor edx, edx", "wrmsr", "inc ecx",
        "mov eax, 0x77778888", "wrmsr", "swapgs", "rdmsr", "mov [rdi + 8], eax", "dec ecx", "rdmsr",
        "mov [rdi], eax", "xor eax, eax", "wrmsr"];
    swapgs3: ["swapgs"];
    /// Leaves ring 0 for ring 3 and ends there, by the exit gate.
    sysret: ["lea rcx, [rip + 2f]", "mov r11d, 0x202", "sysretq", "2:", "mov word ptr [rdi], cs",
        "mov word ptr [rdi + 8], ss", "int {exit}"], exit = const crate::protected::EXIT_VECTOR;
    sysret3: ["sysretq"];
    /// Asks for IOPL 3 with IF clear: only ring 0 gets that.
    iret: ["mov rdx, rsp", "mov eax, ss", "push rax", "push rdx", "push 0x3002", "mov eax, cs", "push rax",
        "lea rax, [rip + 2f]", "push rax", "iretq", "2:", "mov word ptr [rdi], cs", "pushfq",
        "pop [rdi + 8]", "push 2", "popfq"];
    iret_kernel: ["mov rdx, rsp", "push {data}", "push rdx", "push 2", "push {code}", "lea rax, [rip + 2f]",
        "push rax", "iretq", "2:"], code = const KERNEL_CODE, data = const KERNEL_DATA;
    push_cs: [".byte 0x0e"];
}
