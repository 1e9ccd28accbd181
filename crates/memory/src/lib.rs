//! Guest-physical memory: RAM and ROM of the machine, as the devices, the
//! loaders and the engines see it.
//!
//! RAM is mapped once into this process. Devices and loaders copy in and out
//! with bounds checks; engines ask for the host address of a page and access it
//! directly. Every write that goes through this crate tells the
//! [code-page tracker](CodePages), so that DMA into code is noticed; an engine
//! does the same for the stores that it performs itself.

// Host pointers into the mapping, and atomic accesses through them, are the
// job of this crate.
#![allow(unsafe_code)]

mod code;
mod huge;
mod layout;
mod ram;
mod rendezvous;
mod walk;

pub use code::{CodeHit, CodePages, GRANULE, granule_mask};
pub use huge::{HUGE_PAGE, NoMemory, zeroed_buffer};
pub use layout::{HIGH_RAM_START, LOW_RAM_END, MAX_RAM, MIN_RAM, RamLayout};
pub use ram::{GuestMemory, HostPage, MemoryError, MemoryRegion};
pub use rendezvous::{Alone, Call, Forget, MAX_SEATS, Seat};
