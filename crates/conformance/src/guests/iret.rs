//! IRET in all its forms (SDM 2A, IRET; SDM 3A 6.12, 6.14.3).

use x86::{Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{code16, code32, code64};
use crate::env::{long64, protected32, user32};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

/// IRETD in ring 0 to `cs`:9000h.
fn iret_to(cs: u16) -> Guest {
    protected32(code32!(
        "
        push 0x23
        push 0x7000
        push 0x3003
        push ebx
        push 0x9000
     7: iretd
    "
    ))
    .with(Rbx, cs.into())
}

/// IRETQ to `cs`:RSI with SS in RDX.
fn iretq_to(cs: u16, ss: u16) -> Guest {
    long64(code64!(
        "
        push rdx
        push 0x7000
        push 0x3003
        push rbx
        push rsi
     7: iretq
    "
    ))
    .with(Rbx, cs.into())
    .with(Rdx, ss.into())
    .with(Rsi, 0x9000)
    .page(0x9000, USER_PAGE)
}

/// IRETQ with the flags RDI and without data segments, where SYSCALL and
/// SYSRET load the same segments.
fn flat_iretq(cs: u16, ss: u16, flags: u64) -> Guest {
    long64(code64!(
        "
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        push rdx
        push 0x7000
        push rdi
        push rbx
        push rsi
     7: iretq
    "
    ))
    .patch(|s| s.msrs.star = 0x18 << 48 | u64::from(KCODE) << 32)
    .with(Rax, 0)
    .with(Rbx, cs.into())
    .with(Rdx, ss.into())
    .with(Rdi, flags)
    .with(Rsi, 0x9000)
    .page(0x9000, USER_PAGE)
}

guests! { "iret";
    /// Same ring: EIP, CS and all flags at CPL 0 (SDM 2A, IRET).
    same_ring: iret_to(KCODE).code(code32!(at 0x9000; "out 0xf4, al")).reg(Rsp, STACK - 8)
        .flags(Rflags::IOPL | Rflags::CF, Rflags::IOPL | Rflags::CF);

    /// To ring 3: SS:ESP from the stack (SDM 2A, IRET).
    outer_ring: iret_to(UCODE32).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(UCODE32)
        .pushed(FrameItem::Sp, u64::MAX, 0x7000).pushed(FrameItem::Ss, 0xffff, UDATA.into())
        .pushed_flags(Rflags::IOPL, Rflags::IOPL);

    /// Ring 3 changes neither IOPL nor, below it, IF (SDM 2A, IRET).
    flags_in_ring_3: user32(code32!("
        push 0x3203
        push 0x1b
        push 0x9000
        iretd
    ")).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD)
        .pushed_flags(Rflags::IOPL | Rflags::IF | Rflags::CF, Rflags::CF);

    /// A null CS is #GP(0) (SDM 2A, IRET).
    null_code_segment: iret_to(0).fault(Vector::GP, 0);

    /// A data segment is #GP(selector) (SDM 2A, IRET).
    data_segment: iret_to(KDATA).fault(Vector::GP, KDATA.into());

    /// An absent code segment is #NP(selector) (SDM 2A, IRET).
    absent_code_segment: iret_to(FREE).gdt(FREE, descriptor(0, 0xf_ffff, 0x1b, FLAT32)).fault(Vector::NP, 0x70);

    /// An inner ring is #GP(selector) (SDM 2A, IRET).
    inward: user32(code32!("
        push 2
        push 0x08
        push 0x9000
     7: iretd
    ")).fault(Vector::GP, KCODE.into());

    /// EIP beyond the limit is #GP(0) at the IRET (SDM 2A, IRET).
    beyond_limit: iret_to(FREE).gdt(FREE, descriptor(0, 0xfff, CODE, SMALL32)).fault(Vector::GP, 0).pushed_cs(KCODE);

    /// A bad SS for the outer ring is #GP(selector) (SDM 2A, IRET).
    bad_outer_stack: protected32(code32!("
        push 0x10
        push 0x7000
        push 2
        push 0x1b
        push 0x9000
     7: iretd
    ")).fault(Vector::GP, KDATA.into());

    /// An absent SS for the outer ring is #SS(selector) (SDM 2A, IRET).
    absent_outer_stack: protected32(code32!("
        push 0x73
        push 0x7000
        push 2
        push 0x1b
        push 0x9000
     7: iretd
    ")).gdt(FREE, descriptor(0, 0xf_ffff, 0x73, FLAT32)).fault(Vector::SS, 0x70);

    /// With 16-bit operands (SDM 2A, IRET).
    sixteen_bit_operands: protected32(code32!("
        pushfd
        mov word ptr [esp - 2], 0x0003
        mov word ptr [esp - 4], 0x38
        mov word ptr [esp - 6], 0x9000
        sub esp, 6
        .byte 0x66, 0xcf
    ")).code(code16!(at 0x9000; "out 0xf4, al")).cs(KCODE16).reg(Rsp, STACK - 4)
        .flags(Rflags::CF, Rflags::CF);

    /// To virtual-8086 mode: nine doublewords (SDM 3B 21.2.5).
    to_virtual_8086: protected32(code32!("
        push 0x6000
        push 0x5000
        push 0x4000
        push 0x3000
        push 0x0700
        push 0x0100
        push 0x23002
        push 0x0900
        push 0x0000
        iretd
    ")).code(code16!(at 0x9000; "
        mov bx, ds
        mov cx, gs
        ud2
    ")).event_at(Vector::UD, None, 4).reg(Rbx, 0x4000).reg(Rcx, 0x6000).pushed_cs(0x900)
        .pushed_flags(Rflags::VM | Rflags::IOPL, Rflags::VM | Rflags::IOPL)
        .pushed(FrameItem::Sp, u64::MAX, 0x100).pushed(FrameItem::Ss, 0xffff, 0x700)
        .pushed(FrameItem::Es, 0xffff, 0x3000)
        .pushed(FrameItem::Fs, 0xffff, 0x5000).pushed(FrameItem::Gs, 0xffff, 0x6000);

    /// NT with a link that is no TSS: #TS(link) (SDM 2A, IRET).
    nested_task_bad_link: iret_to(KCODE).with_flags(Rflags::NT).word(TSS, KDATA).fault(Vector::TS, KDATA.into());

    /// NT in IA-32e mode is #GP(0) (SDM 2A, IRET).
    nested_task_in_long_mode: iretq_to(KCODE, KDATA).with_flags(Rflags::NT).fault(Vector::GP, 0);

    /// IRETQ pops five quadwords even to the same ring (SDM 3A 6.14.3).
    long_same_ring: iretq_to(KCODE, KDATA).code(code64!(at 0x9000; "out 0xf4, al")).reg(Rsp, 0x7000)
        .flags(Rflags::IOPL | Rflags::CF, Rflags::IOPL | Rflags::CF);

    /// IRETQ to 64-bit ring 0 accepts a null SS (SDM 3A 6.14.3).
    long_null_stack: iretq_to(KCODE, 0).code(code64!(at 0x9000; "out 0xf4, al"))
        .item("SS", |s| s.segment(SegmentName::Ss).selector.0.into(), 0);

    /// To ring 3 it does not (SDM 2A, IRET).
    long_null_user_stack: iretq_to(UCODE64, 3).fault(Vector::GP, 0);

    /// To ring 3, 64-bit (SDM 3A 6.14.3).
    long_outer_ring: iretq_to(UCODE64, UDATA).marked_code(code64!(at 0x9000; "7: ud2")).event(Vector::UD)
        .pushed_cs(UCODE64).pushed(FrameItem::Sp, u64::MAX, 0x7000);

    /// A data segment that ring 3 may not use becomes null on the way (SDM 3A
    /// 5.8.6); processors leave the base of GS, which 64-bit code goes on to use.
    long_outer_ring_keeps_bases: iretq_to(UCODE64, UDATA).patch(|s| {
        s.segment_mut(SegmentName::Gs).base = DATA;
        s.segment_mut(SegmentName::Gs).selector = x86::Selector(KDATA);
    }).marked_code(code64!(at 0x9000; "7: ud2")).event(Vector::UD)
        .item("GS", |s| s.segment(SegmentName::Gs).selector.0.into(), 0)
        .item("GS base", |s| s.segment(SegmentName::Gs).base, DATA);

    /// To ring 3, compatibility mode (SDM 3A 6.14.3).
    long_to_compatibility: iretq_to(UCODE32, UDATA).marked_code(code32!(at 0x9000; "inc eax; 7: ud2"))
        .event(Vector::UD).pushed_cs(UCODE32).reg(Rax, 1);

    /// A non-canonical RIP is #GP(0) at the IRETQ (SDM 2A, IRET).
    long_non_canonical: iretq_to(KCODE, KDATA).with(Rsi, 0x8000_0000_0000).fault(Vector::GP, 0).pushed_cs(KCODE);

    /// IRETD in 64-bit mode pops doublewords (SDM 2A, IRET).
    long_iretd: long64(code64!("
        sub rsp, 20
        mov dword ptr [rsp], 0x9000
        mov dword ptr [rsp + 4], 0x08
        mov dword ptr [rsp + 8], 3
        mov dword ptr [rsp + 12], 0x7000
        mov dword ptr [rsp + 16], 0x10
        iretd
    ")).code(code64!(at 0x9000; "out 0xf4, al")).reg(Rsp, 0x7000).flags(Rflags::CF, Rflags::CF);

    /// Within ring 0 in the segments of SYSCALL: RSP and SS are popped, too
    /// (SDM 2A, IRET).
    flat_within: flat_iretq(KCODE, KDATA, 0x1_0003).code(code64!(at 0x9000; "
        mov eax, cs
        mov ebx, ss
        pushfq
        out 0xf4, al
    ")).reg(Rax, KCODE.into()).reg(Rbx, KDATA.into()).reg(Rsp, 0x6ff8).mem32(0x6ff8, 3);

    /// There SS may be null (SDM 2A, IRET).
    flat_within_null_stack: flat_iretq(KCODE, 0, 2).code(code64!(at 0x9000; "
        mov eax, cs
        mov ebx, ss
        push 0x77
        out 0xf4, al
    ")).reg(Rax, KCODE.into()).reg(Rbx, 0).reg(Rsp, 0x6ff8).mem32(0x6ff8, 0x77);

    /// To ring 3 in the segments of SYSRET.
    flat_outwards: flat_iretq(UCODE64, UDATA, 3).marked_code(code64!(at 0x9000; "
        mov eax, cs
        mov ebx, ss
     7: ud2
    ")).event(Vector::UD).reg(Rax, UCODE64.into()).reg(Rbx, UDATA.into()).pushed_cs(UCODE64)
        .pushed(FrameItem::Sp, u64::MAX, 0x7000).pushed(FrameItem::Ss, 0xffff, UDATA.into())
        .pushed_flags(Rflags::CF | Rflags::IF, Rflags::CF);

    /// Twice, by way of ring 0.
    flat_outwards_again: flat_iretq(UCODE64, UDATA, 0x202).code(code64!(at 0x9000; "
        mov eax, 1
        int 0x30
        mov ecx, ss
        int 0x31
    ")).handler(0x30, code64!(at 0xa000; "
        mov ebx, ss
        iretq
    ")).handler(0x31, code64!(at 0xb000; "
        pop rsi
        out 0xf4, al
    ")).reg(Rbx, 0).reg(Rcx, UDATA.into()).reg(Rax, 1);

    /// A data segment of ring 0 is nulled on the way (SDM 3A 5.8.6).
    flat_outwards_drops: flat_iretq(UCODE64, UDATA, 2).code(code64!(at 0x8000; "
        mov ecx, 0x10
        mov ds, ecx
        mov es, eax
        push rdx
        push 0x7000
        push rdi
        push rbx
        push rsi
        iretq
    ")).marked_code(code64!(at 0x9000; "
        mov eax, ds
     7: ud2
    ")).event(Vector::UD).reg(Rax, 0).reg(Rcx, 0x10);

    /// A descriptor gets its accessed bit (SDM 3A 3.4.5.1).
    flat_outwards_accesses: flat_iretq(UCODE64, UDATA, 2)
        .gdt(UCODE64 & !3, descriptor(0, 0xf_ffff, 0xfa, FLAT64)).marked_code(code64!(at 0x9000; "7: ud2"))
        .event(Vector::UD).memory(GDT + 0x2d, &[0xfb]);

    /// An absent stack segment is #SS(selector) (SDM 2A, IRET).
    flat_outwards_absent_stack: flat_iretq(UCODE64, UDATA, 2)
        .gdt(UDATA & !3, descriptor(0, 0xf_ffff, 0x73, FLAT32)).fault(Vector::SS, 0x20);

    /// A wrong stack segment is #GP(selector), whatever CS is.
    flat_outwards_wrong_stack: flat_iretq(UCODE64, KDATA, 2).fault(Vector::GP, KDATA.into());

    /// An address that is not canonical is #GP(0) at the IRET.
    flat_outwards_not_canonical: flat_iretq(UCODE64, UDATA, 2).with(Rsi, 0x8000_0000_0000).fault(Vector::GP, 0);

    /// The same within ring 0.
    flat_within_not_canonical: flat_iretq(KCODE, KDATA, 2).with(Rsi, 0x7fff_8000_0000_0000).fault(Vector::GP, 0);

    /// Flags beyond the arithmetic ones come back, too (SDM 2A, IRET).
    flat_within_flags: flat_iretq(KCODE, KDATA, 0x24_0402).code(code64!(at 0x9000; "
        out 0xf4, al
    ")).flags(Rflags::DF | Rflags::AC | Rflags::ID, Rflags::DF | Rflags::AC | Rflags::ID);
}
