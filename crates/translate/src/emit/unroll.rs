//! A loop that makes up a block is there several times in it: several turns
//! share one look whether somebody wants the vCPU, and the windows of one that
//! goes through memory in constant steps span them all.

use iced_x86::Instruction;

use super::Body;

/// The most instructions of a loop with all its copies.
const MAX_INSNS: usize = 80;
/// The most copies.
const MAX_COPIES: usize = 4;

/// An instruction of a block in the making.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) instruction: Instruction,
    /// Where it lies in the page.
    pub(super) place: u16,
    /// It is a branch to the block's start, which comes next.
    pub(super) again: bool,
}

impl Body<'_> {
    /// If `block` ends with a conditional branch to its own start: appends
    /// copies. All but the last go on with the next, and leave the block where
    /// the loop ends.
    pub(super) fn unroll(&mut self, block: &mut Vec<Step>) {
        let (Some(first), Some(last)) = (block.first(), block.last()) else { return };
        let copies = (MAX_INSNS / block.len()).min(MAX_COPIES);
        let behind = i64::from(last.place) + last.instruction.len() as i64;
        let back = last.instruction.code().is_jcc_short_or_near()
            && self.target(&last.instruction) == Some(first.place.into());
        let unrolled = block.iter().any(|step| step.again);
        if copies < 2 || unrolled || !back || !self.is_linkable(behind) {
            return;
        }
        let turn = block.clone();
        for _ in 1..copies {
            if let Some(last) = block.last_mut() {
                last.again = true;
            }
            block.extend_from_slice(&turn);
        }
    }
}
