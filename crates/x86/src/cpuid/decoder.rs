//! From the decoder's names of instruction groups to the features that a vCPU
//! offers, so that what is not offered is #UD.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderError, DecoderOptions, Instruction};

use super::{CpuidModel, Feature, Habit};

/// What a decoder group stands on.
enum Basis {
    /// There since the 386 and 486, or in every x86-64 processor.
    Always,
    Feature(Feature),
    Never,
}

fn basis(group: CpuidFeature) -> Basis {
    use Basis::{Always, Never};
    use CpuidFeature as C;
    let feature = match group {
        C::INTEL8086 | C::INTEL186 | C::INTEL286 | C::INTEL386 | C::INTEL486 => return Always,
        C::FPU | C::FPU287 | C::FPU387 | C::CPUID | C::MULTIBYTENOP | C::PAUSE | C::RDPMC => return Always,
        // Leaving SMM outside of it is #UD by its own rule.
        C::SMM => return Always,
        // ENDBR is a hint: a NOP without CET (SDM 2A ENDBR64).
        C::CET_IBT | C::CLDEMOTE | C::PREFETCHITI => return Always,
        // AMD's processors have it where they have long mode (APM 3 PREFETCH),
        // to Intel's it is a NOP without the feature (SDM 2D table A-3).
        C::PREFETCHW | C::PREFETCHWT1 => return Always,
        C::X64 => Feature::Lm,
        C::ADX => Feature::Adx,
        C::AES => Feature::Aes,
        C::AVX => Feature::Avx,
        C::AVX2 => Feature::Avx2,
        C::AVX512_BITALG => Feature::Avx512bitalg,
        C::AVX512_IFMA => Feature::Avx512ifma,
        C::AVX512_VBMI => Feature::Avx512vbmi,
        C::AVX512_VBMI2 => Feature::Avx512vbmi2,
        C::AVX512_VNNI => Feature::Avx512vnni,
        C::AVX512_VPOPCNTDQ => Feature::Avx512vpopcntdq,
        C::AVX512BW => Feature::Avx512bw,
        C::AVX512CD => Feature::Avx512cd,
        C::AVX512DQ => Feature::Avx512dq,
        C::AVX512F => Feature::Avx512f,
        C::AVX512VL => Feature::Avx512vl,
        C::BMI1 => Feature::Bmi1,
        C::BMI2 => Feature::Bmi2,
        C::CLFLUSHOPT => Feature::Clflushopt,
        C::CLFSH => Feature::Clfsh,
        C::CLWB => Feature::Clwb,
        C::CMOV => Feature::Cmov,
        C::CMPXCHG16B => Feature::Cx16,
        C::CX8 => Feature::Cx8,
        C::F16C => Feature::F16c,
        C::FMA => Feature::Fma,
        C::FSGSBASE => Feature::Fsgsbase,
        C::FXSR => Feature::Fxsr,
        C::GFNI => Feature::Gfni,
        C::INVPCID => Feature::Invpcid,
        C::LZCNT => Feature::Lzcnt,
        C::MMX => Feature::Mmx,
        C::MONITOR => Feature::Monitor,
        C::MOVBE => Feature::Movbe,
        C::MSR => Feature::Msr,
        C::PCLMULQDQ => Feature::Pclmulqdq,
        C::PKU => Feature::Pku,
        C::POPCNT => Feature::Popcnt,
        C::RDPID => Feature::Rdpid,
        C::RDRAND => Feature::Rdrand,
        C::RDSEED => Feature::Rdseed,
        C::RDTSCP => Feature::Rdtscp,
        C::SEP => Feature::Sep,
        C::SHA => Feature::Sha,
        C::SMAP => Feature::Smap,
        C::SSE => Feature::Sse,
        C::SSE2 => Feature::Sse2,
        C::SSE3 => Feature::Sse3,
        C::SSE4_1 => Feature::Sse41,
        C::SSE4_2 => Feature::Sse42,
        C::SSSE3 => Feature::Ssse3,
        C::SYSCALL => Feature::Syscall,
        C::TSC => Feature::Tsc,
        C::VAES => Feature::Vaes,
        C::VPCLMULQDQ => Feature::Vpclmulqdq,
        C::XSAVE => Feature::Xsave,
        C::XSAVEC => Feature::Xsavec,
        C::XSAVEOPT => Feature::Xsaveopt,
        _ => return Never,
    };
    Basis::Feature(feature)
}

/// The first byte of an EVEX prefix (SDM 2A 2.7.1), and fields of its last.
const EVEX: u8 = 0x62;
const EVEX_V: u8 = 1 << 3;
const EVEX_B: u8 = 1 << 4;

/// Whether what the decoder takes for PAUSE, F3 90, is XCHG of R8 and the
/// accumulator: with REX.B opcode 90 is neither NOP nor PAUSE (SDM 2B XCHG).
fn exchanges_r8(pause: &[u8]) -> bool {
    matches!(pause, [.., rex, 0x90] if rex & 0xf1 == 0x41)
}

/// Prefixes for segment and address size, which may come before EVEX.
const fn is_address_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67)
}

impl CpuidModel {
    /// Whether the instructions of the decoder's `group` are offered.
    pub fn allows(&self, group: CpuidFeature) -> bool {
        match basis(group) {
            Basis::Always => true,
            Basis::Feature(feature) => self.has(feature),
            Basis::Never => false,
        }
    }

    /// Whether `instruction` exists on this vCPU; if not, it is #UD.
    ///
    /// Beyond [`Self::allows`], this knows encodings that are NOPs where their
    /// feature is missing (RDSSP, the prefetches of opcode 0F 0D), and the
    /// hypercalls, whose fate is the machine's.
    pub fn allows_instruction(&self, instruction: &Instruction) -> bool {
        match instruction.code() {
            Code::INVALID => false,
            Code::Rdsspd_r32 | Code::Rdsspq_r64 | Code::Prefetch_m8 => true,
            Code::Prefetchreserved3_m8
            | Code::Prefetchreserved4_m8
            | Code::Prefetchreserved5_m8
            | Code::Prefetchreserved6_m8
            | Code::Prefetchreserved7_m8 => true,
            Code::Vmcall | Code::Vmmcall => true,
            Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D => !self.vendor().refuses_prefetch_of_register(),
            _ => instruction.cpuid_features().iter().all(|&group| self.allows(group)),
        }
    }

    /// The instruction at the start of `bytes`, which lies at `ip` in code of
    /// `bitness` bits, as this vCPU reads it; or why there is none.
    pub fn decode(&self, bitness: u32, bytes: &[u8], ip: u64) -> (Instruction, DecoderError) {
        let decoded = self.decode_exactly(bitness, bytes, ip);
        let ignores =
            decoded.1 == DecoderError::InvalidInstruction && self.has_habit(Habit::IgnoresEvexFields);
        ignores.then(|| self.decode_ignoring_evex_fields(bitness, bytes, ip)).flatten().unwrap_or(decoded)
    }

    fn decode_exactly(&self, bitness: u32, bytes: &[u8], ip: u64) -> (Instruction, DecoderError) {
        let decode = |options| {
            let mut decoder = Decoder::with_ip(bitness, bytes, ip, options);
            let instruction = decoder.decode();
            (instruction, decoder.last_error())
        };
        let decoded = decode(self.decoder_options());
        if decoded.0.code() == Code::Pause && exchanges_r8(&bytes[..decoded.0.len()]) {
            return decode(self.decoder_options() | DecoderOptions::NO_PAUSE);
        }
        decoded
    }

    /// The same without the fields of an EVEX prefix that some processors
    /// ignore; `None` if there is no such prefix, or without them nothing
    /// either.
    fn decode_ignoring_evex_fields(
        &self,
        bitness: u32,
        bytes: &[u8],
        ip: u64,
    ) -> Option<(Instruction, DecoderError)> {
        let evex = bytes.iter().position(|&byte| !is_address_prefix(byte))?;
        let &[EVEX, p0, _, _, _, modrm] = bytes.get(evex..evex + 6)? else { return None };
        if bitness != 64 && p0 < 0xc0 {
            // BOUND
            return None;
        }
        let mut bytes = bytes.to_vec();
        if bitness != 64 {
            bytes[evex + 3] |= EVEX_V;
            let decoded = self.decode_exactly(bitness, &bytes, ip);
            if decoded.1 != DecoderError::InvalidInstruction {
                return Some(decoded);
            }
        }
        if modrm < 0xc0 {
            return None;
        }
        bytes[evex + 3] &= !EVEX_B;
        let decoded = self.decode_exactly(bitness, &bytes, ip);
        let form = decoded.0.op_code();
        let means_nothing =
            form.can_broadcast() && !form.can_use_rounding_control() && !form.can_suppress_all_exceptions();
        means_nothing.then_some(decoded)
    }

    /// Decoder options without which encodings would be taken for instructions
    /// that this vCPU lacks (WBNOINVD is WBINVD there, TZCNT is BSF, LZCNT BSR)
    /// or for those of another vendor.
    pub fn decoder_options(&self) -> u32 {
        let mut options = DecoderOptions::NO_WBNOINVD;
        if self.vendor().has_short_branches_in_64_bit_mode() {
            options |= DecoderOptions::AMD;
        }
        if !self.has(Feature::Bmi1) {
            options |= DecoderOptions::NO_MPFX_0FBC;
        }
        if !self.has(Feature::Lzcnt) {
            options |= DecoderOptions::NO_MPFX_0FBD;
        }
        options
    }
}
