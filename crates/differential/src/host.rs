//! The processor model for both sides: the host's own features, as far as a
//! guest is offered them.

use std::arch::x86_64::__cpuid_count;

use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult};

/// The model that engines run with here.
pub fn host_model() -> CpuidModel {
    let host = |leaf, subleaf| {
        let result = __cpuid_count(leaf, subleaf);
        CpuidResult::new(result.eax, result.ebx, result.ecx, result.edx)
    };
    CpuidModel::new(CpuidConfig::new(&host, 1_000_000_000))
}
