//! The "newc" cpio archive that Linux unpacks as its initial RAM disk
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Deterministic: no times, no owners, inode numbers in order.

use std::io::{self, Write};

/// The kinds of entry, as `st_mode` has them.
const DIRECTORY: u32 = 0o040_000;
const DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// The fields of an entry that differ between entries.
#[derive(Debug, Default)]
struct Header {
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Archive {
    /// Adds a directory that everybody may read.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        let header = Header { mode: DIRECTORY | 0o755, links: 2, ..Header::default() };
        self.entry(name, &header, &[])
    }

    /// Adds a program.
    pub fn program(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        let header = Header { mode: REGULAR | 0o755, links: 1, ..Header::default() };
        self.entry(name, &header, data)
    }

    /// Adds a character device that only root may use.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        let header = Header { mode: DEVICE | 0o600, links: 1, device: (major, minor) };
        self.entry(name, &header, &[])
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        let header = Header { links: 1, ..Header::default() };
        self.inode = 0;
        self.write("TRAILER!!!", &header, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, header: &Header, data: &[u8]) -> io::Result<()> {
        self.inode += 1;
        self.write(name, header, data)
    }

    fn write(&mut self, name: &str, header: &Header, data: &[u8]) -> io::Result<()> {
        let length = |n: usize| u32::try_from(n).map_err(io::Error::other);
        let fields = [
            self.inode,
            header.mode,
            0, // owner
            0, // group
            header.links,
            0, // time
            length(data.len())?,
            0, // device that holds the entry
            0,
            header.device.0,
            header.device.1,
            length(name.len() + 1)?,
            0, // checksum, absent in this format
        ];
        self.bytes.write_all(b"070701")?;
        for field in fields {
            write!(self.bytes, "{field:08X}")?;
        }
        self.bytes.write_all(name.as_bytes())?;
        self.bytes.push(0);
        self.pad();
        self.bytes.write_all(data)?;
        self.pad();
        Ok(())
    }

    /// Names and data end at multiples of four.
    fn pad(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_format_says() {
        let mut archive = Archive::default();
        archive.directory("dev").unwrap();
        archive.character_device("dev/ttyS0", 4, 64).unwrap();
        archive.program("init", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let fields = concat!(
            "070701", "00000001", "000041ED", "00000000", "00000000", "00000002", "00000000", "00000000",
            "00000000", "00000000", "00000000", "00000000", "00000004", "00000000",
        );
        assert!(text.starts_with(&format!("{fields}dev\0\0\x00070701")), "{text:?}");
        assert!(text.contains("0000000400000040"), "device 4, 64");
        assert!(text.contains("init\0\0hello\0\0\x00070701"), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }

    #[test]
    fn the_host_s_cpio_reads_it() {
        let mut archive = Archive::default();
        archive.directory("bin").unwrap();
        archive.program("bin/x", &[7; 4097]).unwrap();
        let bytes = archive.finish().unwrap();
        // A format check against an independent reader, where there is one.
        let Ok(mut child) = std::process::Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        else {
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/x\n");
    }
}
