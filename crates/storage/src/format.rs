//! Which format an image has.
//!
//! A guest owns every byte of a raw disk, the first ones too. So contents alone
//! never make an image anything but raw, unless the user asks for that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::StorageError;

/// Endings of names that promise what cannot be used.
const UNKNOWN: [&str; 8] = ["qcow", "qed", "vdi", "vhd", "vhdx", "vpc", "dmg", "parallels"];

/// How a disk image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Sector after sector.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// VMware's; for reading.
    Vmdk,
}

impl DiskFormat {
    /// Its name, as options have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }

    /// What the contents look like.
    pub(crate) fn by_contents(file: &File) -> Self {
        let mut start = [0; 512];
        let len = file.read_at(&mut start, 0).unwrap_or(0);
        let start = start.get(..len).unwrap_or_default();
        if start.starts_with(b"QFI\xfb") {
            Self::Qcow2
        } else if start.starts_with(b"KDMV") || start.starts_with(b"# Disk DescriptorFile") {
            Self::Vmdk
        } else {
            Self::Raw
        }
    }

    /// What the name promises.
    fn by_name(path: &Path) -> Result<Option<Self>, StorageError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let extension = extension.to_ascii_lowercase();
        if let Some(format) = UNKNOWN.into_iter().find(|unknown| *unknown == extension) {
            return Err(StorageError::UnknownFormat { path: path.to_owned(), format });
        }
        Ok(match extension.as_str() {
            "qcow2" => Some(Self::Qcow2),
            "vmdk" => Some(Self::Vmdk),
            _ => None,
        })
    }

    /// The format of an image for which none was given: where name and
    /// contents agree, that; where neither says anything, raw.
    pub(crate) fn unambiguous(path: &Path, file: &File) -> Result<Self, StorageError> {
        let path = || path.to_owned();
        match (Self::by_name(&path())?, Self::by_contents(file)) {
            (None, Self::Raw) => Ok(Self::Raw),
            (Some(name), contents) if name == contents => Ok(name),
            (Some(name), Self::Raw) => {
                Err(StorageError::NotWhatItIsCalled { path: path(), expected: name.name() })
            }
            (_, contents) => Err(StorageError::Ambiguous { path: path(), likely: contents.name() }),
        }
    }
}
