//! Vector instructions whose memory operands are not one plain piece.

use iced_x86::Instruction;

use crate::decode::Choice;

pub(crate) fn choose(_instruction: &Instruction) -> Option<Choice> {
    None
}
