//! Model-specific registers that are plain storage of a vCPU, with the checks
//! of RDMSR and WRMSR (SDM 4 chapter 2).
//!
//! Registers with a life of their own (time-stamp counter, local APIC,
//! paravirtual interfaces) are the machine's; here they are unknown.

mod index;
mod mtrr;
#[cfg(test)]
mod tests;

pub use index::*;

use std::ops::RangeInclusive;

use crate::cpuid::{CpuidModel, Feature, Features, Vendor};
use crate::{CpuState, Cr0, Efer, Exception, SegmentName, is_canonical};

/// IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO,
/// MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO,
/// PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
///
/// The value for guests that are told that there are no flaws of speculation;
/// why, is in `docs/machine.md`.
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// Microcode revision, in the upper half of IA32_BIOS_SIGN_ID: so high that no
/// guest holds it for too old, without the sign bit.
pub const MICROCODE_REVISION: u64 = 0x7fff_ffff;

/// The bits of IA32_SPEC_CTRL, and who brings each: IBRS, STIBP, SSBD.
const SPEC_CTRL: [(u64, [Feature; 2]); 3] = [
    (1 << 0, [Feature::SpecCtrl, Feature::AmdIbrs]),
    (1 << 1, [Feature::Stibp, Feature::AmdStibp]),
    (1 << 2, [Feature::Ssbd, Feature::AmdSsbd]),
];
/// IA32_DEBUGCTL: LBR and BTF.
const DEBUGCTL: u64 = 3;
/// IA32_MISC_ENABLE: fast strings, thermal control, SpeedStep, MONITOR, xTPR,
/// and what changes CPUID.
const MISC_ENABLE: u64 =
    1 | 1 << 3 | 1 << 16 | 1 << 18 | 1 << 23 | MISC_ENABLE_LIMIT_CPUID | MISC_ENABLE_XD_DISABLE;
/// IA32_MISC_ENABLE: CPUID leaf 0 names leaf 3 as the last one.
pub const MISC_ENABLE_LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: execute-disable is neither offered nor can be enabled.
pub const MISC_ENABLE_XD_DISABLE: u64 = 1 << 34;
/// IA32_MISC_ENABLE: BTS and PEBS are not available; read-only.
const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;

/// What the vCPU model allows in registers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The features offered.
    pub features: Features,
    /// Physical-address width.
    pub phys_bits: u8,
    /// Frequency of the time-stamp counter.
    pub tsc_hz: u64,
    /// Whose registers exist.
    pub vendor: Vendor,
    /// The value of IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: u64,
}

impl Limits {
    /// The limits of a vCPU with this CPUID model.
    pub fn of(model: &CpuidModel) -> Self {
        Self {
            features: model.features(),
            phys_bits: model.phys_bits(),
            tsc_hz: model.tsc_hz(),
            vendor: model.vendor(),
            arch_capabilities: model.arch_capabilities(),
        }
    }

    /// The bits that IA32_SPEC_CTRL has; without any there is no such register.
    fn spec_ctrl(&self) -> u64 {
        let there = |features: &[Feature; 2]| features.iter().any(|&feature| self.features.has(feature));
        SPEC_CTRL.iter().filter(|(_, features)| there(features)).fold(0, |bits, (bit, _)| bits | bit)
    }

    /// Registers that hold linear addresses are checked against the width that
    /// the processor supports, not the one that CR4.LA57 has enabled.
    fn canonical(&self, address: u64) -> bool {
        is_canonical(address, self.features.has(Feature::La57))
    }

    /// The ratio of the time-stamp counter to 100 MHz, as power management
    /// registers have it.
    fn base_ratio(&self) -> u64 {
        (self.tsc_hz / 100_000_000) & 0xff
    }
}

/// Reads that are harmless and say nothing: power management, thermal state,
/// last branches. Systems read them by model number, without asking CPUID.
const READ_ZERO: &[u32] = &[
    IA32_P5_MC_ADDR,
    IA32_P5_MC_TYPE,
    IA32_PLATFORM_ID,
    MSR_EBL_CR_POWERON,
    MSR_SMI_COUNT,
    MSR_CORE_THREAD_COUNT,
    IA32_MPERF,
    IA32_APERF,
    MSR_MISC_FEATURES_ENABLES,
    IA32_PERF_CTL,
    IA32_THERM_INTERRUPT,
    IA32_THERM_STATUS,
    MSR_TEMPERATURE_TARGET,
    MSR_MISC_PWR_MGMT,
    MSR_TURBO_RATIO_LIMIT,
    IA32_ENERGY_PERF_BIAS,
    IA32_PACKAGE_THERM_STATUS,
    IA32_PACKAGE_THERM_INTERRUPT,
    MSR_LASTBRANCHFROMIP,
    MSR_LASTBRANCHTOIP,
    MSR_LASTINTFROMIP,
    MSR_LASTINTTOIP,
    MSR_POWER_CTL,
    MSR_RAPL_POWER_UNIT,
    MSR_PKG_ENERGY_STATUS,
    MSR_DRAM_ENERGY_STATUS,
    MSR_PP0_ENERGY_STATUS,
    MSR_PP1_ENERGY_STATUS,
    MSR_PPERF,
];

/// The same for AMD's registers.
const AMD_READ_ZERO: &[u32] = &[AMD_SYSCFG, AMD_NB_CFG, AMD_VM_CR, AMD_LS_CFG, AMD_DC_CFG, AMD_BU_CFG2];

/// Whose writes are dropped: control of what this machine does not have.
const WRITE_IGNORED: &[u32] = &[
    IA32_P5_MC_ADDR,
    IA32_P5_MC_TYPE,
    IA32_BIOS_UPDT_TRIG,
    IA32_BIOS_SIGN_ID,
    IA32_MPERF,
    IA32_APERF,
    IA32_PERF_CTL,
    IA32_THERM_INTERRUPT,
    IA32_THERM_STATUS,
    MSR_MISC_PWR_MGMT,
    IA32_ENERGY_PERF_BIAS,
    IA32_PACKAGE_THERM_STATUS,
    IA32_PACKAGE_THERM_INTERRUPT,
    MSR_POWER_CTL,
];

/// The same for AMD's registers.
const AMD_WRITE_IGNORED: &[u32] =
    &[AMD_SYSCFG, AMD_HWCR, AMD_NB_CFG, AMD_PATCH_LOADER, AMD_LS_CFG, AMD_DC_CFG, AMD_BU_CFG2, AMD_DE_CFG];

/// PerfEvtSel0 to 3 and PerfCtr0 to 3, which every processor of AMD's has (APM 2
/// 13.2.1). Nothing is counted here: they read as zero.
const AMD_COUNTERS: RangeInclusive<u32> = 0xc001_0000..=0xc001_0007;

/// The time-stamp counter has one rate, in AMD's HWCR (APM 2 3.2.10).
const TSC_FREQ_SEL: u64 = 1 << 24;
/// LFENCE serializes, in AMD's DE_CFG (APM 2 3.2.10).
const LFENCE_SERIALIZE: u64 = 1 << 1;

/// RDMSR: the value of register `index`; `None` if it is not known here.
pub fn read(state: &CpuState, index: u32, limits: &Limits) -> Option<u64> {
    let msrs = &state.msrs;
    let has = |feature| limits.features.has(feature);
    Some(match index {
        IA32_FEATURE_CONTROL => 1,
        IA32_TSC_ADJUST => msrs.tsc_adjust,
        IA32_SPEC_CTRL if limits.spec_ctrl() != 0 => msrs.spec_ctrl,
        IA32_BIOS_SIGN_ID => MICROCODE_REVISION << 32,
        MSR_PLATFORM_INFO => limits.base_ratio() << 8 | limits.base_ratio() << 40,
        IA32_MTRRCAP => mtrr::CAPABILITIES,
        IA32_ARCH_CAPABILITIES if has(Feature::ArchCapabilities) => limits.arch_capabilities,
        IA32_SYSENTER_CS => msrs.sysenter_cs,
        IA32_SYSENTER_ESP => msrs.sysenter_esp,
        IA32_SYSENTER_EIP => msrs.sysenter_eip,
        IA32_MCG_CAP => 0,
        IA32_MCG_STATUS => msrs.mcg_status,
        IA32_PERF_STATUS => limits.base_ratio() << 8,
        IA32_MISC_ENABLE => msrs.misc_enable | MISC_ENABLE_FIXED,
        IA32_DEBUGCTL => msrs.debugctl,
        IA32_PAT => msrs.pat,
        IA32_EFER => state.efer.bits(),
        IA32_STAR => msrs.star,
        IA32_LSTAR => msrs.lstar,
        IA32_CSTAR => msrs.cstar,
        IA32_FMASK => msrs.fmask,
        IA32_FS_BASE => state.segment(SegmentName::Fs).base,
        IA32_GS_BASE => state.segment(SegmentName::Gs).base,
        IA32_KERNEL_GS_BASE => msrs.kernel_gs_base,
        IA32_TSC_AUX if has(Feature::Rdtscp) => msrs.tsc_aux,
        AMD_HWCR if limits.vendor == Vendor::Amd => TSC_FREQ_SEL,
        AMD_DE_CFG if limits.vendor == Vendor::Amd => LFENCE_SERIALIZE,
        _ if READ_ZERO.contains(&index) => 0,
        _ if limits.vendor == Vendor::Amd
            && (AMD_READ_ZERO.contains(&index) || AMD_COUNTERS.contains(&index)) =>
        {
            0
        }
        _ => return mtrr::read(msrs, index),
    })
}

/// WRMSR: stores `value` in register `index`, or raises #GP(0); `None` if it is
/// not known here.
pub fn write(state: &mut CpuState, index: u32, value: u64, limits: &Limits) -> Option<Result<(), Exception>> {
    if let Some(slot) = linear_address(state, index) {
        return Some(store(slot, value, limits.canonical(value)));
    }
    let has = |feature| limits.features.has(feature);
    let amd = limits.vendor == Vendor::Amd;
    let msrs = &mut state.msrs;
    Some(match index {
        IA32_TSC_ADJUST => store(&mut msrs.tsc_adjust, value, true),
        IA32_SPEC_CTRL if limits.spec_ctrl() != 0 => {
            store(&mut msrs.spec_ctrl, value, value & !limits.spec_ctrl() == 0)
        }
        IA32_PRED_CMD if has(Feature::SpecCtrl) || has(Feature::AmdIbpb) => permit(value & !1 == 0),
        IA32_FLUSH_CMD if has(Feature::L1dFlush) => permit(value & !1 == 0),
        IA32_SYSENTER_CS => store(&mut msrs.sysenter_cs, value, true),
        IA32_MCG_STATUS => store(&mut msrs.mcg_status, value, value & !7 == 0),
        IA32_MISC_ENABLE => {
            let fine = value & !(MISC_ENABLE | MISC_ENABLE_FIXED) == 0;
            store(&mut msrs.misc_enable, value & MISC_ENABLE, fine)
        }
        IA32_DEBUGCTL => store(&mut msrs.debugctl, value, value & !DEBUGCTL == 0),
        IA32_PAT => store(&mut msrs.pat, value, value.to_le_bytes().into_iter().all(is_pat_type)),
        IA32_EFER => write_efer(state, value, limits),
        IA32_STAR => store(&mut msrs.star, value, true),
        IA32_FMASK => store(&mut msrs.fmask, value & 0xffff_ffff, true),
        IA32_TSC_AUX if has(Feature::Rdtscp) => store(&mut msrs.tsc_aux, value, value >> 32 == 0),
        MSR_MISC_FEATURES_ENABLES => permit(value == 0),
        _ if WRITE_IGNORED.contains(&index) => Ok(()),
        _ if amd && (AMD_WRITE_IGNORED.contains(&index) || AMD_COUNTERS.contains(&index)) => Ok(()),
        _ => {
            if let Some(result) = mtrr::write(msrs, index, value, limits.phys_bits) {
                return Some(result);
            }
            // Known, but read-only.
            return read(state, index, limits).map(|_| Err(Exception::gp(0)));
        }
    })
}

/// The registers that hold a linear address.
fn linear_address(state: &mut CpuState, index: u32) -> Option<&mut u64> {
    Some(match index {
        IA32_SYSENTER_ESP => &mut state.msrs.sysenter_esp,
        IA32_SYSENTER_EIP => &mut state.msrs.sysenter_eip,
        IA32_LSTAR => &mut state.msrs.lstar,
        IA32_CSTAR => &mut state.msrs.cstar,
        IA32_FS_BASE => &mut state.segment_mut(SegmentName::Fs).base,
        IA32_GS_BASE => &mut state.segment_mut(SegmentName::Gs).base,
        IA32_KERNEL_GS_BASE => &mut state.msrs.kernel_gs_base,
        _ => return None,
    })
}

/// Memory types in the PAT (SDM 3A table 12-10): UC, WC, WT, WP, WB, UC-.
const fn is_pat_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=7)
}

fn permit(fine: bool) -> Result<(), Exception> {
    if fine { Ok(()) } else { Err(Exception::gp(0)) }
}

fn store(slot: &mut u64, value: u64, fine: bool) -> Result<(), Exception> {
    permit(fine)?;
    *slot = value;
    Ok(())
}

/// LMA is the processor's: writes do not change it. LME cannot change while
/// paging is on (SDM 3A 10.8.5).
fn write_efer(state: &mut CpuState, value: u64, limits: &Limits) -> Result<(), Exception> {
    let new = Efer::from_bits_retain(value);
    let toggled = new ^ state.efer;
    let paging = state.cr0.contains(Cr0::PG);
    let mut allowed = limits.features.efer();
    if state.msrs.misc_enable & MISC_ENABLE_XD_DISABLE != 0 {
        allowed.remove(Efer::NXE);
    }
    permit(allowed.contains(new) && !(paging && toggled.contains(Efer::LME)))?;
    state.efer = new & !Efer::LMA | state.efer & Efer::LMA;
    Ok(())
}
