//! Random instruction sequences.

mod forms;
mod modify;
mod operand;
mod pieces;

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction};
use x86::cpuid::CpuidModel;

pub use forms::{Forms, Group};
use operand::Operands;
use pieces::{Piece, Pieces};

use crate::case::Case;
use crate::layout::{CODE, CODE_END, PAGE, SELF, SELF_END};
use crate::permitted::permitted;
use crate::rng::Rng;
use crate::state::{Bits, Plain, Registers};

/// The most instructions that are drawn for a sequence; some of them bring
/// others along.
const MAX_LENGTH: u64 = 12;

/// The bytes of `instruction` at `ip`, if it can be encoded.
fn encode(instruction: &Instruction, bits: Bits, ip: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(bits.count());
    encoder.encode(instruction, ip).ok()?;
    Some(encoder.take_buffer())
}

/// The instruction that `bytes` start with.
fn instruction_at(bytes: &[u8], bits: Bits, ip: u64) -> Instruction {
    Decoder::with_ip(bits.count(), bytes, ip, DecoderOptions::NONE).decode()
}

/// Makes cases for one processor model.
pub struct Generator {
    model: CpuidModel,
    forms64: Forms,
    forms32: Forms,
}

impl Generator {
    /// A generator of what `model` offers.
    pub fn new(model: &CpuidModel) -> Self {
        Self {
            model: model.clone(),
            forms64: Forms::new(model, Bits::B64),
            forms32: Forms::new(model, Bits::B32),
        }
    }

    /// The instruction forms of `bits` code.
    pub fn forms(&self, bits: Bits) -> &Forms {
        match bits {
            Bits::B64 => &self.forms64,
            Bits::B32 => &self.forms32,
        }
    }

    /// The sequence that belongs to `seed`.
    pub fn sequence(&self, seed: u64, bits: Bits) -> Case {
        let mut rng = Rng::new(seed ^ 0x7365_7175_656e_6365);
        let registers = Registers::from_seed(seed, bits, Plain::default(), CODE);
        let length = 1 + rng.below(MAX_LENGTH);
        let mut pieces = Pieces::new(bits);
        for _ in 0..length {
            match rng.below(20) {
                0 => pieces.branch(&mut rng),
                1 => pieces.string(&mut rng),
                2 if rng.chance(1, 4) => pieces.implicit_memory(&mut rng),
                3 if rng.chance(1, 3) => self.odd_encoding(&mut pieces, &mut rng, &registers),
                _ => self.plain(&mut pieces, &mut rng, &registers, false),
            }
        }
        place(pieces, &mut rng, seed)
    }

    /// The sequence that belongs to `seed` among those that change themselves:
    /// their code can be written, and some of their data lies beside it.
    pub fn self_modifying(&self, seed: u64, bits: Bits) -> Case {
        let mut rng = Rng::new(seed ^ 0x006d_6f64_6966_7973);
        let registers = Registers::from_seed(seed, bits, Plain::default(), SELF);
        let length = 1 + rng.below(MAX_LENGTH / 2);
        let mut pieces = Pieces::new(bits);
        for _ in 0..length {
            let some = |pieces: &mut Pieces, rng: &mut Rng| {
                (0..rng.below(4)).for_each(|_| self.plain(pieces, rng, &registers, true));
            };
            match rng.below(8) {
                0..=2 => pieces.modify_ahead(&mut rng, some),
                3 => pieces.modify_loop(&mut rng, some),
                4 => pieces.branch(&mut rng),
                _ => self.plain(&mut pieces, &mut rng, &registers, true),
            }
        }
        let length = pieces.length();
        let at = match rng.below(8) {
            0..=2 => SELF + PAGE - rng.below(length.max(1)),
            3 => SELF_END - length - 1,
            _ => SELF + rng.below(64),
        };
        Case { bits, seed, plain: Plain::default(), at, code: pieces.encode(at) }
    }

    /// A case of one instruction of the form `code`, with its operand in
    /// memory if that is possible and wanted.
    pub fn single(&self, code: Code, seed: u64, bits: Bits, memory: bool) -> Option<Case> {
        let mut rng = Rng::new(seed ^ 0x7369_6e67_6c65);
        let registers = Registers::from_seed(seed, bits, Plain::default(), CODE);
        let instruction = self.instruction(code, &mut rng, &registers, bits, Some(memory), false)?;
        let mut pieces = Pieces::new(bits);
        pieces.push(Piece::Plain(instruction));
        Some(place(pieces, &mut rng, seed))
    }

    /// An instruction of the form, checked.
    fn instruction(
        &self,
        code: Code,
        rng: &mut Rng,
        registers: &Registers,
        bits: Bits,
        memory: Option<bool>,
        beside: bool,
    ) -> Option<Instruction> {
        (0..8).find_map(|_| {
            let instruction = Operands { rng, bits, registers, memory, beside }.instruction(code)?;
            let bytes = encode(&instruction, bits, CODE)?;
            permitted(&instruction_at(&bytes, bits, CODE), &self.model).then_some(instruction)
        })
    }

    fn plain(&self, pieces: &mut Pieces, rng: &mut Rng, registers: &Registers, beside: bool) {
        let code = self.forms(pieces.bits).choose(rng);
        if let Some(instruction) = self.instruction(code, rng, registers, pieces.bits, None, beside) {
            pieces.define_flags_for(&instruction, rng);
            pieces.push(Piece::Plain(instruction));
        }
    }

    /// An instruction with one byte changed or a prefix too many, as long as
    /// that is permitted or no instruction at all.
    fn odd_encoding(&self, pieces: &mut Pieces, rng: &mut Rng, registers: &Registers) {
        const PREFIXES: [u8; 12] = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0xf0, 0x48, 0x40, 0x4f];
        let bits = pieces.bits;
        let code = self.forms(bits).choose(rng);
        let Some(instruction) = self.instruction(code, rng, registers, bits, None, false) else { return };
        let Some(mut bytes) = encode(&instruction, bits, CODE) else { return };
        if rng.chance(1, 2) {
            bytes.insert(0, rng.pick(&PREFIXES));
        } else {
            let index = rng.below(bytes.len() as u64) as usize;
            bytes[index] ^= 1 << rng.below(8);
        }
        let odd = instruction_at(&bytes, bits, CODE);
        let known = !odd.is_invalid() && permitted(&odd, &self.model) && odd.len() == bytes.len();
        if known && odd.flow_control() == iced_x86::FlowControl::Next {
            pieces.define_flags_for(&odd, rng);
            pieces.push(Piece::Bytes(bytes));
        }
    }
}

/// Puts the pieces together: at the start of the code pages, across their
/// border, or at their end.
fn place(pieces: Pieces, rng: &mut Rng, seed: u64) -> Case {
    let bits = pieces.bits;
    let length = pieces.length();
    let at = match rng.below(20) {
        0..=2 => CODE + PAGE - rng.below(length.max(1)),
        3 => CODE_END - length - 1,
        4 => CODE_END - length,
        _ => CODE + rng.below(64),
    };
    let code = pieces.encode(at);
    Case { bits, seed, plain: Plain::default(), at, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::host_model;

    #[test]
    fn a_seed_always_gives_the_same_sequence() {
        let generator = Generator::new(&host_model());
        assert_eq!(generator.sequence(3, Bits::B64), generator.sequence(3, Bits::B64));
        assert_ne!(generator.sequence(3, Bits::B64).code, generator.sequence(4, Bits::B64).code);
    }

    #[test]
    fn sequences_hold_nothing_that_shows_the_host() {
        let model = host_model();
        let generator = Generator::new(&model);
        for bits in [Bits::B64, Bits::B32] {
            let cases = (0..300).map(|seed| generator.sequence(seed, bits));
            let all: Vec<Instruction> = cases.flat_map(|case| case.instructions()).collect();
            assert!(all.len() > 1000);
            assert!(all.iter().all(|instruction| permitted(instruction, &model)));
        }
    }

    #[test]
    fn the_forms_cover_every_group_that_any_host_has() {
        let generator = Generator::new(&host_model());
        assert!(generator.forms(Bits::B64).all().count() > 1000);
        let has = |code| generator.forms(Bits::B64).all().any(|form| form == code);
        assert!(has(Code::Add_rm64_r64) && has(Code::Fadd_m64fp) && has(Code::Addps_xmm_xmmm128));
        assert!(!has(Code::Syscall) && !has(Code::Rdtsc) && !has(Code::Cpuid));
    }
}
