//! The instruction forms that sequences draw from, by group.

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Instruction, OpCodeOperandKind};
use x86::cpuid::CpuidModel;

use super::operand::Operands;
use super::{encode, instruction_at};
use crate::layout::CODE;
use crate::permitted::permitted;
use crate::rng::Rng;
use crate::state::{Bits, Plain, Registers};

/// A group of instruction forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// General-purpose registers, legacy encodings.
    Integer,
    /// General-purpose registers, VEX encodings: BMI and its kin.
    IntegerVex,
    /// x87.
    X87,
    /// MMX and SSE, legacy encodings.
    Simd,
    /// AVX, AVX2, FMA, F16C.
    Avx,
    /// AVX-512, opmask instructions included.
    Avx512,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 6] =
        [Self::Integer, Self::IntegerVex, Self::X87, Self::Simd, Self::Avx, Self::Avx512];

    fn of(instruction: &Instruction) -> Self {
        use CpuidFeature as C;
        let features = instruction.cpuid_features();
        let has = |list: &[CpuidFeature]| features.iter().any(|feature| list.contains(feature));
        let evex = instruction.code().op_code().encoding() == EncodingKind::EVEX;
        let vex = instruction.code().op_code().encoding() == EncodingKind::VEX;
        if has(&[C::FPU, C::FPU287, C::FPU387]) {
            Self::X87
        } else if evex || has(&[C::AVX512F, C::AVX512BW, C::AVX512DQ]) {
            Self::Avx512
        } else if vex && has(&[C::BMI1, C::BMI2]) {
            Self::IntegerVex
        } else if vex {
            Self::Avx
        } else if has(&[
            C::MMX,
            C::SSE,
            C::SSE2,
            C::SSE3,
            C::SSSE3,
            C::SSE4_1,
            C::SSE4_2,
            C::AES,
            C::PCLMULQDQ,
            C::SHA,
            C::GFNI,
        ]) {
            Self::Simd
        } else {
            Self::Integer
        }
    }
}

/// The forms of one mode, each in its group.
pub struct Forms {
    groups: Vec<(Group, Vec<Code>)>,
}

impl Forms {
    /// All forms that `model` offers in `bits` code.
    pub fn new(model: &CpuidModel, bits: Bits) -> Self {
        let mut groups: Vec<(Group, Vec<Code>)> = Group::ALL.map(|group| (group, Vec::new())).into();
        for code in Code::values() {
            if let Some(instruction) = example(code, model, bits) {
                groups[Group::of(&instruction) as usize].1.push(code);
            }
        }
        groups.retain(|(_, codes)| !codes.is_empty());
        Self { groups }
    }

    /// A form of a group chosen first, so that the large groups do not crowd
    /// out the small ones.
    pub fn choose(&self, rng: &mut Rng) -> Code {
        let integer = rng.chance(1, 3);
        let group = if integer { 0 } else { rng.below(self.groups.len() as u64) as usize };
        rng.pick(&self.groups[group].1)
    }

    /// All forms.
    pub fn all(&self) -> impl Iterator<Item = Code> {
        self.groups.iter().flat_map(|(_, codes)| codes.iter().copied())
    }
}

/// An instruction of the form, if sequences may have it.
fn example(code: Code, model: &CpuidModel, bits: Bits) -> Option<Instruction> {
    let form = code.op_code();
    let exists = match bits {
        Bits::B64 => form.mode64(),
        Bits::B32 => form.mode32(),
    };
    if !exists || !form.is_instruction() || is_special(code) {
        return None;
    }
    let registers = Registers::from_seed(0, bits, Plain(Plain::FPU), CODE);
    (0..8).find_map(|seed| {
        let mut rng = Rng::new(seed);
        let instruction = Operands {
            rng: &mut rng,
            bits,
            registers: &registers,
            memory: Some(seed & 1 == 0),
            beside: false,
        }
        .instruction(code)?;
        let bytes = encode(&instruction, bits, CODE)?;
        let decoded = instruction_at(&bytes, bits, CODE);
        (decoded.code() == code && permitted(&decoded, model)).then_some(decoded)
    })
}

/// Forms that need more than random operands: branches, strings and other
/// implicit memory.
fn is_special(code: Code) -> bool {
    use OpCodeOperandKind as K;
    let implicit = |kind: &K| matches!(kind, K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al);
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let branch = !matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception
    );
    branch || code.op_code().op_kinds().iter().any(implicit)
}
