//! Why a file cannot be looked at.

/// Why a file cannot be looked at. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No bytes.
    #[error("the file is empty: give an ELF file, a bzImage or flat code")]
    Empty,
    /// Neither ELF nor bzImage.
    #[error("the file is neither ELF nor bzImage: if it is plain code, say how wide (16, 32 or 64 bits)")]
    UnknownFormat,
    /// The ELF structure is broken.
    #[error("the ELF file is damaged")]
    BadElf(#[from] object::Error),
    /// Code for another processor.
    #[error("the ELF file is for another processor: give one for x86 or x86-64")]
    ForeignMachine,
    /// No executable section or segment has bytes.
    #[error("the file has no code: give an executable, an object file or a kernel")]
    NoCode,
    /// The kernel in a bzImage cannot be unpacked.
    #[error("the kernel in the bzImage cannot be unpacked")]
    Payload(#[from] boot::PayloadError),
}
