//! Letting the host's processor say what an instruction means.
//!
//! Guest and host are the same architecture, so arithmetic, x87 and vector
//! instructions need no semantics of ours: a [`Thunk`] loads the guest's
//! registers, executes the instruction with its memory operand replaced by a
//! host address, and stores the registers again. If the instruction faults
//! (divide error, misaligned vector operand, unmasked floating-point
//! exception), a signal handler turns the host's fault into a result, and the
//! guest's state is as it was before.

mod arena;
mod bounce;
mod call;
mod contained;
#[cfg(test)]
mod coverage;
mod emit;
mod guard;
mod host;
mod plan;
#[cfg(test)]
mod tests;
mod trap;

pub(crate) use arena::Arena;
pub(crate) use bounce::{Bounce, MAX_OPERAND};
pub(crate) use call::Thunk;
pub(crate) use contained::contained;
pub(crate) use emit::emit;
pub(crate) use guard::{Guard, Hole};
pub(crate) use host::HostCpu;
pub(crate) use plan::converts_to_integer;
pub use plan::portable;
pub(crate) use trap::install_handlers;
