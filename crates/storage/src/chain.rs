//! Opening images and what they build upon.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use imago::file::File;
use imago::format::Format;
use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::storage::StorageOpenOptions;
use imago::vmdk::Vmdk;
use imago::{DenyImplicitOpenGate, FormatAccess};

use crate::{DiskFormat, StorageError, lock, qcow2, vmdk};

/// Where throw-away layers are kept unless the environment says otherwise.
const TEMPORARY: &str = "/var/tmp";

/// The most files that one disk is made of.
const MAX_FILES: usize = 64;

/// An image, ready to use.
pub(crate) type Image = FormatAccess<File>;

/// The files that were opened for a disk, and the first error that says more
/// than what becomes of it on its way through the format drivers.
#[derive(Default)]
struct Opened {
    files: Vec<(u64, u64)>,
    error: Option<StorageError>,
}

/// Opens, for reading, what an image names.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Opened>>);

impl Gate {
    fn with<R>(&self, f: impl FnOnce(&mut Opened) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a file; what is wrong if there are too many or it is there already.
    fn note(&self, metadata: &fs::Metadata) -> Result<(), &'static str> {
        let identity = (metadata.dev(), metadata.ino());
        self.with(|opened| {
            if opened.files.contains(&identity) {
                return Err("builds upon itself");
            }
            if opened.files.len() >= MAX_FILES {
                return Err("is one of too many");
            }
            opened.files.push(identity);
            Ok(())
        })
    }

    /// Opens and locks one file.
    pub(crate) fn open(&self, path: &Path, writing: bool) -> Result<fs::File, StorageError> {
        let failed = |source| StorageError::Open { path: path.to_owned(), source };
        // A pipe must not make us wait for its other end.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(writing)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path);
        let metadata = fs::metadata(path).map_err(failed)?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(StorageError::NotADisk { path: path.to_owned() });
        }
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if writing => {
                StorageError::NotWritable { path: path.to_owned(), source }
            }
            _ => failed(source),
        })?;
        let chain = |what| StorageError::Chain { path: path.to_owned(), what };
        self.note(&file.metadata().map_err(failed)?).map_err(chain)?;
        match lock::acquire(&file, writing) {
            Ok(true) => Ok(file),
            Ok(false) => Err(StorageError::InUse { path: path.to_owned(), writing }),
            Err(source) => Err(failed(source)),
        }
    }

    /// The error that the gate met, if it met one.
    fn take_error(&self) -> Option<StorageError> {
        self.with(|opened| opened.error.take())
    }
}

impl ImplicitOpenGate<File> for Gate {
    fn open_format<F: FormatDriverBuilder<File>>(&mut self, builder: F) -> io::Result<FormatAccess<File>> {
        let path = builder.get_image_path();
        let image = builder.open(self.clone())?;
        if let (Format::Qcow2, Some(path)) = (F::FORMAT, path) {
            qcow2::check(&fs::File::open(path)?, false)?;
        }
        Ok(FormatAccess::new(image))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        let path = options.get_filename().map(PathBuf::from);
        let path = path.ok_or_else(|| io::Error::other("it names a file without a name"))?;
        match self.open(&path, false) {
            Ok(file) => File::from_open_file(file, options.write(false)),
            Err(error) => {
                let error = match error {
                    StorageError::Open { path, source } => StorageError::Part { path, source },
                    other => other,
                };
                let text = error.to_string();
                self.with(|opened| opened.error = Some(error));
                Err(io::Error::other(text))
            }
        }
    }
}

/// Opens `file`, which lies at `path`, as an image.
pub(crate) fn open_image(
    gate: &Gate,
    file: fs::File,
    path: &Path,
    format: DiskFormat,
    writing: bool,
) -> Result<Image, StorageError> {
    if format == DiskFormat::Vmdk && vmdk::is_sparse(&file) {
        return tempfile::tempfile_in(temporary())
            .and_then(|hole| vmdk::Sparse::open(file, hole))
            .map(FormatAccess::new)
            .map_err(|source| invalid(path, format, source));
    }
    let options = StorageOpenOptions::new().filename(path).write(writing);
    let checked = if format == DiskFormat::Qcow2 { qcow2::check(&file, writing) } else { Ok(()) };
    let opened =
        checked.and_then(|()| File::from_open_file(file, options)).and_then(|storage| match format {
            DiskFormat::Raw => {
                let raw =
                    Raw::<File>::builder(storage).write(writing).open(DenyImplicitOpenGate::default())?;
                Ok(FormatAccess::new(raw))
            }
            DiskFormat::Qcow2 => {
                let image = Qcow2::<File>::builder(storage).write(writing).open(gate.clone())?;
                Ok(FormatAccess::new(image))
            }
            DiskFormat::Vmdk => {
                let image = Vmdk::<File>::builder(storage).open(gate.clone())?;
                Ok(FormatAccess::new(image))
            }
        });
    opened.map_err(|source| gate.take_error().unwrap_or_else(|| invalid(path, format, source)))
}

fn invalid(path: &Path, format: DiskFormat, source: io::Error) -> StorageError {
    StorageError::Invalid { path: path.to_owned(), format: format.name(), source }
}

/// Where files without names are made.
pub(crate) fn temporary() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| TEMPORARY.into(), PathBuf::from)
}

/// A throw-away layer over `base`, in a file that has no name.
pub(crate) fn overlay(base: Image, directory: &Path) -> io::Result<(Image, fs::File)> {
    let file = tempfile::tempfile_in(directory)?;
    let storage = || File::try_from(file.try_clone()?);
    use imago::FormatCreateBuilder;
    Qcow2::<File>::create_builder(storage()?).size(base.size()).create()?;
    let layer = Qcow2::<File>::builder(storage()?)
        .write(true)
        .backing(Some(base))
        .open(DenyImplicitOpenGate::default())?;
    Ok((FormatAccess::new(layer), file))
}
