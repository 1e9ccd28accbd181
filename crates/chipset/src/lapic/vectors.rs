//! A 256-bit set of vectors, as IRR, ISR and TMR are.

use serde::{Deserialize, Serialize};

/// A set of interrupt vectors: eight 32-bit registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSet([u32; 8]);

impl VectorSet {
    /// The set that `words` holds, lowest vectors first. Vectors 0 to 15,
    /// which no local APIC accepts, are left out.
    pub fn from_words(mut words: [u32; 8]) -> Self {
        words[0] &= !0xffff;
        Self(words)
    }

    /// Register `index` of the eight; zero beyond.
    pub fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Adds `vector`.
    pub fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    /// Takes `vector` out.
    pub fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    /// Whether `vector` is in the set.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
    }

    /// The highest vector in the set.
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u8) << 5 | word.ilog2() as u8)
    }

    /// All eight registers.
    pub(super) fn words(&self) -> [u32; 8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_is_its_own() {
        for vector in 0..=255u8 {
            let mut set = VectorSet::default();
            assert_eq!(set.highest(), None);
            set.insert(vector);
            assert!(set.contains(vector));
            assert!(!set.contains(vector ^ 1));
            assert_eq!(set.highest(), Some(vector));
            assert_eq!(set.word(usize::from(vector / 32)), 1 << (vector % 32));
            set.remove(vector);
            assert_eq!(set, VectorSet::default());
        }
    }

    #[test]
    fn highest_wins() {
        let mut set = VectorSet::default();
        for vector in [0x20, 0x41, 0x40] {
            set.insert(vector);
        }
        assert_eq!(set.highest(), Some(0x41));
        assert_eq!(set.word(8), 0);
    }
}
