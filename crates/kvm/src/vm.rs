//! The virtual machine in the kernel: memory, filters, and what its vCPUs
//! share.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
    KVM_X2APIC_API_USE_32BIT_IDS, KVM_X86_QUIRK_FIX_HYPERCALL_INSN, KVM_X86_QUIRK_OUT_7E_INC_RIP,
    kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use memory::GuestMemory;

use crate::failure::unusable;
use crate::host::Host;
use crate::routes::{IO_APIC_INPUTS, Routes};
use crate::{msrs, slots};

/// Where Intel's processors without unrestricted guests keep a task-state
/// segment (three pages) and an identity map (one) for real mode: between the
/// local APICs and the firmware, where the machine has nothing.
const TSS: usize = 0xfef0_0000;
const IDENTITY_MAP: u64 = 0xfef0_3000;

/// One virtual machine.
pub(crate) struct Vm {
    fd: VmFd,
    memory: GuestMemory,
    host: Arc<Host>,
    /// The local APICs are in the kernel.
    local_apics: bool,
    routes: Routes,
    /// A machine's clock goes with it: see [`Vm::keeps_time`].
    keeps_time: bool,
    /// The vCPUs that exist, by number.
    vcpus: Mutex<BTreeSet<u32>>,
}

impl Vm {
    /// Makes a machine with `memory`, with local APICs in the kernel or without.
    pub(crate) fn new(
        host: Arc<Host>,
        memory: GuestMemory,
        local_apics: bool,
        keeps_time: bool,
    ) -> Result<Self, engine::EngineError> {
        let fd = create(&host)
            .map_err(|error| unusable(format!("the kernel makes no virtual machine ({error})")))?;
        prepare(&fd, local_apics)
            .map_err(|(what, error)| unusable(format!("the kernel refuses {what} ({error})")))?;
        slots::map(&fd, &memory, false).map_err(|error| {
            unusable(format!("the kernel does not map {} MiB of guest memory ({error})", memory.size() >> 20))
        })?;
        Ok(Self {
            fd,
            memory,
            host,
            local_apics,
            routes: Routes::default(),
            keeps_time,
            vcpus: Mutex::default(),
        })
    }

    pub(crate) const fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub(crate) const fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Whether the local APICs are in the kernel.
    pub(crate) const fn local_apics(&self) -> bool {
        self.local_apics
    }

    /// The interrupt routes.
    pub(crate) const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whether the guest's time-stamp counter must run at the rate that CPUID
    /// tells. A vCPU that is tried out alone has no clock beside it.
    pub(crate) const fn keeps_time(&self) -> bool {
        self.keeps_time
    }

    fn vcpus(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a vCPU with this number exists.
    pub(crate) fn has_vcpu(&self, id: u32) -> bool {
        self.vcpus().contains(&id)
    }

    /// Makes vCPU `id`.
    pub(crate) fn create_vcpu(&self, id: u32) -> io::Result<VcpuFd> {
        let fd = self.fd.create_vcpu(id.into())?;
        self.vcpus().insert(id);
        Ok(fd)
    }
}

/// Signals interrupt this request on older kernels.
fn create(host: &Host) -> io::Result<VmFd> {
    loop {
        match host.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return Ok(result?),
        }
    }
}

fn prepare(fd: &VmFd, local_apics: bool) -> Result<(), (&'static str, io::Error)> {
    let named = |what| move |error: io::Error| (what, error);
    fd.set_identity_map_address(IDENTITY_MAP)
        .map_err(|e| named("a place for real mode's page table")(e.into()))?;
    fd.set_tss_address(TSS).map_err(|e| named("a place for real mode's task-state segment")(e.into()))?;
    let reasons = KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
    enable(fd, KVM_CAP_X86_USER_SPACE_MSR, reasons.into()).map_err(named("MSR exits"))?;
    msrs::set_filter(fd, local_apics).map_err(named("an MSR filter"))?;
    if local_apics {
        enable(fd, KVM_CAP_SPLIT_IRQCHIP, IO_APIC_INPUTS.into())
            .map_err(named("local APICs in the kernel"))?;
        // Destinations have 32 bits; 0xff alone is still everybody, in x2APIC
        // mode too, as in this machine's messages.
        enable(fd, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS.into())
            .map_err(named("wide destinations of interrupts"))?;
    }
    // Guests are not patched, and OUT advances RIP as any instruction does.
    if fd.check_extension_raw(KVM_CAP_DISABLE_QUIRKS.into()) > 0 {
        let quirks = KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_OUT_7E_INC_RIP;
        let _ = enable(fd, KVM_CAP_DISABLE_QUIRKS, quirks.into());
    }
    Ok(())
}

fn enable(fd: &VmFd, cap: u32, argument: u64) -> io::Result<()> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = argument;
    Ok(fd.enable_cap(&request)?)
}
