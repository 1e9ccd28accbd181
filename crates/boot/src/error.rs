//! Why something cannot be booted.

use memory::MemoryError;
use x86::GuestPhysAddr;

/// Why a kernel or a firmware image cannot be started. Each message is one
/// sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel file is empty.
    #[error("the kernel file is empty: give a bzImage, an ELF kernel with a PVH entry or a multiboot kernel")]
    Empty,
    /// No known format.
    #[error(
        "the kernel file is of no known format: give a bzImage, an ELF kernel with a PVH entry or a multiboot kernel"
    )]
    NotAKernel,
    /// The file ends before what it announces.
    #[error("the kernel file is truncated ({have} bytes where its {what} needs {need}): fetch it again")]
    Truncated {
        /// What reaches beyond the end.
        what: &'static str,
        /// Bytes that the file should have.
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
    /// A Linux boot protocol before 2.06.
    #[error(
        "the kernel speaks Linux boot protocol {major}.{minor:02}, too old: use one of 2.06 (Linux 2.6.22) or later"
    )]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A zImage.
    #[error("the kernel is a zImage that loads below 1 MiB: build a bzImage instead")]
    NotLoadedHigh,
    /// The 64-bit protocol was asked for and is not there.
    #[error("the kernel has no 64-bit entry: boot it by the 32-bit protocol")]
    No64BitEntry,
    /// The kernel inside a bzImage was to be entered and cannot be.
    #[error("the kernel inside the bzImage cannot be entered directly: boot it by its own unpacker")]
    NotDirect,
    /// The PVH entry of a bzImage's kernel was asked for and is not there.
    #[error("the kernel inside the bzImage has no PVH entry: boot it by another protocol")]
    NoPvhEntry,
    /// The payload of a bzImage cannot be unpacked.
    #[error(transparent)]
    Payload(Box<PayloadError>),
    /// An impossible value in a header.
    #[error("the kernel's header is damaged ({field} is {value:#x}): fetch the file again")]
    BadHeader {
        /// The field's name in its specification.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The ELF structure is broken.
    #[error("the ELF kernel is damaged: fetch the file again")]
    BadElf(#[source] object::Error),
    /// An ELF file for another machine.
    #[error("the ELF kernel is for another processor (e_machine {0}): give one for x86 or x86-64")]
    ElfMachine(u16),
    /// Neither PVH note nor multiboot header.
    #[error(
        "the ELF file has neither a PVH entry note nor a multiboot header: build the kernel with CONFIG_PVH or give its bzImage"
    )]
    NoEntry,
    /// Nothing to load.
    #[error("the kernel has no segment to load: give a kernel, not an object file")]
    NoSegments,
    /// The entry lies outside what is loaded.
    #[error("the kernel's entry point {0} lies outside what it loads: fetch or build the file again")]
    EntryOutside(GuestPhysAddr),
    /// Part of the kernel would lie outside RAM.
    #[error(
        "the kernel wants {len} bytes at {start}, which is not free guest memory: give the machine more memory, or link the kernel at 1 MiB or above"
    )]
    OutsideMemory {
        /// First address.
        start: GuestPhysAddr,
        /// Bytes.
        len: u64,
    },
    /// A relocatable kernel finds no room.
    #[error(
        "the kernel needs {len} bytes of free memory below 4 GiB from {from} on: give the machine at least {}M",
        from.0.saturating_add(*len).div_ceil(1 << 20)
    )]
    KernelDoesNotFit {
        /// Lowest possible address.
        from: GuestPhysAddr,
        /// Bytes.
        len: u64,
    },
    /// The initrds find no room.
    #[error(
        "the initrd ({len} bytes) does not fit into guest memory below {below}: give the machine more memory or use a smaller initrd"
    )]
    InitrdDoesNotFit {
        /// Bytes of all initrds.
        len: u64,
        /// The kernel's limit, or the end of RAM.
        below: GuestPhysAddr,
    },
    /// More initrds than the module list holds.
    #[error("{count} initrds are too many: give at most {limit}")]
    TooManyModules {
        /// How many were given.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// The strings of the modules need too much room.
    #[error("the module strings need {len} bytes: keep them within {limit}")]
    ModuleStringsTooLong {
        /// Bytes with terminating zeros.
        len: u64,
        /// Bytes available.
        limit: u64,
    },
    /// The command line is too long.
    #[error("the kernel command line has {len} bytes: shorten it to {limit}")]
    CmdlineTooLong {
        /// Its length.
        len: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// The command line, or a module's string, holds a zero byte.
    #[error("the kernel command line contains a NUL character: remove it")]
    CmdlineNul,
    /// Multiboot features that are not offered.
    #[error(
        "the multiboot kernel demands features that this machine does not offer (flags {0:#x}): build it without them"
    )]
    MultibootFlags(u32),
    /// The memory map has more entries than the protocols carry.
    #[error("the memory map has {0} entries, more than the 128 that a kernel is told: reserve fewer ranges")]
    MemoryMapTooLong(usize),
    /// A firmware image of impossible size.
    #[error("a firmware image of {0} bytes is impossible: give a multiple of 4 KiB up to 16 MiB")]
    FirmwareSize(u64),
    /// Guest memory refused.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl From<PayloadError> for BootError {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Image(error) => error,
            other => Self::Payload(Box::new(other)),
        }
    }
}

/// Why a bzImage's payload cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The bzImage itself is broken.
    #[error(transparent)]
    Image(#[from] BootError),
    /// A protocol before 2.08, which does not say where the payload is.
    #[error("the kernel's header does not say where its payload is: use a kernel of Linux 2.6.26 or later")]
    NotDescribed,
    /// No known compression.
    #[error(
        "the kernel's payload is packed in an unknown way (it starts with {0:02x?}): give the vmlinux file instead"
    )]
    UnknownFormat(Vec<u8>),
    /// The payload unpacks to more than allowed.
    #[error("the kernel's payload unpacks to more than {0} bytes: give the vmlinux file instead")]
    TooLarge(usize),
    /// The compressed data are broken.
    #[error("the kernel's {format} payload is damaged: fetch the file again")]
    Damaged {
        /// The compression.
        format: crate::payload::Compression,
        /// What the decompressor found.
        source: std::io::Error,
    },
    /// The unpacked size is not the announced one.
    #[error("the kernel's payload unpacks to {have} bytes instead of {need}: fetch the file again")]
    WrongSize {
        /// Bytes announced behind the payload.
        need: u64,
        /// Bytes unpacked.
        have: u64,
    },
}
