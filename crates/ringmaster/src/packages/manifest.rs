//! What the cache knows about a package's files.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hex;

/// The manifest's name in an entry's folder.
pub(super) const NAME: &str = "manifest.json";

/// One file of a cached package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedFile {
    /// Its path inside the package, without a leading slash.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Where a cached entry came from and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The package that the files are from; a metapackage has been resolved.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Debian's name of its architecture.
    pub architecture: String,
    /// SHA-256 of the package's file, as the signed package list has it.
    pub sha256: String,
    /// The files.
    pub files: Vec<CachedFile>,
}

impl Manifest {
    /// Reads the manifest of a folder and checks every file against it.
    ///
    /// None means that the entry is absent or damaged: fetch it (again).
    pub(super) fn read_verified(folder: &Path) -> Option<Self> {
        let text = fs::read(folder.join(NAME)).ok()?;
        let manifest: Self = serde_json::from_slice(&text).ok()?;
        let whole = manifest.files.iter().all(|file| {
            digest(&folder.join(&file.path))
                .is_ok_and(|(size, sha256)| size == file.size && sha256 == file.sha256)
        });
        (whole && !manifest.files.is_empty()).then_some(manifest)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        fs::write(folder.join(NAME), text)
    }
}

/// Length and SHA-256 of a file.
pub(super) fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut hash = Sha256::new();
    let mut size = 0;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok((size, hex(&hash.finalize())));
        }
        hash.update(bytes);
        let count = bytes.len();
        size += count as u64;
        reader.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(folder: &Path) -> Manifest {
        fs::write(folder.join("file"), b"abc").unwrap();
        let (size, sha256) = digest(&folder.join("file")).unwrap();
        let manifest = Manifest {
            package: "p".to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            sha256: String::new(),
            files: vec![CachedFile { path: "file".into(), size, sha256 }],
        };
        manifest.write(folder).unwrap();
        manifest
    }

    #[test]
    fn the_digest_is_sha_256() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = sample(folder.path());
        assert_eq!(
            manifest.files[0].sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_whole_entry_is_found_and_a_damaged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = sample(folder.path());
        assert_eq!(Manifest::read_verified(folder.path()), Some(manifest));
        fs::write(folder.path().join("file"), b"abd").unwrap();
        assert_eq!(Manifest::read_verified(folder.path()), None);
        fs::remove_file(folder.path().join("file")).unwrap();
        assert_eq!(Manifest::read_verified(folder.path()), None);
        fs::write(folder.path().join(NAME), b"{").unwrap();
        assert_eq!(Manifest::read_verified(folder.path()), None);
    }
}
