//! SSE to AVX-512: alignment, faults, enabling, state (SDM 1 10 to 15; SDM 2A
//! 2.4, 2.7).

use x86::cpuid::Feature;
use x86::{Cr0, Cr4, Gpr::*, Vector, Xcr0};

use crate::asm::{Code, code32, code64};
use crate::env::{long64, protected32, real, user64};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// 64-bit mode with AVX enabled.
fn avx(code: Code) -> Guest {
    long64(code).needs(Feature::Avx).patch(|s| {
        s.cr4 |= Cr4::OSXSAVE;
        s.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    })
}

/// 64-bit mode with AVX-512 enabled.
fn avx512(code: Code) -> Guest {
    avx(code).needs(Feature::Avx512f).patch(|s| s.xcr0 |= Xcr0::AVX512)
}

/// 64-bit mode with XSAVE of x87, SSE and AVX.
fn xsave(code: Code) -> Guest {
    avx(code).needs(Feature::Xsave)
}

guests! { "vector";
    /// MOVAPS to a misaligned address is #GP(0) (SDM 2B, MOVAPS).
    misaligned: long64(code64!("7: movaps [0xd008], xmm0")).fault(Vector::GP, 0);

    /// MOVUPS is not.
    unaligned: long64(code64!("
        movups xmm0, [0xd003]
        movq rax, xmm0
        out 0xf4, al
    ")).qword(DATA + 3, 0x1122_3344_5566_7788).reg(Rax, 0x1122_3344_5566_7788);

    /// A misaligned operand of SSE arithmetic is #GP(0) (SDM 1 10.4.1.1).
    misaligned_operand: long64(code64!("7: addps xmm0, [0xd004]")).fault(Vector::GP, 0);

    /// A load across pages that lie apart.
    crossing: long64(code64!("
        movups xmm0, [0xdff8]
        movhlps xmm1, xmm0
        movq rax, xmm0
        movq rbx, xmm1
        out 0xf4, al
    ")).page_to(0xe000, 0xf000, KERNEL_PAGE).qword(0xdff8, 1).qword(0xf000, 2).reg(Rax, 1).reg(Rbx, 2);

    /// Integer SSE2 and shuffles.
    shuffle: long64(code64!("
        movdqu xmm0, [0xd000]
        pshufd xmm1, xmm0, 0x1b
        paddd xmm1, xmm0
        movdqu [0xd010], xmm1
        out 0xf4, al
    ")).dword(DATA, 1).dword(DATA + 4, 2).dword(DATA + 8, 3).dword(DATA + 12, 5)
        .mem32(DATA + 16, 6).mem32(DATA + 20, 5).mem32(DATA + 24, 5).mem32(DATA + 28, 6);

    /// SSE in ring 3 and with memory operands.
    user_arithmetic: user64(code64!("
        cvtsi2sd xmm0, eax
        mulsd xmm0, [0xd000]
        cvttsd2si ebx, xmm0
     7: ud2
    ")).with(Rax, 7).qword(DATA, 2.5_f64.to_bits()).event(Vector::UD).reg(Rbx, 17);

    /// SSE registers 8 to 15 do not exist outside 64-bit mode; XMM0 to 7 do.
    thirty_two_bits: protected32(code32!("
        movd xmm7, eax
        paddd xmm7, xmm7
        movd ebx, xmm7
        out 0xf4, al
    ")).with(Rax, 21).reg(Rbx, 42);

    /// PCMPISTRI and its flags (SDM 2B, PCMPISTRI).
    string_compare: long64(code64!("
        movdqu xmm0, [0xd000]
        pcmpistri xmm0, [0xd010], 0
        out 0xf4, al
    ")).needs(Feature::Sse42).bytes(DATA, b"x").bytes(DATA + 16, b"abxyz").reg(Rcx, 2)
        .flags(x86::Rflags::CF, x86::Rflags::CF);

    /// MASKMOVDQU writes only the selected bytes (SDM 2B, MASKMOVDQU).
    masked_move: long64(code64!("
        mov edi, 0xd000
        pcmpeqd xmm0, xmm0
        mov eax, 0x00800080
        movd xmm1, eax
        maskmovdqu xmm0, xmm1
        out 0xf4, al
    ")).mem32(DATA, 0x00ff_00ff).mem32(DATA + 4, 0);

    /// AVX without CR4.OSXSAVE is #UD (SDM 2A 2.4).
    avx_disabled: long64(code64!("7: vxorps ymm0, ymm0, ymm0")).needs(Feature::Avx).event(Vector::UD);

    /// AVX without XCR0.AVX is #UD.
    avx_without_xcr0: avx(code64!("7: vxorps ymm0, ymm0, ymm0")).patch(|s| s.xcr0 = Xcr0::X87 | Xcr0::SSE)
        .event(Vector::UD);

    /// AVX with CR0.TS is #NM.
    avx_task_switched: avx(code64!("7: vxorps ymm0, ymm0, ymm0")).patch(|s| s.cr0 |= Cr0::TS).event(Vector::NM);

    /// VEX does not exist in real mode: #UD (SDM 2A 2.4).
    avx_in_real_mode: real(crate::asm::code16!("7: .byte 0xc5, 0xf8, 0x57, 0xc0")).needs(Feature::Avx).patch(|s| {
        s.cr4 |= Cr4::OSXSAVE;
        s.xcr0 = Xcr0::X87 | Xcr0::SSE | Xcr0::AVX;
    }).event_anywhere(Vector::UD, None);

    /// A VEX instruction of 128 bits clears the upper half, an SSE one keeps it
    /// (SDM 1 14.3).
    upper_halves: avx(code64!("
        vmovups ymm0, [0xd000]
        vmovups ymm1, [0xd000]
        vmovups ymm2, [0xd000]
        vaddps xmm1, xmm1, xmm1
        addps xmm2, xmm2
        vmovups [0xd020], ymm1
        vmovups [0xd040], ymm2
        out 0xf4, al
    ")).qword(DATA + 16, 0x1111).mem64(DATA + 0x30, 0).mem64(DATA + 0x50, 0x1111);

    /// VZEROUPPER (SDM 2C, VZEROUPPER).
    vzeroupper: avx(code64!("
        vpcmpeqd xmm1, xmm1, xmm1
        vinsertf128 ymm1, ymm1, xmm1, 1
        vzeroupper
        vmovups [0xd000], ymm1
        out 0xf4, al
    ")).mem64(DATA + 8, u64::MAX).qword(DATA + 16, 5).mem64(DATA + 16, 0);

    /// A LOCK or 66h prefix before VEX is #UD (SDM 2A 2.3.2).
    prefix_before_vex: avx(code64!("7: .byte 0x66, 0xc5, 0xf8, 0x57, 0xc0")).event(Vector::UD);

    /// VMASKMOV does not touch masked-out pages (SDM 2C, VMASKMOV).
    masked_load: avx(code64!("
        mov eax, 0x80000000
        vmovd xmm1, eax
        vmaskmovps ymm0, ymm1, [0xdffc]
        vmovd ebx, xmm0
        out 0xf4, al
    ")).page(0xe000, 0).dword(0xdffc, 0x1234).reg(Rbx, 0x1234);

    /// A gather that faults keeps what it has gathered and its mask (SDM 2C,
    /// VPGATHERDD).
    gather_fault: avx(code64!("
        vpcmpeqd xmm2, xmm2, xmm2
        vmovdqu xmm1, [0xd000]
        mov ebx, 0xd100
     7: vpgatherdd xmm0, [rbx + xmm1], xmm2
    ")).needs(Feature::Avx2).dword(DATA + 4, 4).dword(DATA + 8, 0xf00).dword(DATA + 12, 8)
        .dword(0xd100, 0xaa).dword(0xd104, 0xbb).page(0xe000, 0).page_fault(0, 0xe000)
        .item("gathered", |s| u64::from(s.fpu.zmm[0].0[0]) | u64::from(s.fpu.zmm[0].0[4]) << 8, 0xbbaa)
        .item("mask", |s| u64::from(s.fpu.zmm[2].0[3]) | u64::from(s.fpu.zmm[2].0[11]) << 8, 0xff00);

    /// FMA, F16C, BMI and the like in one go.
    fused_multiply_add: avx(code64!("
        vmovss xmm0, dword ptr [0xd000]
        vfmadd132ss xmm0, xmm0, [0xd000]
        vcvttss2si eax, xmm0
        out 0xf4, al
    ")).needs(Feature::Fma).dword(DATA, 3.0_f32.to_bits()).reg(Rax, 12);

    /// BMI2 and BMI1 on general registers.
    bit_manipulation: avx(code64!("
        mov eax, 0x12345678
        mov ecx, 0x0f0f0f0f
        pext ebx, eax, ecx
        pdep edx, ebx, ecx
        andn esi, ecx, eax
        rorx edi, eax, 4
        out 0xf4, al
    ")).needs(Feature::Bmi2).needs(Feature::Bmi1).reg(Rbx, 0x2468).reg(Rdx, 0x0204_0608).reg(Rsi, 0x1030_5070)
        .reg(Rdi, 0x8123_4567);

    /// AES round (SDM 2A, AESENC).
    aes: long64(code64!("
        pxor xmm0, xmm0
        pxor xmm1, xmm1
        aesenc xmm0, xmm1
        movq rax, xmm0
        out 0xf4, al
    ")).needs(Feature::Aes).reg(Rax, 0x6363_6363_6363_6363);

    /// AVX-512 with opmasks and zeroing (SDM 2A 2.7.4).
    opmask: avx512(code64!("
        mov eax, 0x5
        kmovw k1, eax
        vpcmpeqd ymm0, ymm0, ymm0
        vmovdqa32 zmm1{{k1}}{{z}}, zmm0
        vmovdqu32 [0xd000], zmm1
        out 0xf4, al
    ")).mem32(DATA, u32::MAX).mem32(DATA + 4, 0).mem32(DATA + 8, u32::MAX).mem32(DATA + 12, 0)
        .item("k1", |s| s.fpu.k[1], 5);

    /// ZMM31 and 64-byte loads.
    high_registers: avx512(code64!("
        vmovdqu64 zmm31, [0xd000]
        vpaddq zmm31, zmm31, zmm31
        vmovdqu64 [0xd040], zmm31
        out 0xf4, al
    ")).qword(DATA + 56, 21).mem64(DATA + 0x40 + 56, 42);

    /// A masked store does not touch masked-out pages (SDM 2A 2.7.8).
    masked_store: avx512(code64!("
        mov eax, 1
        kmovw k1, eax
        vpternlogd zmm0, zmm0, zmm0, 0xff
        vmovdqu32 [0xdffc]{{k1}}, zmm0
        out 0xf4, al
    ")).page(0xe000, 0).mem32(0xdffc, u32::MAX);

    /// AVX-512 without its XCR0 bits is #UD.
    avx512_without_xcr0: avx(code64!("7: vmovdqu64 zmm0, [0xd000]")).needs(Feature::Avx512f).event(Vector::UD);

    /// XSAVE needs 64-byte alignment: #GP(0) (SDM 2C, XSAVE).
    xsave_alignment: xsave(code64!("7: xsave [0xd020]")).fault(Vector::GP, 0);

    /// XSAVE without CR4.OSXSAVE is #UD (SDM 2C, XSAVE).
    xsave_disabled: long64(code64!("7: xsave [0xd000]")).needs(Feature::Xsave).event(Vector::UD);

    /// XSAVE writes XSTATE_BV for what it saved; XRSTOR brings it back (SDM 1
    /// 13.7, 13.8).
    xsave_xrstor: xsave(code64!("
        vpcmpeqd xmm1, xmm1, xmm1
        vinsertf128 ymm1, ymm1, xmm1, 1
        mov eax, 7
        xor edx, edx
        xsave [0xd000]
        vzeroall
        xrstor [0xd000]
        vextractf128 xmm2, ymm1, 1
        vmovq rbx, xmm2
        out 0xf4, al
    ")).reg(Rbx, u64::MAX).memory(DATA + 0x250, &[0xff; 16]);

    /// XRSTOR of a component whose XSTATE_BV bit is clear initializes it (SDM
    /// 1 13.8.1).
    xrstor_initializes: xsave(code64!("
        vpcmpeqd xmm1, xmm1, xmm1
        mov eax, 7
        xor edx, edx
        xrstor [0xd000]
        vmovq rbx, xmm1
        out 0xf4, al
    ")).dword(DATA + 24, 0x1f80).reg(Rbx, 0);

    /// XRSTOR with unknown XSTATE_BV bits is #GP(0) (SDM 1 13.8).
    xrstor_unknown_component: xsave(code64!("7: xrstor [0xd000]")).with(Rax, 7)
        .qword(DATA + 512, 1 << 40 | 1).fault(Vector::GP, 0);

    /// XRSTOR with header bytes set that must be zero is #GP(0) (SDM 1
    /// 13.4.2).
    xrstor_bad_header: xsave(code64!("7: xrstor [0xd000]")).with(Rax, 7).qword(DATA + 528, 1).fault(Vector::GP, 0);

    /// XRSTOR of SSE with reserved MXCSR bits is #GP(0) (SDM 1 13.8).
    xrstor_reserved_mxcsr: xsave(code64!("7: xrstor [0xd000]")).with(Rax, 7).qword(DATA + 512, 2)
        .dword(DATA + 24, 0x1_0000).fault(Vector::GP, 0);
}
