//! x87, SSE and extended-state management: everything that moves whole
//! register files or says which of them exist. Arithmetic on them is the
//! host's ([`native`](crate::native)).

mod area;
mod environment;
mod image;
mod mxcsr;
#[cfg(test)]
mod tests;
mod upper;
mod xcr;

use iced_x86::Instruction;

use crate::decode::Choice;

/// The handler, if the instruction is one of these.
pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    image::choose(instruction)
        .or_else(|| environment::choose(instruction))
        .or_else(|| mxcsr::choose(instruction))
        .or_else(|| upper::choose(instruction))
        .or_else(|| xcr::choose(instruction))
}
