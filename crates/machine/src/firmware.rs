//! What firmware is told about the machine, by QEMU's configuration device.
//!
//! The ACPI tables lie at the end of RAM below 4 GiB already, with all their
//! addresses; the memory map reserves them. Firmware only has to put a copy of
//! the root pointer where systems look for it, which it is asked to do by the
//! loader script.

use boot::E820Kind;
use chipset::acpi::AcpiBlob;
use chipset::fwcfg::{FwCfg, FwCfgError, key};
use memory::RamLayout;

use crate::board::Wiring;

/// How much of RAM the tables get.
const TABLES_SIZE: u64 = 64 << 10;
/// Length of the root pointer (ACPI 6.5, 5.2.5.3).
const RSDP_LENGTH: usize = 36;
const RSDP_FILE: &str = "etc/acpi/rsdp";

// The loader script, as QEMU defined it (hw/acpi/bios-linker-loader.c):
// commands of 128 bytes.
const COMMAND_LENGTH: usize = 128;
const FILE_NAME_LENGTH: usize = 56;
const ALLOCATE: u32 = 1;
const ZONE_FSEG: u8 = 2;

/// Where the tables lie.
pub(crate) fn tables_at(ram: RamLayout) -> u64 {
    ram.low.saturating_sub(TABLES_SIZE)
}

/// Mounts the configuration device with the items that SeaBIOS and its kin
/// ask for.
pub(crate) fn mount_configuration(
    wiring: &mut Wiring,
    ram: RamLayout,
    cpus: u32,
    tables: &AcpiBlob,
) -> Result<(), FwCfgError> {
    let cpus = u16::try_from(cpus).unwrap_or(u16::MAX).to_le_bytes();
    let mut device = FwCfg::new();
    device.add_item(key::RAM_SIZE, ram.low.saturating_add(ram.high).to_le_bytes())?;
    device.add_item(key::NB_CPUS, cpus)?;
    device.add_item(key::MAX_CPUS, cpus)?;
    device.add_item(key::NOGRAPHIC, 1_u16.to_le_bytes())?;
    device.add_item(key::BOOT_MENU, 1_u16.to_le_bytes())?;
    device.add_item(key::IRQ0_OVERRIDE, [1])?;
    device.add_file("etc/e820", memory_map(ram))?;
    device.add_file(RSDP_FILE, root_pointer(tables))?;
    device.add_file("etc/table-loader", allocate(RSDP_FILE, 16, ZONE_FSEG))?;
    wiring.mount(device, FwCfg::PORTS);
    Ok(())
}

/// RAM as the firmware is to report it, in E820 entries of 20 bytes. What lies
/// below 1 MiB it knows itself.
fn memory_map(ram: RamLayout) -> Vec<u8> {
    let tables = tables_at(ram);
    let ranges = ram.ranges().map(|(start, len)| (start.0, len, E820Kind::Ram));
    let ranges = ranges.map(|(start, len, kind)| match start {
        0 => (start, tables, kind),
        _ => (start, len, kind),
    });
    ranges.chain([(tables, TABLES_SIZE, E820Kind::Reserved)]).flat_map(e820_entry).collect()
}

fn e820_entry((start, len, kind): (u64, u64, E820Kind)) -> impl Iterator<Item = u8> {
    start.to_le_bytes().into_iter().chain(len.to_le_bytes()).chain((kind as u32).to_le_bytes())
}

fn root_pointer(tables: &AcpiBlob) -> Vec<u8> {
    tables.bytes.iter().take(RSDP_LENGTH).copied().collect()
}

/// The command that has firmware load `file` at a multiple of `align`.
fn allocate(file: &str, align: u32, zone: u8) -> Vec<u8> {
    let mut command = ALLOCATE.to_le_bytes().to_vec();
    command.extend(file.bytes().chain(std::iter::repeat(0)).take(FILE_NAME_LENGTH));
    command.extend(align.to_le_bytes());
    command.push(zone);
    command.resize(COMMAND_LENGTH, 0);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_has_both_pieces_of_ram_and_the_tables() {
        let map = memory_map(RamLayout::new(4 << 30));
        assert_eq!(map.len(), 60);
        assert_eq!(map[8..20], [0, 0, 0xff, 0xbf, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(map[20..28], (4u64 << 30).to_le_bytes());
        assert_eq!(map[40..60], [0, 0, 0xff, 0xbf, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn the_script_names_the_file_the_alignment_and_the_zone() {
        let command = allocate(RSDP_FILE, 16, ZONE_FSEG);
        assert_eq!(command.len(), 128);
        assert_eq!(command[..20], *b"\x01\0\0\0etc/acpi/rsdp\0\0\0");
        assert_eq!(command[60..65], [16, 0, 0, 0, 2]);
    }
}
