//! The CPUID model: what a vCPU says of itself.
//!
//! Identity (vendor, family, model, stepping, brand, caches) is the host's,
//! because host code runs the vector and arithmetic instructions; features are
//! those of the table in `features.rs` as their policy says; everything that
//! depends on the machine (topology, frequencies, address sizes) is its own.
//! What is not in the table is not offered, whatever the host has.

mod decoder;
mod features;
mod habits;
mod host;
mod leaves;
mod ratio;
#[cfg(test)]
mod tests;
mod vendor;

pub use features::{CpuidRegister, FEATURES, Feature, FeatureInfo, Features, Policy};
pub use habits::{Habit, Habits};
pub use host::{HostCpuid, HostFeatures};
pub use vendor::Vendor;

use crate::xsave::XsaveLayout;
use crate::{CpuState, Xcr0, msr};

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the registers' names")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl CpuidResult {
    /// The four registers in the order EAX, EBX, ECX, EDX.
    pub const fn new(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Self {
        Self { eax, ebx, ecx, edx }
    }
}

/// From what a model is made.
#[derive(Clone, Copy)]
pub struct CpuidConfig<'a> {
    /// The host's CPUID.
    pub host: &'a dyn HostCpuid,
    /// Which vCPU: its APIC ID.
    pub vcpu_index: u32,
    /// How many vCPUs the machine has.
    pub vcpu_count: u32,
    /// Frequency of the guest's time-stamp counter.
    pub tsc_hz: u64,
    /// Frequency of the local APIC timer before its divider.
    pub apic_crystal_hz: u64,
    /// Whether to say that this is a virtual machine, with the leaves from
    /// 0x4000_0000.
    pub hypervisor: bool,
    /// Leaves of a hypervisor's interface, the first of them 0x4000_0000 with
    /// its signature; without any, there is only ours.
    pub interface: &'a [(u32, CpuidResult)],
    /// What the guest is told of flaws of speculation.
    pub speculation: Speculation,
    /// Physical-address width.
    pub phys_bits: u8,
    /// Opt-in features to offer.
    pub enable: &'a [Feature],
    /// Features not to offer.
    pub disable: &'a [Feature],
}

impl<'a> CpuidConfig<'a> {
    /// One vCPU on `host` with a time-stamp counter of `tsc_hz`.
    pub fn new(host: &'a dyn HostCpuid, tsc_hz: u64) -> Self {
        Self {
            host,
            vcpu_index: 0,
            vcpu_count: 1,
            tsc_hz,
            apic_crystal_hz: 25_000_000,
            hypervisor: true,
            interface: &[],
            speculation: Speculation::Immune,
            phys_bits: crate::paging::DEFAULT_PHYS_BITS,
            enable: &[],
            disable: &[],
        }
    }
}

/// What a guest is told of the flaws by which processors leak through
/// speculation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// That there are none.
    #[default]
    Immune,
    /// What the host says.
    AsHost {
        /// IA32_ARCH_CAPABILITIES, if the host has it.
        arch_capabilities: u64,
    },
}

/// The CPUID leaves of one vCPU.
#[derive(Clone, Debug)]
pub struct CpuidModel {
    features: Features,
    identity: Identity,
    layout: XsaveLayout,
    vcpu_index: u32,
    vcpu_count: u32,
    tsc_hz: u64,
    apic_crystal_hz: u64,
    /// Denominator and numerator of leaf 0x15.
    tsc_ratio: (u32, u32),
    phys_bits: u8,
    speculation: Speculation,
    habits: Habits,
    /// Leaves of a hypervisor's interface.
    interface: Vec<(u32, CpuidResult)>,
}

/// What is copied from the host.
#[derive(Clone, Debug)]
struct Identity {
    /// EBX, ECX, EDX of leaf 0.
    vendor: [u32; 3],
    signature: u32,
    brand: [CpuidResult; 3],
    /// Leaf 4, subleaves 0 to 3.
    caches: [CpuidResult; 4],
    /// Leaves 0x8000_0005 and 0x8000_0006.
    legacy_caches: [CpuidResult; 2],
}

impl Identity {
    fn of(host: &dyn HostCpuid) -> Self {
        let base = host.cpuid(0, 0);
        let extended = host.cpuid(0x8000_0000, 0).eax;
        let extended_leaf =
            |leaf| if leaf <= extended { host.cpuid(leaf, 0) } else { CpuidResult::default() };
        let caches = [0, 1, 2, 3].map(|i| {
            if base.eax >= 4 && base.ecx == leaves::INTEL[1] {
                host.cpuid(4, i)
            } else {
                CpuidResult::default()
            }
        });
        Self {
            vendor: [base.ebx, base.ecx, base.edx],
            signature: host.cpuid(1, 0).eax,
            brand: [0x8000_0002, 0x8000_0003, 0x8000_0004].map(extended_leaf),
            caches,
            legacy_caches: [0x8000_0005, 0x8000_0006].map(extended_leaf),
        }
    }

    fn habits(&self) -> Habits {
        Habits::of(vendor_of(self.vendor), family(self.signature))
    }
}

impl CpuidModel {
    /// The model that `config` describes.
    pub fn new(config: CpuidConfig<'_>) -> Self {
        let phys_bits = config.phys_bits.clamp(36, 52);
        let identity = Identity::of(config.host);
        Self {
            features: choose_features(&config),
            habits: identity.habits(),
            identity,
            layout: XsaveLayout::of_host(config.host),
            vcpu_index: config.vcpu_index,
            vcpu_count: config.vcpu_count.max(1),
            tsc_hz: config.tsc_hz,
            apic_crystal_hz: config.apic_crystal_hz,
            tsc_ratio: ratio::tsc_ratio(config.tsc_hz, config.apic_crystal_hz),
            phys_bits,
            speculation: config.speculation,
            interface: config.interface.to_vec(),
        }
    }

    /// The same model for another vCPU of the machine.
    pub fn for_vcpu(&self, index: u32) -> Self {
        Self { vcpu_index: index, ..self.clone() }
    }

    /// Whether `feature` is offered.
    pub const fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// All features that are offered.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Where XSAVE puts each component.
    pub const fn xsave_layout(&self) -> &XsaveLayout {
        &self.layout
    }

    /// The XCR0 bits that may be set.
    pub fn xcr0(&self) -> Xcr0 {
        self.features.xcr0()
    }

    /// The value of IA32_ARCH_CAPABILITIES.
    pub const fn arch_capabilities(&self) -> u64 {
        match self.speculation {
            Speculation::Immune => msr::ARCH_CAPABILITIES,
            Speculation::AsHost { arch_capabilities } => arch_capabilities,
        }
    }

    /// The physical-address width.
    pub const fn phys_bits(&self) -> u8 {
        self.phys_bits
    }

    /// The frequency of the guest's time-stamp counter.
    pub const fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Whose processor this claims to be.
    pub fn vendor(&self) -> Vendor {
        vendor_of(self.identity.vendor)
    }

    /// The same model as a processor of `vendor`; one that is neither Intel nor
    /// AMD has no name.
    pub fn with_vendor(mut self, vendor: Vendor) -> Self {
        self.identity.vendor = match vendor {
            Vendor::Intel => leaves::INTEL,
            Vendor::Amd => leaves::AMD,
            Vendor::Other => [0; 3],
        };
        self.habits = self.identity.habits();
        self
    }

    /// Whether the processor does as `habit` says.
    pub const fn has_habit(&self, habit: Habit) -> bool {
        self.habits.has(habit)
    }

    /// What the processor does where the manuals leave it open.
    pub const fn habits(&self) -> Habits {
        self.habits
    }

    /// The same model of a processor with other habits than its family's.
    pub fn with_habits(self, habits: Habits) -> Self {
        Self { habits, ..self }
    }

    /// Family, model and stepping as in EAX of leaf 1, which is also EDX after
    /// reset.
    pub const fn signature(&self) -> u32 {
        self.identity.signature
    }

    /// What CPUID returns for `leaf` (EAX) and `subleaf` (ECX) in `state`.
    /// Leaves out of range return zeros.
    pub fn query(&self, leaf: u32, subleaf: u32, state: &CpuState) -> CpuidResult {
        match leaf {
            0..=leaves::MAX_BASIC => self.basic(leaf, subleaf, state),
            0x4000_0000..=leaves::MAX_HYPERVISOR if self.has(Feature::Hypervisor) => self.hypervisor(leaf),
            0x8000_0000.. if leaf <= self.max_extended() => self.extended(leaf, state),
            _ => CpuidResult::default(),
        }
    }
}

/// The family in a signature (SDM 2A CPUID, figure 3-6).
const fn family(signature: u32) -> u32 {
    match signature >> 8 & 0xf {
        0xf => 0xf + (signature >> 20 & 0xff),
        family => family,
    }
}

fn vendor_of(name: [u32; 3]) -> Vendor {
    match name {
        leaves::INTEL => Vendor::Intel,
        leaves::AMD | leaves::HYGON => Vendor::Amd,
        _ => Vendor::Other,
    }
}

fn choose_features(config: &CpuidConfig<'_>) -> Features {
    let base = config.host.cpuid(0, 0);
    let max_basic = base.eax;
    let amd = vendor_of([base.ebx, base.ecx, base.edx]) == Vendor::Amd;
    let immune = config.speculation == Speculation::Immune;
    let max_extended = config.host.cpuid(0x8000_0000, 0).eax;
    let host_has = |info: &FeatureInfo| {
        let max = if info.leaf < 0x8000_0000 { max_basic } else { max_extended };
        let result = config.host.cpuid(info.leaf, info.subleaf);
        let register = match info.register {
            CpuidRegister::Eax => result.eax,
            CpuidRegister::Ebx => result.ebx,
            CpuidRegister::Ecx => result.ecx,
            CpuidRegister::Edx => result.edx,
        };
        info.leaf <= max && register >> info.bit & 1 != 0
    };
    let offered = |info: &&FeatureInfo| match info.policy {
        Policy::Always => true,
        Policy::Host => host_has(info),
        Policy::OptIn => config.enable.contains(&info.feature),
        Policy::Immune | Policy::Mitigation if info.leaf >= 0x8000_0008 && !amd => false,
        Policy::Immune => immune || host_has(info),
        Policy::Mitigation => !immune && host_has(info),
    };
    let mut features: Features = FEATURES.iter().filter(offered).map(|info| info.feature).collect();
    features.set(Feature::Hypervisor, config.hypervisor);
    let host_xcr0 = config.host.xcr0();
    if !host_xcr0.contains(Xcr0::AVX) {
        features.set(Feature::Avx, false);
    }
    if !host_xcr0.contains(Xcr0::AVX512) {
        features.set(Feature::Avx512f, false);
    }
    config.disable.iter().for_each(|&feature| features.set(feature, false));
    features.consistent()
}
