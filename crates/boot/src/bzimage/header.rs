//! The setup header of a bzImage (Linux `Documentation/x86/boot.rst`, "The
//! Real-Mode Kernel Header").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::BootError;
use crate::image::bytes;

/// Where the header lies in the file and in the zero page.
pub(crate) const HEADER: usize = 0x1f1;
/// The length of the header is what the jump at 0x200 skips, from here.
const JUMP_BASE: u64 = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: [u8; 4] = *b"HdrS";
/// Protocol 2.06 brought `cmdline_size`, the last field without which nothing
/// can be promised.
const OLDEST: u16 = 0x206;
const SECTOR: u64 = 512;

/// `loadflags`: the kernel loads at 1 MiB or above.
pub(crate) const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: the unpacker tells the kernel to lay out its virtual memory at
/// random.
pub(crate) const KASLR_FLAG: u8 = 1 << 1;
/// `xloadflags`: there is a 64-bit entry at 0x200.
pub(crate) const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: initrd and other data may lie above 4 GiB.
pub(crate) const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;

/// The header, by the names of the boot protocol.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SetupHeader {
    pub(crate) setup_sects: u8,
    pub(crate) root_flags: U16,
    pub(crate) syssize: U32,
    pub(crate) ram_size: U16,
    pub(crate) vid_mode: U16,
    pub(crate) root_dev: U16,
    pub(crate) boot_flag: U16,
    pub(crate) jump: [u8; 2],
    pub(crate) header: [u8; 4],
    pub(crate) version: U16,
    pub(crate) realmode_swtch: U32,
    pub(crate) start_sys_seg: U16,
    pub(crate) kernel_version: U16,
    pub(crate) type_of_loader: u8,
    pub(crate) loadflags: u8,
    pub(crate) setup_move_size: U16,
    pub(crate) code32_start: U32,
    pub(crate) ramdisk_image: U32,
    pub(crate) ramdisk_size: U32,
    pub(crate) bootsect_kludge: U32,
    pub(crate) heap_end_ptr: U16,
    pub(crate) ext_loader_ver: u8,
    pub(crate) ext_loader_type: u8,
    pub(crate) cmd_line_ptr: U32,
    pub(crate) initrd_addr_max: U32,
    pub(crate) kernel_alignment: U32,
    pub(crate) relocatable_kernel: u8,
    pub(crate) min_alignment: u8,
    pub(crate) xloadflags: U16,
    pub(crate) cmdline_size: U32,
    pub(crate) hardware_subarch: U32,
    pub(crate) hardware_subarch_data: U64,
    pub(crate) payload_offset: U32,
    pub(crate) payload_length: U32,
    pub(crate) setup_data: U64,
    pub(crate) pref_address: U64,
    pub(crate) init_size: U32,
    pub(crate) handover_offset: U32,
    pub(crate) kernel_info_offset: U32,
}

/// A bzImage, taken apart.
#[derive(Debug)]
pub(crate) struct BzImage<'a> {
    /// The header; fields that its version lacks are zero.
    pub(crate) header: SetupHeader,
    /// The protected-mode part.
    pub(crate) code: &'a [u8],
    /// The kernel's own name and version, if it can be printed.
    pub(crate) release: Option<&'a str>,
}

/// Whether `file` starts like a bzImage.
pub(crate) fn is_bzimage(file: &[u8]) -> bool {
    let at = |offset, len| bytes(file, offset, len, "magic").ok();
    at(JUMP_BASE, 4) == Some(MAGIC.as_slice()) && at(0x1fe, 2) == Some(BOOT_FLAG.to_le_bytes().as_slice())
}

impl<'a> BzImage<'a> {
    /// Parses and checks `file`.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        if !is_bzimage(file) {
            return Err(BootError::NotAKernel);
        }
        let header = read_header(file)?;
        let version = header.version.get();
        if version < OLDEST {
            let [minor, major] = version.to_le_bytes();
            return Err(BootError::OldProtocol { major, minor });
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(BootError::NotLoadedHigh);
        }
        let setup = setup_len(&header);
        let need = u64::from(header.syssize.get()) * 16;
        bytes(file, setup, need.max(1), "kernel code")?;
        let code = bytes(file, setup, (file.len() as u64).saturating_sub(setup), "kernel code")?;
        let release = release(file, &header);
        Ok(Self { header, code, release })
    }

    /// Whether the header's version is at least `major.minor`.
    pub(crate) fn speaks(&self, major: u8, minor: u8) -> bool {
        self.header.version.get() >= u16::from_le_bytes([minor, major])
    }
}

/// As much of the header as the file's version has.
fn read_header(file: &[u8]) -> Result<SetupHeader, BootError> {
    let skip = bytes(file, JUMP_BASE - 1, 1, "setup header")?.first().copied().unwrap_or(0);
    let end = JUMP_BASE + u64::from(skip);
    let len = (end - HEADER as u64).min(size_of::<SetupHeader>() as u64);
    let mut header = SetupHeader::new_zeroed();
    let have = bytes(file, HEADER as u64, len, "setup header")?;
    for (to, from) in header.as_mut_bytes().iter_mut().zip(have) {
        *to = *from;
    }
    Ok(header)
}

/// Bytes before the protected-mode part; a zero counts as 4 sectors.
fn setup_len(header: &SetupHeader) -> u64 {
    let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
    (u64::from(sectors) + 1) * SECTOR
}

/// The version string, for people: printable ASCII up to the first space.
fn release<'a>(file: &'a [u8], header: &SetupHeader) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let offset = usize::from(header.kernel_version.get());
    let text = file.get(offset.checked_add(SECTOR as usize)?..)?.get(..LONGEST)?;
    let end = text.iter().position(|byte| !byte.is_ascii_graphic())?;
    let text = std::str::from_utf8(text.get(..end)?).ok()?;
    (offset != 0 && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bzimage;

    #[test]
    fn the_header_is_laid_out_as_documented() {
        let offset = |field: usize| HEADER + field;
        assert_eq!(offset(std::mem::offset_of!(SetupHeader, header)), 0x202);
        assert_eq!(offset(std::mem::offset_of!(SetupHeader, ramdisk_image)), 0x218);
        assert_eq!(offset(std::mem::offset_of!(SetupHeader, xloadflags)), 0x236);
        assert_eq!(offset(std::mem::offset_of!(SetupHeader, pref_address)), 0x258);
        assert_eq!(offset(std::mem::offset_of!(SetupHeader, kernel_info_offset)), 0x268);
    }

    #[test]
    fn a_good_image_is_taken_apart() {
        let file = bzimage();
        let image = BzImage::parse(&file).unwrap();
        assert_eq!(image.release, Some("6.1.0-test"));
        assert!(image.speaks(2, 15) && !image.speaks(3, 0));
        assert_eq!(image.code.len(), file.len() - 1024);
    }

    #[test]
    fn fields_beyond_the_header_count_as_zero() {
        let mut file = bzimage();
        file[0x201] = (0x258 - 0x202) as u8;
        assert_eq!(BzImage::parse(&file).unwrap().header.pref_address.get(), 0);
    }

    #[test]
    fn bad_images_are_told_apart() {
        let mut file = bzimage();
        file[0x206] = 5;
        assert!(matches!(BzImage::parse(&file), Err(BootError::OldProtocol { major: 2, minor: 5 })));
        let mut file = bzimage();
        file[0x211] = 0;
        assert!(matches!(BzImage::parse(&file), Err(BootError::NotLoadedHigh)));
        let file = bzimage();
        for len in [0x206, 0x230, 0x400, file.len() - 16] {
            assert!(matches!(BzImage::parse(&file[..len]), Err(BootError::Truncated { .. })), "{len:#x}");
        }
    }
}
