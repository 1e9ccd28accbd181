//! What is disassembled: pieces of code with their addresses and symbols.

use crate::Bitness;

/// The largest kernel that is unpacked from a bzImage.
pub(crate) const MAX_KERNEL: usize = 512 << 20;

/// A name for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) address: u64,
    pub(crate) name: String,
    /// A function: an instruction starts here.
    pub(crate) function: bool,
}

/// A piece of code.
#[derive(Debug)]
pub(crate) struct Region<'a> {
    /// The section's name.
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) bytes: &'a [u8],
    /// In the order of addresses, all within the region.
    pub(crate) symbols: Vec<Symbol>,
}

impl<'a> Region<'a> {
    pub(crate) fn new(name: String, address: u64, bytes: &'a [u8]) -> Self {
        Self { name, address, bytes, symbols: Vec::new() }
    }

    /// Whether `address` lies within.
    pub(crate) fn contains(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| offset < self.bytes.len() as u64)
    }

    /// Takes over `symbols`: sorted, one for an address, functions first.
    pub(crate) fn set_symbols(&mut self, mut symbols: Vec<Symbol>) {
        symbols.sort_by(|a, b| a.address.cmp(&b.address).then(b.function.cmp(&a.function)));
        symbols.dedup_by_key(|symbol| symbol.address);
        self.symbols = symbols;
    }
}

/// All code of a file.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    pub(crate) bitness: Bitness,
    pub(crate) regions: Vec<Region<'a>>,
}

impl<'a> Image<'a> {
    /// Nothing but code.
    pub(crate) fn flat(bytes: &'a [u8], bitness: Bitness, base: u64) -> Self {
        Self { bitness, regions: vec![Region::new(String::new(), base, bytes)] }
    }

    pub(crate) fn has_symbols(&self) -> bool {
        self.regions.iter().any(|region| !region.symbols.is_empty())
    }
}

/// Whether the file is a Linux kernel image with a boot header ("HdrS" at
/// offset 0x202, Documentation/arch/x86/boot.rst).
pub(crate) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}
