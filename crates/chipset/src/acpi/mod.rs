//! ACPI tables: what firmware tells an operating system about the platform.
//!
//! [`build`] makes one contiguous blob with all tables from a
//! [`PlatformLayout`]; the machine copies it to the address for which it was
//! built. Systems find the RSDP there if that is between 0xE0000 and 0xFFFFF,
//! or are told its address by their boot protocol.

mod dsdt;
mod fixed;
mod layout;
#[cfg(test)]
mod tests;

pub use layout::{
    PCI_MEMORY, PciWindows, PlatformLayout, PowerPorts, SerialPort, VirtioMmio, pci_interrupt,
    pci_isa_interrupt,
};

/// The most processors that the tables describe.
pub const MAX_PROCESSORS: usize = 4096;

/// Finished tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiBlob {
    /// All tables, for the physical address that [`build`] was given.
    pub bytes: Vec<u8>,
    /// Physical address of the RSDP.
    pub rsdp_address: u64,
}

/// Builds the tables for physical address `base`.
pub fn build(layout: &PlatformLayout, base: u64) -> AcpiBlob {
    // The RSDP is sought at multiples of 16; it comes first, and is filled in
    // when the addresses of the others are known.
    let mut blob = Builder { base, bytes: Vec::new() };
    let rsdp_address = blob.append(16, &[0; fixed::RSDP_LENGTH]);
    let facs = blob.append(64, &fixed::facs());
    let dsdt = blob.append(16, &fixed::dsdt(&dsdt::aml(layout)));
    let fadt = blob.append(16, &fixed::fadt(layout, facs, dsdt));
    let madt = blob.append(16, &fixed::madt(layout));
    let mcfg = blob.append(16, &fixed::mcfg(&layout.pci));
    let tables = [fadt, madt, mcfg];
    let xsdt = blob.append(16, &fixed::xsdt(&tables));
    let low = tables.iter().filter_map(|table| u32::try_from(*table).ok()).collect::<Vec<_>>();
    let rsdt = if low.len() == tables.len() { blob.append(16, &fixed::rsdt(&low)) } else { 0 };
    let rsdp = fixed::rsdp(u32::try_from(rsdt).unwrap_or(0), xsdt);
    let start = rsdp_address.wrapping_sub(base) as usize;
    blob.bytes[start..start + rsdp.len()].copy_from_slice(&rsdp);
    AcpiBlob { bytes: blob.bytes, rsdp_address }
}

/// Lays tables out one behind the other.
struct Builder {
    base: u64,
    bytes: Vec<u8>,
}

impl Builder {
    /// Appends `table` at the next multiple of `alignment`; returns its
    /// address.
    fn append(&mut self, alignment: u64, table: &[u8]) -> u64 {
        let end = self.base.wrapping_add(self.bytes.len() as u64);
        let padding = end.wrapping_neg() % alignment;
        self.bytes.resize(self.bytes.len() + padding as usize, 0);
        self.bytes.extend_from_slice(table);
        end.wrapping_add(padding)
    }
}
