//! What processors do where the manuals leave it open, or say what not all of
//! them do: it differs between vendors, and from one generation to the next.
//!
//! A guest gets what the processors do whose vendor and family CPUID tells it.
//! The table was found by comparing engines with processors: of Intel, and of
//! AMD before family 0x1A and of that family. Others are taken for the nearest
//! of these.

use super::Vendor;

/// Something that some processors do and others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Habit {
    /// An access that begins below 4 GiB and ends above wraps around in a
    /// segment with the highest limit. Without, it is outside (SDM 3A 5.3 leaves
    /// that open).
    WrapsAt4Gib,
    /// A fault in a repeated comparison gives the flags back that the
    /// instruction began with (SDM 2B REP). Without, those of the last
    /// comparison stay.
    RestoresFlagsOfRepetition,
    /// A repeated instruction with a 32-bit count that comes to nothing, for the
    /// count is 0 or its first element faults, clears the upper half of RCX all
    /// the same.
    ExtendsCountOfNothing,
    /// CMPS reads its source before its destination, which tells which of two
    /// bad operands faults.
    ReadsSourceFirstInCmps,
    /// REPE CMPSB does, whatever the other forms do.
    ReadsSourceFirstInRepeCmpsb,
    /// Each element that a mask selects is checked for itself: its alignment and
    /// that it ends within its segment. Without, the whole operand is.
    ChecksMaskedElements,
    /// The elements of VMASKMOV and VPMASKMOV that lie behind 4 GiB wrap around.
    WrapsMaskedMoves,
    /// FLDENV and FRSTOR look for the page of their first field before they find
    /// that the last one is outside the segment.
    LoadsEnvironmentFieldByField,
    /// Fields of EVEX that mean nothing are ignored: V' outside of 64-bit mode,
    /// and b beside a register in the place of memory that could be broadcast.
    /// Without, they are #UD (SDM 2A 2.7.11).
    IgnoresEvexFields,
    /// MASKMOVDQU reaches its upper quadword first.
    MasksUpperQuadwordFirst,
    /// A near CALL finds that it cannot push before it finds that its target is
    /// not canonical or outside the segment.
    ChecksStackBeforeTarget,
}

use Habit::*;

const INTEL: &[Habit] =
    &[WrapsAt4Gib, RestoresFlagsOfRepetition, ExtendsCountOfNothing, MasksUpperQuadwordFirst];
const AMD: &[Habit] = &[
    ReadsSourceFirstInRepeCmpsb,
    ChecksMaskedElements,
    WrapsMaskedMoves,
    LoadsEnvironmentFieldByField,
    IgnoresEvexFields,
];
const AMD_FROM_1A: &[Habit] = &[
    ReadsSourceFirstInCmps,
    ReadsSourceFirstInRepeCmpsb,
    ChecksMaskedElements,
    LoadsEnvironmentFieldByField,
    ChecksStackBeforeTarget,
];

/// A processor's habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits(u16);

impl Habits {
    /// Those of a processor of `vendor` and `family`.
    pub fn of(vendor: Vendor, family: u32) -> Self {
        let list = match (vendor, family) {
            (Vendor::Amd, 0x1a..) => AMD_FROM_1A,
            (Vendor::Amd, _) => AMD,
            _ => INTEL,
        };
        Self(list.iter().fold(0, |bits, habit| bits | habit.bit()))
    }

    /// Whether `habit` is one of them.
    pub const fn has(self, habit: Habit) -> bool {
        self.0 & habit.bit() != 0
    }

    /// The same but for `habit`.
    #[must_use]
    pub const fn toggled(self, habit: Habit) -> Self {
        Self(self.0 ^ habit.bit())
    }
}

impl Habit {
    const fn bit(self) -> u16 {
        1 << self as u8
    }
}
