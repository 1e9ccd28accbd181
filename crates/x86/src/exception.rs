//! Exceptions and interrupt vectors (SDM 3A 6.3 to 6.5).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// An interrupt or exception vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vector(pub u8);

#[allow(missing_docs, reason = "the manual's mnemonics, in its order (SDM 3A table 6-1)")]
impl Vector {
    pub const DE: Self = Self(0);
    pub const DB: Self = Self(1);
    pub const NMI: Self = Self(2);
    pub const BP: Self = Self(3);
    pub const OF: Self = Self(4);
    pub const BR: Self = Self(5);
    pub const UD: Self = Self(6);
    pub const NM: Self = Self(7);
    pub const DF: Self = Self(8);
    pub const TS: Self = Self(10);
    pub const NP: Self = Self(11);
    pub const SS: Self = Self(12);
    pub const GP: Self = Self(13);
    pub const PF: Self = Self(14);
    pub const MF: Self = Self(16);
    pub const AC: Self = Self(17);
    pub const MC: Self = Self(18);
    pub const XM: Self = Self(19);
    pub const VE: Self = Self(20);
    pub const CP: Self = Self(21);
}

/// How an exception combines with one that is being delivered (SDM 3A table
/// 6-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionClass {
    /// Delivered one after the other.
    Benign,
    /// Two of these, or one after a page fault, make a double fault.
    Contributory,
    /// After a contributory fault or another page fault: a double fault.
    PageFault,
    /// Anything but a benign exception after it: shutdown.
    DoubleFault,
}

impl Vector {
    /// The class of the exception with this vector.
    pub const fn class(self) -> ExceptionClass {
        match self {
            Self::DE | Self::TS | Self::NP | Self::SS | Self::GP | Self::CP => ExceptionClass::Contributory,
            Self::PF | Self::VE => ExceptionClass::PageFault,
            Self::DF => ExceptionClass::DoubleFault,
            _ => ExceptionClass::Benign,
        }
    }

    /// Whether the processor pushes an error code for this exception.
    pub const fn has_error_code(self) -> bool {
        matches!(self, Self::DF | Self::TS | Self::NP | Self::SS | Self::GP | Self::PF | Self::AC | Self::CP)
    }
}

bitflags! {
    /// The error code of a page fault (SDM 3A 4.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PageFaultCode: u32 {
        /// A protection violation, not an absent page.
        const PRESENT = 1 << 0;
        /// A write.
        const WRITE = 1 << 1;
        /// A user-mode access.
        const USER = 1 << 2;
        /// A reserved bit was set in a paging structure.
        const RESERVED = 1 << 3;
        /// An instruction fetch (with NX or SMEP).
        const FETCH = 1 << 4;
        /// A protection-key violation.
        const PROTECTION_KEY = 1 << 5;
    }
}

/// An exception with all that its delivery needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// The error code, for those that have one.
    pub error_code: Option<u32>,
    /// For a page fault, the linear address that goes to CR2.
    pub cr2: Option<u64>,
}

impl Exception {
    /// An exception without an error code.
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: None, cr2: None }
    }

    /// An exception with an error code.
    pub const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, error_code: Some(code), cr2: None }
    }

    /// Invalid opcode.
    pub const UD: Self = Self::plain(Vector::UD);
    /// Device not available.
    pub const NM: Self = Self::plain(Vector::NM);
    /// Divide error.
    pub const DE: Self = Self::plain(Vector::DE);

    /// General protection with error code `code`.
    pub const fn gp(code: u32) -> Self {
        Self::with_code(Vector::GP, code)
    }

    /// Stack fault with error code `code`.
    pub const fn ss(code: u32) -> Self {
        Self::with_code(Vector::SS, code)
    }

    /// Segment not present.
    pub const fn np(code: u32) -> Self {
        Self::with_code(Vector::NP, code)
    }

    /// Invalid TSS.
    pub const fn ts(code: u32) -> Self {
        Self::with_code(Vector::TS, code)
    }

    /// Page fault at linear address `cr2`.
    pub const fn pf(code: PageFaultCode, cr2: u64) -> Self {
        Self { vector: Vector::PF, error_code: Some(code.bits()), cr2: Some(cr2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_manual() {
        let contributory: Vec<u8> =
            (0..32).filter(|&v| Vector(v).class() == ExceptionClass::Contributory).collect();
        assert_eq!(contributory, [0, 10, 11, 12, 13, 21]);
        let coded: Vec<u8> = (0..32).filter(|&v| Vector(v).has_error_code()).collect();
        assert_eq!(coded, [8, 10, 11, 12, 13, 14, 17, 21]);
    }
}
