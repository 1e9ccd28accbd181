//! The sensitive instructions of Robin and Irvine in 64-bit mode, from ring 0 and ring 3.
//!
//! "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine
//! Monitor" (USENIX Security 2000) counts seventeen instructions that are sensitive and
//! do not trap at ring 3; its sections name eighteen mnemonics, in two groups. The
//! numbers in the report follow its order:
//!
//! - sensitive register instructions: 1 SGDT, 2 SIDT, 3 SLDT, 4 SMSW, 5 PUSHF, 6 POPF;
//! - protection system instructions: 7 LAR, 8 LSL, 9 VERR, 10 VERW, 11 POP, 12 PUSH,
//!   13 CALL, 14 JMP, 15 INT n, 16 RET, 17 STR, 18 MOV (the last with segment
//!   registers, or far).
//!
//! 64-bit mode keeps all of them (POP and PUSH only with FS and GS).

use crate::probe::{Expect, Facts, Field, Probe, Want, flags, fragments64, gp, is, sees, sees2, sees3};
use crate::protected::{HIDDEN_VECTOR, OPEN_VECTOR};
use crate::selectors::*;

/// A LAR result; bits 19:16 are undefined (SDM 2A LAR).
const fn rights(name: &'static str, value: u64) -> Field {
    (name, Want::Bits(value, 0xFFFF_FFFF_FFF0_FFFF))
}

fn sgdt_sees(m: &Facts) -> Expect {
    sees2(is("base", m.gdt.0), is("limit", m.gdt.1.into()))
}

fn sidt_sees(m: &Facts) -> Expect {
    sees2(is("base", m.idt.0), is("limit", m.idt.1.into()))
}

fn sldt_sees(_: &Facts) -> Expect {
    sees(is("ldt", LDT.into()))
}

fn smsw_sees(m: &Facts) -> Expect {
    sees(is("cr0", m.cr0))
}

fn str_sees(_: &Facts) -> Expect {
    sees(is("tr", TSS.into()))
}

/// What a gate's target sees: its CS and SS, and the CS it was called from.
fn gate_sees(from: u16, ss: u16) -> Expect {
    sees3(is("cs", KERNEL_CODE.into()), is("from", from.into()), is("ss", ss.into()))
}

/// Ring 3 may not load this ring-0 selector.
fn selector_denied(selector: u16) -> Expect {
    gp(selector.into())
}

/// The 64-bit table.
pub const PROBES: [Probe; 20] = [
    Probe::both(1, "SGDT", sgdt, sgdt_sees, sgdt_sees),
    Probe::both(2, "SIDT", sidt, sidt_sees, sidt_sees),
    Probe::both(3, "SLDT", sldt, sldt_sees, sldt_sees),
    Probe::both(4, "SMSW RAX", smsw, smsw_sees, smsw_sees),
    Probe::both(5, "PUSHFQ", pushf, |_| sees(flags("flags", 0)), |_| sees(flags("flags", 0x200))),
    Probe::both(
        6,
        "POPFQ flip IF, IOPL=3",
        popf,
        |_| sees2(flags("was", 0), flags("is", 0x3200)),
        // No fault, and nothing changed: the best known of them all.
        |_| sees2(flags("was", 0x200), flags("is", 0x200)),
    ),
    Probe::both(
        7,
        "LAR kernel, user",
        lar,
        |m| sees3(is("zf", 3), rights("kernel", m.kernel_rights), rights("user", 0x00A0_FB00)),
        |_| sees3(is("zf", 2), is("kernel", 0), rights("user", 0x00A0_FB00)),
    ),
    Probe::both(
        8,
        "LSL TSS, user",
        lsl,
        |m| sees3(is("zf", 3), is("tss", m.tss_limit), is("user", 0xFFFF_FFFF)),
        |_| sees3(is("zf", 2), is("tss", 0), is("user", 0xFFFF_FFFF)),
    ),
    Probe::both(9, "VERR kernel, user", verr, |_| sees(is("zf", 3)), |_| sees(is("zf", 2))),
    Probe::both(10, "VERW kernel, user", verw, |_| sees(is("zf", 3)), |_| sees(is("zf", 2))),
    Probe::both(
        11,
        "POP FS kernel",
        pop_fs,
        |_| sees(is("fs", KERNEL_DATA.into())),
        |_| selector_denied(KERNEL_DATA),
    ),
    Probe::both(
        12,
        "PUSH FS",
        push_fs,
        |_| sees(is("fs", USER_DATA.into())),
        |_| sees(is("fs", USER_DATA.into())),
    ),
    Probe::both(
        13,
        "CALL far by gate",
        call_far,
        |_| gate_sees(KERNEL_CODE, KERNEL_DATA),
        |m| gate_sees(USER_CODE64, m.gate_ss),
    ),
    Probe::both(
        14,
        "JMP far kernel",
        jmp_far,
        |_| sees(is("cs", KERNEL_CODE.into())),
        |_| selector_denied(KERNEL_CODE),
    ),
    Probe::both(
        15,
        "INT 80h, DPL 3",
        int_open,
        |_| gate_sees(KERNEL_CODE, KERNEL_DATA),
        |m| gate_sees(USER_CODE64, m.gate_ss),
    ),
    Probe::both(
        15,
        "INT 30h, DPL 0",
        int_hidden,
        |_| gate_sees(KERNEL_CODE, KERNEL_DATA),
        |_| gp(u32::from(HIDDEN_VECTOR) * 8 + 2),
    ),
    Probe::both(
        16,
        "RET far kernel",
        ret_far,
        |_| sees(is("cs", KERNEL_CODE.into())),
        |_| selector_denied(KERNEL_CODE),
    ),
    Probe::both(17, "STR", str_, str_sees, str_sees),
    Probe::both(
        18,
        "MOV EAX,CS",
        mov_from_cs,
        |_| sees(is("cs", KERNEL_CODE.into())),
        |_| sees(is("cs", USER_CODE64.into())),
    ),
    Probe::both(
        18,
        "MOV ES kernel",
        mov_to_es,
        |_| sees(is("es", KERNEL_DATA.into())),
        |_| selector_denied(KERNEL_DATA),
    ),
];

/// With CR4.UMIP the five that read system registers fault at ring 3 (SDM 3A 2.5).
pub const WITH_UMIP: [Probe; 5] = [
    Probe::both(1, "SGDT, UMIP", sgdt, sgdt_sees, |_| gp(0)),
    Probe::both(2, "SIDT, UMIP", sidt, sidt_sees, |_| gp(0)),
    Probe::both(3, "SLDT, UMIP", sldt, sldt_sees, |_| gp(0)),
    Probe::both(4, "SMSW, UMIP", smsw, smsw_sees, |_| gp(0)),
    Probe::both(17, "STR, UMIP", str_, str_sees, |_| gp(0)),
];

/// With IOPL 3 ring 3 owns the interrupt flag, though not IOPL itself.
pub const WITH_IOPL3: [Probe; 5] = [
    Probe::ring3(5, "PUSHFQ", pushf, |_| sees(flags("flags", 0x3200))),
    Probe::ring3(6, "POPFQ flip IF, IOPL", popf, |_| sees2(flags("was", 0x3200), flags("is", 0x3000))),
    Probe::ring3(0, "CLI", cli, |_| sees(flags("flags", 0x3000))),
    Probe::ring3(0, "STI", sti, |_| sees(flags("flags", 0x3200))),
    Probe::ring3(0, "IN AL,21h", in_port, |m| sees(is("mask", m.pic_mask.into()))),
];

// PUSH FS and POP FS are spelled in bytes: the assembler would choose 16-bit forms.
fragments64! {
    sgdt: ["sub rsp, 16", "sgdt [rsp]", "movzx eax, word ptr [rsp]", "mov [rdi + 8], rax",
        "mov rax, [rsp + 2]", "mov [rdi], rax", "add rsp, 16"];
    sidt: ["sub rsp, 16", "sidt [rsp]", "movzx eax, word ptr [rsp]", "mov [rdi + 8], rax",
        "mov rax, [rsp + 2]", "mov [rdi], rax", "add rsp, 16"];
    sldt: ["sldt word ptr [rdi]"];
    smsw: ["smsw rax", "mov [rdi], rax"];
    pushf: ["pushfq", "pop [rdi]"];
    /// Flips IF and asks for IOPL 3; puts both back as far as it may.
    popf: ["pushfq", "mov rax, [rsp]", "mov [rdi], rax", "xor dword ptr [rsp], 0x200",
        "or dword ptr [rsp], 0x3000", "popfq", "pushfq", "pop [rdi + 8]", "push rax", "popfq"];
    lar: ["mov eax, {kernel}", "xor ecx, ecx", "lar ecx, eax", "mov [rdi + 8], rcx", "setz bl",
        "mov eax, {user}", "lar ecx, eax", "setz bh", "mov [rdi + 16], rcx", "shl bh, 1",
        "or bl, bh", "mov [rdi], bl"], kernel = const KERNEL_CODE, user = const USER_CODE64;
    lsl: ["mov eax, {kernel}", "xor ecx, ecx", "lsl ecx, eax", "mov [rdi + 8], rcx", "setz bl",
        "mov eax, {user}", "lsl ecx, eax", "setz bh", "mov [rdi + 16], rcx", "shl bh, 1",
        "or bl, bh", "mov [rdi], bl"], kernel = const TSS, user = const USER_DATA;
    verr: ["mov eax, {kernel}", "verr ax", "setz bl", "mov eax, {user}", "verr ax", "setz bh",
        "shl bh, 1", "or bl, bh", "mov [rdi], bl"], kernel = const KERNEL_DATA, user = const USER_DATA;
    verw: ["mov eax, {kernel}", "verw ax", "setz bl", "mov eax, {user}", "verw ax", "setz bh",
        "shl bh, 1", "or bl, bh", "mov [rdi], bl"], kernel = const KERNEL_DATA, user = const USER_DATA;
    pop_fs: ["push {kernel}", ".byte 0x0f, 0xa1", "mov word ptr [rdi], fs"], kernel = const KERNEL_DATA;
    push_fs: ["mov eax, {user}", "mov fs, eax", ".byte 0x0f, 0xa0", "pop [rdi]"], user = const USER_DATA;
    call_far: ["push {gate}", "push 0", "mov word ptr [rsp + 4], {gate}", "call fword ptr [rsp]",
        "add rsp, 16"], gate = const CALL_GATE;
    jmp_far: ["push 0", "lea rax, [rip + 2f]", "mov [rsp], eax", "mov word ptr [rsp + 4], {code}",
        "jmp fword ptr [rsp]", "2:", "pop rax", "mov word ptr [rdi], cs"], code = const KERNEL_CODE;
    int_open: ["xor eax, eax", "int {vector}"], vector = const OPEN_VECTOR;
    int_hidden: ["xor eax, eax", "int {vector}"], vector = const HIDDEN_VECTOR;
    ret_far: ["push {code}", "lea rax, [rip + 2f]", "push rax", "retfq", "2:", "mov word ptr [rdi], cs"],
        code = const KERNEL_CODE;
    str_: ["str word ptr [rdi]"];
    mov_from_cs: ["mov eax, cs", "mov [rdi], rax"];
    mov_to_es: ["mov eax, {kernel}", "mov es, eax", "mov word ptr [rdi], es"], kernel = const KERNEL_DATA;
    cli: ["cli", "pushfq", "pop [rdi]"];
    sti: ["cli", "sti", "pushfq", "pop [rdi]"];
    in_port: ["in al, 0x21", "mov [rdi], al"];
}
