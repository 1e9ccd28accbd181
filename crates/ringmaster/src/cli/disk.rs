//! `--disk`: an image behind a virtio block device.

use std::str::FromStr;

use machine::Transport;
use storage::{DiskFormat, DiskOptions};

use super::memory::MemorySize;

/// How the option is written.
pub const SYNTAX: &str = "FILE[,format=raw|qcow2|vmdk|auto][,readonly][,overlay][,serial=TEXT][,queues=N]\
    [,bus=pci|mmio][,iops=N][,bps=SIZE]";

/// Bytes of a serial number.
const SERIAL: usize = 20;

/// One disk. A comma in the file's name is written twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// The image and how to open it.
    pub options: DiskOptions,
    /// The serial number that the guest sees.
    pub serial: String,
    /// Number of queues; one for each processor, up to four, when absent.
    pub queues: Option<u16>,
    /// How the device is reached; as the others are, when absent.
    pub transport: Option<Transport>,
}

/// Why a disk is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No file before the first comma.
    #[error("the file is missing: write {SYNTAX}")]
    NoFile,
    /// A format that nobody knows.
    #[error("'{0}' is not a disk format; raw, qcow2, vmdk and auto are")]
    Format(String),
    /// A property that nobody knows.
    #[error("a disk has no property '{0}': write {SYNTAX}")]
    Property(String),
    /// A property with a value that it cannot have.
    #[error("'{value}' is not possible for {property}: give {expected}")]
    Value {
        /// The property.
        property: &'static str,
        /// What was given.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
}

impl FromStr for Disk {
    type Err = DiskError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = parts(text).into_iter();
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err(DiskError::NoFile);
        }
        let mut disk = Self::default();
        disk.options.path = path.into();
        parts.try_for_each(|part| disk.set(&part))?;
        Ok(disk)
    }
}

/// The parts between commas; two commas are one that does not separate.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

impl Disk {
    fn set(&mut self, part: &str) -> Result<(), DiskError> {
        let wrong = |property, value: &str, expected| DiskError::Value {
            property,
            value: value.to_owned(),
            expected,
        };
        match part.split_once('=').unwrap_or((part, "")) {
            ("readonly", "") if part == "readonly" => self.options.read_only = true,
            ("overlay", "") if part == "overlay" => self.options.overlay = true,
            ("format", "auto") => (self.options.format, self.options.detect) = (None, true),
            ("format", value) => {
                self.options.format = Some(format(value)?);
                self.options.detect = false;
            }
            ("serial", value) if (1..=SERIAL).contains(&value.len()) => value.clone_into(&mut self.serial),
            ("serial", value) => return Err(wrong("serial", value, "1 to 20 bytes")),
            ("queues", value) => {
                let possible = |queues: &u16| (1..=virtio::blk::MAX_QUEUES).contains(queues);
                let queues = value.parse().ok().filter(possible);
                self.queues = Some(queues.ok_or_else(|| wrong("queues", value, "1 to 32"))?);
            }
            ("bus", "pci") => self.transport = Some(Transport::Pci),
            ("bus", "mmio") => self.transport = Some(Transport::Mmio),
            ("bus", value) => return Err(wrong("bus", value, "pci or mmio")),
            ("iops", value) => {
                let limit = value.parse().ok().filter(|limit| *limit > 0);
                let expected = "requests in a second, at least 1";
                self.options.rate.operations = Some(limit.ok_or_else(|| wrong("iops", value, expected))?);
            }
            ("bps", value) => {
                let limit = MemorySize::parse_bytes(value).filter(|limit| *limit > 0);
                let expected = "bytes in a second, such as 10M";
                self.options.rate.bytes = Some(limit.ok_or_else(|| wrong("bps", value, expected))?);
            }
            _ => return Err(DiskError::Property(part.to_owned())),
        }
        Ok(())
    }
}

fn format(value: &str) -> Result<DiskFormat, DiskError> {
    match value {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        "vmdk" => Ok(DiskFormat::Vmdk),
        other => Err(DiskError::Format(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn properties_follow_the_file() {
        let disk: Disk =
            "a.img,readonly,format=qcow2,serial=S1,queues=3,bus=mmio,iops=5,bps=2M".parse().unwrap();
        assert_eq!(disk.options.path, PathBuf::from("a.img"));
        assert_eq!(disk.options.format, Some(DiskFormat::Qcow2));
        assert!(disk.options.read_only && !disk.options.overlay && !disk.options.detect);
        assert_eq!((disk.serial.as_str(), disk.queues), ("S1", Some(3)));
        assert_eq!(disk.transport, Some(Transport::Mmio));
        assert_eq!(disk.options.rate.operations, Some(5));
        assert_eq!(disk.options.rate.bytes, Some(2 << 20));
        let plain = "b".parse::<Disk>().unwrap();
        assert_eq!((plain.options.format, plain.options.detect, plain.transport), (None, false, None));
        let detected = "b,format=auto,overlay".parse::<Disk>().unwrap();
        assert!(detected.options.detect && detected.options.overlay);
    }

    #[test]
    fn commas_in_names_are_written_twice() {
        let disk: Disk = "a,,b.img,readonly".parse().unwrap();
        assert_eq!(disk.options.path, PathBuf::from("a,b.img"));
        assert!(disk.options.read_only);
    }

    #[test]
    fn mistakes_are_named() {
        let vdi = DiskError::Format("vdi".to_owned());
        let cache = DiskError::Property("cache=none".to_owned());
        assert_eq!("".parse::<Disk>(), Err(DiskError::NoFile));
        assert_eq!(",readonly".parse::<Disk>(), Err(DiskError::NoFile));
        assert_eq!("a,format=vdi".parse::<Disk>(), Err(vdi));
        assert_eq!("a,cache=none".parse::<Disk>(), Err(cache));
        for bad in [
            "a,readonly=1",
            "a,serial=",
            "a,queues=0",
            "a,queues=33",
            "a,bus=usb",
            "a,iops=0",
            "a,bps=x",
            "a,",
        ] {
            assert!(bad.parse::<Disk>().is_err(), "{bad}");
        }
    }
}
