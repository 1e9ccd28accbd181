//! The state of a vCPU between KVM's structures and the neutral ones.
//!
//! What the hardware holds is read and written here. What only the machine's
//! model knows (MTRRs, IA32_MISC_ENABLE and so on) and what KVM knows nothing
//! of without local APICs of its own (halted, waiting for a start-up IPI) stays
//! in the vCPU's [`Kept`].

pub(crate) mod apic;
mod events;
mod fpu;
mod segments;

use std::io;

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs2, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use x86::cpuid::Vendor;
use x86::xsave::XsaveLayout;
use x86::{Activity, CpuState, Cr0, Cr4, Dr6, Dr7, Efer, Gpr, Msrs, Rflags, Xcr0};

use crate::{ioctls, msrs};

/// What is part of the state but not in KVM.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) msrs: Msrs,
    pub(crate) activity: Activity,
}

impl Kept {
    pub(crate) fn of(state: &CpuState) -> Self {
        Self { msrs: state.msrs.clone(), activity: state.activity }
    }
}

/// How the state of this vCPU is laid out.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    pub(crate) xsave: XsaveLayout,
    /// The XCR0 bits that the guest may set.
    pub(crate) xcr0: Xcr0,
    /// Whether the page-directory-pointer registers can be exchanged.
    pub(crate) sregs2: bool,
    /// Whose processor the host has.
    pub(crate) vendor: Vendor,
    /// The MSRs that the hardware holds.
    pub(crate) msrs: Vec<u32>,
    /// The local APIC is in the kernel, and with it whether the processor
    /// waits.
    pub(crate) local_apic: bool,
    /// CPUID offers to end interrupts without a trap, by KVM's interface.
    pub(crate) eoi_flag: bool,
}

/// A request that failed, by its name in the API.
#[derive(Debug)]
pub(crate) struct StateError {
    pub(crate) request: &'static str,
    pub(crate) error: io::Error,
}

/// Names the request that failed.
trait Named<T> {
    fn named(self, request: &'static str) -> Result<T, StateError>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, request: &'static str) -> Result<T, StateError> {
        self.map_err(|error| StateError { request, error: error.into() })
    }
}

/// Reads the whole state.
pub(crate) fn load(vcpu: &VcpuFd, format: &Format, kept: &Kept) -> Result<CpuState, StateError> {
    let mut state = CpuState::reset();
    state.msrs = kept.msrs.clone();
    state.activity = kept.activity;
    if format.local_apic && kept.activity != Activity::Shutdown {
        state.activity = apic::activity(vcpu)?;
    }
    get_regs(&vcpu.get_regs().named("KVM_GET_REGS")?, &mut state);
    get_sregs(&read_sregs(vcpu, format)?, &mut state);
    msrs::load(vcpu, &format.msrs, &mut state.msrs).named("KVM_GET_MSRS")?;
    state.xcr0 = xcr0_of(&vcpu.get_xcrs().named("KVM_GET_XCRS")?);
    let area = vcpu.get_xsave().named("KVM_GET_XSAVE")?;
    state.fpu = fpu::get(&area.region, format);
    let debug = vcpu.get_debug_regs().named("KVM_GET_DEBUGREGS")?;
    state.dr = debug.db;
    state.dr6 = Dr6::from_bits_retain(debug.dr6);
    state.dr7 = Dr7::from_bits_retain(debug.dr7);
    let events = vcpu.get_vcpu_events().named("KVM_GET_VCPU_EVENTS")?;
    events::get(&events, &mut state);
    Ok(state)
}

/// Writes the whole state. `cr8` and `apic_base` are the machine's.
pub(crate) fn store(
    vcpu: &VcpuFd,
    format: &Format,
    state: &CpuState,
    cr8: u64,
    apic_base: u64,
) -> Result<(), StateError> {
    write_sregs(vcpu, format, &put_sregs(state, format.vendor, cr8, apic_base))?;
    msrs::store(vcpu, &format.msrs, &state.msrs).named("KVM_SET_MSRS")?;
    vcpu.set_xcrs(&xcrs(state.xcr0)).named("KVM_SET_XCRS")?;
    let area = kvm_xsave { region: fpu::put(&state.fpu, format), ..Default::default() };
    // SAFETY: the kernel reads 4 KiB, the size of the structure, because no
    // larger state component has been enabled for this process.
    unsafe { vcpu.set_xsave(&area) }.named("KVM_SET_XSAVE")?;
    let debug = kvm_debugregs {
        db: state.dr,
        dr6: state.dr6.bits() & 0xffff_ffff,
        dr7: state.dr7.bits() & 0xffff_ffff,
        ..Default::default()
    };
    vcpu.set_debug_regs(&debug).named("KVM_SET_DEBUGREGS")?;
    // The registers before the events: setting them drops a pending exception.
    vcpu.set_regs(&put_regs(state)).named("KVM_SET_REGS")?;
    vcpu.set_vcpu_events(&events::put(state)).named("KVM_SET_VCPU_EVENTS")?;
    if format.local_apic { apic::set_activity(vcpu, state.activity) } else { Ok(()) }
}

/// The base of the local APIC as the kernel has it.
pub(crate) fn apic_base(vcpu: &VcpuFd, format: &Format) -> Result<u64, StateError> {
    Ok(read_sregs(vcpu, format)?.apic_base)
}

/// Changes the base of the local APIC, which CPUID depends on.
pub(crate) fn set_apic_base(vcpu: &VcpuFd, format: &Format, base: u64) -> Result<(), StateError> {
    let mut sregs = read_sregs(vcpu, format)?;
    sregs.apic_base = base;
    write_sregs(vcpu, format, &sregs)
}

fn read_sregs(vcpu: &VcpuFd, format: &Format) -> Result<kvm_sregs2, StateError> {
    if format.sregs2 {
        return ioctls::sregs2(vcpu).named("KVM_GET_SREGS2");
    }
    let old = vcpu.get_sregs().named("KVM_GET_SREGS")?;
    Ok(segments::widen(&old))
}

fn write_sregs(vcpu: &VcpuFd, format: &Format, sregs: &kvm_sregs2) -> Result<(), StateError> {
    if format.sregs2 {
        return ioctls::set_sregs2(vcpu, sregs).named("KVM_SET_SREGS2");
    }
    vcpu.set_sregs(&segments::narrow(sregs)).named("KVM_SET_SREGS")
}

fn get_regs(regs: &kvm_regs, state: &mut CpuState) {
    state.gpr = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
        regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    state.rip = regs.rip;
    state.rflags = Rflags::from_bits_retain(regs.rflags);
}

fn put_regs(state: &CpuState) -> kvm_regs {
    kvm_regs {
        rax: state.reg(Gpr::Rax),
        rcx: state.reg(Gpr::Rcx),
        rdx: state.reg(Gpr::Rdx),
        rbx: state.reg(Gpr::Rbx),
        rsp: state.reg(Gpr::Rsp),
        rbp: state.reg(Gpr::Rbp),
        rsi: state.reg(Gpr::Rsi),
        rdi: state.reg(Gpr::Rdi),
        r8: state.reg(Gpr::R8),
        r9: state.reg(Gpr::R9),
        r10: state.reg(Gpr::R10),
        r11: state.reg(Gpr::R11),
        r12: state.reg(Gpr::R12),
        r13: state.reg(Gpr::R13),
        r14: state.reg(Gpr::R14),
        r15: state.reg(Gpr::R15),
        rip: state.rip,
        rflags: state.rflags.bits(),
    }
}

fn get_sregs(sregs: &kvm_sregs2, state: &mut CpuState) {
    segments::get(sregs, state);
    state.cr0 = Cr0::from_bits_retain(sregs.cr0);
    state.cr2 = sregs.cr2;
    state.cr3 = sregs.cr3;
    state.cr4 = Cr4::from_bits_retain(sregs.cr4);
    state.efer = Efer::from_bits_retain(sregs.efer);
    if sregs.flags & u64::from(kvm_bindings::KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0 {
        state.pdpte = sregs.pdptrs;
    }
}

fn put_sregs(state: &CpuState, vendor: Vendor, cr8: u64, apic_base: u64) -> kvm_sregs2 {
    let mut sregs = kvm_sregs2 {
        cr0: state.cr0.bits(),
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4.bits(),
        cr8,
        efer: state.efer.bits(),
        apic_base,
        ..Default::default()
    };
    segments::put(state, vendor, &mut sregs);
    let pae = state.cr0.contains(Cr0::PG) && state.cr4.contains(Cr4::PAE) && !state.efer.contains(Efer::LMA);
    if pae {
        sregs.flags = u64::from(kvm_bindings::KVM_SREGS2_FLAGS_PDPTRS_VALID);
        sregs.pdptrs = state.pdpte;
    }
    sregs
}

fn xcr0_of(xcrs: &kvm_xcrs) -> Xcr0 {
    let count = (xcrs.nr_xcrs as usize).min(xcrs.xcrs.len());
    let found = xcrs.xcrs.iter().take(count).find(|register| register.xcr == 0);
    Xcr0::from_bits_retain(found.map_or(1, |register| register.value))
}

fn xcrs(xcr0: Xcr0) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = xcr0.bits();
    xcrs
}
