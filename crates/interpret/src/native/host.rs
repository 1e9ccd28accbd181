//! What the host's processor can do, as far as thunks care.

use std::arch::is_x86_feature_detected as has;

/// Vector registers that the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostCpu {
    pub(crate) avx: bool,
    pub(crate) avx512: bool,
}

impl HostCpu {
    pub(crate) fn detect() -> Self {
        Self { avx: has!("avx"), avx512: has!("avx512f") && has!("avx512bw") && has!("avx512vl") }
    }
}
