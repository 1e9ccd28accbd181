//! Privileged instructions from ring 3, and prefixes that are not allowed (SDM
//! 3A 5.9; SDM 2A 2.1.1).

use x86::{Cr4, Gpr::*, Rflags, Vector};

use crate::asm::{code32, code64};
use crate::env::{compatibility, long64, protected32, user32, user64};
use crate::guest::guests;

guests! { "privileged";
    /// HLT (SDM 2A, HLT).
    hlt: user32(code32!("7: hlt")).fault(Vector::GP, 0);

    /// CLI with CPL above IOPL (SDM 2A, CLI).
    cli: user32(code32!("7: cli")).fault(Vector::GP, 0);

    /// STI with CPL above IOPL (SDM 2B, STI).
    sti: user64(code64!("7: sti")).fault(Vector::GP, 0);

    /// CLI with CPL within IOPL is allowed.
    cli_with_iopl: user32(code32!("
        cli
     7: ud2
    ")).iopl(3).with_flags(Rflags::IF).event(Vector::UD).pushed_flags(Rflags::IF, Rflags::empty());

    /// LGDT (SDM 2A, LGDT).
    lgdt: user32(code32!("7: lgdt [0xd000]")).fault(Vector::GP, 0);

    /// LIDT (SDM 2A, LIDT).
    lidt: user64(code64!("7: lidt [0xd000]")).fault(Vector::GP, 0);

    /// LLDT (SDM 2A, LLDT).
    lldt: user32(code32!("7: lldt ax")).fault(Vector::GP, 0);

    /// LTR (SDM 2A, LTR).
    ltr: user32(code32!("7: ltr ax")).fault(Vector::GP, 0);

    /// LMSW (SDM 2A, LMSW).
    lmsw: user32(code32!("7: lmsw ax")).fault(Vector::GP, 0);

    /// CLTS (SDM 2A, CLTS).
    clts: user32(code32!("7: clts")).fault(Vector::GP, 0);

    /// MOV to CR0 (SDM 2B, MOV to CR).
    mov_to_cr0: user32(code32!("7: mov cr0, eax")).fault(Vector::GP, 0);

    /// MOV from CR3 (SDM 2B, MOV to CR).
    mov_from_cr3: user64(code64!("7: mov rax, cr3")).fault(Vector::GP, 0);

    /// MOV to CR8 (SDM 2B, MOV to CR).
    mov_to_cr8: user64(code64!("7: mov cr8, rax")).fault(Vector::GP, 0);

    /// INVD (SDM 2A, INVD).
    invd: user32(code32!("7: invd")).fault(Vector::GP, 0);

    /// WBINVD (SDM 2B, WBINVD).
    wbinvd: compatibility(code32!("7: wbinvd")).fault(Vector::GP, 0);

    /// INVLPG (SDM 2A, INVLPG).
    invlpg: user32(code32!("7: invlpg [0xd000]")).fault(Vector::GP, 0);

    /// RDMSR (SDM 2B, RDMSR).
    rdmsr: user32(code32!("7: rdmsr")).fault(Vector::GP, 0);

    /// WRMSR (SDM 2B, WRMSR).
    wrmsr: user64(code64!("7: wrmsr")).fault(Vector::GP, 0);

    /// RDPMC without CR4.PCE (SDM 2B, RDPMC).
    rdpmc: user32(code32!("7: rdpmc")).fault(Vector::GP, 0);

    /// SWAPGS (SDM 2B, SWAPGS).
    swapgs: user64(code64!("7: swapgs")).fault(Vector::GP, 0);

    /// SYSRET (SDM 2B, SYSRET).
    sysret: user64(code64!("7: sysretq")).fault(Vector::GP, 0);

    /// SYSEXIT (SDM 2B, SYSEXIT).
    sysexit: user32(code32!("7: sysexit")).patch(|s| s.msrs.sysenter_cs = 8).fault(Vector::GP, 0);

    /// XSETBV (SDM 2C, XSETBV).
    xsetbv: user64(code64!("7: xsetbv")).needs(x86::cpuid::Feature::Xsave).patch(|s| s.cr4 |= Cr4::OSXSAVE)
        .fault(Vector::GP, 0);

    /// CPUID shows the local APIC only while IA32_APIC_BASE enables it (SDM 3A
    /// 11.4.3).
    apic_flag: protected32(code32!("
        mov eax, 1
        cpuid
        mov esi, edx
        mov ecx, 0x1b
        rdmsr
        and eax, 0xfffff7ff
        wrmsr
        mov eax, 1
        cpuid
        out 0xf4, al
    ")).reg_masked(Rsi, 0x200, 0x200).reg_masked(Rdx, 0x200, 0);

    /// RDTSC with CR4.TSD (SDM 2B, RDTSC).
    rdtsc_disabled: user32(code32!("7: rdtsc")).patch(|s| s.cr4 |= Cr4::TSD).fault(Vector::GP, 0);

    /// RDTSC without it is allowed and does not go backwards.
    rdtsc: user64(code64!("
        rdtsc
        shl rdx, 32
        lea rbx, [rax + rdx]
        rdtsc
        shl rdx, 32
        add rax, rdx
        sub rax, rbx
        setae cl
     7: ud2
    ")).event(Vector::UD).reg_masked(Rcx, 0xff, 1);

    /// RDTSC with CR4.TSD is allowed in ring 0 (SDM 2B, RDTSC).
    rdtsc_ring_0: protected32(code32!("
        rdtsc
        out 0xf4, al
    ")).patch(|s| s.cr4 |= Cr4::TSD);

    /// RDTSCP stores IA32_TSC_AUX (SDM 2B, RDTSCP).
    rdtscp: user64(code64!("
        mov rcx, -1
        rdtscp
     7: ud2
    ")).needs(x86::cpuid::Feature::Rdtscp).patch(|s| s.msrs.tsc_aux = 0x1234).event(Vector::UD).reg(Rcx, 0x1234);

    /// RDPID stores it too (SDM 2B, RDPID).
    rdpid: user64(code64!("
        .byte 0xf3, 0x0f, 0xc7, 0xf8
     7: ud2
    ")).needs(x86::cpuid::Feature::Rdpid).patch(|s| s.msrs.tsc_aux = 0x1234).event(Vector::UD).reg(Rax, 0x1234);

    /// LOCK with a register destination is #UD (SDM 2A, LOCK).
    lock_register: long64(code64!("7: .byte 0xf0, 0x01, 0xd8")).event(Vector::UD);

    /// LOCK with an instruction that does not take it is #UD (SDM 2A, LOCK).
    lock_mov: long64(code64!("7: .byte 0xf0, 0x89, 0x03")).event(Vector::UD);

    /// LOCK with CMP is #UD although its form is that of ADD.
    lock_cmp: long64(code64!("7: .byte 0xf0, 0x39, 0x03")).event(Vector::UD);

    /// LOCK with NOP is #UD.
    lock_nop: protected32(code32!("7: .byte 0xf0, 0x90")).event(Vector::UD);

    /// LOCK where it is allowed (SDM 2A, LOCK).
    lock_memory: long64(code64!("
        lock inc dword ptr [0xd000]
        lock xadd [0xd000], eax
        lock btc dword ptr [0xd000], 4
        lock neg dword ptr [0xd004]
        out 0xf4, al
    ")).with(Rax, 4).dword(0xd004, 1).mem32(0xd000, 0x15).mem32(0xd004, 0xffff_ffff).reg(Rax, 1);

    /// Opcodes that nobody has defined are #UD.
    undefined_opcodes: long64(code64!("
        .byte 0x0f, 0x04
        .byte 0x0f, 0x0a
        .byte 0x0f, 0x24
        .byte 0x0f, 0x36
        .byte 0x0f, 0xff, 0xc0
        out 0xf4, al
    ")).handler(6, code64!(at 0xa000; "
        mov rax, [rsp]
        out 0xe0, eax
        add qword ptr [rsp], 2
        cmp eax, 0x8008
        jne 2f
        inc qword ptr [rsp]
     2: iretq
    ")).reports(&[0x8000, 0x8002, 0x8004, 0x8006, 0x8008]);

    /// UD0 and UD1 (SDM 2B, UD).
    ud1: protected32(code32!("7: .byte 0x0f, 0xb9, 0xc0")).event(Vector::UD);
}
