//! `--disk`: an image behind the guest's disk controller.

use std::path::PathBuf;
use std::str::FromStr;

use crate::exit::Failure;

/// How a disk image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Sector after sector.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// One disk: `FILE[,format=raw|qcow2][,readonly]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Its format; found out from the file when absent.
    pub format: Option<DiskFormat>,
    /// The guest may not write.
    pub read_only: bool,
}

/// Why a disk is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No file before the first comma.
    #[error("the file is missing: write FILE[,format=raw|qcow2][,readonly]")]
    NoFile,
    /// A format that nobody knows.
    #[error("'{0}' is not a disk format; raw and qcow2 are")]
    Format(String),
    /// A property that nobody knows.
    #[error("a disk has no property '{0}'; format and readonly are the two")]
    Property(String),
}

impl FromStr for Disk {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err(DiskError::NoFile);
        }
        let mut disk = Self { path: path.into(), format: None, read_only: false };
        for part in parts {
            match part.split_once('=') {
                None if part == "readonly" => disk.read_only = true,
                Some(("format", "raw")) => disk.format = Some(DiskFormat::Raw),
                Some(("format", "qcow2")) => disk.format = Some(DiskFormat::Qcow2),
                Some(("format", other)) => return Err(DiskError::Format(other.to_owned())),
                _ => return Err(DiskError::Property(part.to_owned())),
            }
        }
        Ok(disk)
    }
}

impl Disk {
    /// Refuses what this release cannot do: no disk controller is built yet.
    pub fn require_supported(disks: &[Self]) -> Result<(), Failure> {
        if disks.is_empty() { Ok(()) } else { Err(Failure::not_yet("--disk")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_follow_the_file() {
        let disk: Disk = "a.img,readonly,format=qcow2".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a.img"));
        assert_eq!(disk.format, Some(DiskFormat::Qcow2));
        assert!(disk.read_only);
        assert_eq!("b".parse::<Disk>().unwrap().format, None);
    }

    #[test]
    fn mistakes_are_named() {
        let vdi = DiskError::Format("vdi".to_owned());
        let cache = DiskError::Property("cache=none".to_owned());
        assert_eq!("".parse::<Disk>(), Err(DiskError::NoFile));
        assert_eq!(",readonly".parse::<Disk>(), Err(DiskError::NoFile));
        assert_eq!("a,format=vdi".parse::<Disk>(), Err(vdi));
        assert_eq!("a,cache=none".parse::<Disk>(), Err(cache));
    }
}
