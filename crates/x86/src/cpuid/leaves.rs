//! The leaves, in the manual's order (SDM 2A CPUID, table 3-8).

use super::{CpuidModel, CpuidRegister, CpuidResult, Feature, Vendor};
use crate::{CpuState, Cr4, Xcr0, msr};

/// Highest basic leaf.
pub(super) const MAX_BASIC: u32 = 0x1f;
/// The same while IA32_MISC_ENABLE limits it, for systems that know no more.
const LIMITED_BASIC: u32 = 3;
/// Highest leaf of the hypervisor range.
pub(super) const MAX_HYPERVISOR: u32 = 0x4000_0010;
/// Highest extended leaf of AMD's processors, and of others.
const MAX_EXTENDED_AMD: u32 = 0x8000_0021;
const MAX_EXTENDED: u32 = 0x8000_0008;

/// EBX, ECX, EDX of leaf 0 for "GenuineIntel".
pub(super) const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
/// The same for "AuthenticAMD".
pub(super) const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
/// The same for "HygonGenuine".
pub(super) const HYGON: [u32; 3] = [0x6f67_7948, 0x656e_6975, 0x6e65_476e];

/// "RingmasterVM".
const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"Ring"), u32::from_le_bytes(*b"mast"), u32::from_le_bytes(*b"erVM")];

/// Highest subleaf of leaf 7.
const MAX_STRUCTURED: u32 = 1;
const OSXSAVE: u32 = 1 << 27;
const OSPKE: u32 = 1 << 4;
const HTT: u32 = 1 << 28;

/// Leaf 4 of a host that hides its caches: 32 KiB of data and of code, 1 MiB of
/// second level, 16 MiB shared.
const DEFAULT_CACHES: [CpuidResult; 4] = [
    CpuidResult::new(0x121, 0x01c0_003f, 63, 0),
    CpuidResult::new(0x122, 0x01c0_003f, 63, 0),
    CpuidResult::new(0x143, 0x03c0_003f, 1023, 0),
    CpuidResult::new(0x163, 0x03c0_003f, 16383, 0),
];

/// Bits of the mask that holds the numbers 0 to `count - 1`.
fn id_width(count: u32) -> u32 {
    u32::BITS - count.saturating_sub(1).leading_zeros()
}

fn clamped_mhz(hz: u64) -> u32 {
    u32::try_from(hz / 1_000_000).unwrap_or(u32::MAX)
}

fn clamped_khz(hz: u64) -> u32 {
    u32::try_from(hz / 1000).unwrap_or(u32::MAX)
}

impl CpuidModel {
    pub(super) fn basic(&self, leaf: u32, subleaf: u32, state: &CpuState) -> CpuidResult {
        match leaf {
            0 => {
                let [ebx, ecx, edx] = self.identity.vendor;
                let limited = state.msrs.misc_enable & msr::MISC_ENABLE_LIMIT_CPUID != 0;
                CpuidResult::new(if limited { LIMITED_BASIC } else { MAX_BASIC }, ebx, ecx, edx)
            }
            1 => self.version(state),
            // Everything about caches is in leaf 4.
            2 if self.vendor() == Vendor::Intel => CpuidResult::new(0x00ff_0001, 0, 0, 0),
            4 if self.vendor() == Vendor::Intel => self.cache(subleaf),
            // MONITOR works on 64 bytes. No C-states are enumerated, so that
            // an idle guest prefers HLT.
            5 if self.has(Feature::Monitor) => CpuidResult::new(64, 64, 3, 0),
            7 if subleaf == 0 => self.structured(state),
            0xb | 0x1f => self.topology(subleaf),
            0xd => self.extended_state(subleaf, state),
            0x15 => {
                let (denominator, numerator) = self.tsc_ratio;
                let crystal = u32::try_from(self.apic_crystal_hz).unwrap_or(0);
                CpuidResult::new(denominator, numerator, crystal, 0)
            }
            0x16 => CpuidResult::new(clamped_mhz(self.tsc_hz), clamped_mhz(self.tsc_hz), 100, 0),
            _ => self.feature_bits(leaf, subleaf),
        }
    }

    fn feature_bits(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let bits = |register| self.features.bits(leaf, subleaf, register);
        CpuidResult {
            eax: bits(CpuidRegister::Eax),
            ebx: bits(CpuidRegister::Ebx),
            ecx: bits(CpuidRegister::Ecx),
            edx: bits(CpuidRegister::Edx),
        }
    }

    fn version(&self, state: &CpuState) -> CpuidResult {
        let mut result = self.feature_bits(1, 0);
        result.eax = self.identity.signature;
        let cache_line = (64 / 8) << 8;
        let ids = self.vcpu_count.next_power_of_two().min(255) << 16;
        result.ebx = self.vcpu_index << 24 | ids | cache_line;
        if self.vcpu_count > 1 {
            result.edx |= HTT;
        }
        if state.cr4.contains(Cr4::OSXSAVE) {
            result.ecx |= OSXSAVE;
        }
        result
    }

    fn structured(&self, state: &CpuState) -> CpuidResult {
        let mut result = self.feature_bits(7, 0);
        result.eax = MAX_STRUCTURED;
        if self.has(Feature::Pku) && state.cr4.contains(Cr4::PKE) {
            result.ecx |= OSPKE;
        }
        result
    }

    /// The host's caches, shared as this machine's topology says: the last
    /// level by all processors, the others by none.
    fn cache(&self, subleaf: u32) -> CpuidResult {
        let hidden = self.identity.caches[0].eax & 0x1f == 0;
        let caches = if hidden { &DEFAULT_CACHES } else { &self.identity.caches };
        let Some(cache) = caches.get(subleaf as usize).filter(|cache| cache.eax & 0x1f != 0) else {
            return CpuidResult::default();
        };
        let last_id = (1u32 << id_width(self.vcpu_count).min(6)) - 1;
        let level = cache.eax >> 5 & 7;
        let sharing = if level >= 3 { last_id } else { 0 };
        let eax = cache.eax & 0x3fff | sharing << 14 | last_id.min(0x3f) << 26;
        CpuidResult { eax, ..*cache }
    }

    /// One thread to a core, all cores in one package.
    fn topology(&self, subleaf: u32) -> CpuidResult {
        const SMT: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        let id = self.vcpu_index;
        match subleaf {
            0 => CpuidResult::new(0, 1, SMT, id),
            1 => CpuidResult::new(id_width(self.vcpu_count), self.vcpu_count, CORE | 1, id),
            _ => CpuidResult::new(0, 0, subleaf & 0xff, id),
        }
    }

    fn extended_state(&self, subleaf: u32, state: &CpuState) -> CpuidResult {
        if !self.has(Feature::Xsave) {
            return CpuidResult::default();
        }
        let supported = self.xcr0();
        match subleaf {
            0 => {
                let current = self.layout.standard_size(state.xcr0);
                let largest = self.layout.standard_size(supported);
                CpuidResult::new(supported.bits() as u32, current, largest, 0)
            }
            1 => {
                let mut result = self.feature_bits(0xd, 1);
                if self.has(Feature::Xsavec) {
                    result.ebx = self.layout.compacted_size(state.xcr0);
                }
                result
            }
            2..=31 if supported.contains(Xcr0::from_bits_retain(1 << subleaf)) => {
                let Some(component) = self.layout.component(subleaf) else { return CpuidResult::default() };
                let align = u32::from(component.align64) << 1;
                CpuidResult::new(component.size, component.offset, align, 0)
            }
            _ => CpuidResult::default(),
        }
    }

    /// The range that is left to hypervisors: an interface's leaves or our own
    /// signature, and the frequencies. Those are where VMware
    /// put them and others followed.
    pub(super) fn hypervisor(&self, leaf: u32) -> CpuidResult {
        if let Some((_, result)) = self.interface.iter().find(|(number, _)| *number == leaf) {
            return *result;
        }
        let [ebx, ecx, edx] = SIGNATURE;
        match leaf {
            0x4000_0000 => CpuidResult::new(MAX_HYPERVISOR, ebx, ecx, edx),
            MAX_HYPERVISOR => {
                CpuidResult::new(clamped_khz(self.tsc_hz), clamped_khz(self.apic_crystal_hz), 0, 0)
            }
            _ => CpuidResult::default(),
        }
    }

    pub(super) fn extended(&self, leaf: u32, state: &CpuState) -> CpuidResult {
        match leaf {
            0x8000_0000 => {
                let [ebx, ecx, edx] = self.identity.vendor;
                match self.vendor() {
                    Vendor::Amd => CpuidResult::new(self.max_extended(), ebx, ecx, edx),
                    _ => CpuidResult::new(self.max_extended(), 0, 0, 0),
                }
            }
            0x8000_0001 => self.extended_features(state),
            0x8000_0002 => self.identity.brand[0],
            0x8000_0003 => self.identity.brand[1],
            0x8000_0004 => self.identity.brand[2],
            0x8000_0005 => self.identity.legacy_caches[0],
            0x8000_0006 => self.identity.legacy_caches[1],
            0x8000_0008 => {
                let linear = if self.has(Feature::La57) { 57 } else { 48 };
                let cores = match self.vendor() {
                    Vendor::Amd => id_width(self.vcpu_count) << 12 | (self.vcpu_count - 1) & 0xff,
                    _ => 0,
                };
                let ebx = self.features.bits(leaf, 0, CpuidRegister::Ebx);
                CpuidResult::new(linear << 8 | u32::from(self.phys_bits), ebx, cores, 0)
            }
            _ => self.feature_bits(leaf, 0),
        }
    }

    /// The highest extended leaf.
    pub(super) fn max_extended(&self) -> u32 {
        match self.vendor() {
            Vendor::Amd => MAX_EXTENDED_AMD,
            _ => MAX_EXTENDED,
        }
    }

    /// AMD repeats its signature and the older bits of leaf 1 here (APM 3
    /// E.4.2), and says that several IDs mean cores, not threads.
    fn extended_features(&self, state: &CpuState) -> CpuidResult {
        const XD: u32 = 1 << 20;
        const COMMON: u32 = 0x0183_f3ff;
        const CMP_LEGACY: u32 = 1 << 1;
        let mut result = self.feature_bits(0x8000_0001, 0);
        if state.msrs.misc_enable & msr::MISC_ENABLE_XD_DISABLE != 0 {
            result.edx &= !XD;
        }
        if self.vendor() == Vendor::Amd {
            result.eax = self.identity.signature;
            result.edx |= self.features.bits(1, 0, CpuidRegister::Edx) & COMMON;
            if self.vcpu_count > 1 {
                result.ecx |= CMP_LEGACY;
            }
        }
        result
    }
}
