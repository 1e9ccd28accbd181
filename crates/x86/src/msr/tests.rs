//! Each register's rules, as rows.

use super::*;
use crate::cpuid::{CpuidConfig, CpuidResult, HostCpuid, HostFeatures, Speculation};

fn limits() -> Limits {
    Limits::of(&CpuidModel::new(CpuidConfig::new(&HostFeatures::all(), 2_400_000_000)))
}

const GP: Option<Result<(), Exception>> = Some(Err(Exception::gp(0)));
const OK: Option<Result<(), Exception>> = Some(Ok(()));

#[test]
fn stored_registers_read_back_what_was_written() {
    let mut state = CpuState::reset();
    let rows = [
        (IA32_TSC_ADJUST, !5),
        (IA32_SPEC_CTRL, 3),
        (IA32_SYSENTER_CS, 0x10),
        (IA32_SYSENTER_ESP, 0xffff_8000_1234_5678),
        (IA32_SYSENTER_EIP, 0x7fff_ffff_f000),
        (IA32_DEBUGCTL, 2),
        (IA32_MISC_ENABLE, 0x4_00c5_1809),
        (IA32_PAT, 0x0007_0106_0504_0106),
        (IA32_MTRR_DEF_TYPE, 0xc06),
        (IA32_MTRR_FIX64K_00000, 0x0606_0606_0606_0606),
        (IA32_MTRR_FIX4K_F8000, 0x0505_0505_0000_0101),
        (IA32_MTRR_PHYSBASE0, 0x3fff_c000_0006),
        (IA32_MTRR_PHYSMASK7, 0x3fff_c000_0800),
        (IA32_STAR, 0x0023_0010_1234_5678),
        (IA32_LSTAR, 0xffff_ffff_8100_0000),
        (IA32_CSTAR, 5),
        (IA32_FMASK, 0x4_7700),
        (IA32_FS_BASE, 0x7f00_1234_5000),
        (IA32_GS_BASE, 0xffff_8880_0000_0000),
        (IA32_KERNEL_GS_BASE, 0xff00_0000_0000_0000),
        (IA32_TSC_AUX, 0xffff_ffff),
    ];
    for (index, value) in rows {
        assert_eq!(write(&mut state, index, value, &limits()), OK, "{index:#x}");
    }
    for (index, value) in rows {
        assert_eq!(read(&state, index, &limits()), Some(value), "{index:#x}");
    }
}

#[test]
fn forbidden_values_fault_and_change_nothing() {
    let rows = [
        (IA32_FEATURE_CONTROL, 5),
        (IA32_SPEC_CTRL, 8),
        (IA32_PRED_CMD, 2),
        (IA32_MTRRCAP, 0x508),
        (IA32_ARCH_CAPABILITIES, 0),
        (MSR_PLATFORM_INFO, 0),
        (MSR_MISC_FEATURES_ENABLES, 1),
        (IA32_SYSENTER_EIP, 0x0100_0000_0000_0000),
        (IA32_MCG_CAP, 1),
        (IA32_MCG_STATUS, 8),
        (IA32_MISC_ENABLE, 1 << 1),
        (IA32_DEBUGCTL, 4),
        (IA32_PAT, 2),
        (IA32_PAT, 3 << 56),
        (IA32_PAT, 8 << 8),
        (IA32_MTRR_DEF_TYPE, 7),
        (IA32_MTRR_DEF_TYPE, 0x1006),
        (IA32_MTRR_FIX16K_A0000, 2 << 24),
        (IA32_MTRR_PHYSBASE0, 1 << 46),
        (IA32_MTRR_PHYSBASE0, 0x102),
        (IA32_MTRR_PHYSBASE0 + 1, 0x400),
        (IA32_MTRR_PHYSBASE0 + 1, 1 << 50),
        (IA32_EFER, 1 << 12),
        (IA32_EFER, 1 << 63),
        (IA32_LSTAR, 0x0123_4567_89ab_cdef),
        (IA32_GS_BASE, 1 << 57),
        (IA32_TSC_AUX, 1 << 32),
    ];
    for (index, value) in rows {
        let mut state = CpuState::reset();
        assert_eq!(write(&mut state, index, value, &limits()), GP, "{index:#x} {value:#x}");
        assert_eq!(state.differences(&CpuState::reset()), []);
    }
}

#[test]
fn long_mode_is_enabled_with_paging_off_only() {
    let mut state = CpuState::reset();
    assert_eq!(write(&mut state, IA32_EFER, 0xd01, &limits()), OK);
    assert_eq!(state.efer.bits(), 0x901, "LMA is the processor's");
    state.cr0 |= Cr0::PG;
    state.efer |= Efer::LMA;
    assert_eq!(write(&mut state, IA32_EFER, 0xc01, &limits()), GP);
    assert_eq!(write(&mut state, IA32_EFER, 0x100, &limits()), OK);
    assert_eq!(state.efer.bits(), 0x500, "LMA stays");
}

#[test]
fn execute_disable_can_be_taken_away() {
    let mut state = CpuState::reset();
    assert_eq!(write(&mut state, IA32_MISC_ENABLE, 1 << 34, &limits()), OK);
    assert_eq!(write(&mut state, IA32_EFER, 1 << 11, &limits()), GP);
    assert_eq!(write(&mut state, IA32_MISC_ENABLE, 0, &limits()), OK);
    assert_eq!(write(&mut state, IA32_EFER, 1 << 11, &limits()), OK);
}

#[test]
fn addresses_are_canonical_for_the_width_of_the_model() {
    let host = HostFeatures::all();
    let narrow = CpuidConfig { disable: &[Feature::La57], ..CpuidConfig::new(&host, 1) };
    let narrow = Limits::of(&CpuidModel::new(narrow));
    let mut state = CpuState::reset();
    assert_eq!(write(&mut state, IA32_GS_BASE, 1 << 50, &limits()), OK);
    assert_eq!(write(&mut state, IA32_GS_BASE, 1 << 50, &narrow), GP);
}

#[test]
fn fixed_values() {
    let state = CpuState::reset();
    let rows = [
        (IA32_FEATURE_CONTROL, 1),
        (IA32_BIOS_SIGN_ID, 0x7fff_ffff_0000_0000),
        (IA32_MTRRCAP, 0x508),
        (IA32_MCG_CAP, 0),
        (IA32_PAT, 0x0007_0406_0007_0406),
        (MSR_PLATFORM_INFO, 24 << 8 | 24 << 40),
        (IA32_PERF_STATUS, 24 << 8),
        (IA32_MISC_ENABLE, 0x1801),
        (IA32_THERM_STATUS, 0),
        (MSR_SMI_COUNT, 0),
    ];
    for (index, value) in rows {
        assert_eq!(read(&state, index, &limits()), Some(value), "{index:#x}");
    }
    let capabilities = read(&state, IA32_ARCH_CAPABILITIES, &limits()).unwrap();
    assert_eq!(capabilities & 0x23, 0x23, "RDCL_NO, IBRS_ALL, MDS_NO");
}

#[test]
fn the_machines_and_unknown_registers_are_left_alone() {
    let mut state = CpuState::reset();
    let unknown = [
        IA32_TIME_STAMP_COUNTER,
        IA32_APIC_BASE,
        IA32_TSC_DEADLINE,
        IA32_X2APIC_FIRST,
        0x210,
        0x251,
        0x270,
        0x400,
        IA32_XSS,
        AMD_HWCR,
        0x4b56_4d00,
        0xffff_ffff,
    ];
    for index in unknown {
        assert_eq!(read(&state, index, &limits()), None, "{index:#x}");
        assert_eq!(write(&mut state, index, 0, &limits()), None, "{index:#x}");
    }
    assert_eq!(read(&state, IA32_PRED_CMD, &limits()), None, "write-only");
}

#[test]
fn amd_has_its_own_registers() {
    let amd = |leaf, subleaf| match leaf {
        0 => CpuidResult::new(0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        _ => HostFeatures::all().cpuid(leaf, subleaf),
    };
    let limits = Limits::of(&CpuidModel::new(CpuidConfig::new(&amd, 1)));
    let mut state = CpuState::reset();
    assert_eq!(read(&state, AMD_HWCR, &limits), Some(1 << 24), "the counter has one rate");
    assert_eq!(read(&state, AMD_DE_CFG, &limits), Some(2));
    assert_eq!(write(&mut state, AMD_DE_CFG, 2, &limits), OK);
    for counter in AMD_COUNTERS {
        assert_eq!(write(&mut state, counter, 0x53_0076, &limits), OK);
        assert_eq!(read(&state, counter, &limits), Some(0));
    }
}

#[test]
fn a_guest_that_is_told_of_the_hosts_flaws_may_work_around_them() {
    let host = HostFeatures::all();
    let speculation = Speculation::AsHost { arch_capabilities: 0x41 };
    let limits = Limits::of(&CpuidModel::new(CpuidConfig { speculation, ..CpuidConfig::new(&host, 1) }));
    let mut state = CpuState::reset();
    assert_eq!(read(&state, IA32_ARCH_CAPABILITIES, &limits), Some(0x41));
    assert_eq!(write(&mut state, IA32_SPEC_CTRL, 7, &limits), OK);
    assert_eq!(write(&mut state, IA32_SPEC_CTRL, 8, &limits), GP);
    assert_eq!(write(&mut state, IA32_FLUSH_CMD, 1, &limits), OK);
    assert_eq!(write(&mut state, IA32_SPEC_CTRL, 4, &self::limits()), GP, "no SSBD where nothing leaks");
    assert_eq!(write(&mut state, IA32_FLUSH_CMD, 1, &self::limits()), None);
}

#[test]
fn names_are_the_manuals() {
    assert_eq!(name(0xc000_0080), Some("IA32_EFER"));
    assert_eq!(name(0x1234_5678), None);
}
