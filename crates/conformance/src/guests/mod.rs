//! The guests, one file per topic.

mod delivery;
mod long_paging;
mod paging;
mod real;
mod segments;
mod transfers;

use crate::Guest;

/// All guests.
pub fn catalogue() -> Vec<Guest> {
    [real::guests(), segments::guests(), paging::guests(), long_paging::guests(), delivery::guests(), transfers::guests()].concat()
}
