//! Paravirtual interfaces: what a hypervisor offers to guests that know it, so
//! that they need not pay for pretended hardware.
//!
//! Each interface is one implementation of [`Interface`]: CPUID leaves, MSRs,
//! hypercalls, and what happens to it in a machine's life. It knows guest
//! memory and the machine's time; whatever else a call sets off is returned as
//! [`Work`], and the machine does it. The first one is [`Kvm`].

#![forbid(unsafe_code)]

mod eoi;
mod kvm;

pub use eoi::EoiFlag;
pub use kvm::{Kvm, KvmConfig, KvmState, MSR_PV_EOI_EN};

use chipset::lapic::ApicMessage;
use engine::{Hypercall, MsrFault};
use x86::GuestPhysAddr;
use x86::cpuid::CpuidResult;

/// One moment of the machine: its time-stamp counter, and the virtual time that
/// follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The counter, without any vCPU's IA32_TSC_ADJUST.
    pub ticks: u64,
    /// Nanoseconds since the machine started.
    pub nanos: u64,
}

/// What a call asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Let the calling vCPU dismiss interrupts by the flag at this address, or
    /// no longer.
    SetEoiFlag(Option<GuestPhysAddr>),
    /// Deliver these messages to the processors that they name.
    Send(Vec<ApicMessage>),
    /// End the halt of this vCPU, or its next one.
    Unhalt(u32),
    /// Let somebody else run: the vCPU that is named was seen not to.
    Yield,
}

/// What a hypervisor offers. Calls come from the vCPUs' threads, and those of
/// its life from the machine's.
pub trait Interface: Send + Sync {
    /// Its leaves of CPUID from 0x4000_0000 on.
    fn cpuid(&self) -> Vec<(u32, CpuidResult)>;

    /// RDMSR. None if the interface has no such register.
    fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>>;

    /// WRMSR. None if the interface has no such register.
    fn msr_write(
        &self,
        vcpu: u32,
        index: u32,
        value: u64,
        now: Moment,
    ) -> Option<Result<Option<Work>, MsrFault>>;

    /// VMCALL or VMMCALL; the answer goes into `call`.
    fn hypercall(&self, vcpu: u32, call: &mut Hypercall) -> Option<Work>;

    /// The machine is reset: everything is as it was when it was built.
    fn reset(&self);

    /// Time is about to pass (again).
    fn resumed(&self, now: Moment);

    /// The vCPU's IA32_TSC_ADJUST is now `adjust`.
    fn tsc_adjusted(&self, vcpu: u32, adjust: u64, now: Moment);
}
