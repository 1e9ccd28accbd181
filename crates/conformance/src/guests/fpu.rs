//! x87 and MMX: availability, exceptions, state (SDM 1 8; SDM 3A 13).

use x86::{Cr0, Cr4, Gpr::*, Vector};

use crate::asm::{code32, code64};
use crate::env::{long64, protected32, user32, user64};
use crate::guest::guests;
use crate::layout::*;

guests! { "fpu";
    /// With CR0.TS an x87 instruction is #NM (SDM 3A 13.4).
    task_switched: protected32(code32!("7: fld1")).patch(|s| s.cr0 |= Cr0::TS).event(Vector::NM);

    /// With CR0.EM too (SDM 3A 2.5).
    emulation: protected32(code32!("7: fld1")).patch(|s| s.cr0 |= Cr0::EM).event(Vector::NM);

    /// WAIT needs TS and MP for #NM (SDM 3A 2.5).
    wait_with_ts_and_mp: protected32(code32!("7: wait")).patch(|s| s.cr0 |= Cr0::TS | Cr0::MP).event(Vector::NM);

    /// With TS alone WAIT goes on.
    wait_with_ts: protected32(code32!("wait; out 0xf4, al")).patch(|s| s.cr0 |= Cr0::TS);

    /// MMX with CR0.EM is #UD, with CR0.TS #NM (SDM 2B, MOVD).
    mmx_emulation: protected32(code32!("7: movd mm0, eax")).patch(|s| s.cr0 |= Cr0::EM).event(Vector::UD);

    /// MMX with CR0.TS is #NM.
    mmx_task_switched: protected32(code32!("7: movd mm0, eax")).patch(|s| s.cr0 |= Cr0::TS).event(Vector::NM);

    /// SSE with CR0.TS is #NM (SDM 3A 13.1.3).
    sse_task_switched: protected32(code32!("7: xorps xmm0, xmm0")).patch(|s| s.cr0 |= Cr0::TS).event(Vector::NM);

    /// SSE with CR0.EM is #UD.
    sse_emulation: protected32(code32!("7: xorps xmm0, xmm0")).patch(|s| s.cr0 |= Cr0::EM).event(Vector::UD);

    /// SSE without CR4.OSFXSR is #UD.
    sse_disabled: protected32(code32!("7: xorps xmm0, xmm0")).patch(|s| s.cr4.remove(Cr4::OSFXSR)).event(Vector::UD);

    /// x87 arithmetic (SDM 1 8.3).
    arithmetic: protected32(code32!("
        fninit
        fld1
        fld1
        faddp
        fld1
        faddp
        fistp dword ptr [0xd000]
        out 0xf4, al
    ")).mem32(DATA, 3);

    /// FNINIT and FNSTCW, FNSTSW (SDM 2A, FINIT).
    init: protected32(code32!("
        fninit
        fnstcw [0xd000]
        fnstsw ax
        out 0xf4, al
    ")).with(Rax, 0xffff).mem16(DATA, 0x37f).reg_masked(Rax, 0xffff, 0);

    /// An unmasked exception is delivered at the next waiting instruction
    /// (SDM 1 8.6).
    pending_exception: protected32(code32!("
        fninit
        fldcw [0xd000]
        fld1
        fldz
        fdivp
        nop
     7: wait
    ")).word(DATA, 0x37b).event(Vector::MF);

    /// The instruction that raised it is not interrupted, FNSTSW sees it.
    pending_exception_status: protected32(code32!("
        fninit
        fldcw [0xd000]
        fld1
        fldz
        fdivp
        fnstsw ax
        fnclex
        wait
        out 0xf4, al
    ")).word(DATA, 0x37b).reg_masked(Rax, 0x8084, 0x8084);

    /// A masked division by zero gives infinity (SDM 1 8.5.3).
    masked_exception: protected32(code32!("
        fninit
        fld1
        fldz
        fdivp
        fstp dword ptr [0xd000]
        fnstsw ax
        out 0xf4, al
    ")).mem32(DATA, 0x7f80_0000).reg_masked(Rax, 0xff, 4);

    /// Stack overflow sets IE, SF and C1 (SDM 1 8.5.1.1).
    stack_overflow: protected32(code32!("
        fninit
        mov ecx, 9
     2: fld1
        loop 2b
        fnstsw ax
        out 0xf4, al
    ")).reg_masked(Rax, 0x0241, 0x0241);

    /// FSTP to an absent page faults without a pop (SDM 2A, FST).
    store_fault: long64(code64!("
        fninit
        fld1
     7: fstp qword ptr [0xe000]
    ")).page(0xe000, 0).page_fault(2, 0xe000).item("FSW.TOP", |s| s.fpu.x87.fsw as u64 >> 11 & 7, 7);

    /// An 80-bit load that crosses pages.
    crossing_load: long64(code64!("
        fninit
        fld tbyte ptr [0xdffa]
        fistp dword ptr [0xd000]
        out 0xf4, al
    ")).bytes(0xdffa, &[0, 0, 0, 0, 0, 0]).bytes(0xf000, &[0, 0x80, 0x00, 0x40]).page_to(0xe000, 0xf000, KERNEL_PAGE)
        .mem32(DATA, 2);

    /// FXSAVE needs 16-byte alignment: #GP(0) (SDM 2A, FXSAVE).
    fxsave_alignment: long64(code64!("7: fxsave [0xd008]")).fault(Vector::GP, 0);

    /// FXSAVE and FXRSTOR carry XMM and MXCSR (SDM 2A, FXSAVE).
    fxsave_fxrstor: long64(code64!("
        pcmpeqd xmm3, xmm3
        fxsave [0xd000]
        pxor xmm3, xmm3
        fxrstor [0xd000]
        movq rax, xmm3
        out 0xf4, al
    ")).reg(Rax, u64::MAX).mem32(DATA + 24, 0x1f80);

    /// FXRSTOR with reserved MXCSR bits is #GP(0) (SDM 2A, FXRSTOR).
    fxrstor_reserved: long64(code64!("7: fxrstor [0xd000]")).dword(DATA + 24, 0x1_0000).fault(Vector::GP, 0);

    /// LDMXCSR with reserved bits is #GP(0) (SDM 2A, LDMXCSR).
    ldmxcsr_reserved: user32(code32!("7: ldmxcsr [0xd000]")).data(0x1_0000).fault(Vector::GP, 0);

    /// LDMXCSR and STMXCSR.
    mxcsr: user32(code32!("
        ldmxcsr [0xd000]
        stmxcsr [0xd004]
     7: ud2
    ")).data(0x9fc0).event(Vector::UD).mem32(DATA + 4, 0x9fc0).item("MXCSR", |s| s.fpu.mxcsr.into(), 0x9fc0);

    /// An unmasked SIMD exception is #XM (SDM 1 11.5.3).
    simd_exception: user64(code64!("
        ldmxcsr [0xd000]
        pxor xmm1, xmm1
     7: divss xmm0, xmm1
    ")).data(0x1d80).patch(|s| s.fpu.zmm[0].0[..4].copy_from_slice(&1.0_f32.to_le_bytes())).event(Vector::XM)
        .masked_item("MXCSR", |s| s.fpu.mxcsr.into(), 4, 4);

    /// Without CR4.OSXMMEXCPT it is #UD (SDM 3A 2.5).
    simd_exception_without_support: user64(code64!("
        ldmxcsr [0xd000]
        pxor xmm1, xmm1
     7: divss xmm0, xmm1
    ")).data(0x1d80).patch(|s| {
        s.fpu.zmm[0].0[..4].copy_from_slice(&1.0_f32.to_le_bytes());
        s.cr4.remove(Cr4::OSXMMEXCPT);
    }).event(Vector::UD);

    /// MMX registers are the x87 significands (SDM 1 9.5).
    mmx_aliases_x87: protected32(code32!("
        fninit
        mov eax, 0x12345678
        movd mm2, eax
        paddd mm2, mm2
        movd ebx, mm2
        out 0xf4, al
    ")).reg(Rbx, 0x2468_acf0).item("tag word", |s| s.fpu.x87.ftw.into(), 0xff);

    /// EMMS empties the registers (SDM 2A, EMMS).
    emms: protected32(code32!("
        movd mm2, eax
        emms
        out 0xf4, al
    ")).item("tag word", |s| s.fpu.x87.ftw.into(), 0);
}
