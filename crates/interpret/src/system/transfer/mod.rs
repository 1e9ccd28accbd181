//! Control transfer between segments, privilege levels and tasks, and the
//! loads of segment registers that come with it (SDM 3A chapters 3, 5 to 8).
//!
//! Whatever can fault is checked before any register changes, so that a fault
//! on the way finds the state of the instruction's start. A transfer leaves
//! its destination in [`Cpu::next_rip`].

mod call_gate;
mod code;
mod deliver;
mod descriptors;
mod events;
mod far;
mod frame;
mod gate;
mod iret;
mod long;
mod real;
mod ret;
mod segment_insns;
mod segments;
mod software;
mod stacks;
mod syscall;
mod system_segments;
mod task;
mod task_state;
#[cfg(test)]
mod tests;
mod verify;

use iced_x86::Instruction;

use crate::decode::Choice;

pub(crate) use deliver::{
    deliver_breakpoint, deliver_exception, deliver_exception_as_trap, deliver_external, deliver_nmi,
};
pub(crate) use events::{accept_nmis, interrupts_allowed, nmi_allowed, take_init_and_sipi};
pub use iret::FlatWay;
pub(crate) use iret::flat_ways;
pub(crate) use syscall::{load_syscall_code_segment, load_syscall_segments, load_sysret_segments};

/// The handler, if the instruction is one of this group.
pub(super) fn choose(instruction: &Instruction) -> Option<Choice> {
    far::choose(instruction)
        .or_else(|| iret::choose(instruction))
        .or_else(|| segment_insns::choose(instruction))
        .or_else(|| software::choose(instruction))
        .or_else(|| syscall::choose(instruction))
        .or_else(|| system_segments::choose(instruction))
        .or_else(|| verify::choose(instruction))
}
