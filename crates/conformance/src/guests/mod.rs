//! The guests, one file per topic.

mod real;

use crate::Guest;

/// All guests.
pub fn catalogue() -> Vec<Guest> {
    [real::guests()].concat()
}
