//! The compressed kernel inside a bzImage, found and unpacked.
//!
//! What comes out is the stripped vmlinux ELF file; relocation tables follow
//! it, as Linux's build appends them.

mod blocks;
mod lz4;

use std::fmt;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use memory::zeroed_buffer;

use crate::PayloadError;
use crate::bzimage::BzImage;
use crate::image::bytes;

/// The largest dictionary that a payload may ask for: twice that of the
/// hungriest, `zstd --ultra -22`.
const MAX_DICTIONARY: u64 = 256 << 20;
/// How much is unpacked at a time.
const PIECE: usize = 256 << 10;

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
        (&lz4::MAGIC, Self::Lz4),
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
    find_in(&BzImage::parse(kernel)?)
}

/// The same in a bzImage that has been taken apart.
pub(crate) fn find_in<'a>(image: &BzImage<'a>) -> Result<Payload<'a>, PayloadError> {
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

/// Takes unpacked bytes with their offset: pieces in any order, from several
/// threads, each byte once.
pub(crate) type Sink<'a> = dyn Fn(u64, &[u8]) -> io::Result<()> + Sync + 'a;

impl Payload<'_> {
    /// Unpacks to at most `limit` bytes.
    ///
    /// # Errors
    /// If the payload is damaged, or larger.
    pub fn unpack(&self, limit: usize) -> Result<Vec<u8>, PayloadError> {
        let expected = self.unpacked_len.map_or(0, |len| len as usize).min(limit);
        let buffer = zeroed_buffer(expected).map_err(|error| PayloadError::Damaged {
            format: self.format,
            source: io::Error::new(io::ErrorKind::OutOfMemory, error),
        })?;
        let unpacked = Mutex::new(buffer);
        self.unpack_to(limit, &|offset, bytes| {
            let mut unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start.saturating_add(bytes.len());
            if unpacked.len() < end {
                unpacked.resize(end, 0);
            }
            unpacked.get_mut(start..end).unwrap_or_default().copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(unpacked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Unpacks to `sink`, which gets at most a little more than `limit` bytes
    /// before the error.
    pub(crate) fn unpack_to(&self, limit: usize, sink: &Sink<'_>) -> Result<(), PayloadError> {
        if self.unpacked_len.is_some_and(|len| len as usize > limit) {
            return Err(PayloadError::TooLarge(limit));
        }
        let have = match self.format {
            Compression::Lz4 => lz4::unpack(self.data, limit, sink),
            _ => self.reader(limit).and_then(|reader| pour(reader, limit, sink)),
        };
        let have = have.map_err(|source| PayloadError::Damaged { format: self.format, source })?;
        if have > limit as u64 {
            return Err(PayloadError::TooLarge(limit));
        }
        match self.unpacked_len {
            Some(need) if u64::from(need) != have => Err(PayloadError::WrongSize { need: need.into(), have }),
            _ => Ok(()),
        }
    }

    /// The first bytes, `len` of them if there are as many.
    pub(crate) fn head(&self, len: usize) -> Result<Vec<u8>, PayloadError> {
        let head = match self.format {
            Compression::Lz4 => lz4::head(self.data, len),
            _ => self.reader(len).and_then(|reader| {
                let mut head = Vec::new();
                reader.take(len as u64).read_to_end(&mut head)?;
                Ok(head)
            }),
        };
        head.map_err(|source| PayloadError::Damaged { format: self.format, source })
    }

    /// The formats that are read from front to end; `limit` bounds what is
    /// unpacked ahead.
    fn reader(&self, limit: usize) -> io::Result<Box<dyn Read + '_>> {
        let memory_kib = (MAX_DICTIONARY >> 10) as u32;
        Ok(match self.format {
            Compression::Gzip => Box::new(flate2::read::GzDecoder::new(self.data)),
            Compression::Bzip2 => Box::new(bzip2::read::BzDecoder::new(self.data)),
            Compression::Lzma => {
                Box::new(lzma_rust2::LzmaReader::new_mem_limit(self.data, memory_kib, None)?)
            }
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(self.data, false, memory_kib)),
            Compression::Zstd => Box::new(
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(self.data, MAX_DICTIONARY)
                    .map_err(io::Error::other)?,
            ),
            Compression::Lzo => Box::new(io::Cursor::new(blocks::lzo(self.data, limit)?)),
            Compression::Lz4 | Compression::None => Box::new(self.data),
        })
    }
}

/// Hands a reader's bytes to `sink`, up to the first piece that goes beyond
/// `limit`; how many there were.
fn pour(mut reader: impl Read, limit: usize, sink: &Sink<'_>) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done <= limit as u64 {
        let mut filled = 0;
        while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
            match reader.read(room)? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        sink(done, piece.get(..filled).unwrap_or_default())?;
        done += filled as u64;
    }
    Ok(done)
}

#[cfg(test)]
pub(crate) mod tests;
