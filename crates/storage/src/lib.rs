//! Disk images: raw, qcow2 with backing files, VMDK for reading.
//!
//! [`Disk::open`] opens an image with all that it builds upon, locks the files
//! against other writers, and hands out one object that any thread may use.
//! The formats are the `imago` crate's; what is decided here is which files
//! may be opened, as what, and when a write is durable.
//!
//! Images are untrusted: what they name is opened only if it is a regular file
//! or a block device, for reading, as a chain that ends; and a raw disk never
//! becomes anything else by what a guest has written to it.

#![deny(unsafe_code)]

mod chain;
mod disk;
mod error;
mod format;
mod lock;
mod qcow2;
mod rate;
#[cfg(test)]
mod tests;
mod vmdk;

pub use disk::{Disk, DiskOptions};
pub use error::StorageError;
pub use format::DiskFormat;
pub use rate::{RateLimit, RateLimiter};

/// The unit of a disk.
pub const SECTOR: u64 = 512;
