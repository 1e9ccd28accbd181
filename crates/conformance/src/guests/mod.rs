//! The guests, one file per topic.

mod debug;
mod delivery;
mod io;
mod iret;
mod long_paging;
mod paging;
mod privileged;
mod real;
mod segments;
mod sensitive;
mod shadow;
mod strings;
mod tasks;
mod transfers;
mod v86;

use crate::Guest;

/// All guests.
pub fn catalogue() -> Vec<Guest> {
    [real::guests(), segments::guests(), paging::guests(), long_paging::guests(), delivery::guests(), transfers::guests(), iret::guests(), tasks::guests(), v86::guests(), shadow::guests(), debug::guests(), strings::guests(), io::guests(), sensitive::guests(), privileged::guests()].concat()
}
