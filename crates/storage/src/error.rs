//! Why a disk cannot be used.

use std::io;
use std::path::PathBuf;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file cannot be opened.
    #[error("the disk {path} cannot be opened")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// A file can be read but not written.
    #[error("the disk {path} cannot be written: make it writable, or add readonly or overlay")]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// A file that an image names cannot be opened.
    #[error("the file {path}, of which the disk is made too, cannot be opened")]
    Part {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// A directory, a terminal or the like.
    #[error("{path} is no disk: it is neither a file nor a block device")]
    NotADisk {
        /// What was given.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("the disk {path} is in use by another program{}", if *.writing { ", and would be written by both" } else { " that writes to it" })]
    InUse {
        /// The image.
        path: PathBuf,
        /// Whether it was to be written here.
        writing: bool,
    },
    /// It may be one thing or another.
    #[error("{path} may be {likely} or a raw disk with such contents: say format={likely} or format=raw")]
    Ambiguous {
        /// The image.
        path: PathBuf,
        /// What it looks like.
        likely: &'static str,
    },
    /// The name promises what the contents are not.
    #[error("{path} is called like a {expected} image but is none: say format=raw if it is a raw disk")]
    NotWhatItIsCalled {
        /// The image.
        path: PathBuf,
        /// What it is called like.
        expected: &'static str,
    },
    /// The name promises a format that there is not.
    #[error(
        "{path} is called like a {format} image, which cannot be used: convert it with qemu-img, or say \
         format=raw if it is a raw disk"
    )]
    UnknownFormat {
        /// The image.
        path: PathBuf,
        /// What it is called like.
        format: &'static str,
    },
    /// The image is damaged, or uses what is not supported.
    #[error("the disk {path} is not a usable {format} image")]
    Invalid {
        /// The image.
        path: PathBuf,
        /// What it was opened as.
        format: &'static str,
        /// What is wrong.
        source: io::Error,
    },
    /// This format is for reading.
    #[error("{path}: VMDK images can only be read; add readonly or overlay")]
    ReadOnlyFormat {
        /// The image.
        path: PathBuf,
    },
    /// Its backing files lead in a circle, or too far.
    #[error("the disk {path} cannot be opened as part of this image: it {what}")]
    Chain {
        /// The file at which that shows.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A raw disk that is not made of sectors.
    #[error("{path} has {size} bytes, which is no whole number of 512-byte sectors")]
    OddSize {
        /// The image.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// A disk without a single sector.
    #[error("the disk {path} is empty: give it a size first, such as with truncate -s 4G")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The throw-away layer cannot be made.
    #[error("the throw-away layer over {path} cannot be made")]
    Overlay {
        /// The image.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
}

impl StorageError {
    /// Whether the image is to blame, not the host or the command line.
    pub fn is_invalid_image(&self) -> bool {
        matches!(
            self,
            Self::Invalid { .. }
                | Self::NotADisk { .. }
                | Self::OddSize { .. }
                | Self::Empty { .. }
                | Self::Chain { .. }
        )
    }

    /// Whether the host refused.
    pub fn is_host(&self) -> bool {
        matches!(
            self,
            Self::Open { .. }
                | Self::NotWritable { .. }
                | Self::Part { .. }
                | Self::InUse { .. }
                | Self::Overlay { .. }
        )
    }
}
