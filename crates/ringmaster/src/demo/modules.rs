//! Drivers that Debian's kernel has as modules.

use std::fs;

use super::{KERNEL, unreadable};
use crate::exit::Failure;
use crate::packages::{Entry, PackageError, Request};

/// The files of the drivers that a network card needs.
const NETWORK_FILES: &str = "lib/modules/*/kernel/{drivers/virtio/virtio*,net/core/failover,\
                             drivers/net/net_failover,drivers/net/virtio_net}.ko";

/// The same in an order in which they can be loaded.
const NETWORK: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
];

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file's contents.
    pub bytes: Vec<u8>,
}

/// What to fetch for a network card.
///
/// # Errors
/// Never: the pattern is a good one.
pub fn network_request() -> Result<Request, PackageError> {
    Request::new(KERNEL.0, "amd64", NETWORK_FILES)
}

/// The drivers for a network card out of what was fetched, in the order in
/// which they are to be loaded.
///
/// # Errors
/// If a file cannot be read.
pub fn network(entry: &Entry) -> Result<Vec<Module>, Failure> {
    let paths: Vec<_> = entry.paths().collect();
    let found = NETWORK.iter().filter_map(|name| {
        let path = paths.iter().find(|path| path.file_stem().is_some_and(|stem| stem == *name))?;
        Some((*name, path))
    });
    let read = |(name, path): (&str, &std::path::PathBuf)| {
        let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
        Ok(Module { name: name.to_owned(), bytes })
    };
    // One that is missing is part of the kernel.
    found.map(read).collect()
}
