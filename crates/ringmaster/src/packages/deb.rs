//! Unpacking a .deb: an ar archive with a compressed tar archive inside
//! (deb(5)). Only the files that are asked for are written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use glob_match::glob_match;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::manifest::{CachedFile, digest};

/// No file that we want is larger; a damaged header must not fill the disk.
const MAX_FILE: u64 = 1 << 30;

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// Reading the package failed, or it is damaged.
    #[error("{0}")]
    Read(io::Error),
    /// Writing a file failed.
    #[error("{0}")]
    Write(io::Error),
    /// No archive of files inside.
    #[error("it has no data archive")]
    NoData,
    /// A compression that we do not read.
    #[error("its data archive {0} has an unknown compression")]
    Compression(String),
    /// A path that leads out of the folder.
    #[error("it holds the path {}", .0.display())]
    Path(PathBuf),
    /// A file of absurd length.
    #[error("its file {} is larger than 1 GiB", .0.display())]
    TooLarge(PathBuf),
}

/// Unpacks the regular files that match into `folder`, keeping their paths.
/// `progress` hears how much of the package has been read, 0 to 1; whatever
/// error it returns ends the work.
pub(super) fn unpack(
    package: &Path,
    pattern: &str,
    folder: &Path,
    progress: &mut dyn FnMut(f64) -> io::Result<()>,
) -> Result<Vec<CachedFile>, DebError> {
    let file = File::open(package).map_err(DebError::Read)?;
    let total = file.metadata().map_err(DebError::Read)?.len().max(1);
    let counted = Counted { inner: BufReader::new(file), read: 0, total, progress };
    let mut archive = ar::Archive::new(counted);
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(DebError::Read)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        if name.starts_with("data.tar") {
            return unpack_data(name, member, pattern, folder);
        }
    }
    Err(DebError::NoData)
}

fn unpack_data(
    name: &str,
    data: impl Read,
    pattern: &str,
    folder: &Path,
) -> Result<Vec<CachedFile>, DebError> {
    match name {
        "data.tar" => unpack_tar(data, pattern, folder),
        "data.tar.gz" => unpack_tar(GzDecoder::new(data), pattern, folder),
        "data.tar.xz" => unpack_tar(XzReader::new(data, true), pattern, folder),
        "data.tar.zst" => {
            let decoder = StreamingDecoder::new(data)
                .map_err(|error| DebError::Read(io::Error::other(error.to_string())))?;
            unpack_tar(decoder, pattern, folder)
        }
        other => Err(DebError::Compression(other.to_owned())),
    }
}

fn unpack_tar(data: impl Read, pattern: &str, folder: &Path) -> Result<Vec<CachedFile>, DebError> {
    let mut files = Vec::new();
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries().map_err(DebError::Read)? {
        let mut entry = entry.map_err(DebError::Read)?;
        let path = entry.path().map_err(DebError::Read)?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path);
        let wanted = glob_match(pattern, &path.to_string_lossy());
        if !entry.header().entry_type().is_file() || !wanted {
            continue;
        }
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(DebError::Path(path.to_owned()));
        }
        if entry.size() > MAX_FILE {
            return Err(DebError::TooLarge(path.to_owned()));
        }
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let target = folder.join(path);
        write_file(&mut entry, &target, executable)?;
        let (size, sha256) = digest(&target).map_err(DebError::Read)?;
        files.push(CachedFile { path: path.to_owned(), size, sha256 });
    }
    Ok(files)
}

fn write_file(data: &mut dyn Read, target: &Path, executable: bool) -> Result<(), DebError> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(DebError::Write)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if executable { 0o755 } else { 0o644 })
        .open(target)
        .map_err(DebError::Write)?;
    copy(data, &mut file)
}

/// Copies, telling a bad package from a bad disk.
fn copy(data: &mut dyn Read, file: &mut File) -> Result<(), DebError> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match data.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DebError::Read(error)),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        io::Write::write_all(file, bytes).map_err(DebError::Write)?;
    }
}

/// A reader that says how far it is.
struct Counted<'a, R> {
    inner: R,
    read: u64,
    total: u64,
    progress: &'a mut dyn FnMut(f64) -> io::Result<()>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        (self.progress)(self.read as f64 / self.total as f64)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn tar_of(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, data, mode) in files {
            let mut header = tar::Header::new_gnu();
            let name = &mut header.as_gnu_mut().unwrap().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(data.len() as u64);
            header.set_mode(*mode);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb_with(member: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = ar::Builder::new(file.reopen().unwrap());
        for (name, data) in [("debian-binary", &b"2.0\n"[..]), (member, data)] {
            let header = ar::Header::new(name.as_bytes().to_vec(), data.len() as u64);
            builder.append(&header, data).unwrap();
        }
        file
    }

    fn unpack_all(
        member: &str,
        data: &[u8],
        pattern: &str,
    ) -> (tempfile::TempDir, Result<Vec<CachedFile>, DebError>) {
        let folder = tempfile::tempdir().unwrap();
        let deb = deb_with(member, data);
        let result = unpack(deb.path(), pattern, folder.path(), &mut |_| Ok(()));
        (folder, result)
    }

    #[test]
    fn only_matching_files_are_written_with_their_mode() {
        use std::os::unix::fs::PermissionsExt;
        let tar = tar_of(&[("./bin/busybox", b"program", 0o755), ("./usr/share/doc/x", b"text", 0o644)]);
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&tar).unwrap();
        let gz = gz.finish().unwrap();
        for (member, data) in [("data.tar", &tar), ("data.tar.gz", &gz)] {
            let (folder, files) = unpack_all(member, data, "{usr/bin,bin}/busybox");
            let files = files.unwrap();
            assert_eq!(files.len(), 1);
            assert_eq!(files[0].path, Path::new("bin/busybox"));
            let target = folder.path().join("bin/busybox");
            assert_eq!(fs::read(&target).unwrap(), b"program");
            let mode = fs::metadata(target).unwrap().permissions().mode();
            assert_eq!(mode & 0o100, 0o100);
            assert!(!folder.path().join("usr").exists());
        }
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let tar = tar_of(&[("../evil", b"x", 0o644)]);
        let (_, result) = unpack_all("data.tar", &tar, "**");
        assert!(matches!(result, Err(DebError::Path(_))));
    }

    #[test]
    fn damage_is_an_error() {
        let (_, result) = unpack_all("data.tar.xz", b"not xz at all", "*");
        assert!(matches!(result, Err(DebError::Read(_))));
        let (_, result) = unpack_all("data.tar.zst", b"not zstd", "*");
        assert!(matches!(result, Err(DebError::Read(_))));
        let (_, result) = unpack_all("data.tar.lz", b"", "*");
        assert!(matches!(result, Err(DebError::Compression(_))));
        let (_, result) = unpack_all("control.tar", b"", "*");
        assert!(matches!(result, Err(DebError::NoData)));
        let tar = tar_of(&[("./a", &[1; 2000], 0o644)]);
        let (_, result) = unpack_all("data.tar", &tar[..1000], "*");
        assert!(result.is_err(), "a truncated file");
    }
}
