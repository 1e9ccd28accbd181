//! What the fuzz targets run on each input; tests run it on mutated headers.

use memory::GuestMemory;
use x86::GuestPhysAddr;

use crate::{BootRequest, Module, Protocol, detect, firmware_roms, load, load_firmware, payload};

/// Enough for a kernel that wants to be at 16 MiB.
pub const MEMORY_SIZE: u64 = 20 << 20;
/// What payloads may unpack to.
const PAYLOAD_LIMIT: usize = 1 << 20;

/// Runs every loader on `file`. Whatever comes is fine, except a panic, an
/// entry outside memory, or a disagreement about what the file is.
///
/// # Panics
/// If a loader breaks a promise.
pub fn loaders(memory: &GuestMemory, file: &[u8]) {
    let kind = detect(file).ok();
    let modules = [Module { data: file, string: "first" }, Module { data: b"second", string: "" }];
    let protocols = [Protocol::Auto, Protocol::Direct, Protocol::Pvh, Protocol::Bits32, Protocol::Bits64];
    for protocol in protocols {
        let request = BootRequest {
            kernel: file,
            modules: &modules,
            cmdline: "quiet",
            protocol,
            ..BootRequest::default()
        };
        if let Ok(entry) = load(memory, &request) {
            assert_eq!(Some(entry.kind), kind);
            assert!(memory.page(GuestPhysAddr(entry.state.rip)).is_some());
        }
    }
    // Both refuse the same sizes.
    assert_eq!(firmware_roms(file).is_ok(), load_firmware(memory, file).is_ok());
}

/// Finds and unpacks `file`'s payload.
///
/// # Panics
/// If more comes out than was allowed.
pub fn payloads(file: &[u8]) {
    if let Ok(unpacked) = payload::unpack(file, PAYLOAD_LIMIT) {
        assert!(unpacked.len() <= PAYLOAD_LIMIT);
    }
}

#[cfg(test)]
mod tests;
