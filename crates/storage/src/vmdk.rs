//! VMDK images in one sparse file (VMware, Virtual Disk Format 5.0, "Hosted
//! Sparse Extents"), for reading. The flat ones are imago's.
//!
//! The disk is made of grains of the same size. Tables, found by a directory,
//! say where in the file each grain lies; those that lie nowhere are zeroes.

#![allow(unsafe_code, reason = "imago declares two of a driver's functions unsafe; these do nothing")]

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;

use imago::file::File;
use imago::format::builder::FormatDriverBuilder as _;
use imago::format::drivers::FormatDriverInstance;
use imago::format::{Format, PreallocateMode};
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, ShallowMapping, Storage as _};

use crate::SECTOR;

const MAGIC: &[u8; 4] = b"KDMV";
const HEADER: usize = 79;

/// The tables' entries may have 1 for a grain of zeroes.
const ZERO_GRAINS: u32 = 1 << 2;
/// Grains are compressed, or have markers between them.
const STREAM: u32 = 1 << 16 | 1 << 17;

/// Entries of all tables: grains of 64 KiB then make 2 TiB.
const MAX_ENTRIES: u64 = 32 << 20;
/// Sectors in a grain, and entries in a table.
const MAX_GRAIN: u64 = 1 << 16;
const MAX_TABLE: u64 = 1 << 16;
/// Sectors of the text inside.
const MAX_TEXT: u64 = 2048;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether `file` is of this kind.
pub(crate) fn is_sparse(file: &fs::File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *MAGIC
}

/// A sparse image.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// The file, from which grains are read in place.
    data: Raw<File>,
    /// A hole as large as a grain.
    hole: Raw<File>,
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    /// The sector of each grain.
    entries: Vec<u32>,
}

struct Header([u8; HEADER]);

impl Header {
    fn word(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at + 4)) << 32 | u64::from(self.word(at))
    }
}

fn raw(file: fs::File) -> io::Result<Raw<File>> {
    Raw::<File>::builder(File::try_from(file)?).open(DenyImplicitOpenGate::default())
}

impl Sparse {
    /// Opens an image. `hole` is a file of its own, without contents.
    pub(crate) fn open(file: fs::File, hole: fs::File) -> io::Result<Self> {
        let mut header = Header([0; HEADER]);
        file.read_exact_at(&mut header.0, 0).map_err(|_| invalid("it is cut off"))?;
        let (flags, capacity, grain) = (header.word(8), header.long(12), header.long(20));
        if header.word(4) > 3 || flags & STREAM != 0 {
            let what = "it is compressed or of a later version: convert it with qemu-img";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        require_whole(&file, header.long(28), header.long(36))?;
        let per_table = u64::from(header.word(44));
        let grains = capacity.div_ceil(grain.max(1));
        let plausible = (1..=MAX_GRAIN).contains(&grain) && (1..=MAX_TABLE).contains(&per_table);
        if !plausible || grains > MAX_ENTRIES {
            return Err(invalid("its header has impossible sizes, or it is larger than 2 TiB"));
        }
        let entries = read_tables(&file, header.long(56), grains, per_table)?;
        // A grain of zeroes is one that lies nowhere, as there is no parent.
        let zero = |entry: u32| if flags & ZERO_GRAINS != 0 && entry == 1 { 0 } else { entry };
        let entries = entries.into_iter().map(zero).collect();
        hole.set_len(grain * SECTOR)?;
        Ok(Self {
            data: raw(file)?,
            hole: raw(hole)?,
            size: capacity * SECTOR,
            grain: grain * SECTOR,
            entries,
        })
    }
}

/// Refuses an image that builds upon another, or is one piece of several.
fn require_whole(file: &fs::File, sector: u64, sectors: u64) -> io::Result<()> {
    if sector == 0 || sectors > MAX_TEXT {
        return Err(invalid("it is one piece of an image: convert the whole with qemu-img"));
    }
    let mut text = vec![0; (sectors * SECTOR) as usize];
    read(file, &mut text, sector)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim);
    if lines.any(|line| line.starts_with("parentFileNameHint")) {
        return Err(invalid("it builds upon another image: convert it with qemu-img"));
    }
    let extents =
        text.lines().filter(|line| ["RW ", "RDONLY ", "NOACCESS "].iter().any(|word| line.starts_with(word)));
    if extents.count() == 1 {
        Ok(())
    } else {
        Err(invalid("it is not in one piece: convert it with qemu-img"))
    }
}

fn read(file: &fs::File, data: &mut [u8], sector: u64) -> io::Result<()> {
    let at = sector.checked_mul(SECTOR).ok_or_else(|| invalid("it names an impossible place"))?;
    file.read_exact_at(data, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it is cut off: it names places behind the end of the file"),
        _ => error,
    })
}

fn read_words(file: &fs::File, count: u64, sector: u64) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; count as usize * 4];
    read(file, &mut bytes, sector)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

/// The entries of all grains; tables that lie nowhere have none but zeroes.
fn read_tables(file: &fs::File, directory: u64, grains: u64, per_table: u64) -> io::Result<Vec<u32>> {
    let mut entries = Vec::with_capacity(grains as usize);
    for table in read_words(file, grains.div_ceil(per_table), directory)? {
        let count = per_table.min(grains - entries.len() as u64);
        match table {
            0 => entries.resize(entries.len() + count as usize, 0),
            sector => entries.extend(read_words(file, count, sector.into())?),
        }
    }
    Ok(entries)
}

impl Display for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vmdk")
    }
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl FormatDriverInstance for Sparse {
    type Storage = File;

    fn format(&self) -> Format {
        Format::Vmdk
    }

    unsafe fn probe(storage: &File) -> io::Result<bool> {
        Ok(storage.size()? >= HEADER as u64)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn collect_storage_dependencies(&self) -> Vec<&File> {
        [&self.data, &self.hole]
            .into_iter()
            .flat_map(FormatDriverInstance::collect_storage_dependencies)
            .collect()
    }

    fn writable(&self) -> bool {
        false
    }

    fn get_mapping(&self, offset: u64, max_length: u64) -> io::Result<(ShallowMapping<'_, File>, u64)> {
        let (grain, inside) = (offset / self.grain, offset % self.grain);
        let left = self.size.saturating_sub(offset).min(self.grain - inside).min(max_length);
        match self.entries.get(grain as usize).copied() {
            Some(0) => self.hole.get_mapping(inside, left),
            Some(sector) if left > 0 => {
                match self.data.get_mapping(u64::from(sector) * SECTOR + inside, left)? {
                    (_, 0) => Err(invalid("a grain lies behind the end of the file")),
                    mapping => Ok(mapping),
                }
            }
            _ => self.hole.get_mapping(self.grain, 0),
        }
    }

    fn ensure_data_mapping(&self, _: u64, _: u64, _: bool) -> io::Result<(&File, u64, u64)> {
        Err(read_only())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn resize_grow(&self, _: u64, _: PreallocateMode) -> io::Result<()> {
        Err(read_only())
    }

    fn resize_shrink(&mut self, _: u64) -> io::Result<()> {
        Err(read_only())
    }
}
