//! One test case: code, and the seed of what surrounds it.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};

use crate::layout::{CODE, WINDOW};
use crate::state::{Bits, Plain, Registers, memory_image};

/// A sequence of instructions with its initial state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Mode.
    pub bits: Bits,
    /// Seed of registers and memory.
    pub seed: u64,
    /// What of the initial state is plain.
    pub plain: Plain,
    /// Linear address of the code.
    pub at: u64,
    /// The instructions' bytes.
    pub code: Vec<u8>,
}

impl Case {
    /// 64-bit code at the start of the code pages.
    pub fn new(bits: Bits, seed: u64, code: Vec<u8>) -> Self {
        Self { bits, seed, plain: Plain::default(), at: CODE, code }
    }

    /// The registers that it starts with.
    pub fn registers(&self) -> Registers {
        Registers::from_seed(self.seed, self.bits, self.plain, self.at)
    }

    /// The window's contents that it starts with.
    pub fn memory(&self) -> Vec<u8> {
        let mut image = memory_image(self.seed).to_vec();
        let start = (self.at - WINDOW) as usize;
        image[start..start + self.code.len()].copy_from_slice(&self.code);
        image
    }

    /// Its instructions, one after another.
    pub fn instructions(&self) -> Vec<Instruction> {
        Decoder::with_ip(self.bits.count(), &self.code, self.at, DecoderOptions::NONE).iter().collect()
    }

    /// The bytes in hexadecimal.
    pub fn hex(&self) -> String {
        self.code.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The disassembly, a line per instruction.
    pub fn listing(&self) -> String {
        let mut formatter = GasFormatter::new();
        let mut text = String::new();
        for instruction in self.instructions() {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            let _ = writeln!(text, "    {:#x}: {line}", instruction.ip());
        }
        text
    }

    /// The code from a string of hexadecimal digits; None unless it is one.
    pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
        let byte = |index| u8::from_str_radix(text.get(index..index + 2)?, 16).ok();
        (0..text.len()).step_by(2).map(byte).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        let case = Case::new(Bits::B64, 0, vec![0x48, 0x01, 0xd8]);
        assert_eq!(Case::parse_hex(&case.hex()), Some(case.code.clone()));
        assert_eq!(Case::parse_hex("4"), None);
        assert!(case.listing().contains("add"), "{}", case.listing());
    }
}
