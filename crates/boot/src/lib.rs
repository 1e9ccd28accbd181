//! Kernels and firmware into guest memory, and the state in which the boot
//! processor starts them.
//!
//! Four ways in: Linux bzImage by its 64-bit or 32-bit protocol, ELF by the
//! PVH entry, multiboot 1, and raw firmware at the reset vector. Every field of
//! a file is hostile: it is checked where it is read, and what does not fit is
//! a [`BootError`], never a truncation. Where the loader's own structures lie
//! in guest memory is the table in [`layout`].

#![forbid(unsafe_code)]

mod bzimage;
mod cpu;
mod e820;
mod elf;
mod error;
mod firmware;
#[doc(hidden)]
pub mod harness;
mod image;
pub mod layout;
mod modules;
mod multiboot;
pub mod payload;
mod places;
mod pvh;
mod request;
#[cfg(test)]
mod testing;

pub use e820::{E820Entry, E820Kind, e820};
pub use error::{BootError, PayloadError};
pub use firmware::{MAX_FIRMWARE, firmware_roms, load_firmware};
pub use request::{BootRequest, Entry, KernelKind, Module, Protocol, detect, load};
