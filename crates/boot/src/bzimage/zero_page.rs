//! The zero page, `struct boot_params` (Linux `Documentation/x86/zero-page.rst`).

use memory::GuestMemory;
use x86::GuestPhysAddr;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::SetupHeader;
use crate::e820::{E820Entry, MAX_ENTRIES};
use crate::layout::{CMDLINE, INFO};
use crate::modules::{Initrd, extent};
use crate::{BootError, BootRequest};

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// "normal" video mode.
const VIDEO_NORMAL: u16 = 0xffff;
/// `loadflags` that only a real-mode entry may set: KEEP_SEGMENTS, CAN_USE_HEAP.
const REAL_MODE_FLAGS: u8 = (1 << 6) | (1 << 7);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootE820Entry {
    addr: U64,
    size: U64,
    kind: U32,
}

/// What we fill of `boot_params`; the rest is zero.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BootParams {
    screen_to_tboot: [u8; 0x70],
    acpi_rsdp_addr: U64,
    disks: [u8; 0x48],
    ext_ramdisk_image: U32,
    ext_ramdisk_size: U32,
    ext_cmd_line_ptr: U32,
    efi: [u8; 0x1e8 - 0xcc],
    e820_entries: u8,
    sentinel: [u8; 0x1f1 - 0x1e9],
    hdr: SetupHeader,
    edd_signatures: [u8; 0x2d0 - 0x26c],
    e820_table: [BootE820Entry; MAX_ENTRIES],
    edd: [u8; 0x1000 - 0xcd0],
}

const _: () = assert!(size_of::<BootParams>() == 0x1000);

/// Fills the zero page.
pub(super) fn write(
    memory: &GuestMemory,
    header: &SetupHeader,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    initrd: Option<&Initrd>,
) -> Result<(), BootError> {
    let (image, len) = extent(initrd);
    let mut params = BootParams::new_zeroed();
    params.hdr = header.clone();
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags &= !REAL_MODE_FLAGS;
    params.hdr.vid_mode = VIDEO_NORMAL.into();
    params.hdr.ramdisk_image = low_half(image);
    params.hdr.ramdisk_size = low_half(len);
    params.ext_ramdisk_image = high_half(image);
    params.ext_ramdisk_size = high_half(len);
    params.hdr.cmd_line_ptr = low_half(CMDLINE.start);
    params.hdr.setup_data = 0.into();
    params.hdr.hardware_subarch = 0.into();
    params.hdr.hardware_subarch_data = 0.into();
    params.acpi_rsdp_addr = request.acpi_rsdp.map_or(0, |at| at.0).into();
    params.e820_entries = map.len().min(MAX_ENTRIES) as u8;
    for (to, from) in params.e820_table.iter_mut().zip(map) {
        *to = BootE820Entry {
            addr: from.start.0.into(),
            size: from.len.into(),
            kind: (from.kind as u32).into(),
        };
    }
    Ok(memory.write(GuestPhysAddr(INFO), params.as_bytes())?)
}

fn low_half(value: u64) -> U32 {
    (value as u32).into()
}

fn high_half(value: u64) -> U32 {
    ((value >> 32) as u32).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_page_is_laid_out_as_documented() {
        assert_eq!(offset_of!(BootParams, acpi_rsdp_addr), 0x70);
        assert_eq!(offset_of!(BootParams, ext_ramdisk_image), 0xc0);
        assert_eq!(offset_of!(BootParams, e820_entries), 0x1e8);
        assert_eq!(offset_of!(BootParams, hdr), 0x1f1);
        assert_eq!(offset_of!(BootParams, e820_table), 0x2d0);
    }
}
