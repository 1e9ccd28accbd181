//! Privileged and sensitive instructions, control transfer between segments
//! and privilege levels, exceptions and interrupts.

mod control;
mod flags;
mod io;
mod misc;
mod msr;
mod tables;
mod transfer;

use iced_x86::Instruction;

use crate::decode::{Choice, undefined};

pub use transfer::FlatWay;
pub(crate) use transfer::{
    accept_nmis, deliver_breakpoint, deliver_exception, deliver_exception_as_trap, deliver_external,
    deliver_nmi, flat_ways, interrupts_allowed, load_syscall_code_segment, load_syscall_segments,
    load_sysret_segments, nmi_allowed, take_init_and_sipi,
};

pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    control::choose(instruction)
        .or_else(|| flags::choose(instruction))
        .or_else(|| io::choose(instruction))
        .or_else(|| misc::choose(instruction))
        .or_else(|| msr::choose(instruction))
        .or_else(|| tables::choose(instruction))
        .or_else(|| transfer::choose(instruction))
}
