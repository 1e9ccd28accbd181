//! Which habits the host's processor has: what the manuals leave open, an engine
//! must do as this one does, whatever its generation.

use x86::cpuid::Habit;

use crate::regressions::Row;
use crate::state::Bits;

/// A case that ends otherwise without a habit than with it.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// The habit.
    pub habit: Habit,
    /// The case; like all rows it was once wrong.
    pub row: Row,
}

/// A case for each habit, in the order in which they can be told.
pub const TELLING: &[Telling] = &[
    Telling {
        habit: Habit::WrapsAt4Gib,
        row: Row {
            bits: Bits::B32,
            seed: 0x5d0,
            plain: 7,
            at: 0x20001000,
            code: "8915ffffffff",
            why: "an access that wraps at 4 GiB was #GP",
        },
    },
    Telling {
        habit: Habit::RestoresFlagsOfRepetition,
        row: Row {
            bits: Bits::B32,
            seed: 0xaa7,
            plain: 3,
            at: 0x20001000,
            code: "bfc45f0020f2ae",
            why: "a fault kept the flags of the comparisons before it",
        },
    },
    Telling {
        habit: Habit::ExtendsCountOfNothing,
        row: Row {
            bits: Bits::B64,
            seed: 0x199,
            plain: 3,
            at: 0x20001000,
            code: "6766f348ab",
            why: "no repetition left the upper half of RCX",
        },
    },
    Telling {
        habit: Habit::ReadsSourceFirstInCmps,
        row: Row {
            bits: Bits::B32,
            seed: 0x15,
            plain: 7,
            at: 0x20001000,
            code: "b9a700000067f2a6",
            why: "CMPS read its source first",
        },
    },
    Telling {
        habit: Habit::ReadsSourceFirstInRepeCmpsb,
        row: Row {
            bits: Bits::B32,
            seed: 0xb5,
            plain: 7,
            at: 0x20001000,
            code: "b90d0000006766f3a6",
            why: "REPE CMPSB read its destination first on AMD's processors",
        },
    },
    Telling {
        habit: Habit::ChecksMaskedElements,
        row: Row {
            bits: Bits::B32,
            seed: 0x75ac,
            plain: 6,
            at: 0x20001000,
            code: "62f35d291ea32babffdff9",
            why: "an element in front of 4 GiB was outside its segment on AMD's processors",
        },
    },
    Telling {
        habit: Habit::WrapsMaskedMoves,
        row: Row {
            bits: Bits::B32,
            seed: 0xfe17,
            plain: 6,
            at: 0x20001000,
            code: "c4e2692d9628a0ffdf",
            why: "VMASKMOV did not wrap at 4 GiB on AMD's processors",
        },
    },
    Telling {
        habit: Habit::LoadsEnvironmentFieldByField,
        row: Row {
            bits: Bits::B32,
            seed: 0xe001,
            plain: 7,
            at: 0x20001000,
            code: "dda7eba3ffdf",
            why: "FRSTOR looked at its end first on AMD's processors",
        },
    },
    Telling {
        habit: Habit::IgnoresEvexFields,
        row: Row {
            bits: Bits::B64,
            seed: 5,
            plain: 7,
            at: 0x20001000,
            code: "62f16d18fecb",
            why: "b of EVEX was looked at beside a register",
        },
    },
    Telling {
        habit: Habit::MasksUpperQuadwordFirst,
        row: Row {
            bits: Bits::B64,
            seed: 0x2e,
            plain: 7,
            at: 0x20001000,
            code: "bffd5f0020660ff7f7",
            why: "MASKMOVDQU looked only at the bytes that it stores",
        },
    },
    Telling {
        habit: Habit::ChecksStackBeforeTarget,
        row: Row {
            bits: Bits::B64,
            seed: 0x3952903,
            plain: 3,
            at: 0x20001000,
            code: "ffd0",
            why: "CALL looked at its target before the stack",
        },
    },
];
