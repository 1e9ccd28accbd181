//! Sequence numbers (RFC 9293, 3.4).

use std::cmp::Ordering;
use std::ops::{Add, AddAssign, Sub};

/// A sequence number; it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// How far this is after `other`; negative if it is before.
    pub(crate) fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// The later of two.
    pub(crate) fn max(self, other: Self) -> Self {
        if self.since(other) >= 0 { self } else { other }
    }
}

impl PartialOrd for Seq {
    /// Numbers half the space apart have no order that means anything.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.since(*other).cmp(&0))
    }
}

impl Add<usize> for Seq {
    type Output = Self;

    fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u32))
    }
}

impl AddAssign<usize> for Seq {
    fn add_assign(&mut self, bytes: usize) {
        *self = *self + bytes;
    }
}

impl Sub for Seq {
    type Output = usize;

    /// How far this is after `other`, zero if it is before.
    fn sub(self, other: Self) -> usize {
        usize::try_from(self.since(other)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let before = Seq(u32::MAX - 4);
        let after = before + 10;
        assert_eq!(after, Seq(5));
        assert!(before < after);
        assert_eq!(after - before, 10);
        assert_eq!(before - after, 0);
        assert_eq!(before.max(after), after);
    }
}
