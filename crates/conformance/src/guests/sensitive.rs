//! The seventeen instructions that are sensitive without being privileged
//! (Robin and Irvine, USENIX Security 2000), from ring 3: a guest must see its
//! own state in each of them, never the host's.

use x86::cpuid::Feature;
use x86::{Cr4, Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{Code, code32, code64};
use crate::env::{protected32, user32, user64};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

fn umip(code: Code) -> Guest {
    user32(code).needs(Feature::Umip).patch(|s| s.cr4 |= Cr4::UMIP)
}

/// LAR and LSL of selector 73h from ring 3, which holds `raw`.
fn look_at(raw: u64) -> Guest {
    user32(code32!(
        "
        mov ebx, 0x73
        lar ecx, ebx
        setz al
        lsl edx, ebx
        setz ah
     7: ud2
    "
    ))
    .gdt(FREE, raw)
    .event(Vector::UD)
}

/// VERR and VERW of selector 73h from ring 3.
fn verify(raw: u64, readable: bool, writable: bool) -> Guest {
    let (readable, writable) = (u64::from(readable), u64::from(writable));
    user32(code32!(
        "
        mov ebx, 0x73
        verr bx
        setz al
        verw bx
        setz ah
     7: ud2
    "
    ))
    .gdt(FREE, raw)
    .event(Vector::UD)
    .reg_masked(Rax, 0xffff, writable << 8 | readable)
}

guests! { "sensitive";
    /// SGDT stores the guest's GDTR (SDM 2B, SGDT).
    sgdt: user32(code32!("
        sgdt [0xd000]
     7: ud2
    ")).event(Vector::UD).mem16(DATA, 0xff).mem32(DATA + 2, GDT as u32);

    /// SIDT stores the guest's IDTR, ten bytes in 64-bit mode (SDM 2B, SIDT).
    sidt: user64(code64!("
        sidt [0xd000]
     7: ud2
    ")).qword(DATA + 8, u64::MAX).event(Vector::UD).mem16(DATA, 0xfff).mem64(DATA + 2, IDT);

    /// SLDT (SDM 2B, SLDT).
    sldt: user32(code32!("
        mov eax, 0xffffffff
        sldt eax
     7: ud2
    ")).event(Vector::UD).reg(Rax, LDT_SELECTOR.into());

    /// STR, to memory: two bytes (SDM 2B, STR).
    str: user32(code32!("
        str [0xd000]
     7: ud2
    ")).data(u64::MAX).event(Vector::UD).mem32(DATA, 0xffff_0000 | u32::from(TSS_SELECTOR));

    /// SMSW shows the guest's CR0 (SDM 2B, SMSW).
    smsw: user32(code32!("
        smsw eax
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 0xffff, 0x31);

    /// With UMIP each of the five is #GP(0) in ring 3 (SDM 3A 2.5).
    umip_sgdt: umip(code32!("7: sgdt [0xd000]")).fault(Vector::GP, 0).mem32(DATA, 0);

    /// UMIP: SIDT (SDM 2B, SIDT).
    umip_sidt: umip(code32!("7: sidt [0xd000]")).fault(Vector::GP, 0);

    /// UMIP: SLDT (SDM 2B, SLDT).
    umip_sldt: umip(code32!("7: sldt eax")).fault(Vector::GP, 0);

    /// UMIP: STR (SDM 2B, STR).
    umip_str: umip(code32!("7: str eax")).fault(Vector::GP, 0);

    /// UMIP: SMSW (SDM 2B, SMSW).
    umip_smsw: umip(code32!("7: smsw eax")).fault(Vector::GP, 0);

    /// UMIP leaves ring 0 alone.
    umip_ring_0: protected32(code32!("
        sldt eax
        out 0xf4, al
    ")).needs(Feature::Umip).patch(|s| s.cr4 |= Cr4::UMIP).reg(Rax, LDT_SELECTOR.into());

    /// PUSHF shows the guest's IF and IOPL (SDM 2B, PUSHF).
    pushf: user32(code32!("
        pushfd
        pop eax
     7: ud2
    ")).with_flags(Rflags::IF).iopl(1).event(Vector::UD).reg_masked(Rax, 0x3f_ffff, 0x1202);

    /// POPF in ring 3 leaves IF and IOPL as they are, silently (SDM 2B, POPF).
    popf: user32(code32!("
        push 0x3001
        popfd
     7: ud2
    ")).with_flags(Rflags::IF).event(Vector::UD)
        .pushed_flags(Rflags::IF | Rflags::IOPL | Rflags::CF, Rflags::IF | Rflags::CF);

    /// With CPL within IOPL, POPF changes IF and not IOPL (SDM 2B, POPF).
    popf_with_iopl: user32(code32!("
        push 0x0002
        popfd
     7: ud2
    ")).with_flags(Rflags::IF).iopl(3).event(Vector::UD)
        .pushed_flags(Rflags::IF | Rflags::IOPL, Rflags::IOPL);

    /// Ring 0 changes everything but VM, RF, VIF and VIP (SDM 2B, POPF).
    popf_ring_0: protected32(code32!("
        push 0x3f7eff
        popfd
        pushfd
        pop eax
        out 0xf4, al
    ")).reg_masked(Rax, 0x3f_ffff, 0x24_7ed7);

    /// LAR shows type and DPL of a visible segment, LSL its limit in bytes
    /// (SDM 2A, LAR, LSL).
    lar_lsl: look_at(descriptor(0x1234, 0x12, 0xf3, FLAT32)).reg_masked(Rcx, 0xf0_ff00, 0xc0_f300)
        .reg(Rdx, 0x1_2fff).reg_masked(Rax, 0xffff, 0x0101);

    /// A segment of DPL 0 is invisible in ring 3: ZF clear, nothing written.
    lar_lsl_invisible: look_at(descriptor(0, 0xfff, WRITABLE, FLAT32)).reg(Rcx, 0).reg(Rdx, 0)
        .reg_masked(Rax, 0xffff, 0);

    /// Conforming code is visible whatever its DPL.
    lar_lsl_conforming: look_at(descriptor(0, 0xfff, 0x9f, SMALL32)).reg(Rdx, 0xfff).reg_masked(Rax, 0xffff, 0x0101);

    /// LAR knows call gates, LSL does not (SDM 2A, table of LAR).
    lar_of_call_gate: look_at(gate(KCODE, 0, 0xec, 0)).reg_masked(Rax, 0xffff, 0x0001);

    /// Neither knows interrupt gates.
    lar_of_interrupt_gate: look_at(gate(KCODE, 0, 0xee, 0)).reg_masked(Rax, 0xffff, 0);

    /// Both know an available TSS.
    lar_of_task_segment: look_at(descriptor(0, 0x67, 0xe9, 0)).reg(Rdx, 0x67).reg_masked(Rax, 0xffff, 0x0101);

    /// An absent segment is as visible as a present one.
    lar_of_absent: look_at(descriptor(0, 0x55, 0x73, SMALL32)).reg(Rdx, 0x55).reg_masked(Rax, 0xffff, 0x0101);

    /// A null selector or one beyond the table clears ZF, without a fault.
    lar_of_nothing: user32(code32!("
        xor ebx, ebx
        lar ecx, ebx
        setz al
        mov ebx, 0x1003
        lar ecx, ebx
        setz ah
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 0xffff, 0).reg(Rcx, 0);

    /// VERR and VERW of writable data (SDM 2B, VERR).
    verr_verw: verify(descriptor(0, 0xfff, 0xf3, SMALL32), true, true);

    /// Of read-only data.
    verr_verw_read_only: verify(descriptor(0, 0xfff, 0xf1, SMALL32), true, false);

    /// Of execute-only code.
    verr_verw_execute_only: verify(descriptor(0, 0xfff, 0xf9, SMALL32), false, false);

    /// Of a segment of DPL 0.
    verr_verw_invisible: verify(descriptor(0, 0xfff, WRITABLE, SMALL32), false, false);

    /// PUSH of CS shows the guest's ring (SDM 2B, PUSH).
    push_cs: user32(code32!("
        .byte 0x0e
        pop eax
     7: ud2
    ")).event(Vector::UD).reg_masked(Rax, 0xffff, UCODE32.into());

    /// POP of a segment register checks rights (SDM 2B, POP).
    pop_segment: user32(code32!("
        push 0x13
     7: .byte 0x1f
    ")).fault(Vector::GP, 0x10).pushed(FrameItem::Sp, u64::MAX, USER_STACK - 4);

    /// MOV from a segment register shows the guest's selector.
    mov_from_segment: user32(code32!("
        mov eax, ss
        mov ebx, cs
     7: ud2
    ")).event(Vector::UD).reg(Rax, UDATA.into()).reg(Rbx, UCODE32.into());

    /// CALL far in ring 3 pushes the guest's CS (SDM 2A, CALL).
    far_call: user32(code32!("
        farcall 0x1b, 0x9000
    ")).marked_code(code32!(at 0x9000; "
        pop eax
        pop ebx
     7: ud2
    ")).event(Vector::UD).reg(Rax, 0x8007).reg(Rbx, UCODE32.into());

    /// JMP far to ring 0 is refused (SDM 2A, JMP).
    far_jump: user32(code32!("7: farjmp 0x0b, 0x9000")).fault(Vector::GP, 0x08);

    /// RET far within ring 3 (SDM 2B, RET).
    far_return: user32(code32!("
        push 0x1b
        push 0x9000
        retf
    ")).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(UCODE32)
        .pushed(FrameItem::Sp, u64::MAX, USER_STACK);

    /// INT n reaches the guest's own handler (SDM 2A, INT n).
    int_n: user32(code32!("
        int 0x80
     7: nop
    ")).event(Vector(0x80)).pushed_cs(UCODE32).cs(KCODE);

    /// STR and SLDT in 64-bit mode zero-extend (SDM 2B, STR).
    str_long: user64(code64!("
        mov rax, -1
        str rax
     7: ud2
    ")).event(Vector::UD).reg(Rax, TSS_SELECTOR.into());

    /// ARPL raises the RPL and sets ZF (SDM 2A, ARPL).
    arpl: user32(code32!("
        mov eax, 0x40
        mov ebx, 3
        arpl ax, bx
        setz cl
        arpl ax, bx
        setz ch
     7: ud2
    ")).event(Vector::UD).reg(Rax, 0x43).reg_masked(Rcx, 0xffff, 1);

    /// SGDT and its kin in 64-bit mode do not need a writable register form:
    /// SMSW to memory stores two bytes (SDM 2B, SMSW).
    smsw_memory: user64(code64!("
        smsw [0xd000]
     7: ud2
    ")).data(u64::MAX).event(Vector::UD)
        .item("CS", |s| s.segment(SegmentName::Cs).selector.0.into(), KCODE.into()).mem32(DATA, 0xffff_0031);
}
