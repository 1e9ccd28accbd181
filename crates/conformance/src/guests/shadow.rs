//! What STI and MOV SS hold back, and what does not (SDM 3A 6.8.3).

use x86::{Dr6, Dr7, Gpr::*, Rflags, Vector};

use crate::asm::{code16, code32, code64};
use crate::env::{long64, protected32, real};
use crate::guest::guests;
use crate::layout::*;

guests! { "shadow";
    /// An interrupt waits for one instruction after STI (SDM 2B, STI).
    sti: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        sti
        inc ecx
     7: inc ecx
        inc ecx
    ")).event(Vector(0x31)).reg(Rcx, 1);

    /// The same in real mode.
    sti_real: real(code16!("
        mov al, 0x31
        out 0xf5, al
        sti
        inc cx
     7: inc cx
        inc cx
    ")).event(Vector(0x31)).reg(Rcx, 1);

    /// The same in 64-bit mode.
    sti_long: long64(code64!("
        mov al, 0x31
        out 0xf5, al
        sti
        inc ecx
     7: inc ecx
        inc ecx
    ")).event(Vector(0x31)).reg(Rcx, 1);

    /// STI, CLI never lets one through (SDM 2B, STI).
    sti_cli: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        sti
        cli
        nop
        jmp 2f
     2: nop
        out 0xf4, al
    ")).flags(Rflags::IF, Rflags::empty());

    /// POPF that sets IF has no shadow (SDM 3A 6.8.1).
    popf: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        push 0x202
        popfd
     7: inc ecx
        inc ecx
    ")).event(Vector(0x31)).reg(Rcx, 0);

    /// Nor has IRET (SDM 3A 6.8.1).
    iret: protected32(code32!("
        mov al, 0x31
        out 0xf5, al
        push 0x202
        push 0x08
        push 0x9000
        iretd
    ")).marked_code(code32!(at 0x9000; "7: inc ecx; inc ecx")).event(Vector(0x31)).reg(Rcx, 0);

    /// A single-step trap after MOV SS is held back for one instruction (SDM
    /// 3A 6.8.3).
    mov_ss_single_step: protected32(code32!("
        mov eax, 0x10
        push 0x102
        popfd
        mov ss, eax
        inc ecx
     7: inc ecx
    ")).event(Vector::DB).reg(Rcx, 1).masked_item("DR6", |s| s.dr6.bits(), 0xe00f, Dr6::BS.bits());

    /// An INT1 in the shadow enters its handler without BS: MOV SS leaves no
    /// trap to deliver there (SDM 3A 6.8.3).
    mov_ss_icebp: protected32(code32!("
        mov eax, 0x10
        push 0x102
        popfd
        mov ss, eax
        .byte 0xf1
     7: nop
    ")).event(Vector::DB).masked_item("DR6", |s| s.dr6.bits(), 0xe00f, 0);

    /// A breakpoint that MOV SS hit and INT1 in its shadow make one #DB.
    mov_ss_watch_icebp: protected32(code32!("
        mov ss, [0xd000]
        .byte 0xf1
     7: nop
    ")).word(DATA, KDATA).patch(|s| {
        s.dr[0] = DATA;
        s.dr7 = Dr7::from_bits_retain(0x7_0402);
    }).event(Vector::DB).masked_item("DR6", |s| s.dr6.bits(), 0xf, 1);

    /// Nor does an INT n in the shadow leave one for its handler.
    mov_ss_interrupt: protected32(code32!("
        mov eax, 0x10
        push 0x102
        popfd
        mov ss, eax
        int 0x40
     7: nop
    ")).event(Vector(0x40)).pushed_flags(Rflags::TF, Rflags::TF);

    /// POP SS likewise.
    pop_ss_single_step: protected32(code32!("
        push 0x10
        push 0x102
        popfd
        .byte 0x17
        inc ecx
     7: inc ecx
    ")).event(Vector::DB).reg(Rcx, 1);

    /// LSS has no shadow: it needs none (SDM 3A 6.8.3).
    lss_single_step: protected32(code32!("
        push 0x102
        popfd
        lss esp, [0xd000]
     7: inc ecx
        inc ecx
    ")).dword(DATA, 0x5f00).word(DATA + 4, KDATA).event(Vector::DB).reg(Rcx, 0);

    /// MOV to another segment has no shadow.
    mov_ds_single_step: protected32(code32!("
        mov eax, 0x10
        push 0x102
        popfd
        mov ds, eax
     7: inc ecx
        inc ecx
    ")).event(Vector::DB).reg(Rcx, 0);

    /// A data breakpoint hit by MOV SS itself waits as well (SDM 3A 6.8.3).
    mov_ss_data_breakpoint: protected32(code32!("
        mov ss, [0xd000]
        inc ecx
     7: inc ecx
    ")).word(DATA, KDATA).patch(|s| {
        s.dr[0] = DATA;
        s.dr7 = Dr7::from_bits_retain(0x7_0402);
    }).event(Vector::DB).reg(Rcx, 1).masked_item("DR6", |s| s.dr6.bits(), 0xf, 1);

    /// The fault of the instruction in the shadow is delivered as ever.
    fault_in_shadow: protected32(code32!("
        mov eax, 0x10
        mov ss, eax
     7: ud2
    ")).event(Vector::UD);
}
