//! Processor features that guests need, by their CPUID bits (SDM 2A, CPUID).

use x86::CpuState;
use x86::cpuid::{CpuidModel, CpuidResult};

/// A feature of the processor model: one bit of one CPUID leaf.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The manual's name.
    pub name: &'static str,
    leaf: u32,
    register: fn(&CpuidResult) -> u32,
    bit: u32,
}

impl PartialEq for Feature {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const fn ebx(answer: &CpuidResult) -> u32 {
    answer.ebx
}

const fn ecx(answer: &CpuidResult) -> u32 {
    answer.ecx
}

const fn edx(answer: &CpuidResult) -> u32 {
    answer.edx
}

macro_rules! features {
    ($($name:ident = $leaf:literal, $register:ident, $bit:literal;)+) => {
        #[allow(missing_docs, reason = "the manual's names")]
        impl Feature {
            $(pub const $name: Self =
                Self { name: stringify!($name), leaf: $leaf, register: $register, bit: $bit };)+
        }
    };
}

features! {
    VME = 1, edx, 1;
    MMX = 1, edx, 23;
    PCLMULQDQ = 1, ecx, 1;
    SSE4_2 = 1, ecx, 20;
    FMA = 1, ecx, 12;
    PCID = 1, ecx, 17;
    MOVBE = 1, ecx, 22;
    AES = 1, ecx, 25;
    XSAVE = 1, ecx, 26;
    AVX = 1, ecx, 28;
    F16C = 1, ecx, 29;
    RDRAND = 1, ecx, 30;
    FSGSBASE = 7, ebx, 0;
    BMI1 = 7, ebx, 3;
    AVX2 = 7, ebx, 5;
    SMEP = 7, ebx, 7;
    BMI2 = 7, ebx, 8;
    INVPCID = 7, ebx, 10;
    AVX512F = 7, ebx, 16;
    RDSEED = 7, ebx, 18;
    ADX = 7, ebx, 19;
    SMAP = 7, ebx, 20;
    SHA = 7, ebx, 29;
    UMIP = 7, ecx, 2;
    LA57 = 7, ecx, 16;
    RDPID = 7, ecx, 22;
    RDTSCP = 0x8000_0001, edx, 27;
    PAGE1GB = 0x8000_0001, edx, 26;
}

impl Feature {
    /// Whether the processor model offers it.
    pub fn offered_by(&self, model: &CpuidModel) -> bool {
        let answer = model.query(self.leaf, 0, &CpuState::reset());
        (self.register)(&answer) >> self.bit & 1 != 0
    }
}
