//! The CPUID model: what the guest's processor says of itself.

use crate::CpuState;

/// The four registers that CPUID answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// The processor that a guest sees.
#[derive(Clone, Debug)]
pub struct CpuidModel {}

impl CpuidModel {
    /// Answers CPUID.
    pub fn query(&self, _leaf: u32, _subleaf: u32, _state: &CpuState) -> CpuidResult {
        CpuidResult::default()
    }

    /// Whether instructions of a feature set are offered.
    pub fn allows(&self, _feature: iced_x86::CpuidFeature) -> bool {
        true
    }
}
