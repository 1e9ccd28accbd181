//! Raw firmware: a ROM that ends at 4 GiB, where the reset vector is, with its
//! last part shadowed below 1 MiB.

use memory::GuestMemory;
use x86::{CpuState, GuestPhysAddr, PAGE_SIZE};

use crate::BootError;
use crate::layout::{BIOS_AREA, FOUR_GIB, len};

/// The largest firmware: what lies between the local APIC's megabyte and the
/// end of the 32-bit space.
pub const MAX_FIRMWARE: u64 = 16 << 20;

/// The ROM regions of a firmware image, for [`GuestMemory::with_rom`].
///
/// # Errors
/// If the image's size is impossible.
pub fn firmware_roms(image: &[u8]) -> Result<Vec<(GuestPhysAddr, &[u8])>, BootError> {
    let size = checked_size(image)?;
    Ok(vec![(GuestPhysAddr(FOUR_GIB - size), image)])
}

/// Copies the end of a firmware image, 128 KiB at most, to the end of the first
/// megabyte, as chipsets shadow it there; the result is the state in which the
/// boot processor starts it.
///
/// # Errors
/// If the image's size is impossible.
pub fn load_firmware(memory: &GuestMemory, image: &[u8]) -> Result<CpuState, BootError> {
    let shadow = checked_size(image)?.min(len(&BIOS_AREA));
    let tail = image.get(image.len() - shadow as usize..).unwrap_or_default();
    memory.write(GuestPhysAddr(BIOS_AREA.end - shadow), tail)?;
    Ok(CpuState::reset())
}

fn checked_size(image: &[u8]) -> Result<u64, BootError> {
    let size = image.len() as u64;
    if !(PAGE_SIZE..=MAX_FIRMWARE).contains(&size) || !size.is_multiple_of(PAGE_SIZE) {
        return Err(BootError::FirmwareSize(size));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_vector_and_the_shadow_show_the_end_of_the_image() {
        let mut image = vec![0; 256 << 10];
        let end = image.len();
        image[end - 16] = 0xea;
        image[end - (128 << 10)] = 0x77;
        let memory = GuestMemory::with_rom(2 << 20, &firmware_roms(&image).unwrap()).unwrap();
        let state = load_firmware(&memory, &image).unwrap();
        let vector = state.segment(x86::SegmentName::Cs).base + state.rip;
        assert_eq!(memory.read_u32(GuestPhysAddr(vector)).unwrap(), 0xea);
        assert_eq!(memory.read_u32(GuestPhysAddr(0xf_fff0)).unwrap(), 0xea);
        assert_eq!(memory.read_u32(GuestPhysAddr(0xe_0000)).unwrap(), 0x77);
    }

    #[test]
    fn small_images_lie_at_the_end_and_odd_ones_are_refused() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        load_firmware(&memory, &[0x5a; 4096]).unwrap();
        assert_eq!(memory.read_u32(GuestPhysAddr(0xf_f000)).unwrap(), 0x5a5a_5a5a);
        assert_eq!(memory.read_u32(GuestPhysAddr(0xf_effc)).unwrap(), 0);
        for size in [0, 1, 4095, 4097, (16 << 20) + 4096] {
            let image = vec![0; size];
            assert!(matches!(firmware_roms(&image), Err(BootError::FirmwareSize(_))), "{size}");
            assert!(load_firmware(&memory, &image).is_err());
        }
        assert!(firmware_roms(&vec![0; 16 << 20]).is_ok());
    }
}
