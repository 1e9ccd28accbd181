//! What the host's processor says of itself.

use super::features::{FEATURES, Feature, Features};
use super::{CpuidRegister, CpuidResult};
use crate::Xcr0;
use crate::xsave::XsaveLayout;

/// The host's CPUID instruction, injected: this crate executes nothing.
pub trait HostCpuid {
    /// CPUID with EAX = `leaf` and ECX = `subleaf`.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;

    /// XCR0 as the host's system has set it. Unless the implementation can
    /// execute XGETBV, it follows from CPUID: nothing while OSXSAVE is clear,
    /// else all components within the size that leaf 0xD gives for the current
    /// XCR0.
    fn xcr0(&self) -> Xcr0 {
        let osxsave = self.cpuid(1, 0).ecx & 1 << 27 != 0;
        let sizes = self.cpuid(0xd, 0);
        if !osxsave || self.cpuid(0, 0).eax < 0xd {
            return Xcr0::X87 | Xcr0::SSE;
        }
        let enabled = (2..32).filter(|&i| sizes.eax >> i & 1 != 0).filter(|&i| {
            let component = self.cpuid(0xd, i);
            component.eax.checked_add(component.ebx).is_some_and(|end| end <= sizes.ebx)
        });
        Xcr0::from_bits_retain(enabled.fold(3, |bits, i| bits | 1 << i))
    }
}

impl<F: Fn(u32, u32) -> CpuidResult> HostCpuid for F {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        self(leaf, subleaf)
    }
}

/// An imaginary host for tests: GenuineIntel, with a chosen set of features.
#[derive(Clone, Copy, Debug)]
pub struct HostFeatures(pub Features);

impl HostFeatures {
    /// A host with every feature of the table.
    pub fn all() -> Self {
        Self(FEATURES.iter().map(|info| info.feature).collect())
    }

    /// The same without `features`.
    pub fn without(mut self, features: &[Feature]) -> Self {
        features.iter().for_each(|&feature| self.0.set(feature, false));
        self
    }

    fn feature_bits(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let bits = |register| self.0.bits(leaf, subleaf, register);
        CpuidResult {
            eax: bits(CpuidRegister::Eax),
            ebx: bits(CpuidRegister::Ebx),
            ecx: bits(CpuidRegister::Ecx),
            edx: bits(CpuidRegister::Edx),
        }
    }

    fn xsave_leaf(&self, subleaf: u32) -> CpuidResult {
        let layout = XsaveLayout::INTEL;
        let supported = self.0.xcr0();
        let size = layout.standard_size(supported);
        match subleaf {
            0 => CpuidResult { eax: supported.bits() as u32, ebx: size, ecx: size, edx: 0 },
            1 => self.feature_bits(0xd, 1),
            _ => layout.component(subleaf).map_or(CpuidResult::default(), |c| CpuidResult {
                eax: c.size,
                ebx: c.offset,
                ecx: u32::from(c.align64) << 1,
                edx: 0,
            }),
        }
    }
}

impl HostCpuid for HostFeatures {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let mut result = self.feature_bits(leaf, subleaf);
        match leaf {
            0 => {
                return CpuidResult { eax: 0x1f, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 };
            }
            1 => {
                result.eax = 0x0005_0657;
                result.ecx |= 1 << 27;
            }
            0xd => return self.xsave_leaf(subleaf),
            0x8000_0000 => result.eax = 0x8000_0008,
            0x8000_0002 => result.eax = u32::from_le_bytes(*b"Test"),
            _ => {}
        }
        result
    }
}
