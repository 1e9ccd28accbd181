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
pub const REGRESSIONS: &[Row] = &[];
