//! Privileged and sensitive instructions, control transfer between segments
//! and privilege levels, exceptions and interrupts.

mod control;
mod flags;
mod io;
mod misc;
mod msr;
mod tables;

use engine::{Signal, Stop};
use iced_x86::Instruction;
use x86::{Exception, InterruptShadow, Rflags, Vector};

use crate::cpu::Cpu;
use crate::decode::{Choice, undefined};

pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    control::choose(instruction)
        .or_else(|| flags::choose(instruction))
        .or_else(|| io::choose(instruction))
        .or_else(|| misc::choose(instruction))
        .or_else(|| msr::choose(instruction))
        .or_else(|| tables::choose(instruction))
}

/// Delivers a fault of the current instruction, escalating to a double fault
/// and to shutdown.
pub(crate) fn deliver_exception(_cpu: &mut Cpu, _exception: Exception) -> Result<(), Stop> {
    Err(Stop::TripleFault)
}

/// Delivers a trap of the instruction before (RF is not set in the saved
/// flags).
pub(crate) fn deliver_exception_as_trap(cpu: &mut Cpu, exception: Exception) -> Result<(), Stop> {
    deliver_exception(cpu, exception)
}

pub(crate) fn deliver_nmi(_cpu: &mut Cpu) -> Result<(), Stop> {
    Err(Stop::TripleFault)
}

pub(crate) fn deliver_external(_cpu: &mut Cpu, _vector: Vector) -> Result<(), Stop> {
    Err(Stop::TripleFault)
}

pub(crate) fn nmi_allowed(cpu: &Cpu) -> bool {
    !cpu.state.nmi_blocked && cpu.state.interrupt_shadow != InterruptShadow::MovSs
}

pub(crate) fn interrupts_allowed(cpu: &Cpu) -> bool {
    cpu.state.rflags.contains(Rflags::IF) && cpu.state.interrupt_shadow == InterruptShadow::None
}

pub(crate) fn take_init_and_sipi(cpu: &mut Cpu) {
    cpu.signals.take(Signal::Init);
}
