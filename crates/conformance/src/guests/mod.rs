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
mod loops;
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
        loops::guests(),
        general::guests(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_guest_cites_or_says_what_it_checks() {
        let guests = catalogue();
        let names: HashSet<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        assert_eq!(names.len(), guests.len());
        assert!(guests.len() >= 150);
        assert!(guests.iter().all(|guest| guest.doc.ends_with('.')));
    }

    #[test]
    fn no_piece_of_a_guest_overwrites_another() {
        for guest in catalogue() {
            let code: Vec<_> = guest.memory.iter().filter(|(at, _)| (0x8000..0xd000).contains(at)).collect();
            for (index, (at, bytes)) in code.iter().enumerate() {
                let clash = |(other, more): &&&(u64, Vec<u8>)| {
                    at < &(other + more.len() as u64) && other < &(at + bytes.len() as u64)
                };
                // A piece may replace another of the same address on purpose.
                let clash = code[..index].iter().find(|other| other.0 != *at && clash(other));
                assert!(clash.is_none(), "{}: {at:#x}", guest.name);
            }
        }
    }
}
