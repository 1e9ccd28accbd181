//! /dev/kvm and what the kernel behind it offers.

use std::fmt;
use std::io;

use engine::ProcessorLimits;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm as KvmFd};
use x86::cpuid::{CpuidRegister, FEATURES, Feature, FeatureInfo, Features};
use x86::msr::IA32_ARCH_CAPABILITIES;

const API_VERSION: i32 = 12;

/// What the engine cannot do without, with the first kernel that has it.
const NEEDED: [(Cap, &str, &str); 10] = [
    (Cap::UserMemory, "guest memory in user space", "2.6.25"),
    (Cap::SetTssAddr, "the address of the task-state segment", "2.6.25"),
    (Cap::ExtCpuid, "the CPUID model", "2.6.26"),
    (Cap::VcpuEvents, "pending events", "2.6.33"),
    (Cap::Debugregs, "debug registers", "2.6.35"),
    (Cap::Xsave, "extended processor state", "2.6.36"),
    (Cap::Xcrs, "XCR0", "2.6.36"),
    (Cap::ImmediateExit, "the immediate exit", "4.13"),
    (Cap::X86UserSpaceMsr, "MSR exits", "5.10"),
    (Cap::X86MsrFilter, "MSR filters", "5.10"),
];

/// What local APICs in the kernel need, all of it older than [`NEEDED`].
const NEEDED_BY_LOCAL_APICS: [u32; 5] = [
    kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
    kvm_bindings::KVM_CAP_SIGNAL_MSI,
    kvm_bindings::KVM_CAP_IRQ_ROUTING,
    kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER,
    kvm_bindings::KVM_CAP_X2APIC_API,
];

/// What engine and chipset provide, whatever the kernel reports: it reports
/// what its own interrupt chip would need, or leaves the choice to us.
const OURS: &[Feature] = &[
    Feature::Hypervisor,
    Feature::TscDeadline,
    Feature::X2apic,
    Feature::Apic,
    Feature::Arat,
    Feature::InvariantTsc,
    Feature::SelfSnoop,
    Feature::Monitor,
    Feature::ArchCapabilities,
];

/// Why this host's KVM cannot be used.
#[derive(Debug)]
pub enum Lacking {
    /// /dev/kvm cannot be opened.
    Device(io::Error),
    /// It speaks another version of the interface; negative: none.
    Version(i32),
    /// The kernel is too old.
    Capability {
        /// What it lacks.
        what: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// A request that every kernel answers has failed.
    Request(&'static str, io::Error),
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "/dev/kvm cannot be opened ({error})"),
            Self::Version(..0) => f.write_str("/dev/kvm is not KVM's device: it does not answer as one"),
            Self::Version(version) => {
                write!(f, "/dev/kvm speaks version {version} of the interface, not {API_VERSION}")
            }
            Self::Capability { what, since } => write!(
                f,
                "the kernel's KVM does not offer {what}: use Linux {since} or later (or another hypervisor)"
            ),
            Self::Request(what, error) => write!(f, "the kernel refuses {what} ({error})"),
        }
    }
}

/// An open /dev/kvm with everything that the engine needs.
#[derive(Debug)]
pub struct Host {
    pub(crate) kvm: KvmFd,
    /// KVM_GET_SUPPORTED_CPUID.
    supported: CpuId,
    /// IA32_ARCH_CAPABILITIES as a guest may see it.
    arch_capabilities: u64,
}

impl Host {
    /// Opens /dev/kvm and checks what it offers.
    ///
    /// # Errors
    /// If it cannot be opened or used.
    pub fn open() -> Result<Self, Lacking> {
        let kvm = KvmFd::new().map_err(|error| Lacking::Device(error.into()))?;
        if kvm.get_api_version() != API_VERSION {
            return Err(Lacking::Version(kvm.get_api_version()));
        }
        for (cap, what, since) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(Lacking::Capability { what, since });
            }
        }
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| Lacking::Request("its list of CPUID leaves", error.into()))?;
        let arch_capabilities = feature_msr(&kvm, IA32_ARCH_CAPABILITIES).unwrap_or(0);
        Ok(Self { kvm, supported, arch_capabilities })
    }

    /// IA32_ARCH_CAPABILITIES: guest code runs on the host's processor and has
    /// to work around that one's flaws.
    pub(crate) const fn arch_capabilities(&self) -> u64 {
        self.arch_capabilities
    }

    /// Whether the kernel can have the local APICs.
    pub(crate) fn local_apics(&self) -> Result<(), &'static str> {
        local_apics(|cap| self.kvm.check_extension_raw(cap.into()) > 0)
    }

    /// The most vCPUs in one machine.
    pub(crate) fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// What the processor that guests see must be content with.
    pub(crate) fn processor_limits(&self) -> ProcessorLimits {
        let lacking = |info: &&FeatureInfo| !OURS.contains(&info.feature) && !self.supports(info);
        let without: Features = FEATURES.iter().filter(lacking).map(|info| info.feature).collect();
        let widths = self.leaf(0x8000_0008, 0).map_or(36, |leaf| leaf[0]);
        ProcessorLimits { without, phys_bits: widths as u8, host_tsc: true }
    }

    fn supports(&self, info: &FeatureInfo) -> bool {
        let register = match info.register {
            CpuidRegister::Eax => 0,
            CpuidRegister::Ebx => 1,
            CpuidRegister::Ecx => 2,
            CpuidRegister::Edx => 3,
        };
        self.leaf(info.leaf, info.subleaf).is_some_and(|leaf| leaf[register] >> info.bit & 1 != 0)
    }

    fn leaf(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        let entry = self
            .supported
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (leaf, subleaf))?;
        Some([entry.eax, entry.ebx, entry.ecx, entry.edx])
    }
}

fn local_apics(has: impl Fn(u32) -> bool) -> Result<(), &'static str> {
    let all = NEEDED_BY_LOCAL_APICS.into_iter().all(has);
    if all { Ok(()) } else { Err("this host's KVM cannot have local APICs in the kernel") }
}

/// An MSR that tells what the processor can do.
fn feature_msr(kvm: &KvmFd, index: u32) -> Option<u64> {
    let entry = kvm_bindings::kvm_msr_entry { index, ..Default::default() };
    let mut msrs = kvm_bindings::Msrs::from_entries(&[entry]).ok()?;
    (kvm.get_msrs(&mut msrs).ok()? == 1).then(|| msrs.as_slice().first().map_or(0, |entry| entry.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_apics_need_all_of_it() {
        assert_eq!(local_apics(|_| true), Ok(()));
        for missing in NEEDED_BY_LOCAL_APICS {
            assert!(local_apics(|cap| cap != missing).is_err_and(|why| why.contains("KVM")));
        }
    }
}
