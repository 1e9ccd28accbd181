//! `--boot-protocol`: by which of its entries a bzImage is started.

use clap::ValueEnum;
use machine::Protocol;

/// The user's choice of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BootProtocol {
    /// Direct where that is equivalent, else by the kernel's own unpacker
    #[default]
    Auto,
    /// Unpack the kernel inside natively and start it by its ELF entry
    Direct,
    /// Unpack the kernel inside natively and start it by its PVH entry
    Pvh,
    /// The 64-bit entry; the kernel unpacks itself
    Linux64,
    /// The 32-bit entry; the kernel unpacks itself
    Linux32,
}

impl From<BootProtocol> for Protocol {
    fn from(choice: BootProtocol) -> Self {
        match choice {
            BootProtocol::Auto => Self::Auto,
            BootProtocol::Direct => Self::Direct,
            BootProtocol::Pvh => Self::Pvh,
            BootProtocol::Linux64 => Self::Bits64,
            BootProtocol::Linux32 => Self::Bits32,
        }
    }
}
