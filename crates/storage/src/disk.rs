//! A disk, as devices use it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use imago::io_buffers::{IoVector, IoVectorMut};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use crate::chain::{self, Gate, Image};
use crate::{DiskFormat, RateLimit, RateLimiter, SECTOR, StorageError};

/// How to open a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// The image.
    pub path: PathBuf,
    /// Its format; None: only what is unambiguous.
    pub format: Option<DiskFormat>,
    /// The contents decide about the format.
    pub detect: bool,
    /// Nobody writes.
    pub read_only: bool,
    /// What is written goes to a layer that is thrown away at the end.
    pub overlay: bool,
    /// How much it may do in a second.
    pub rate: RateLimit,
}

/// An open disk. Any thread may use it.
pub struct Disk {
    image: RwLock<Image>,
    /// What has to reach the medium for a write to be durable; None if nothing
    /// is written, or nothing of it is kept.
    durable: Option<fs::File>,
    size: u64,
    read_only: bool,
    limiter: Option<RateLimiter>,
    path: PathBuf,
}

impl Disk {
    /// Opens a disk.
    ///
    /// # Errors
    /// If a file cannot be opened or is used by somebody else, or the image is
    /// damaged or ambiguous.
    pub fn open(options: &DiskOptions) -> Result<Self, StorageError> {
        let path = options.path.as_path();
        let writing = !options.read_only && !options.overlay;
        let gate = Gate::default();
        let file = gate.open(path, writing)?;
        let format = match options.format {
            Some(format) => format,
            None if options.detect => DiskFormat::by_contents(&file),
            None => DiskFormat::unambiguous(path, &file)?,
        };
        if format == DiskFormat::Vmdk && writing {
            return Err(StorageError::ReadOnlyFormat { path: path.to_owned() });
        }
        let failed = |source| StorageError::Open { path: path.to_owned(), source };
        let mut durable = writing.then(|| file.try_clone()).transpose().map_err(failed)?;
        let mut image = chain::open_image(&gate, file, path, format, writing)?;
        let size = image.size();
        if size == 0 {
            return Err(StorageError::Empty { path: path.to_owned() });
        }
        if size % SECTOR != 0 {
            return Err(StorageError::OddSize { path: path.to_owned(), size });
        }
        if options.overlay && !options.read_only {
            (image, _) = chain::overlay(image, &chain::temporary())
                .map_err(|source| StorageError::Overlay { path: path.to_owned(), source })?;
            durable = None;
        }
        let limited = options.rate != RateLimit::default();
        Ok(Self {
            image: RwLock::new(image),
            durable,
            size,
            read_only: options.read_only,
            limiter: limited.then(|| RateLimiter::new(options.rate)),
            path: path.to_owned(),
        })
    }

    /// Its size in bytes, a multiple of [`SECTOR`].
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long a request of `bytes` has to wait, by the rate limits.
    pub fn delay(&self, bytes: u64) -> Duration {
        self.limiter.as_ref().map_or(Duration::ZERO, |limiter| limiter.request(bytes, Instant::now()))
    }

    /// Whether `len` bytes at `offset` lie on the disk.
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    fn shared<R>(&self, f: impl FnOnce(&Image) -> R) -> R {
        f(&self.image.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn require(&self, offset: u64, len: u64, writing: bool) -> io::Result<()> {
        if writing && self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if !self.contains(offset, len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    /// Reads from `offset` on into `slices`.
    ///
    /// # Errors
    /// If that lies outside the disk, or reading fails.
    pub fn read<B: BitmapSlice>(&self, slices: &[VolatileSlice<'_, B>], offset: u64) -> io::Result<()> {
        self.require(offset, total(slices), false)?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(slices);
        self.shared(|image| image.readv(vector, offset))
    }

    /// Writes `slices` from `offset` on. Durable after the next
    /// [`Disk::flush`].
    ///
    /// # Errors
    /// If that lies outside the disk, or writing fails.
    pub fn write<B: BitmapSlice>(&self, slices: &[VolatileSlice<'_, B>], offset: u64) -> io::Result<()> {
        self.require(offset, total(slices), true)?;
        let (vector, _guard) = IoVector::from_volatile_slice(slices);
        self.shared(|image| image.writev(vector, offset))
    }

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// If the host cannot; then nothing can be said of what was written.
    pub fn flush(&self) -> io::Result<()> {
        let Some(file) = &self.durable else { return Ok(()) };
        self.shared(|image| image.flush())?;
        file.sync_data()
    }

    /// The guest does not need the contents of a range any more. What then is
    /// read there is unspecified.
    ///
    /// # Errors
    /// If the range lies outside the disk, or the host fails.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.require(offset, len, true)?;
        let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
        match image.discard_to_any(offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Writes zeroes to a range; with `release` its space may be given back.
    ///
    /// # Errors
    /// If the range lies outside the disk, or the host fails.
    pub fn write_zeroes(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        self.require(offset, len, true)?;
        if release {
            let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
            if image.discard_to_zero(offset, len).is_ok() {
                return Ok(());
            }
        }
        self.shared(|image| image.write_zeroes(offset, len))
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("size", &self.size).finish_non_exhaustive()
    }
}

fn total<B: BitmapSlice>(slices: &[VolatileSlice<'_, B>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}
