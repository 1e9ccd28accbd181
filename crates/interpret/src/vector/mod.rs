//! Vector instructions whose memory operands are not one plain piece.
//!
//! [`gather`] and [`maskmov`] act themselves, element by element. [`masked`]
//! lets the host execute the instruction with its masks, and steps in where a
//! part of the operand cannot be accessed.

mod gather;
mod masked;
mod maskmov;
#[cfg(test)]
mod tests;

use iced_x86::Instruction;

use crate::decode::Choice;

pub(crate) use masked::{masked, packs};

/// The handler, if the instruction is one that acts itself.
pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    gather::choose(instruction).or_else(|| maskmov::choose(instruction))
}
