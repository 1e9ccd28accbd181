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
    Row {
        bits: Bits::B32,
        seed: 0x5,
        plain: 7,
        at: 0x20001000,
        code: "660fde8c8d451b33e0",
        why: "a page fault came before the #GP of a misaligned operand",
    },
    Row {
        bits: Bits::B32,
        seed: 0x26,
        plain: 7,
        at: 0x20001000,
        code: "c5fd6f940df0c2ffff",
        why: "a misaligned operand on the stack was #SS",
    },
    Row {
        bits: Bits::B64,
        seed: 0xb9,
        plain: 7,
        at: 0x20001000,
        code: "bf7b7800200ff7d2",
        why: "MASKMOVQ looked only at the bytes that it stores",
    },
    Row {
        bits: Bits::B64,
        seed: 0x2e,
        plain: 7,
        at: 0x20001000,
        code: "bffd5f0020660ff7f7",
        why: "MASKMOVDQU looked only at the bytes that it stores",
    },
    Row {
        bits: Bits::B32,
        seed: 0x2c,
        plain: 6,
        at: 0x20001000,
        code: "bf2a510020c4e2692daff0100000",
        why: "a masked access faulted where its operand begins",
    },
    Row {
        bits: Bits::B64,
        seed: 0x188,
        plain: 7,
        at: 0x20001000,
        code: "650f2d042581000000",
        why: "CVTPS2PI lost its flags",
    },
    Row {
        bits: Bits::B32,
        seed: 0x169,
        plain: 7,
        at: 0x20001000,
        code: "0f1c87583d0000",
        why: "CLDEMOTE faulted",
    },
    Row {
        bits: Bits::B32,
        seed: 0xa4,
        plain: 7,
        at: 0x20001000,
        code: "f0820d5f5000209e",
        why: "opcode 82 could not be locked",
    },
    Row {
        bits: Bits::B32,
        seed: 0x6d0,
        plain: 6,
        at: 0x20001000,
        code: "d8855af7ffffdbe1",
        why: "FNDISI raised a pending exception",
    },
    Row {
        bits: Bits::B64,
        seed: 0x79,
        plain: 6,
        at: 0x20001000,
        code: "62e37d281d1c25fb5f002000",
        why: "a page fault came before the exception of the value to store",
    },
    Row {
        bits: Bits::B64,
        seed: 0x655,
        plain: 6,
        at: 0x20001000,
        code: "65df1c2597500000",
        why: "an x87 store that stores nothing faulted",
    },
    Row {
        bits: Bits::B32,
        seed: 0x5d0,
        plain: 7,
        at: 0x20001000,
        code: "8915ffffffff",
        why: "an access that wraps at 4 GiB was #GP",
    },
    Row {
        bits: Bits::B32,
        seed: 0x10c9,
        plain: 7,
        at: 0x20001000,
        code: "c4e258f315fe4f0020684d100020",
        why: "a push that wraps at 4 GiB was #SS",
    },
    Row {
        bits: Bits::B32,
        seed: 0x3a8,
        plain: 7,
        at: 0x20001000,
        code: "3662f3f5bf2535ffffffffaa",
        why: "a mask that selects nothing left the segment",
    },
    Row {
        bits: Bits::B32,
        seed: 0x75c,
        plain: 7,
        at: 0x20001000,
        code: "bfb987002063873ff8ffff",
        why: "ARPL wanted to write what it leaves alone",
    },
    Row {
        bits: Bits::B64,
        seed: 0x6db,
        plain: 7,
        at: 0x20001000,
        code: "480fc78daffdffff",
        why: "a misaligned CMPXCHG16B on the stack was #SS",
    },
    Row {
        bits: Bits::B32,
        seed: 0x48dc,
        plain: 7,
        at: 0x20001000,
        code: "61",
        why: "POPA kept its registers until all were read",
    },
    Row {
        bits: Bits::B64,
        seed: 0x580e,
        plain: 7,
        at: 0x20001000,
        code: "5d9dc4e2f8f39d9dc8ffff",
        why: "an alignment check came before that of the address",
    },
    Row {
        bits: Bits::B64,
        seed: 0x6278,
        plain: 3,
        at: 0x20001000,
        code: "480fbb8c24d8aeffff",
        why: "BTC left the stack with #GP",
    },
    Row {
        bits: Bits::B32,
        seed: 0x37c9f,
        plain: 6,
        at: 0x20001000,
        code: "9d62f2fd2c900c7d404e0020",
        why: "a gather checked its alignment",
    },
    Row {
        bits: Bits::B64,
        seed: 0x36133,
        plain: 3,
        at: 0x20001000,
        code: "48f7b453e2fcffff3e62f3cd101ebc450e0b000000",
        why: "64-bit code chose DS by prefix",
    },
    Row {
        bits: Bits::B32,
        seed: 0x2d1a3,
        plain: 6,
        at: 0x20001000,
        code: "2edb9c2458a6ffff",
        why: "an x87 store that stores nothing was outside its segment",
    },
    Row {
        bits: Bits::B32,
        seed: 0x771db,
        plain: 7,
        at: 0x20001000,
        code: "2e62f27e2c20bb970a0000",
        why: "a mask that selects nothing was outside its segment",
    },
    Row {
        bits: Bits::B32,
        seed: 0x92584,
        plain: 6,
        at: 0x20001000,
        code: "9d62f25d0d4d94ce7f1f0000",
        why: "the parts of a masked operand were aligned, but not the whole",
    },
    Row {
        bits: Bits::B64,
        seed: 0x5cf7e,
        plain: 3,
        at: 0x20001000,
        code: "9d62d2f53237949538590000",
        why: "what a mask leaves out was misaligned",
    },
    Row {
        bits: Bits::B64,
        seed: 0x53772,
        plain: 3,
        at: 0x20001000,
        code: "67f348ab",
        why: "a fault left the upper half of RCX",
    },
];
