//! Files out of Debian packages, fetched by the host's own apt into a cache.
//!
//! ```text
//! Store::get ── cached and whole? ── yes ─▶ paths, no network, no lock
//!      │ no
//!      ▼ lock the cache
//! Apt (own state, own cache, the host's sources and keys)
//!      update ─▶ resolve ─▶ download        verified as apt does
//!      ▼
//! deb: ar ▸ xz/zstd/gzip ▸ tar ▸ the files that match
//!      ▼
//! rename into place
//! ```
//!
//! Nothing needs root and nothing of the host's package state is touched.

mod apt;
mod cancel;
mod child;
mod deb;
mod error;
mod manifest;
mod progress;
mod store;

pub use cancel::Cancel;
pub use deb::DebError;
pub use error::PackageError;
pub use manifest::{CachedFile, Manifest};
pub use progress::Progress;
pub use store::{Entry, Store};

use sha2::{Digest, Sha256};

/// Files wanted out of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    package: String,
    architecture: String,
    pattern: String,
}

impl Request {
    /// Wants the files of `package` for `architecture` (Debian's name of it)
    /// whose paths, without a leading slash, match the glob `pattern`.
    ///
    /// A kernel's metapackage stands for the kernel that it depends on.
    pub fn new(package: &str, architecture: &str, pattern: &str) -> Result<Self, PackageError> {
        // Debian policy 5.6.7; it also keeps options and paths out of names.
        let legal = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        };
        if !legal(package) || !legal(architecture) {
            let name = format!("{package}:{architecture}");
            return Err(PackageError::BadName(name));
        }
        Ok(Self {
            package: package.to_owned(),
            architecture: architecture.to_owned(),
            pattern: pattern.to_owned(),
        })
    }

    /// The package as it was asked for.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// Debian's name of the architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The glob.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    fn folder_name(&self) -> String {
        let digest = hex(&Sha256::digest(&self.pattern));
        let short = digest.get(..8).unwrap_or_default();
        format!("{}_{}_{short}", self.package, self.architecture)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_options_or_paths_are_refused() {
        for name in ["", "-o", "../etc", "a b", "A", "a=1", "a/b"] {
            assert!(Request::new(name, "amd64", "*").is_err(), "{name}");
            assert!(Request::new("a", name, "*").is_err(), "{name}");
        }
        assert!(Request::new("libstdc++6", "i386", "*").is_ok());
    }

    #[test]
    fn another_pattern_is_another_folder() {
        let one = Request::new("seabios", "amd64", "a").unwrap();
        let two = Request::new("seabios", "amd64", "b").unwrap();
        assert_ne!(one.folder_name(), two.folder_name());
        assert!(one.folder_name().starts_with("seabios_amd64_"));
    }
}
