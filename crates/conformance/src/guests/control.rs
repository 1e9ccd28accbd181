//! Control registers, EFER, MSRs, CPUID and XCR0: what they refuse (SDM 3A
//! 2.5; SDM 2B, MOV to CR, WRMSR; 2C, XSETBV).

use x86::cpuid::Feature;
use x86::{Cr0, Cr4, Efer, Gpr::*, Vector, Xcr0};

use crate::asm::{code32, code64};
use crate::bench::{HYPERCALL, MACHINE_MSR, MACHINE_MSR_VALUE};
use crate::env::{long64, protected32, user64};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// MOV to CR0 of its value with `set` set and `clear` cleared, in ring 0.
fn cr0(set: Cr0, clear: Cr0) -> Guest {
    protected32(code32!(
        "
        mov eax, cr0
        or eax, ebx
        and eax, ecx
     7: mov cr0, eax
        out 0xf4, al
    "
    ))
    .with(Rbx, set.bits())
    .with(Rcx, !clear.bits() & 0xffff_ffff)
}

/// WRMSR of EDX:EAX = `value` to `index` in 64-bit mode, then RDMSR.
fn msr(index: u32, value: u64) -> Guest {
    long64(code64!(
        "
        mov eax, ebx
        mov rdx, rbx
        shr rdx, 32
     7: wrmsr
        rdmsr
        shl rdx, 32
        or rax, rdx
        out 0xf4, al
    "
    ))
    .with(Rcx, index.into())
    .with(Rbx, value)
}

fn msr_fault(index: u32, value: u64) -> Guest {
    msr(index, value).fault(Vector::GP, 0)
}

/// XSETBV of `value` to XCR0.
fn xcr0(value: u64) -> Guest {
    long64(code64!(
        "
        xor ecx, ecx
        xor edx, edx
     7: xsetbv
        xgetbv
        out 0xf4, al
    "
    ))
    .needs(Feature::Xsave)
    .patch(|s| s.cr4 |= Cr4::OSXSAVE)
    .with(Rax, value)
}

/// #GP(0) without a change of CR0.
fn refused(guest: Guest) -> Guest {
    guest.fault(Vector::GP, 0).masked_item("CR0", |s| s.cr0.bits(), 0xe005_000f, 1)
}

guests! { "control";
    /// CR0.NW without CR0.CD is #GP(0) (SDM 2B, MOV to CR).
    nw_without_cd: refused(cr0(Cr0::NW, Cr0::empty()));

    /// Both are fine.
    nw_with_cd: cr0(Cr0::NW | Cr0::CD, Cr0::empty()).masked_item("CR0", |s| s.cr0.bits(), 0x6000_0000, 0x6000_0000);

    /// CR0.ET cannot be cleared (SDM 3A 2.5).
    et_is_fixed: cr0(Cr0::empty(), Cr0::ET).masked_item("CR0", |s| s.cr0.bits(), 0x10, 0x10);

    /// CR0.PG cannot be cleared in 64-bit mode: #GP(0) (SDM 2B, MOV to CR).
    paging_cannot_go: long64(code64!("
        mov rax, cr0
        btr rax, 31
     7: mov cr0, rax
    ")).fault(Vector::GP, 0);

    /// Bits 63:32 of CR0 are reserved (SDM 2B, MOV to CR).
    cr0_upper_half: long64(code64!("
        mov rax, cr0
        bts rax, 32
     7: mov cr0, rax
    ")).fault(Vector::GP, 0);

    /// Reserved bits of CR4 are #GP(0) (SDM 2B, MOV to CR).
    cr4_reserved: protected32(code32!("
        mov eax, cr4
        or eax, 0x80000000
     7: mov cr4, eax
    ")).fault(Vector::GP, 0);

    /// CR1 and CR5 do not exist: #UD (SDM 2B, MOV to CR).
    cr5: protected32(code32!("7: .byte 0x0f, 0x20, 0xe8")).event(Vector::UD);

    /// MOV CR ignores the mod field (SDM 2B, MOV to CR).
    mod_is_ignored: protected32(code32!("
        .byte 0x0f, 0x20, 0x00
        out 0xf4, al
    ")).reg(Rax, 0x31);

    /// CR8 is the task priority of the machine (SDM 3A 10.8.6.1).
    cr8: long64(code64!("
        mov eax, 9
        mov cr8, rax
        mov rbx, cr8
        out 0xf4, al
    ")).reg(Rbx, 9);

    /// Reserved bits of CR8 are #GP(0) (SDM 2B, MOV to CR).
    cr8_reserved: long64(code64!("
        mov eax, 16
     7: mov cr8, rax
    ")).fault(Vector::GP, 0);

    /// CLTS clears CR0.TS (SDM 2A, CLTS).
    clts: protected32(code32!("
        clts
        out 0xf4, al
    ")).patch(|s| s.cr0 |= Cr0::TS).masked_item("CR0", |s| s.cr0.bits(), 8, 0);

    /// The way into IA-32e mode: PAE, LME, PG; LMA follows (SDM 3A 9.8.5).
    into_long_mode: protected32(code32!("
        mov eax, 0x11000
        mov cr3, eax
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        rdmsr
        mov ebx, eax
        farjmp 0x70, 0x9000
    ")).gdt(FREE, descriptor(0, 0xf_ffff, CODE, FLAT64))
        .qword(PML4, PDPT | TABLE).qword(PDPT, PD | TABLE).qword(PD, 0xe3)
        .code(code64!(at 0x9000; "
            mov rax, 0x1122334455667788
            out 0xf4, al
        ")).reg(Rax, 0x1122_3344_5566_7788).reg(Rbx, 0x500)
        .item("EFER", |s| s.efer.bits(), (Efer::LME | Efer::LMA).bits());

    /// The way out again, through compatibility mode (SDM 3A 9.8.5.4).
    out_of_long_mode: crate::env::compatibility0(code32!("
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
        mov ecx, 0xc0000080
        rdmsr
        out 0xf4, al
    ")).reg_masked(Rax, 0x500, 0x100).item("LMA", |s| s.efer.contains(Efer::LMA).into(), 0);

    /// PG with LME and without PAE is #GP(0) (SDM 2B, MOV to CR).
    long_mode_without_pae: refused(cr0(Cr0::PG, Cr0::empty())).patch(|s| s.efer = Efer::LME);

    /// PG with LME while CS.L is set is #GP(0) (SDM 2B, MOV to CR).
    long_mode_with_long_cs: refused(cr0(Cr0::PG, Cr0::empty())).patch(|s| {
        s.efer = Efer::LME;
        s.cr4 |= Cr4::PAE;
        s.cr3 = PML4;
        s.segments[1].attributes.set_long(true);
    });

    /// EFER.LME cannot change while paging is on: #GP(0) (SDM 3A 2.2.1).
    lme_with_paging: msr_fault(0xc000_0080, 0x801);

    /// Reserved bits of EFER are #GP(0) (SDM 3A 2.2.1).
    efer_reserved: msr_fault(0xc000_0080, 1 << 20 | 0xd01);

    /// An MSR that does not exist: WRMSR is #GP(0) (SDM 2C, WRMSR).
    unknown_msr_write: msr_fault(0x2000_0000, 0);

    /// RDMSR too (SDM 2B, RDMSR).
    unknown_msr_read: long64(code64!("
        mov ecx, 0x20000000
     7: rdmsr
    ")).fault(Vector::GP, 0);

    /// An MSR of the machine is asked of the machine.
    machine_msr: msr(MACHINE_MSR, 1).reg(Rax, MACHINE_MSR_VALUE);

    /// What the machine refuses is #GP(0).
    machine_msr_refused: msr_fault(MACHINE_MSR, 0);

    /// LSTAR takes canonical addresses (SDM 2C, WRMSR).
    lstar: msr(0xc000_0082, 0xffff_8000_1234_5678).reg(Rax, 0xffff_8000_1234_5678)
        .item("IA32_LSTAR", |s| s.msrs.lstar, 0xffff_8000_1234_5678);

    /// And no others: #GP(0) (SDM 2C, WRMSR).
    lstar_non_canonical: msr_fault(0xc000_0082, 1 << 63);

    /// FS.base by MSR (SDM 3A 3.4.4).
    fs_base: msr(0xc000_0100, 0x1234_5678_9abc).reg(Rax, 0x1234_5678_9abc)
        .item("FS.base", |s| s.segments[4].base, 0x1234_5678_9abc);

    /// A non-canonical GS.base is #GP(0).
    gs_base_non_canonical: msr_fault(0xc000_0101, 1 << 63);

    /// IA32_SYSENTER_EIP must be canonical (SDM 2C, WRMSR).
    sysenter_eip_non_canonical: msr_fault(0x176, 1 << 63);

    /// IA32_TSC_AUX has 32 bits (SDM 4).
    tsc_aux: msr(0xc000_0103, 0x1234).reg(Rax, 0x1234);

    /// IA32_PAT takes memory types (SDM 3A 11.12.2).
    pat: msr(0x277, 0x0007_0406_0107_0506).reg(Rax, 0x0007_0406_0107_0506);

    /// And no others: #GP(0) (SDM 3A 11.12.4).
    pat_reserved: msr_fault(0x277, 0x0007_0406_0007_0402);

    /// IA32_TSC_ADJUST moves the time-stamp counter (SDM 3B 17.17.3).
    tsc_adjust: long64(code64!("
        rdtsc
        shl rdx, 32
        lea rbx, [rax + rdx]
        mov ecx, 0x3b
        xor eax, eax
        mov edx, 0x100
        wrmsr
        rdtsc
        shl rdx, 32
        add rax, rdx
        sub rax, rbx
        shr rax, 40
        out 0xf4, al
    ")).reg(Rax, 1).item("IA32_TSC_ADJUST", |s| s.msrs.tsc_adjust, 1 << 40);

    /// CPUID clears the upper halves of its registers (SDM 2A, CPUID).
    cpuid_zero_extends: user64(code64!("
        mov rax, 0xffffffff00000000
        mov rbx, -1
        mov rcx, 0xffffffff00000000
        mov rdx, -1
        cpuid
        shr rax, 32
        shr rbx, 32
        shr rcx, 32
        shr rdx, 32
     7: ud2
    ")).event(Vector::UD).reg(Rax, 0).reg(Rbx, 0).reg(Rcx, 0).reg(Rdx, 0);

    /// CPUID.1:ECX.OSXSAVE mirrors CR4 (SDM 2A, CPUID).
    osxsave: long64(code64!("
        mov eax, 1
        cpuid
        mov esi, ecx
        mov rax, cr4
        bts rax, 18
        mov cr4, rax
        mov eax, 1
        cpuid
        xor ecx, esi
        out 0xf4, al
    ")).needs(Feature::Xsave).reg(Rcx, 1 << 27);

    /// XGETBV without CR4.OSXSAVE is #UD (SDM 2C, XGETBV).
    xgetbv_disabled: long64(code64!("7: xgetbv")).with(Rcx, 0).event(Vector::UD);

    /// XCR0 must keep x87: #GP(0) (SDM 2C, XSETBV).
    xcr0_without_x87: xcr0(2).fault(Vector::GP, 0);

    /// AVX needs SSE: #GP(0) (SDM 2C, XSETBV).
    xcr0_avx_without_sse: xcr0(5).fault(Vector::GP, 0);

    /// The AVX-512 components only come together (SDM 2C, XSETBV).
    xcr0_partial_avx512: xcr0(0x27).fault(Vector::GP, 0);

    /// Unknown components are #GP(0).
    xcr0_reserved: xcr0(1 << 30 | 3).fault(Vector::GP, 0);

    /// XSETBV and XGETBV (SDM 2C, XSETBV).
    xcr0_avx: xcr0(7).needs(Feature::Avx).reg(Rax, 7).item("XCR0", |s| s.xcr0.bits(), 7);

    /// Only XCR0 exists: another ECX is #GP(0) (SDM 2C, XSETBV).
    other_xcr: long64(code64!("
        mov ecx, 2
     7: xsetbv
    ")).needs(Feature::Xsave).patch(|s| {
        s.cr4 |= Cr4::OSXSAVE;
        s.xcr0 = Xcr0::X87;
    }).fault(Vector::GP, 0);

    /// RDFSBASE without CR4.FSGSBASE is #UD (SDM 2B, RDFSBASE).
    fsgsbase_disabled: user64(code64!("7: rdfsbase rax")).event(Vector::UD);

    /// WRGSBASE and RDGSBASE in ring 3 (SDM 2B, RDFSBASE).
    fsgsbase: user64(code64!("
        mov rax, 0x123456789ab
        wrgsbase rax
        rdgsbase rbx
     7: ud2
    ")).needs(Feature::Fsgsbase).patch(|s| s.cr4 |= Cr4::FSGSBASE).event(Vector::UD).reg(Rbx, 0x123_4567_89ab)
        .item("GS.base", |s| s.segments[5].base, 0x123_4567_89ab);

    /// A non-canonical base is #GP(0) (SDM 2C, WRFSBASE).
    wrfsbase_non_canonical: user64(code64!("
        mov rax, 0x8000000000000000
     7: wrfsbase rax
    ")).needs(Feature::Fsgsbase).patch(|s| s.cr4 |= Cr4::FSGSBASE).fault(Vector::GP, 0);

    /// VMCALL goes to the machine.
    hypercall: long64(code64!("
        vmcall
        out 0xf4, al
    ")).with(Rax, HYPERCALL).with(Rbx, 41).reg(Rax, 42);

    /// With nobody to call it is #UD (SDM 3C, VMCALL).
    hypercall_unanswered: long64(code64!("7: vmcall")).with(Rax, 1).event(Vector::UD);

    /// LIDT and LGDT take ten bytes in 64-bit mode; a non-canonical base is
    /// #GP(0) (SDM 2A, LGDT).
    lidt_non_canonical: long64(code64!("7: lidt [0xd000]")).bytes(DATA, &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x80])
        .fault(Vector::GP, 0);
}
