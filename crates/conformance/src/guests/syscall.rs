//! SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS (SDM 3A 5.8.7, 5.8.8).

use x86::cpuid::Vendor;
use x86::{Efer, Gpr::*, Rflags, SegmentName, Vector};

use crate::asm::{Code, code32, code64};
use crate::env::{compatibility, long64, protected32, user32, user64};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

/// STAR for the GDT's layout: SYSCALL to 08h, SYSRET from 18h.
const STAR: u64 = 0x18 << 48 | 0x08 << 32;

fn syscall(guest: Guest) -> Guest {
    guest
        .patch(|s| {
            s.msrs.star = STAR;
            s.msrs.lstar = 0x9000;
            s.msrs.cstar = 0xa000;
            s.msrs.fmask = Rflags::IF.bits() | Rflags::DF.bits() | Rflags::TF.bits();
        })
        .code(code64!(at 0x9000; "out 0xf4, al"))
        .code(code64!(at 0xa000; "out 0xf4, al"))
}

fn sysenter(guest: Guest) -> Guest {
    guest
        .patch(|s| {
            s.msrs.sysenter_cs = KCODE.into();
            s.msrs.sysenter_esp = OTHER_STACK;
            s.msrs.sysenter_eip = 0x9000;
        })
        .code(code32!(at 0x9000; "out 0xf4, al"))
}

/// SYSRET from ring 0 to RCX = 9000h.
fn sysret(code: Code) -> Guest {
    long64(code).patch(|s| s.msrs.star = STAR).with(Rcx, 0x9000).page(0x9000, USER_PAGE)
}

guests! { "syscall";
    /// SYSCALL saves RIP in RCX, RFLAGS in R11, masks flags, leaves RSP (SDM
    /// 2B, SYSCALL).
    enter: syscall(user64(code64!("
        stc
        std
        syscall
    "))).reg(Rcx, 0x8004).reg_masked(R11, 0xfff, 0x403).reg(Rsp, USER_STACK)
        .flags(Rflags::DF | Rflags::CF, Rflags::CF)
        .segment(SegmentName::Cs, KCODE, 0, u32::MAX, 0xa09b)
        .segment(SegmentName::Ss, KDATA, 0, u32::MAX, 0xc093);

    /// SYSCALL loads fixed segments without looking at the GDT (SDM 2B,
    /// SYSCALL).
    enter_ignores_descriptors: syscall(user64(code64!("syscall"))).patch(|s| {
        s.msrs.star = 0x18 << 48 | 0x80 << 32;
    }).segment(SegmentName::Cs, 0x80, 0, u32::MAX, 0xa09b).segment(SegmentName::Ss, 0x88, 0, u32::MAX, 0xc093);

    /// Without EFER.SCE it is #UD (SDM 2B, SYSCALL).
    enter_disabled: syscall(user64(code64!("7: syscall"))).patch(|s| s.efer.remove(Efer::SCE)).event(Vector::UD);

    /// SYSRETQ to 64-bit mode: CS from STAR + 16, SS + 8, both of RPL 3 (SDM
    /// 2B, SYSRET).
    leave: sysret(code64!("
        mov r11d, 0x3003
        sysretq
    ")).marked_code(code64!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(UCODE64)
        .pushed(FrameItem::Ss, 0xffff, UDATA.into()).pushed(FrameItem::Sp, u64::MAX, STACK)
        .pushed_flags(Rflags::IOPL | Rflags::CF, Rflags::IOPL | Rflags::CF);

    /// SYSRETL to compatibility mode (SDM 2B, SYSRET).
    leave_to_compatibility: sysret(code64!("
        mov r11d, 2
        sysret
    ")).marked_code(code32!(at 0x9000; "inc eax; 7: ud2")).event(Vector::UD).pushed_cs(UCODE32).reg(Rax, 1);

    /// SYSRET clears RF and VM from R11 (SDM 2B, SYSRET).
    leave_masks_flags: sysret(code64!("
        mov r11d, 0x33002
        sysretq
    ")).marked_code(code64!(at 0x9000; "nop; 7: ud2")).event(Vector::UD).pushed_flags(Rflags::VM | Rflags::IOPL, Rflags::IOPL);

    /// SYSRETQ with a non-canonical RCX is #GP(0) in ring 0 (SDM 2B, SYSRET).
    leave_non_canonical: sysret(code64!("
        mov rcx, 0x800000000000
     7: sysretq
    ")).fault(Vector::GP, 0).pushed_cs(KCODE);

    /// SYSENTER in protected mode: CS, SS, ESP, EIP from the MSRs; IF is
    /// cleared (SDM 2B, SYSENTER).
    sysenter_32: sysenter(user32(code32!("sysenter"))).with_flags(Rflags::IF | Rflags::CF).reg(Rsp, OTHER_STACK)
        .flags(Rflags::IF | Rflags::CF, Rflags::CF)
        .segment(SegmentName::Cs, KCODE, 0, u32::MAX, 0xc09b)
        .segment(SegmentName::Ss, KDATA, 0, u32::MAX, 0xc093);

    /// With a null IA32_SYSENTER_CS it is #GP(0) (SDM 2B, SYSENTER).
    sysenter_null: user32(code32!("7: sysenter")).fault(Vector::GP, 0);

    /// SYSENTER from 64-bit mode goes to 64-bit code (SDM 2B, SYSENTER).
    sysenter_64: sysenter(user64(code64!("sysenter"))).only(Vendor::Intel).reg(Rsp, OTHER_STACK)
        .segment(SegmentName::Cs, KCODE, 0, u32::MAX, 0xa09b);

    /// On AMD's processors it is #UD there (APM 3, SYSENTER).
    sysenter_64_amd: sysenter(user64(code64!("7: sysenter"))).only(Vendor::Amd).event(Vector::UD);

    /// From compatibility mode it goes to 64-bit code too.
    sysenter_compatibility: sysenter(compatibility(code32!("sysenter"))).only(Vendor::Intel).code(code64!(at 0x9000; "
        mov rax, 0x123456789ab
        out 0xf4, al
    ")).reg(Rax, 0x0123_4567_89ab).reg(Rsp, OTHER_STACK);

    /// On AMD's processors it is #UD there too (APM 3, SYSENTER).
    sysenter_compatibility_amd: sysenter(compatibility(code32!("7: sysenter"))).only(Vendor::Amd).event(Vector::UD);

    /// SYSEXIT in protected mode: EIP from EDX, ESP from ECX (SDM 2B, SYSEXIT).
    sysexit_32: protected32(code32!("
        mov edx, 0x9000
        mov ecx, 0x7000
        sysexit
    ")).patch(|s| s.msrs.sysenter_cs = KCODE.into()).marked_code(code32!(at 0x9000; "7: ud2")).event(Vector::UD)
        .pushed_cs(UCODE32).pushed(FrameItem::Ss, 0xffff, UDATA.into()).pushed(FrameItem::Sp, u64::MAX, 0x7000);

    /// With a null IA32_SYSENTER_CS it is #GP(0) (SDM 2B, SYSEXIT).
    sysexit_null: protected32(code32!("7: sysexit")).fault(Vector::GP, 0);

    /// SYSEXITQ: CS is IA32_SYSENTER_CS + 32, SS + 40 (SDM 2B, SYSEXIT).
    sysexit_64: long64(code64!("
        mov edx, 0x9000
        mov ecx, 0x7000
        sysexitq
    ")).only(Vendor::Intel).page(0x9000, USER_PAGE).patch(|s| s.msrs.sysenter_cs = KCODE.into())
        .marked_code(code64!(at 0x9000; "7: ud2")).event(Vector::UD).pushed_cs(UCODE64)
        .pushed(FrameItem::Ss, 0xffff, 0x33).pushed(FrameItem::Sp, u64::MAX, 0x7000);

    /// SYSEXIT without REX.W goes to compatibility mode (SDM 2B, SYSEXIT).
    sysexit_to_compatibility: long64(code64!("
        mov edx, 0x9000
        mov ecx, 0x7000
        sysexit
    ")).only(Vendor::Intel).page(0x9000, USER_PAGE).patch(|s| s.msrs.sysenter_cs = KCODE.into())
        .marked_code(code32!(at 0x9000; "inc eax; 7: ud2")).event(Vector::UD).pushed_cs(UCODE32);

    /// SYSEXITQ with a non-canonical RDX is #GP(0) (SDM 2B, SYSEXIT).
    sysexit_non_canonical: long64(code64!("
        mov rdx, 0x800000000000
     7: sysexitq
    ")).only(Vendor::Intel).patch(|s| s.msrs.sysenter_cs = KCODE.into()).fault(Vector::GP, 0);

    /// On AMD's processors it is #UD in all of long mode (APM 3, SYSEXIT).
    sysexit_amd: long64(code64!("7: sysexit")).only(Vendor::Amd).patch(|s| s.msrs.sysenter_cs = KCODE.into())
        .event(Vector::UD);

    /// With REX.W as well.
    sysexitq_amd: long64(code64!("7: sysexitq")).only(Vendor::Amd).patch(|s| s.msrs.sysenter_cs = KCODE.into())
        .event(Vector::UD);

    /// And in compatibility mode.
    sysexit_compatibility_amd: compatibility(code32!("7: sysexit")).only(Vendor::Amd)
        .patch(|s| s.msrs.sysenter_cs = KCODE.into()).event(Vector::UD);

    /// SYSCALL from compatibility mode is #UD on Intel's processors (SDM 2B,
    /// SYSCALL).
    enter_from_compatibility: syscall(compatibility(code32!("7: syscall"))).only(Vendor::Intel).event(Vector::UD);

    /// On AMD's it goes to CSTAR, in 64-bit mode (APM 3, SYSCALL).
    enter_from_compatibility_amd: syscall(compatibility(code32!("syscall"))).only(Vendor::Amd)
        .reg(Rcx, 0x8002).segment(SegmentName::Cs, KCODE, 0, u32::MAX, 0xa09b);

    /// SWAPGS exchanges GS.base and IA32_KERNEL_GS_BASE (SDM 2B, SWAPGS).
    swapgs: long64(code64!("
        swapgs
        mov eax, gs:[8]
        swapgs
        mov ebx, gs:[8]
        out 0xf4, al
    ")).patch(|s| {
        s.segments[SegmentName::Gs as usize].base = 0xe000;
        s.msrs.kernel_gs_base = DATA;
    }).dword(DATA + 8, 1).dword(0xe008, 2).reg(Rax, 1).reg(Rbx, 2)
        .item("IA32_KERNEL_GS_BASE", |s| s.msrs.kernel_gs_base, DATA);

    /// SWAPGS outside 64-bit mode is #UD (SDM 2B, SWAPGS).
    swapgs_in_compatibility_mode: compatibility(code32!("7: .byte 0x0f, 0x01, 0xf8")).event(Vector::UD);

    /// There and back: the round trip of a system call.
    round_trip: syscall(user64(code64!("
        mov eax, 7
        syscall
     7: ud2
    "))).code(code64!(at 0x9000; "
        add eax, 1
        sysretq
    ")).event(Vector::UD).reg(Rax, 8).pushed_cs(UCODE64);
}
