//! The guests, one file per topic.

mod code;
mod control;
mod debug;
mod delivery;
mod fpu;
mod general;
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
mod syscall;
mod tasks;
mod transfers;
mod v86;
mod vector;

use crate::Guest;

/// All guests.
pub fn catalogue() -> Vec<Guest> {
    [
        real::guests(),
        segments::guests(),
        paging::guests(),
        long_paging::guests(),
        delivery::guests(),
        transfers::guests(),
        iret::guests(),
        tasks::guests(),
        v86::guests(),
        shadow::guests(),
        debug::guests(),
        strings::guests(),
        io::guests(),
        sensitive::guests(),
        privileged::guests(),
        syscall::guests(),
        control::guests(),
        fpu::guests(),
        vector::guests(),
        code::guests(),
        general::guests(),
    ]
    .concat()
}
