//! What is to be booted, and what comes of it.

use memory::GuestMemory;
use x86::{CpuState, GuestPhysAddr};

use crate::bzimage::BzImage;
use crate::e820::{E820Entry, MAX_ENTRIES, e820};
use crate::elf::{self, ElfKernel};
use crate::multiboot::Multiboot;
use crate::{BootError, bzimage, cpu, multiboot, pvh};

/// A file that the kernel gets along: an initrd, or a multiboot module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Module<'a> {
    /// Its contents.
    pub data: &'a [u8],
    /// Its string (multiboot only): by custom a name and arguments.
    pub string: &'a str,
}

/// By which of its entries a bzImage is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// [`Protocol::Direct`] where that is possible, else the 64-bit entry where
    /// the kernel offers it, else the 32-bit entry.
    #[default]
    Auto,
    /// The ELF entry of the kernel inside, unpacked natively.
    Direct,
    /// The PVH entry of the kernel inside, unpacked natively.
    Pvh,
    /// The 32-bit entry.
    Bits32,
    /// The 64-bit entry.
    Bits64,
}

/// A kernel and what it is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootRequest<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Initrds, joined in this order; multiboot kernels get them one by one.
    pub modules: &'a [Module<'a>],
    /// The command line.
    pub cmdline: &'a str,
    /// How to enter a bzImage.
    pub protocol: Protocol,
    /// Where the ACPI tables start, for the kernel's convenience.
    pub acpi_rsdp: Option<GuestPhysAddr>,
    /// Whether guest memory is untouched since it was made: what is zero in
    /// the kernel need not be written then.
    pub memory_is_zero: bool,
    /// Ranges of the memory map besides RAM and the PC's fixed ones.
    pub reserved: &'a [E820Entry],
}

/// How a kernel file is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// A Linux bzImage.
    BzImage,
    /// An ELF file with a PVH entry note.
    ElfPvh,
    /// A file with a multiboot 1 header.
    Multiboot1,
}

/// A loaded kernel, ready to run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The whole state of the boot processor.
    pub state: CpuState,
    /// How it is started.
    pub kind: KernelKind,
    /// One line for people.
    pub summary: String,
}

enum Kernel<'a> {
    BzImage(BzImage<'a>),
    Pvh(ElfKernel<'a>, u32),
    Multiboot(Multiboot<'a>),
}

impl<'a> Kernel<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        if file.is_empty() {
            return Err(BootError::Empty);
        }
        if bzimage::is_bzimage(file) {
            return BzImage::parse(file).map(Self::BzImage);
        }
        if !elf::is_elf(file) {
            return Multiboot::parse(file)?.map(Self::Multiboot).ok_or(BootError::NotAKernel);
        }
        let kernel = ElfKernel::parse(file)?;
        match kernel.pvh_entry {
            Some(entry) => Ok(Self::Pvh(kernel, entry)),
            None => Multiboot::parse(file)?.map(Self::Multiboot).ok_or(BootError::NoEntry),
        }
    }

    fn kind(&self) -> KernelKind {
        match self {
            Self::BzImage(_) => KernelKind::BzImage,
            Self::Pvh(..) => KernelKind::ElfPvh,
            Self::Multiboot(_) => KernelKind::Multiboot1,
        }
    }
}

/// How `kernel` would be started.
///
/// # Errors
/// If it is no kernel, or a damaged one.
pub fn detect(kernel: &[u8]) -> Result<KernelKind, BootError> {
    Ok(Kernel::parse(kernel)?.kind())
}

/// Loads a kernel with its initrds and command line into `memory`; the result
/// is the state in which the boot processor starts it.
///
/// # Errors
/// If anything in the request is damaged, contradictory or does not fit; guest
/// memory may have been written in part by then.
pub fn load(memory: &GuestMemory, request: &BootRequest<'_>) -> Result<Entry, BootError> {
    let kernel = Kernel::parse(request.kernel)?;
    let map = e820(memory.layout(), request.reserved);
    if map.len() > MAX_ENTRIES {
        return Err(BootError::MemoryMapTooLong(map.len()));
    }
    cpu::write_bios_data(memory)?;
    match &kernel {
        Kernel::BzImage(image) => bzimage::load(memory, request, &map, image),
        Kernel::Pvh(elf, entry) => pvh::load(memory, request, &map, elf, *entry),
        Kernel::Multiboot(multiboot) => multiboot::load(memory, request, &map, multiboot),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ElfImage, bzimage, multiboot_elf, pvh_elf};

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(detect(&bzimage()).unwrap(), KernelKind::BzImage);
        assert_eq!(detect(&pvh_elf(true)).unwrap(), KernelKind::ElfPvh);
        assert_eq!(detect(&multiboot_elf(0)).unwrap(), KernelKind::Multiboot1);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(matches!(detect(b""), Err(BootError::Empty)));
        assert!(matches!(detect(b"\x7fEL"), Err(BootError::NotAKernel)));
        assert!(matches!(detect(&[0x41; 100_000]), Err(BootError::NotAKernel)));
        let plain = ElfImage { pvh: None, ..ElfImage::default() }.build();
        assert!(matches!(detect(&plain), Err(BootError::NoEntry)));
    }

    #[test]
    fn too_many_reservations_are_refused() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let reserved: Vec<_> =
            (0..130).map(|i| E820Entry::reserved(GuestPhysAddr(0x20_0000 + i * 0x2000), 0x1000)).collect();
        let kernel = bzimage();
        let request = BootRequest { kernel: &kernel, reserved: &reserved, ..BootRequest::default() };
        assert!(matches!(load(&memory, &request), Err(BootError::MemoryMapTooLong(_))));
    }
}
