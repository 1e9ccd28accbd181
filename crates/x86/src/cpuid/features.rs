//! The features that a vCPU can offer, in the manual's order (SDM 2A CPUID,
//! APM 3 appendix E).

use Policy::{Always, Host, Immune, Mitigation, OptIn};

use crate::{Cr4, Efer, Xcr0};

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the registers' names")]
pub enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// When a feature is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The engines provide it themselves, whatever the host has.
    Always,
    /// Its instructions are executed by the host: offered if the host has it.
    Host,
    /// Only when asked for.
    OptIn,
    /// Says that a flaw of speculation is absent, or lets a guest ask which
    /// are: offered to a guest that is told so, else if the host has it.
    Immune,
    /// Works around such a flaw: offered if the guest is told of the host's
    /// flaws, and the host has it.
    Mitigation,
}

/// Where a feature is reported, and when.
#[derive(Clone, Copy, Debug)]
pub struct FeatureInfo {
    /// The feature.
    pub feature: Feature,
    /// CPUID leaf.
    pub leaf: u32,
    /// CPUID subleaf.
    pub subleaf: u32,
    /// Output register.
    pub register: CpuidRegister,
    /// Bit in the register.
    pub bit: u8,
    /// Linux' name in /proc/cpuinfo, or the nearest to it.
    pub name: &'static str,
    /// When it is offered.
    pub policy: Policy,
}

macro_rules! features {
    ($($leaf:literal $subleaf:literal $register:ident { $($feature:ident $bit:literal $name:literal $policy:ident;)* })*) => {
        /// A feature that CPUID reports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the manual's names, in its order")]
        pub enum Feature {
            $($($feature,)*)*
        }

        /// Every feature, in the manual's order.
        pub const FEATURES: &[FeatureInfo] = &[
            $($(FeatureInfo {
                feature: Feature::$feature,
                leaf: $leaf,
                subleaf: $subleaf,
                register: CpuidRegister::$register,
                bit: $bit,
                name: $name,
                policy: $policy,
            },)*)*
        ];
    };
}

features! {
    1 0 Ecx {
        Sse3 0 "sse3" Host;
        Pclmulqdq 1 "pclmulqdq" Host;
        Monitor 3 "monitor" Always;
        Ssse3 9 "ssse3" Host;
        Fma 12 "fma" Host;
        Cx16 13 "cx16" Always;
        Pcid 17 "pcid" Always;
        Sse41 19 "sse4_1" Host;
        Sse42 20 "sse4_2" Host;
        X2apic 21 "x2apic" Always;
        Movbe 22 "movbe" Host;
        Popcnt 23 "popcnt" Host;
        TscDeadline 24 "tsc_deadline_timer" Always;
        Aes 25 "aes" Host;
        Xsave 26 "xsave" Always;
        Avx 28 "avx" Host;
        F16c 29 "f16c" Host;
        Rdrand 30 "rdrand" Host;
        Hypervisor 31 "hypervisor" OptIn;
    }
    1 0 Edx {
        Fpu 0 "fpu" Always;
        Vme 1 "vme" OptIn;
        De 2 "de" Always;
        Pse 3 "pse" Always;
        Tsc 4 "tsc" Always;
        Msr 5 "msr" Always;
        Pae 6 "pae" Always;
        Mce 7 "mce" Always;
        Cx8 8 "cx8" Always;
        Apic 9 "apic" Always;
        Sep 11 "sep" Always;
        Mtrr 12 "mtrr" Always;
        Pge 13 "pge" Always;
        Mca 14 "mca" Always;
        Cmov 15 "cmov" Always;
        Pat 16 "pat" Always;
        Pse36 17 "pse36" Always;
        Clfsh 19 "clflush" Always;
        Mmx 23 "mmx" Always;
        Fxsr 24 "fxsr" Always;
        Sse 25 "sse" Always;
        Sse2 26 "sse2" Always;
        SelfSnoop 27 "ss" Always;
    }
    6 0 Eax {
        Arat 2 "arat" Always;
    }
    7 0 Ebx {
        Fsgsbase 0 "fsgsbase" Always;
        TscAdjust 1 "tsc_adjust" Always;
        Bmi1 3 "bmi1" Host;
        Avx2 5 "avx2" Host;
        FdpExcptnOnly 6 "fdp_excptn_only" Host;
        Smep 7 "smep" Always;
        Bmi2 8 "bmi2" Host;
        Erms 9 "erms" Always;
        Invpcid 10 "invpcid" Always;
        ZeroFcsFds 13 "zero_fcs_fds" Host;
        Avx512f 16 "avx512f" Host;
        Avx512dq 17 "avx512dq" Host;
        Rdseed 18 "rdseed" Host;
        Adx 19 "adx" Host;
        Smap 20 "smap" Always;
        Avx512ifma 21 "avx512ifma" Host;
        Clflushopt 23 "clflushopt" Host;
        Clwb 24 "clwb" Host;
        Avx512cd 28 "avx512cd" Host;
        Sha 29 "sha_ni" Host;
        Avx512bw 30 "avx512bw" Host;
        Avx512vl 31 "avx512vl" Host;
    }
    7 0 Ecx {
        Avx512vbmi 1 "avx512vbmi" Host;
        Umip 2 "umip" Always;
        Pku 3 "pku" OptIn;
        Avx512vbmi2 6 "avx512_vbmi2" Host;
        Gfni 8 "gfni" Host;
        Vaes 9 "vaes" Host;
        Vpclmulqdq 10 "vpclmulqdq" Host;
        Avx512vnni 11 "avx512_vnni" Host;
        Avx512bitalg 12 "avx512_bitalg" Host;
        Avx512vpopcntdq 14 "avx512_vpopcntdq" Host;
        La57 16 "la57" Always;
        Rdpid 22 "rdpid" Always;
    }
    7 0 Edx {
        Fsrm 4 "fsrm" Always;
        MdClear 10 "md_clear" Mitigation;
        SpecCtrl 26 "spec_ctrl" Immune;
        Stibp 27 "intel_stibp" Immune;
        L1dFlush 28 "flush_l1d" Mitigation;
        ArchCapabilities 29 "arch_capabilities" Immune;
        Ssbd 31 "ssbd" Mitigation;
    }
    7 1 Eax {
        Fzrm 10 "fzrm" Always;
        Fsrs 11 "fsrs" Always;
        Fsrc 12 "fsrc" Always;
    }
    0xd 1 Eax {
        Xsaveopt 0 "xsaveopt" Always;
        Xsavec 1 "xsavec" Always;
        Xgetbv1 2 "xgetbv1" Always;
    }
    0x8000_0001 0 Ecx {
        LahfLm 0 "lahf_lm" Always;
        Lzcnt 5 "abm" Host;
        Prefetchw 8 "3dnowprefetch" Always;
    }
    0x8000_0001 0 Edx {
        Syscall 11 "syscall" Always;
        Nx 20 "nx" Always;
        Page1Gb 26 "pdpe1gb" Always;
        Rdtscp 27 "rdtscp" Always;
        Lm 29 "lm" Always;
    }
    0x8000_0007 0 Edx {
        InvariantTsc 8 "nonstop_tsc" Always;
    }
    0x8000_0008 0 Ebx {
        AmdIbpb 12 "ibpb" Mitigation;
        AmdIbrs 14 "ibrs" Mitigation;
        AmdStibp 15 "stibp" Mitigation;
        AmdSsbd 24 "amd_ssbd" Mitigation;
        AmdSsbNo 26 "amd_ssb_no" Immune;
        BtcNo 29 "btc_no" Immune;
    }
    0x8000_0021 0 Eax {
        LfenceSerializing 2 "lfence_rdtsc" Always;
        NullSelClrBase 6 "null_sel_clr_base" Always;
        SrsoNo 29 "srso_no" Immune;
        SrsoUserKernelNo 30 "srso_user_kernel_no" Immune;
    }
    0x8000_0021 0 Ecx {
        TsaSqNo 1 "tsa_sq_no" Immune;
        TsaL1No 2 "tsa_l1_no" Immune;
    }
}

/// What each feature cannot do without; processed in this order, so that a
/// missing base takes everything above it away.
const REQUIRES: &[(Feature, Feature)] = &[
    (Feature::Xsaveopt, Feature::Xsave),
    (Feature::Xsavec, Feature::Xsave),
    (Feature::Xgetbv1, Feature::Xsave),
    (Feature::Pku, Feature::Xsave),
    (Feature::Avx, Feature::Xsave),
    (Feature::Avx2, Feature::Avx),
    (Feature::Fma, Feature::Avx),
    (Feature::F16c, Feature::Avx),
    (Feature::Vaes, Feature::Avx),
    (Feature::Vpclmulqdq, Feature::Avx),
    (Feature::Avx512f, Feature::Avx2),
    (Feature::Avx512dq, Feature::Avx512f),
    (Feature::Avx512ifma, Feature::Avx512f),
    (Feature::Avx512cd, Feature::Avx512f),
    (Feature::Avx512bw, Feature::Avx512f),
    (Feature::Avx512vl, Feature::Avx512f),
    (Feature::Avx512vbmi, Feature::Avx512bw),
    (Feature::Avx512vbmi2, Feature::Avx512bw),
    (Feature::Avx512vnni, Feature::Avx512f),
    (Feature::Avx512bitalg, Feature::Avx512bw),
    (Feature::Avx512vpopcntdq, Feature::Avx512f),
    (Feature::Lm, Feature::Pae),
    (Feature::La57, Feature::Lm),
    (Feature::Page1Gb, Feature::Lm),
    (Feature::Invpcid, Feature::Pcid),
];

impl Feature {
    /// The table row of this feature.
    pub fn info(self) -> &'static FeatureInfo {
        &FEATURES[self as usize]
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u128);

const _: () = assert!(FEATURES.len() <= 128);

impl Features {
    /// Whether `feature` is in the set.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 >> feature as u32 & 1 != 0
    }

    /// Puts `feature` in, or takes it out.
    pub const fn set(&mut self, feature: Feature, on: bool) {
        let bit = 1u128 << feature as u32;
        if on {
            self.0 |= bit;
        } else {
            self.0 &= !bit;
        }
    }

    /// The features in the manual's order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        FEATURES.iter().map(|info| info.feature).filter(move |&f| self.has(f))
    }

    /// The bits that CPUID shows in `register` of a leaf.
    pub fn bits(self, leaf: u32, subleaf: u32, register: CpuidRegister) -> u32 {
        FEATURES
            .iter()
            .filter(|i| (i.leaf, i.subleaf, i.register) == (leaf, subleaf, register) && self.has(i.feature))
            .fold(0, |bits, info| bits | 1 << info.bit)
    }

    /// The same set without the features whose base is missing.
    pub fn consistent(mut self) -> Self {
        for &(feature, base) in REQUIRES {
            if !self.has(base) {
                self.set(feature, false);
            }
        }
        self
    }

    /// The XCR0 bits that may be set.
    pub fn xcr0(self) -> Xcr0 {
        let mut xcr0 = Xcr0::X87 | Xcr0::SSE;
        xcr0.set(Xcr0::AVX, self.has(Feature::Avx));
        xcr0.set(Xcr0::AVX512, self.has(Feature::Avx512f));
        xcr0.set(Xcr0::PKRU, self.has(Feature::Pku));
        xcr0
    }

    /// The CR4 bits that may be set; any other raises #GP(0).
    pub fn cr4(self) -> Cr4 {
        let pairs = [
            (Feature::Vme, Cr4::VME | Cr4::PVI),
            (Feature::Tsc, Cr4::TSD),
            (Feature::De, Cr4::DE),
            (Feature::Pse, Cr4::PSE),
            (Feature::Pae, Cr4::PAE),
            (Feature::Mce, Cr4::MCE),
            (Feature::Pge, Cr4::PGE),
            (Feature::Fxsr, Cr4::OSFXSR),
            (Feature::Sse, Cr4::OSXMMEXCPT),
            (Feature::Umip, Cr4::UMIP),
            (Feature::La57, Cr4::LA57),
            (Feature::Fsgsbase, Cr4::FSGSBASE),
            (Feature::Pcid, Cr4::PCIDE),
            (Feature::Xsave, Cr4::OSXSAVE),
            (Feature::Smep, Cr4::SMEP),
            (Feature::Smap, Cr4::SMAP),
            (Feature::Pku, Cr4::PKE),
        ];
        pairs.iter().filter(|(f, _)| self.has(*f)).fold(Cr4::PCE, |bits, (_, bit)| bits | *bit)
    }

    /// The EFER bits that may be set; any other raises #GP(0).
    pub fn efer(self) -> Efer {
        let pairs =
            [(Feature::Syscall, Efer::SCE), (Feature::Lm, Efer::LME | Efer::LMA), (Feature::Nx, Efer::NXE)];
        pairs.iter().filter(|(f, _)| self.has(*f)).fold(Efer::empty(), |bits, (_, bit)| bits | *bit)
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        let mut set = Self::default();
        features.into_iter().for_each(|feature| set.set(feature, true));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_of_the_manual() {
        for (index, info) in FEATURES.iter().enumerate() {
            assert_eq!(info.feature as usize, index);
            assert!(info.bit < 32);
        }
        let place = |i: &FeatureInfo| (i.leaf, i.subleaf, i.register as u8, i.bit);
        assert!(FEATURES.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
    }

    #[test]
    fn a_missing_base_takes_its_dependents_along() {
        let mut all: Features = FEATURES.iter().map(|i| i.feature).collect();
        assert_eq!(all.consistent(), all);
        all.set(Feature::Avx, false);
        let rest = all.consistent();
        for gone in [Feature::Avx2, Feature::Fma, Feature::Avx512f, Feature::Avx512vbmi2] {
            assert!(!rest.has(gone), "{gone:?}");
        }
        assert!(rest.has(Feature::Bmi2) && rest.has(Feature::Sha));
        assert_eq!(rest.xcr0(), Xcr0::X87 | Xcr0::SSE | Xcr0::PKRU);
    }

    #[test]
    fn control_registers_follow_the_features() {
        let set: Features = [Feature::Pae, Feature::Smep].into_iter().collect();
        assert_eq!(set.cr4(), Cr4::PAE | Cr4::SMEP | Cr4::PCE);
        assert_eq!(set.efer(), Efer::empty());
        let set: Features = [Feature::Lm, Feature::Nx, Feature::Syscall].into_iter().collect();
        assert_eq!(set.efer().bits(), 0xd01);
    }
}
