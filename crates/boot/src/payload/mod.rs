//! The compressed kernel inside a bzImage, found and unpacked.
//!
//! What comes out is the stripped vmlinux ELF file; relocation tables follow
//! it, as Linux's build appends them.

mod blocks;

use std::fmt;
use std::io::{self, Read};

use crate::PayloadError;
use crate::bzimage::BzImage;
use crate::image::bytes;

/// The largest dictionary that a payload may ask for: twice that of the
/// hungriest, `zstd --ultra -22`.
const MAX_DICTIONARY: u64 = 256 << 20;

/// How a payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the formats' names")]
pub enum Compression {
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    /// The legacy frame of `lz4 -l`.
    Lz4,
    Zstd,
    /// Not at all: an ELF file.
    None,
}

impl Compression {
    /// By their first bytes, in the order of Linux's `lib/decompress.c`.
    const MAGICS: [(&'static [u8], Self); 8] = [
        (&[0x1f, 0x8b], Self::Gzip),
        (b"BZh", Self::Bzip2),
        (&[0x5d, 0x00, 0x00], Self::Lzma),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
        (&[0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a], Self::Lzo),
        (&blocks::LZ4_MAGIC, Self::Lz4),
        (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
        (b"\x7fELF", Self::None),
    ];

    fn detect(data: &[u8]) -> Option<Self> {
        Self::MAGICS.iter().find(|(magic, _)| data.starts_with(magic)).map(|&(_, format)| format)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Xz => "xz",
            Self::Lzo => "LZO",
            Self::Lz4 => "LZ4",
            Self::Zstd => "Zstandard",
            Self::None => "unpacked",
        })
    }
}

/// A payload, still packed.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// How it is packed.
    pub format: Compression,
    /// The packed bytes.
    pub data: &'a [u8],
    /// How many bytes it says it unpacks to.
    pub unpacked_len: Option<u32>,
}

/// Finds the payload of a bzImage.
///
/// # Errors
/// If the file is no bzImage, or its header leads nowhere.
pub fn find(kernel: &[u8]) -> Result<Payload<'_>, PayloadError> {
    let image = BzImage::parse(kernel)?;
    if !image.speaks(2, 8) || image.header.payload_length.get() == 0 {
        return Err(PayloadError::NotDescribed);
    }
    let (offset, len) = (image.header.payload_offset.get(), image.header.payload_length.get());
    let data = bytes(image.code, offset.into(), len.into(), "payload")?;
    let start = || data.get(..data.len().min(6)).unwrap_or_default().to_vec();
    let format = Compression::detect(data).ok_or_else(|| PayloadError::UnknownFormat(start()))?;
    let Some((packed, trailer)) = data.split_last_chunk::<4>() else {
        return Err(PayloadError::UnknownFormat(start()));
    };
    // Linux's build appends the length, which for gzip is there already.
    let data = if matches!(format, Compression::Gzip | Compression::None) { data } else { packed };
    let unpacked_len = (format != Compression::None).then_some(u32::from_le_bytes(*trailer));
    Ok(Payload { format, data, unpacked_len })
}

/// Finds and unpacks the payload of a bzImage, to at most `limit` bytes.
///
/// # Errors
/// If there is none, or it is damaged, or larger.
pub fn unpack(kernel: &[u8], limit: usize) -> Result<Vec<u8>, PayloadError> {
    find(kernel)?.unpack(limit)
}

impl Payload<'_> {
    /// Unpacks to at most `limit` bytes.
    ///
    /// # Errors
    /// If the payload is damaged, or larger.
    pub fn unpack(&self, limit: usize) -> Result<Vec<u8>, PayloadError> {
        if self.unpacked_len.is_some_and(|len| len as usize > limit) {
            return Err(PayloadError::TooLarge(limit));
        }
        let damaged = |source| PayloadError::Damaged { format: self.format, source };
        let unpacked = self.decompress(limit).map_err(damaged)?;
        let have = unpacked.len();
        if have > limit {
            return Err(PayloadError::TooLarge(limit));
        }
        match self.unpacked_len {
            Some(need) if need as usize != have => {
                Err(PayloadError::WrongSize { need: need.into(), have: have as u64 })
            }
            _ => Ok(unpacked),
        }
    }

    /// May return a little more than `limit` bytes, to show that there are more.
    fn decompress(&self, limit: usize) -> io::Result<Vec<u8>> {
        let memory_kib = (MAX_DICTIONARY >> 10) as u32;
        match self.format {
            Compression::Gzip => read_up_to(flate2::read::GzDecoder::new(self.data), limit),
            Compression::Bzip2 => read_up_to(bzip2::read::BzDecoder::new(self.data), limit),
            Compression::Lzma => {
                let reader = lzma_rust2::LzmaReader::new_mem_limit(self.data, memory_kib, None)?;
                read_up_to(reader, limit)
            }
            Compression::Xz => {
                read_up_to(lzma_rust2::XzReader::new_mem_limit(self.data, false, memory_kib), limit)
            }
            Compression::Zstd => {
                let decoder =
                    ruzstd::decoding::StreamingDecoder::new_with_max_window_size(self.data, MAX_DICTIONARY);
                read_up_to(decoder.map_err(io::Error::other)?, limit)
            }
            Compression::Lz4 => blocks::lz4(self.data, limit),
            Compression::Lzo => blocks::lzo(self.data, limit),
            Compression::None => read_up_to(self.data, limit),
        }
    }
}

fn read_up_to(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    reader.take((limit as u64).saturating_add(1)).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
pub(crate) mod tests;
