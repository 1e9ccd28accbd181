//! Where guest registers live while translated code runs.
//!
//! Ten of them are where they always are. Host RCX, R10 and R11 are scratch
//! (JRCXZ tests RCX without touching flags), RSP points at the context; so
//! guest RCX lives in R9, guest RSP in R8, and guest R8 to R11, the ones used
//! least, in the context.

use iced_x86::Register;

use crate::asm::{Mem, R8, R9, Reg, field};
use crate::context::offset;

/// Guest register numbers that matter here.
pub(crate) const GUEST_RCX: u8 = 1;
pub(crate) const GUEST_RSP: u8 = 4;

/// A guest register's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A host register.
    Host(Reg),
    /// The context.
    Home(HomeSlot),
}

/// A field of the context by its displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HomeSlot(pub(crate) i32);

impl HomeSlot {
    pub(crate) const fn mem(self) -> Mem {
        field(self.0)
    }
}

/// The place of guest register `number`.
pub(crate) const fn place_of(number: u8) -> Place {
    match number {
        GUEST_RCX => Place::Host(R9),
        GUEST_RSP => Place::Host(R8),
        8..=11 => Place::Home(HomeSlot(offset!(home) + (number as i32 - 8) * 8)),
        other => Place::Host(other),
    }
}

/// The number of a guest's general-purpose register, whatever part of it is
/// named.
pub(crate) fn number_of(register: Register) -> u8 {
    register.full_register().number() as u8
}

/// The low `bytes` bytes of host register `number`.
pub(crate) fn sized(number: Reg, bytes: usize) -> Register {
    let number = u32::from(number);
    match bytes {
        1 if number < 4 => Register::AL + number,
        1 if number < 8 => Register::SPL + (number - 4),
        1 => Register::R8L + (number - 8),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// Whether it is AH, CH, DH or BH.
pub(crate) fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}
