//! The privileged and sensitive instructions in a kernel or binary: found by
//! disassembly, counted by class, by instruction and by symbol.
//!
//! Code is swept linearly from function to function, so that data between
//! instructions can hide or feign a few; what does not decode is counted. Of a
//! bzImage the unpacked kernel is looked at, not its real-mode setup code.

#![forbid(unsafe_code)]

mod elf;
mod error;
mod image;
mod report;
mod scan;
#[cfg(test)]
mod tests;

pub use error::InspectError;
pub use report::{ClassCount, InstructionCount, Report, Site, SymbolCount};

/// Width of code: 16, 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bitness {
    /// Real mode, virtual-8086 mode, 16-bit segments.
    Bits16,
    /// 32-bit segments.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl Bitness {
    /// The number of bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    /// The width with this number of bits.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            16 => Some(Self::Bits16),
            32 => Some(Self::Bits32),
            64 => Some(Self::Bits64),
            _ => None,
        }
    }
}

/// How to look at a file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Take the file as nothing but code of this width.
    pub flat: Option<Bitness>,
    /// Address of the first byte of a flat file.
    pub base: u64,
    /// List every site.
    pub list: bool,
    /// How many symbols the readable report shows.
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { flat: None, base: 0, list: false, top: 20 }
    }
}

/// Disassembles `bytes`, the contents of an ELF file, a bzImage or, with
/// [`Options::flat`], plain code.
///
/// # Errors
/// If the file is empty, damaged, for another processor, without code, or of no
/// known format.
pub fn analyze(bytes: &[u8], options: &Options) -> Result<Report, InspectError> {
    let unpacked;
    let (image, description) = if bytes.is_empty() {
        return Err(InspectError::Empty);
    } else if let Some(bitness) = options.flat {
        (image::Image::flat(bytes, bitness, options.base), format!("flat {}-bit code", bitness.bits()))
    } else if bytes.starts_with(b"\x7fELF") {
        elf::parse(bytes)?
    } else if image::is_bzimage(bytes) {
        let payload = boot::payload::find(bytes)?;
        unpacked = payload.unpack(image::MAX_KERNEL)?;
        let (image, description) = elf::parse(&unpacked)?;
        (image, format!("bzImage ({}) of {description}", payload.format))
    } else {
        return Err(InspectError::UnknownFormat);
    };
    Ok(report::Report::new(description, &image, scan::scan(&image), options))
}
