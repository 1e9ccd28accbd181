//! Far transfers: jumps, calls, gates and returns (SDM 3A 5.8; SDM 2A, CALL,
//! JMP; 2B, RET).

use x86::{Gpr::*, SegmentName, Vector};

use crate::asm::{code16, code32, code64};
use crate::env::{compatibility0, long64, protected16, protected32, user32, user64};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// Conforming ring-0 code.
const CONFORMING: u64 = descriptor(0, 0xf_ffff, 0x9f, FLAT32);

/// `JMP 70h:9000h` in ring 0.
fn jump(raw: u64) -> Guest {
    protected32(code32!(
        "
     7: farjmp 0x70, 0x9000
    "
    ))
    .gdt(FREE, raw)
    .code(code32!(at 0x9000; "out 0xf4, al"))
}

/// `CALL 73h:0` in ring 3.
fn user_call(raw: u64) -> Guest {
    user32(code32!(
        "
     7: farcall 0x73, 0
    "
    ))
    .gdt(FREE, raw)
}

/// A 32-bit call gate of DPL 3 to ring-0 code at 9000h.
fn call_gate(count: u8) -> u64 {
    gate(KCODE, 0x9000, 0xec, count)
}

/// Far return in ring 0 to `cs`:9000h, with SS:ESP for an outer ring above.
fn far_return(cs: u16) -> Guest {
    protected32(code32!(
        "
        push 0x23
        push 0x7000
        push ebx
        push 0x9000
     7: retf
    "
    ))
    .with(Rbx, cs.into())
}

guests! { "transfers";
    /// A far jump to non-conforming code of the same ring (SDM 2A, JMP).
    jump_same_ring: jump(descriptor(0, 0xf_ffff, CODE, FLAT32))
        .segment(SegmentName::Cs, 0x70, 0, u32::MAX, 0xc09b);

    /// It sets the accessed bit (SDM 3A 3.4.5.1).
    jump_sets_accessed: jump(descriptor(0, 0xf_ffff, 0x9a, FLAT32)).memory(GDT + 0x75, &[0x9b]);

    /// A null selector is #GP(0) (SDM 2A, JMP).
    jump_null: protected32(code32!("7: farjmp 0, 0x9000")).fault(Vector::GP, 0);

    /// A data segment is #GP(selector) (SDM 2A, JMP).
    jump_data: jump(descriptor(0, 0xf_ffff, WRITABLE, FLAT32)).fault(Vector::GP, 0x70);

    /// An absent segment is #NP(selector) (SDM 2A, JMP).
    jump_absent: jump(descriptor(0, 0xf_ffff, 0x1b, FLAT32)).fault(Vector::NP, 0x70);

    /// Another ring's non-conforming code is #GP(selector) (SDM 3A 5.8.1.1).
    jump_outer_ring: jump(descriptor(0, 0xf_ffff, CODE | DPL3, FLAT32)).fault(Vector::GP, 0x70);

    /// RPL above CPL is #GP for non-conforming code (SDM 3A 5.8.1.1).
    jump_rpl: protected32(code32!("7: farjmp 0x73, 0x9000")).gdt(FREE, descriptor(0, 0xf_ffff, CODE, FLAT32))
        .fault(Vector::GP, 0x70);

    /// An offset beyond the limit is #GP(0), and CS stays (SDM 2A, JMP).
    jump_beyond_limit: jump(descriptor(0, 0xfff, CODE, SMALL32)).fault(Vector::GP, 0).pushed_cs(KCODE);

    /// A system segment that is no gate is #GP(selector) (SDM 2A, JMP).
    jump_ldt: jump(descriptor(LDT as u32, 0xff, 0x82, 0)).fault(Vector::GP, 0x70);

    /// Ring 3 jumps into conforming ring-0 code and stays in ring 3 (SDM 3A
    /// 5.8.1.2).
    jump_conforming: user32(code32!("farjmp 0x70, 0x9000")).gdt(FREE, CONFORMING)
        .marked_code(code32!(at 0x9000; "7: cli")).fault(Vector::GP, 0).pushed_cs(0x73);

    /// Conforming code of an outer ring is #GP(selector) (SDM 3A 5.8.1.2).
    jump_conforming_outward: jump(descriptor(0, 0xf_ffff, 0x9f | DPL3, FLAT32)).fault(Vector::GP, 0x70);

    /// To 16-bit code: EIP is cut to the segment's size of operand (SDM 2A,
    /// JMP).
    jump_to_sixteen_bits: protected32(code32!("farjmp 0x38, 0x9000")).code(code16!(at 0x9000; "
        mov ax, 0x1234
        out 0xf4, al
    ")).reg(Rax, 0x1234).cs(KCODE16);

    /// A far call pushes CS and EIP as doublewords (SDM 2A, CALL).
    call_and_return: protected32(code32!("
        farcall 0x08, 0x9000
        out 0xf4, al
    ")).code(code32!(at 0x9000; "
        mov eax, [esp]
        mov ebx, [esp + 4]
        retf
    ")).reg(Rax, 0x8007).reg(Rbx, KCODE.into()).reg(Rsp, STACK);

    /// From 16-bit code the call pushes words (SDM 2A, CALL).
    call_from_sixteen_bits: protected16(code16!("
        farcall 0x38, 0x9000
        out 0xf4, al
    ")).code(code16!(at 0x9000; "
        mov bp, sp
        mov eax, [bp]
        .byte 0xcb
    ")).reg(Rax, 0x38_8005).reg(Rsp, STACK);

    /// A call gate to the same ring (SDM 3A 5.8.4).
    gate_same_ring: protected32(code32!("
        farcall 0x70, 0xdeadbeef
        out 0xf4, al
    ")).gdt(FREE, gate(KCODE, 0x9000, 0x8c, 0)).code(code32!(at 0x9000; "
        mov ebx, cs
        retf
    ")).reg(Rbx, KCODE.into()).reg(Rsp, STACK);

    /// A call gate to ring 0 switches stacks and copies parameters (SDM 3A
    /// 5.8.5).
    gate_copies_parameters: user32(code32!("
        push 0x1111
        push 0x2222
        push 0x3333
        farcall 0x73, 0
    ")).gdt(FREE, call_gate(2)).code(code32!(at 0x9000; "out 0xf4, al"))
        .cs(KCODE).reg(Rsp, RING0_STACK - 24)
        .mem32(RING0_STACK - 24, 0x8016).mem32(RING0_STACK - 20, UCODE32.into())
        .mem32(RING0_STACK - 16, 0x3333).mem32(RING0_STACK - 12, 0x2222)
        .mem32(RING0_STACK - 8, USER_STACK as u32 - 12).mem32(RING0_STACK - 4, UDATA.into())
        .segment(SegmentName::Ss, KDATA, 0, u32::MAX, 0xc093);

    /// A 16-bit call gate copies words (SDM 3A 5.8.5).
    sixteen_bit_gate: user32(code32!("
        .byte 0x66, 0x68, 0x11, 0x11
        .byte 0x66, 0x68, 0x22, 0x22
        farcall 0x73, 0
    ")).gdt(FREE, gate(KCODE, 0x9000, 0xe4, 1)).code(code32!(at 0x9000; "out 0xf4, al"))
        .reg(Rsp, RING0_STACK - 10).mem16(RING0_STACK - 10, 0x800f).mem16(RING0_STACK - 6, 0x2222)
        .mem16(RING0_STACK - 4, USER_STACK as u16 - 4).mem16(RING0_STACK - 2, UDATA);

    /// There and back: RETF n to the outer ring releases parameters on both
    /// stacks (SDM 2B, RET).
    gate_and_return: user32(code32!("
        push 0x1111
        push 0x2222
        farcall 0x73, 0
     7: ud2
    ")).gdt(FREE, call_gate(2)).code(code32!(at 0x9000; "
        mov ebx, [esp + 8]
        retf 8
    ")).event(Vector::UD).pushed_cs(UCODE32).reg(Rbx, 0x2222)
        .pushed(crate::expect::FrameItem::Sp, u64::MAX, USER_STACK);

    /// The gate's DPL must not be below CPL: #GP(gate) (SDM 3A 5.8.4).
    gate_privilege: user_call(gate(KCODE, 0x9000, 0x8c, 0)).fault(Vector::GP, 0x70);

    /// An absent gate is #NP(gate) (SDM 2A, CALL).
    gate_absent: user_call(gate(KCODE, 0x9000, 0x6c, 0)).fault(Vector::NP, 0x70);

    /// A null selector in the gate is #GP(0) (SDM 2A, CALL).
    gate_null: user_call(gate(0, 0x9000, 0xec, 0)).fault(Vector::GP, 0);

    /// A data segment in the gate is #GP(selector) (SDM 2A, CALL).
    gate_to_data: user_call(gate(KDATA, 0x9000, 0xec, 0)).fault(Vector::GP, KDATA.into());

    /// An absent code segment in the gate is #NP(selector) (SDM 2A, CALL).
    gate_to_absent: user_call(gate(0x78, 0x9000, 0xec, 0)).gdt(0x78, descriptor(0, 0xf_ffff, 0x1b, FLAT32))
        .fault(Vector::NP, 0x78);

    /// JMP through a gate may not change the ring (SDM 3A 5.8.4).
    gate_jump_inward: user32(code32!("7: farjmp 0x73, 0")).gdt(FREE, call_gate(0))
        .fault(Vector::GP, KCODE.into());

    /// JMP through a gate to conforming code (SDM 3A 5.8.4).
    gate_jump_conforming: user32(code32!("farjmp 0x73, 0")).gdt(FREE, gate(0x78, 0x9000, 0xec, 0))
        .gdt(0x78, CONFORMING).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(0x7b);

    /// A null SS0 behind the gate is #TS(0) (SDM 2A, CALL).
    gate_null_stack: user_call(call_gate(0)).tss(8, 0).iopl(3).gate_selector(10, UCODE32).fault(Vector::TS, 0);

    /// Far return within ring 0 (SDM 2B, RET).
    return_same_ring: far_return(KCODE).code(code32!(at 0x9000; "out 0xf4, al")).reg(Rsp, STACK - 8);

    /// Far return to ring 3 loads SS:ESP (SDM 2B, RET).
    return_outer_ring: far_return(UCODE32).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD)
        .pushed_cs(UCODE32).pushed(crate::expect::FrameItem::Sp, u64::MAX, 0x7000)
        .pushed(crate::expect::FrameItem::Ss, 0xffff, UDATA.into());

    /// A return to ring 3 nulls data segments that ring 3 may not use (SDM 3A
    /// 5.8.6).
    return_nulls_segments: far_return(UCODE32).patch(|s| {
        s.segments[4] = s.segments[3];
        s.segments[5] = x86::Segment::from_descriptor(x86::Selector(UDATA), descriptor(0, 0xf_ffff, 0xf3, FLAT32));
    }).code(code32!(at 0x9000; "
        mov eax, ds
        mov ebx, fs
        mov ecx, gs
        ud2
    ")).event_anywhere(Vector::UD, None).reg(Rax, 0).reg(Rbx, 0).reg(Rcx, UDATA.into());

    /// RPL below CPL is #GP(selector) (SDM 2B, RET).
    return_inward: user32(code32!("
        push 0x08
        push 0x9000
     7: retf
    ")).fault(Vector::GP, KCODE.into());

    /// A null CS is #GP(0) (SDM 2B, RET).
    return_null: far_return(0).fault(Vector::GP, 0);

    /// A data segment as CS is #GP(selector) (SDM 2B, RET).
    return_to_data: far_return(KDATA).fault(Vector::GP, KDATA.into());

    /// An absent CS is #NP(selector) (SDM 2B, RET).
    return_to_absent: far_return(FREE).gdt(FREE, descriptor(0, 0xf_ffff, 0x1b, FLAT32)).fault(Vector::NP, 0x70);

    /// The new SS must be writable, of the new CPL: #GP(selector); nothing has
    /// changed (SDM 2B, RET).
    return_bad_stack: protected32(code32!("
        push 0x10
        push 0x7000
        push 0x1b
        push 0x9000
     7: retf
    ")).fault(Vector::GP, KDATA.into()).reg(Rsp, STACK - 16 - 16).cs(KCODE);

    /// 64-bit mode: a far jump through memory to compatibility mode (SDM 2A,
    /// JMP).
    long_to_compatibility: long64(code64!("jmp fword ptr [0xd000]")).dword(DATA, 0x9000).word(DATA + 4, KCODE32)
        .code(code32!(at 0x9000; "
            mov eax, 0x12345678
            .byte 0x40
            out 0xf4, al
        ")).reg(Rax, 0x1234_5679).segment(SegmentName::Cs, KCODE32, 0, u32::MAX, 0xc09b);

    /// Compatibility mode to 64-bit mode (SDM 2A, JMP).
    compatibility_to_long: compatibility0(code32!("farjmp 0x08, 0x9000")).code(code64!(at 0x9000; "
        mov rax, 0x123456789abcdef0
        out 0xf4, al
    ")).reg(Rax, 0x1234_5678_9abc_def0).cs(KCODE);

    /// A code segment with both L and D set is #GP(selector) (SDM 2A, JMP).
    long_and_big: long64(code64!("7: jmp fword ptr [0xd000]")).dword(DATA, 0x9000).word(DATA + 4, FREE)
        .gdt(FREE, descriptor(0, 0xf_ffff, CODE, 0xe)).fault(Vector::GP, 0x70);

    /// A 64-bit call gate switches to RSP0 and pushes quadwords (SDM 3A
    /// 5.8.3.1, 5.8.5.1).
    long_call_gate: user64(code64!("call fword ptr [0xd000]")).word(DATA + 4, 0x73)
        .gdt(FREE, gate(KCODE, 0x9000, 0xec, 0)).gdt(0x78, 0)
        .code(code64!(at 0x9000; "out 0xf4, al"))
        .cs(KCODE).reg(Rsp, RING0_STACK - 32).mem64(RING0_STACK - 32, 0x8007)
        .mem64(RING0_STACK - 24, UCODE64.into()).mem64(RING0_STACK - 16, USER_STACK)
        .mem64(RING0_STACK - 8, UDATA.into())
        .item("SS", |s| s.segments[2].selector.0.into(), 0);

    /// The upper half's type field must be zero: #GP(gate) (SDM 3A 5.8.3.1).
    long_call_gate_upper_type: user64(code64!("7: call fword ptr [0xd000]")).word(DATA + 4, 0x73)
        .gdt(FREE, gate(KCODE, 0x9000, 0xec, 0)).gdt(0x78, 0x0000_0900_0000_0000).fault(Vector::GP, 0x70);

    /// A 64-bit gate to 32-bit code is #GP(selector) (SDM 2A, CALL).
    long_call_gate_to_32_bits: user64(code64!("7: call fword ptr [0xd000]")).word(DATA + 4, 0x73)
        .gdt(FREE, gate(KCODE32, 0x9000, 0xec, 0)).gdt(0x78, 0).fault(Vector::GP, KCODE32.into());

    /// A far return of 64 bits to ring 3 (SDM 2B, RET).
    long_return_outer: long64(code64!("
        push 0x23
        push 0x7000
        push 0x2b
        push 0x9000
        retfq
    ")).page(0x9000, USER_PAGE).marked_code(code64!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(UCODE64)
        .pushed(crate::expect::FrameItem::Sp, u64::MAX, 0x7000);

    /// Direct far jumps and calls are #UD in 64-bit mode (SDM 2A, JMP).
    long_direct_far_jump: long64(code64!("7: .byte 0xea, 0, 0x90, 0, 0, 8, 0")).event(Vector::UD);

    /// Near branches ignore the operand-size prefix in 64-bit mode on Intel;
    /// a 64-bit CALL pushes eight bytes (SDM 2A, CALL).
    long_near_call: long64(code64!("
        call 2f
     2: pop rax
        out 0xf4, al
    ")).reg(Rax, 0x8005).reg(Rsp, STACK);
}
