//! Instructions that every program uses: moves, arithmetic, stack, near
//! branches. The hot ones act themselves; the rest lets the host execute them.

pub(crate) mod native;

use iced_x86::Instruction;

use crate::decode::Choice;

pub(crate) fn choose(_instruction: &Instruction) -> Option<Choice> {
    None
}

/// Whether the handler needs nothing but the operands.
pub(crate) fn is_plain(_instruction: &Instruction) -> bool {
    false
}

/// Encodings that do nothing where the feature behind them is absent.
pub(crate) fn is_hint(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq | M::Pause | M::Nop | M::Reservednop
    )
}
