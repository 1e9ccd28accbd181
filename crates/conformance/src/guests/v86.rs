//! Virtual-8086 mode (SDM 3B 21.2, 21.3).

use x86::cpuid::Feature;
use x86::{Cr4, Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{Code, code16, code32};
use crate::env::{user32, v86};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

/// Virtual-8086 mode with IOPL 0.
fn low(code: Code) -> Guest {
    v86(code).iopl(0)
}

/// The same with CR4.VME.
fn vme(code: Code) -> Guest {
    low(code).needs(Feature::Vme).patch(|s| s.cr4 |= Cr4::VME)
}

/// Ring 3 with CR4.PVI.
fn pvi(code: Code) -> Guest {
    user32(code).needs(Feature::Vme).patch(|s| s.cr4 |= Cr4::PVI)
}

guests! { "v86";
    /// Addresses are selector times 16 plus offset (SDM 3B 21.2.1).
    addresses: v86(code16!("
        mov ax, 0xd00
        mov ds, ax
        mov bx, [2]
     7: ud2
    ")).word(DATA + 2, 0x4321).event(Vector::UD).reg(Rbx, 0x4321);

    /// An interrupt pushes GS, FS, DS, ES, SS:ESP, EFLAGS, CS:EIP on the ring-0
    /// stack (SDM 3B 21.3.1.1).
    interrupt_frame: v86(code16!("
        mov ax, 0x1111
        mov ds, ax
        mov ax, 0x2222
        mov gs, ax
     7: ud2
    ")).event(Vector::UD).reg(Rsp, RING0_STACK - 36).pushed(FrameItem::Ds, 0xffff, 0x1111)
        .pushed(FrameItem::Gs, 0xffff, 0x2222).pushed(FrameItem::Sp, 0xffff, USER_STACK)
        .pushed_flags(Rflags::VM | Rflags::IOPL, Rflags::VM | Rflags::IOPL)
        .item("DS", |s| s.segment(SegmentName::Ds).selector.0.into(), 0)
        .item("GS", |s| s.segment(SegmentName::Gs).selector.0.into(), 0)
        .flags(Rflags::VM, Rflags::empty()).cs(KCODE);

    /// INT n with IOPL 3 goes through the IDT (SDM 3B 21.3).
    software_interrupt: v86(code16!("
        int 0x40
     7: nop
    ")).event(Vector(0x40)).pushed_flags(Rflags::VM, Rflags::VM);

    /// To a handler that is not in ring 0: #GP(selector) (SDM 3B 21.3.1.1).
    conforming_handler: v86(code16!("7: int 0x40")).gate_selector(0x40, FREE)
        .gdt(FREE, descriptor(0, 0xf_ffff, 0x9f, FLAT32)).fault(Vector::GP, 0x70);

    /// INT n with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    software_interrupt_needs_iopl: low(code16!("7: int 0x40")).fault(Vector::GP, 0);

    /// INT3 does not depend on IOPL (SDM 3B 21.2.7).
    breakpoint: low(code16!("int3; 7: nop")).event(Vector::BP);

    /// CLI with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    cli_needs_iopl: low(code16!("7: cli")).fault(Vector::GP, 0);

    /// STI with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    sti_needs_iopl: low(code16!("7: sti")).fault(Vector::GP, 0);

    /// PUSHF with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    pushf_needs_iopl: low(code16!("7: pushf")).fault(Vector::GP, 0);

    /// POPF with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    popf_needs_iopl: low(code16!("7: popf")).fault(Vector::GP, 0);

    /// IRET with IOPL below 3 is #GP(0) (SDM 3B 21.2.7).
    iret_needs_iopl: low(code16!("7: iret")).fault(Vector::GP, 0);

    /// With IOPL 3, CLI and STI work on IF (SDM 3B 21.2.7).
    sti_with_iopl: v86(code16!("
        sti
     7: ud2
    ")).event(Vector::UD).pushed_flags(Rflags::IF, Rflags::IF);

    /// POPF changes neither IOPL nor VM (SDM 2B, POPF).
    popf_keeps_iopl: v86(code16!("
        push 0x0203
        popf
     7: ud2
    ")).event(Vector::UD)
        .pushed_flags(Rflags::IOPL | Rflags::IF | Rflags::CF | Rflags::VM, Rflags::IOPL | Rflags::IF | Rflags::CF | Rflags::VM);

    /// IRET with IOPL 3 stays in virtual-8086 mode (SDM 2A, IRET).
    iret: v86(code16!("
        push 0x0003
        push 0x0900
        push 0
        iret
    ")).code(code16!(at 0x9000; "ud2")).event_at(Vector::UD, None, 0).pushed_cs(0x900)
        .pushed_flags(Rflags::VM | Rflags::IOPL | Rflags::CF, Rflags::VM | Rflags::IOPL | Rflags::CF);

    /// I/O asks the permission bitmap whatever IOPL says (SDM 3B 21.2.8).
    io_denied: v86(code16!("7: out 0xe0, al")).fault(Vector::GP, 0);

    /// A clear bit permits it (SDM 3B 21.2.8).
    io_permitted: low(code16!("
        mov al, 0x42
        out 0xe0, al
     7: ud2
    ")).bytes(TSS + TSS_IO_MAP + 0x1c, &[0xfe]).event(Vector::UD).reports(&[0x42]);

    /// HLT and the other privileged instructions are #GP(0) (SDM 3B 21.2.6).
    halt: v86(code16!("7: hlt")).fault(Vector::GP, 0);

    /// MOV from CR0 is #GP(0) (SDM 3B 21.2.6).
    control_register: v86(code16!("7: mov eax, cr0")).fault(Vector::GP, 0);

    /// LGDT is #GP(0) (SDM 2A, LGDT).
    load_table: v86(code16!("7: lgdt [0xd000]")).fault(Vector::GP, 0);

    /// SLDT, STR, LAR, VERR and ARPL are not recognized: #UD (SDM 3B 21.2.6).
    protected_mode_instructions: v86(code16!("7: sldt ax")).event(Vector::UD);

    /// ARPL is not recognized (SDM 2A, ARPL).
    arpl: v86(code16!("7: arpl bx, ax")).event(Vector::UD);

    /// SMSW is (SDM 2B, SMSW).
    smsw: v86(code16!("
        smsw ax
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 1, 1);

    /// A word at FFFFh is #GP(0) (SDM 3B 21.2.1).
    segment_end: v86(code16!("
        mov bx, 0xffff
     7: mov ax, [bx]
    ")).fault(Vector::GP, 0);

    /// The same through SS is #SS(0) (SDM 3B 21.2.1).
    stack_segment_end: v86(code16!("
        mov sp, 1
     7: push ax
    ")).fault(Vector::SS, 0).pushed(FrameItem::Sp, 0xffff, 1);

    /// A far call loads real-mode segments (SDM 3B 21.2.1).
    far_call: v86(code16!("
        farcall 0x0900, 0
     7: ud2
    ")).code(code16!(at 0x9000; "
        mov bx, cs
        .byte 0xcb
    ")).event(Vector::UD).reg(Rbx, 0x900);

    /// VME: a clear bit in the redirection map sends INT n to the 8086 vector
    /// (SDM 3B 21.3.3).
    vme_redirection: vme(code16!("
        int 0x40
    ")).bytes(TSS + TSS_REDIRECTION + 8, &[0xfe]).dword(0x100, 0x0900_0000).code(code16!(at 0x9000; "ud2"))
        .event_at(Vector::UD, None, 0).pushed_cs(0x900).pushed(FrameItem::Sp, 0xffff, USER_STACK - 6)
        .mem16(USER_STACK - 6, 0x8002);

    /// VME: a set bit and IOPL 0 are #GP(0) (SDM 3B 21.3.3).
    vme_no_redirection: vme(code16!("7: int 0x40")).fault(Vector::GP, 0);

    /// VME: CLI and STI work on VIF (SDM 3B 21.3.2).
    vme_virtual_interrupt_flag: vme(code16!("
        sti
     7: ud2
    ")).event(Vector::UD).pushed_flags(Rflags::VIF | Rflags::IF, Rflags::VIF);

    /// VME: PUSHF shows VIF as IF, and IOPL 3 (SDM 2B, PUSHF).
    vme_pushf: vme(code16!("
        sti
        pushf
        pop bx
     7: ud2
    ")).event(Vector::UD).reg_masked(Rbx, 0x3200, 0x3200);

    /// VME: STI with an interrupt pending is #GP(0) (SDM 3B 21.3.2).
    vme_pending: vme(code16!("7: sti")).with_flags(Rflags::VIP).fault(Vector::GP, 0);

    /// PVI: CLI and STI in ring 3 work on VIF (SDM 3B 21.4).
    pvi_virtual_interrupt_flag: pvi(code32!("
        sti
     7: ud2
    ")).event(Vector::UD).pushed_flags(Rflags::VIF | Rflags::IF, Rflags::VIF);

    /// PVI: STI with an interrupt pending is #GP(0) (SDM 3B 21.4).
    pvi_pending: pvi(code32!("7: sti")).with_flags(Rflags::VIP).fault(Vector::GP, 0);
}
