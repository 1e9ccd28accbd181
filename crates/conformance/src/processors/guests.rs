//! The guests, by what they are about.

mod code;
mod hostile;
mod interrupts;
mod shared;

use super::Several;

/// All guests.
pub(super) fn all() -> Vec<Several> {
    let mut all = shared::guests();
    all.extend(code::guests());
    all.extend(interrupts::guests());
    all.extend(hostile::guests());
    all
}
