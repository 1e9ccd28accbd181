//! Cases that once showed a mistake. They run first, always.

use crate::case::Case;
use crate::state::{Bits, Plain};

/// A case as it is committed; [`Failure`](crate::Failure) prints itself so.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Mode.
    pub bits: Bits,
    /// Seed of registers and memory.
    pub seed: u64,
    /// What of the initial state is plain.
    pub plain: u8,
    /// Linear address.
    pub at: u64,
    /// The code in hexadecimal.
    pub code: &'static str,
    /// What went wrong.
    pub why: &'static str,
}

impl Row {
    /// The case; None if the row is misspelt.
    pub fn case(&self) -> Option<Case> {
        let code = Case::parse_hex(self.code)?;
        Some(Case { bits: self.bits, seed: self.seed, plain: Plain(self.plain), at: self.at, code })
    }
}

/// All of them, oldest first.
pub const REGRESSIONS: &[Row] = &[
    Row {
        bits: Bits::B32,
        seed: 0x73,
        plain: 6,
        at: 0x20001000,
        code: "dbe3",
        why: "FNINIT turned the x87 stack",
    },
    Row {
        bits: Bits::B32,
        seed: 0x9,
        plain: 2,
        at: 0x20001000,
        code: "d9a496400efeff",
        why: "FLDENV turned the x87 stack",
    },
    Row {
        bits: Bits::B64,
        seed: 0x199,
        plain: 3,
        at: 0x20001000,
        code: "6766f348ab",
        why: "no repetition left the upper half of RCX",
    },
    Row {
        bits: Bits::B32,
        seed: 0x15,
        plain: 7,
        at: 0x20001000,
        code: "b9a700000067f2a6",
        why: "CMPS read its source first",
    },
    Row {
        bits: Bits::B32,
        seed: 0xaa7,
        plain: 3,
        at: 0x20001000,
        code: "bfc45f0020f2ae",
        why: "a fault kept the flags of the comparisons before it",
    },
];
