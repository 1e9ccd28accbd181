//! What firmware is told about the machine, by QEMU's configuration device.

use boot::E820Kind;
use chipset::fwcfg::{FwCfg, FwCfgError, key};
use memory::RamLayout;

use crate::board::Wiring;

/// Mounts the configuration device with the items that SeaBIOS and its kin
/// ask for.
pub(crate) fn mount_configuration(wiring: &mut Wiring, ram: RamLayout, cpus: u32) -> Result<(), FwCfgError> {
    let cpus = u16::try_from(cpus).unwrap_or(u16::MAX).to_le_bytes();
    let mut device = FwCfg::new();
    device.add_item(key::RAM_SIZE, ram.low.saturating_add(ram.high).to_le_bytes())?;
    device.add_item(key::NB_CPUS, cpus)?;
    device.add_item(key::MAX_CPUS, cpus)?;
    device.add_item(key::NOGRAPHIC, 1_u16.to_le_bytes())?;
    device.add_item(key::BOOT_MENU, 1_u16.to_le_bytes())?;
    device.add_item(key::IRQ0_OVERRIDE, [1])?;
    device.add_file("etc/e820", memory_map(ram))?;
    wiring.mount(device, FwCfg::PORTS);
    Ok(())
}

/// RAM as the firmware is to report it, in E820 entries of 20 bytes. What lies
/// below 1 MiB it knows itself.
fn memory_map(ram: RamLayout) -> Vec<u8> {
    ram.ranges()
        .flat_map(|(start, len)| {
            let kind = E820Kind::Ram as u32;
            start.0.to_le_bytes().into_iter().chain(len.to_le_bytes()).chain(kind.to_le_bytes())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_has_both_pieces_of_ram() {
        let map = memory_map(RamLayout::new(4 << 30));
        assert_eq!(map.len(), 40);
        assert_eq!(map[8..20], [0, 0, 0, 0xc0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(map[20..28], (4u64 << 30).to_le_bytes());
    }
}
