//! Indices of model-specific registers (SDM 4 table 2-2, APM 2 appendix A).

macro_rules! indices {
    ($($name:ident = $index:literal;)*) => {
        $(#[allow(missing_docs, reason = "the manual's name")] pub const $name: u32 = $index;)*

        /// The names of the indices above, for traces.
        pub(super) const NAMES: &[(u32, &str)] = &[$(($index, stringify!($name)),)*];
    };
}

indices! {
    IA32_P5_MC_ADDR = 0x0;
    IA32_P5_MC_TYPE = 0x1;
    IA32_TIME_STAMP_COUNTER = 0x10;
    IA32_PLATFORM_ID = 0x17;
    IA32_APIC_BASE = 0x1b;
    MSR_EBL_CR_POWERON = 0x2a;
    MSR_SMI_COUNT = 0x34;
    MSR_CORE_THREAD_COUNT = 0x35;
    IA32_FEATURE_CONTROL = 0x3a;
    IA32_TSC_ADJUST = 0x3b;
    IA32_SPEC_CTRL = 0x48;
    IA32_PRED_CMD = 0x49;
    IA32_BIOS_UPDT_TRIG = 0x79;
    IA32_BIOS_SIGN_ID = 0x8b;
    MSR_PLATFORM_INFO = 0xce;
    IA32_MPERF = 0xe7;
    IA32_APERF = 0xe8;
    IA32_MTRRCAP = 0xfe;
    IA32_ARCH_CAPABILITIES = 0x10a;
    IA32_FLUSH_CMD = 0x10b;
    MSR_MISC_FEATURES_ENABLES = 0x140;
    IA32_SYSENTER_CS = 0x174;
    IA32_SYSENTER_ESP = 0x175;
    IA32_SYSENTER_EIP = 0x176;
    IA32_MCG_CAP = 0x179;
    IA32_MCG_STATUS = 0x17a;
    IA32_PERF_STATUS = 0x198;
    IA32_PERF_CTL = 0x199;
    IA32_THERM_INTERRUPT = 0x19b;
    IA32_THERM_STATUS = 0x19c;
    IA32_MISC_ENABLE = 0x1a0;
    MSR_TEMPERATURE_TARGET = 0x1a2;
    MSR_MISC_PWR_MGMT = 0x1aa;
    MSR_TURBO_RATIO_LIMIT = 0x1ad;
    IA32_ENERGY_PERF_BIAS = 0x1b0;
    IA32_PACKAGE_THERM_STATUS = 0x1b1;
    IA32_PACKAGE_THERM_INTERRUPT = 0x1b2;
    IA32_DEBUGCTL = 0x1d9;
    MSR_LASTBRANCHFROMIP = 0x1db;
    MSR_LASTBRANCHTOIP = 0x1dc;
    MSR_LASTINTFROMIP = 0x1dd;
    MSR_LASTINTTOIP = 0x1de;
    MSR_POWER_CTL = 0x1fc;
    IA32_MTRR_PHYSBASE0 = 0x200;
    IA32_MTRR_PHYSMASK7 = 0x20f;
    IA32_MTRR_FIX64K_00000 = 0x250;
    IA32_MTRR_FIX16K_80000 = 0x258;
    IA32_MTRR_FIX16K_A0000 = 0x259;
    IA32_MTRR_FIX4K_C0000 = 0x268;
    IA32_MTRR_FIX4K_F8000 = 0x26f;
    IA32_PAT = 0x277;
    IA32_MTRR_DEF_TYPE = 0x2ff;
    MSR_RAPL_POWER_UNIT = 0x606;
    MSR_PKG_ENERGY_STATUS = 0x611;
    MSR_DRAM_ENERGY_STATUS = 0x619;
    MSR_PP0_ENERGY_STATUS = 0x639;
    MSR_PP1_ENERGY_STATUS = 0x641;
    MSR_PPERF = 0x64e;
    IA32_TSC_DEADLINE = 0x6e0;
    IA32_X2APIC_FIRST = 0x800;
    IA32_X2APIC_LAST = 0x8ff;
    IA32_XSS = 0xda0;
    IA32_EFER = 0xc000_0080;
    IA32_STAR = 0xc000_0081;
    IA32_LSTAR = 0xc000_0082;
    IA32_CSTAR = 0xc000_0083;
    IA32_FMASK = 0xc000_0084;
    IA32_FS_BASE = 0xc000_0100;
    IA32_GS_BASE = 0xc000_0101;
    IA32_KERNEL_GS_BASE = 0xc000_0102;
    IA32_TSC_AUX = 0xc000_0103;
    AMD_SYSCFG = 0xc001_0010;
    AMD_HWCR = 0xc001_0015;
    AMD_NB_CFG = 0xc001_001f;
    AMD_PATCH_LOADER = 0xc001_0020;
    AMD_VM_CR = 0xc001_0114;
    AMD_LS_CFG = 0xc001_1020;
    AMD_DC_CFG = 0xc001_1022;
    AMD_BU_CFG2 = 0xc001_102a;
    AMD_DE_CFG = 0xc001_1029;
}

/// The manual's name of `index`, if it is one of those above.
pub fn name(index: u32) -> Option<&'static str> {
    NAMES.iter().find(|(number, _)| *number == index).map(|(_, name)| *name)
}
