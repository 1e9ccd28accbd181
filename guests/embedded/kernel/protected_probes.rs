//! The 32-bit probes: protected mode at ring 0 and ring 3, and again at ring 3 in
//! compatibility mode.
//!
//! Ring 3 shows why the 386 could not be virtualized by trapping alone: the privileged
//! instructions fault, the sensitive ones answer, and what they answer is the truth
//! about ring 0's tables, flags and rings.

use crate::probe::{Expect, Facts, Field, Probe, Want, flags, fragments32, gp, is, sees, sees2, sees3};
use crate::protected::{HIDDEN_VECTOR, OPEN_VECTOR};
use crate::selectors::*;

/// The bits of LAR's result that the manual defines (SDM 2A LAR).
const RIGHTS: u64 = 0x00F0_FF00;

/// A LAR result.
const fn rights(name: &'static str, value: u64) -> Field {
    (name, Want::Bits(value, RIGHTS))
}

/// CR0's low word, as SMSW and LMSW know it.
fn msw(m: &Facts) -> Field {
    is("msw", m.cr0 & 0xFFFF)
}

fn sgdt_sees(m: &Facts) -> Expect {
    sees2(is("base", m.gdt.0), is("limit", m.gdt.1.into()))
}

fn sidt_sees(m: &Facts) -> Expect {
    sees2(is("base", m.idt.0), is("limit", m.idt.1.into()))
}

/// The instruction needs ring 0.
fn denied(_: &Facts) -> Expect {
    gp(0)
}

/// Loading the ring-0 code selector at ring 3.
fn kernel_code_denied(_: &Facts) -> Expect {
    gp(KERNEL_CODE.into())
}

/// Loading the ring-0 data selector at ring 3.
fn kernel_data_denied(_: &Facts) -> Expect {
    gp(KERNEL_DATA.into())
}

/// The 32-bit table.
pub const PROBES: [Probe; 47] = [
    Probe::both(1, "SGDT", sgdt, sgdt_sees, sgdt_sees),
    Probe::both(2, "SIDT", sidt, sidt_sees, sidt_sees),
    Probe::both(3, "SLDT", sldt, |_| sees(is("ldt", LDT.into())), |_| sees(is("ldt", LDT.into()))),
    Probe::both(4, "SMSW", smsw, |m| sees(msw(m)), |m| sees(msw(m))),
    Probe::both(5, "PUSHFD", pushf, |_| sees(flags("flags", 0)), |_| sees(flags("flags", 0x202))),
    Probe::both(
        6,
        "POPFD IF, IOPL=3",
        popf,
        |_| sees2(flags("was", 0), flags("is", 0x3200)),
        |_| sees2(flags("was", 0x200), flags("is", 0x200)),
    ),
    Probe::both(
        7,
        "LAR kernel, user",
        lar,
        |m| sees3(is("zf", 3), rights("kernel", m.kernel_rights), rights("user", 0x00C0_FB00)),
        |_| sees3(is("zf", 2), is("kernel", 0), rights("user", 0x00C0_FB00)),
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
    Probe::both(11, "POP ES kernel", pop_es, |_| sees(is("es", KERNEL_DATA.into())), kernel_data_denied),
    Probe::both(
        12,
        "PUSH CS, PUSH SS",
        push_cs,
        |m| sees2(is("cs", m.kernel_code.into()), is("ss", KERNEL_DATA.into())),
        |m| sees2(is("cs", m.user_code.into()), is("ss", USER_DATA.into())),
    ),
    Probe::both(
        13,
        "CALL far by gate",
        call_far,
        |m| {
            sees3(
                is("cs", KERNEL_CODE.into()),
                is("from", m.kernel_code.into()),
                is("ss", KERNEL_DATA.into()),
            )
        },
        |m| sees3(is("cs", KERNEL_CODE.into()), is("from", m.user_code.into()), is("ss", m.gate_ss.into())),
    ),
    Probe::both(14, "JMP far kernel", jmp_far, |_| sees(is("cs", KERNEL_CODE.into())), kernel_code_denied),
    Probe::both(
        15,
        "INT 80h, DPL 3",
        int_open,
        |m| {
            sees3(
                is("cs", KERNEL_CODE.into()),
                is("from", m.kernel_code.into()),
                is("ss", KERNEL_DATA.into()),
            )
        },
        |m| sees3(is("cs", KERNEL_CODE.into()), is("from", m.user_code.into()), is("ss", m.gate_ss.into())),
    ),
    Probe::both(
        15,
        "INT 30h, DPL 0",
        int_hidden,
        |m| {
            sees3(
                is("cs", KERNEL_CODE.into()),
                is("from", m.kernel_code.into()),
                is("ss", KERNEL_DATA.into()),
            )
        },
        |_| gp(u32::from(HIDDEN_VECTOR) * 8 + 2),
    ),
    Probe::both(16, "RET far kernel", ret_far, |_| sees(is("cs", KERNEL_CODE.into())), kernel_code_denied),
    Probe::both(17, "STR", str_, |_| sees(is("tr", TSS.into())), |_| sees(is("tr", TSS.into()))),
    Probe::both(
        18,
        "MOV EAX,CS",
        mov_from_cs,
        |m| sees(is("cs", m.kernel_code.into())),
        |m| sees(is("cs", m.user_code.into())),
    ),
    Probe::both(18, "MOV ES kernel", mov_to_es, |_| sees(is("es", KERNEL_DATA.into())), kernel_data_denied),
    Probe::both(0, "CLI", cli, |_| sees(flags("flags", 0)), denied),
    Probe::both(0, "STI", sti, |_| sees(flags("flags", 0x200)), denied),
    Probe::ring3(0, "HLT", hlt, denied),
    Probe::both(0, "IN AL,21h", in_port, |m| sees(is("mask", m.pic_mask.into())), denied),
    Probe::both(0, "OUT 21h,AL", out_port, |_| sees(is("mask", 0xFE)), denied),
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
    Probe::both(0, "LMSW clear PE", lmsw, |m| sees(msw(m)), denied),
    Probe::both(
        0,
        "MOV CR0 flip WP",
        mov_cr0,
        |m| sees2(is("cr0", m.cr0), is("set", m.cr0 ^ 0x1_0000)),
        denied,
    ),
    Probe::both(0, "MOV CR2", mov_cr2, |_| sees(is("cr2", 0x1234_5678)), denied),
    Probe::both(0, "MOV CR3", mov_cr3, |m| sees(is("cr3", m.cr3)), denied),
    Probe::both(0, "MOV CR4 flip TSD", mov_cr4, |m| sees2(is("cr4", m.cr4), is("set", m.cr4 ^ 4)), denied),
    Probe::both(0, "MOV DR7", mov_dr7, |_| sees2(is("dr0", 0x1234), is("dr7", 0x400)), denied),
    Probe::both(0, "RDMSR EFER", rdmsr, |m| sees(is("efer", m.efer)), denied),
    Probe::both(0, "WRMSR SYSENTER_EIP", wrmsr, |_| sees(is("msr", 0x0123_4567)), denied),
    Probe::both(0, "INVLPG", invlpg, |_| sees(is("done", 1)), denied),
    Probe::both(0, "WBINVD", wbinvd, |_| sees(is("done", 1)), denied),
    Probe::split(0, "CLTS", (clts, |_| sees2(is("ts", 8), is("after", 0))), (clts3, denied)),
    Probe::both(
        0,
        "IRETD to own ring",
        iret,
        |m| sees2(is("cs", m.kernel_code.into()), flags("flags", 0x3000)),
        |m| sees2(is("cs", m.user_code.into()), flags("flags", 0x200)),
    ),
    Probe::ring3(0, "IRETD to ring 0", iret_kernel, kernel_code_denied),
    // A software interrupt: at ring 3 the gate's DPL 0 refuses it (4 * 8 + IDT).
    Probe::both(0, "INTO, DPL 0", into, |_| Expect::Fault(4, 0), |_| gp(4 * 8 + 2)),
    Probe::both(0, "BOUND", bound, |_| Expect::Fault(5, 0), |_| Expect::Fault(5, 0)),
    Probe::both(
        0,
        "MOV ES not present",
        absent,
        |_| Expect::Fault(11, (NOT_PRESENT & !3) as u32),
        |_| Expect::Fault(11, (NOT_PRESENT & !3) as u32),
    ),
    Probe::both(0, "SWAPGS (no such)", swapgs, |_| crate::probe::UD, |_| crate::probe::UD),
];

// PUSH and POP of a segment register are spelled in bytes: the assembler would choose
// their 16-bit forms.
fragments32! {
    sgdt: ["sub esp, 8", "sgdt [esp]", "movzx eax, word ptr [esp]", "mov dword ptr [edi + 8], eax",
        "mov eax, dword ptr [esp + 2]", "mov dword ptr [edi], eax", "add esp, 8"];
    sidt: ["sub esp, 8", "sidt [esp]", "movzx eax, word ptr [esp]", "mov dword ptr [edi + 8], eax",
        "mov eax, dword ptr [esp + 2]", "mov dword ptr [edi], eax", "add esp, 8"];
    sldt: ["sldt word ptr [edi]"];
    smsw: ["smsw word ptr [edi]"];
    pushf: ["pushfd", "pop dword ptr [edi]"];
    /// Flips IF and asks for IOPL 3. Ring 3 gets neither, and no fault either.
    popf: ["pushfd", "mov eax, dword ptr [esp]", "mov dword ptr [edi], eax",
        "xor dword ptr [esp], 0x3200", "popfd", "pushfd", "pop dword ptr [edi + 8]",
        "push eax", "popfd"];
    lar: ["mov eax, {kernel}", "xor ecx, ecx", "lar ecx, eax", "mov dword ptr [edi + 8], ecx",
        "setz bl", "mov eax, {user}", "lar ecx, eax", "setz bh", "mov dword ptr [edi + 16], ecx",
        "shl bh, 1", "or bl, bh", "mov byte ptr [edi], bl"],
        kernel = const KERNEL_CODE, user = const USER_CODE32;
    lsl: ["mov eax, {kernel}", "xor ecx, ecx", "lsl ecx, eax", "mov dword ptr [edi + 8], ecx",
        "setz bl", "mov eax, {user}", "lsl ecx, eax", "setz bh", "mov dword ptr [edi + 16], ecx",
        "shl bh, 1", "or bl, bh", "mov byte ptr [edi], bl"],
        kernel = const TSS, user = const USER_DATA;
    verr: ["mov eax, {kernel}", "verr ax", "setz bl", "mov eax, {user}", "verr ax", "setz bh",
        "shl bh, 1", "or bl, bh", "mov byte ptr [edi], bl"],
        kernel = const KERNEL_DATA, user = const USER_DATA;
    verw: ["mov eax, {kernel}", "verw ax", "setz bl", "mov eax, {user}", "verw ax", "setz bh",
        "shl bh, 1", "or bl, bh", "mov byte ptr [edi], bl"],
        kernel = const KERNEL_DATA, user = const USER_DATA;
    pop_es: ["push {kernel}", ".byte 0x07", "mov word ptr [edi], es"], kernel = const KERNEL_DATA;
    push_cs: [".byte 0x0e", "pop eax", "mov word ptr [edi], ax", ".byte 0x16", "pop eax", "mov word ptr [edi + 8], ax"];
    call_far: [".byte 0x9a", ".long 0", ".word {gate}"], gate = const CALL_GATE;
    jmp_far: [".byte 0xea", ".long 2f", ".word {code}", "2:", "mov word ptr [edi], cs"],
        code = const KERNEL_CODE;
    int_open: ["xor eax, eax", "int {vector}"], vector = const OPEN_VECTOR;
    int_hidden: ["xor eax, eax", "int {vector}"], vector = const HIDDEN_VECTOR;
    ret_far: ["push {code}", ".byte 0x68", ".long 2f", "retf", "2:", "mov word ptr [edi], cs"],
        code = const KERNEL_CODE;
    str_: ["str word ptr [edi]"];
    mov_from_cs: ["mov eax, cs", "mov word ptr [edi], ax"];
    mov_to_es: ["mov eax, {kernel}", "mov es, eax", "mov word ptr [edi], es"], kernel = const KERNEL_DATA;
    cli: ["cli", "pushfd", "pop dword ptr [edi]"];
    sti: ["sti", "pushfd", "cli", "pop dword ptr [edi]"];
    hlt: ["hlt"];
    in_port: ["in al, 0x21", "mov byte ptr [edi], al"];
    out_port: ["mov al, 0xfe", "out 0x21, al", "in al, 0x21", "mov byte ptr [edi], al", "mov al, 0xff", "out 0x21, al"];
    lgdt: ["sub esp, 8", "sgdt [esp]", "add word ptr [esp], 8", "lgdt [esp]", "sgdt [esp]",
        "movzx eax, word ptr [esp]", "mov dword ptr [edi + 8], eax", "mov eax, dword ptr [esp + 2]",
        "mov dword ptr [edi], eax", "sub word ptr [esp], 8", "lgdt [esp]", "add esp, 8"];
    lgdt3: ["lgdt [edi]"];
    lidt: ["sub esp, 8", "sidt [esp]", "add word ptr [esp], 8", "lidt [esp]", "sidt [esp]",
        "movzx eax, word ptr [esp]", "mov dword ptr [edi + 8], eax", "mov eax, dword ptr [esp + 2]",
        "mov dword ptr [edi], eax", "sub word ptr [esp], 8", "lidt [esp]", "add esp, 8"];
    lidt3: ["lidt [edi]"];
    lldt: ["xor eax, eax", "lldt ax", "sldt word ptr [edi]", "mov eax, {ldt}", "lldt ax", "sldt word ptr [edi + 8]"],
        ldt = const LDT;
    /// The descriptor is made available, loaded, and found busy.
    ltr: ["and byte ptr [gdt32 + {tss} + 5], 0xfd", "mov eax, {tss}", "ltr ax", "str word ptr [edi]",
        "mov al, byte ptr [gdt32 + {tss} + 5]", "and al, 2", "mov byte ptr [edi + 8], al"], tss = const TSS;
    ltr3: ["mov eax, {tss}", "ltr ax"], tss = const TSS;
    lmsw: ["smsw eax", "and eax, 0xfffffffe", "lmsw ax", "smsw word ptr [edi]"];
    mov_cr0: ["mov eax, cr0", "mov dword ptr [edi], eax", "mov ecx, eax", "xor eax, 0x10000",
        "mov cr0, eax", "mov eax, cr0", "mov dword ptr [edi + 8], eax", "mov cr0, ecx"];
    mov_cr2: ["mov eax, 0x12345678", "mov cr2, eax", "xor eax, eax", "mov eax, cr2", "mov dword ptr [edi], eax"];
    mov_cr3: ["mov eax, cr3", "mov cr3, eax", "mov dword ptr [edi], eax"];
    mov_cr4: ["mov eax, cr4", "mov dword ptr [edi], eax", "mov ecx, eax", "xor eax, 4",
        "mov cr4, eax", "mov eax, cr4", "mov dword ptr [edi + 8], eax", "mov cr4, ecx"];
    mov_dr7: ["mov eax, 0x400", "mov dr7, eax", "mov ecx, 0x1234", "mov dr0, ecx", "mov ecx, dr0",
        "mov dword ptr [edi], ecx", "mov ecx, dr7", "mov dword ptr [edi + 8], ecx"];
    rdmsr: ["mov ecx, 0xc0000080", "rdmsr", "mov dword ptr [edi], eax"];
    wrmsr: ["mov ecx, 0x176", "mov eax, 0x1234567", "xor edx, edx", "wrmsr", "xor eax, eax", "rdmsr",
        "mov dword ptr [edi], eax"];
    invlpg: ["invlpg [edi]", "mov byte ptr [edi], 1"];
    wbinvd: ["wbinvd", "mov byte ptr [edi], 1"];
    clts: ["mov eax, cr0", "or eax, 8", "mov cr0, eax", "smsw eax", "and eax, 8", "mov dword ptr [edi], eax",
        "clts", "smsw eax", "and eax, 8", "mov dword ptr [edi + 8], eax"];
    clts3: ["clts"];
    /// Asks for IOPL 3 with IF clear: only ring 0 gets that.
    iret: ["push 0x3002", ".byte 0x0e", ".byte 0x68", ".long 2f", "iretd", "2:", "mov word ptr [edi], cs",
        "pushfd", "pop dword ptr [edi + 8]", "push 2", "popfd"];
    iret_kernel: ["pushfd", "push {code}", ".byte 0x68", ".long 2f", "iretd", "2:"], code = const KERNEL_CODE;
    into: ["mov al, 0x7f", "add al, 1", "into"];
    bound: ["push 2", "push 1", "mov eax, 5", ".byte 0x62, 0x04, 0x24", "add esp, 8"];
    absent: ["mov eax, {selector}", "mov es, eax"], selector = const NOT_PRESENT;
    swapgs: [".byte 0x0f, 0x01, 0xf8"];
}
