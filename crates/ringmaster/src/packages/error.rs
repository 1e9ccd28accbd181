//! Why a package could not be had, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::DebError;
use crate::exit::{ExitStatus, Failure};

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Neither XDG_CACHE_HOME nor HOME says where the cache is.
    #[error("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache")]
    NoCacheFolder,
    /// The cache cannot be read or written.
    #[error("the cache folder {} cannot be used: {source}", folder.display())]
    Cache {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk under the cache is full.
    #[error("there is not enough room for the cache folder {}", folder.display())]
    CacheFull {
        /// Where.
        folder: PathBuf,
    },
    /// A program of apt is not on this host.
    #[error("{program} was not found on this host")]
    NoApt {
        /// Which.
        program: &'static str,
    },
    /// The host's sources do not have the package.
    #[error("the host's apt sources have no package {package} for {architecture}")]
    Unknown {
        /// Which.
        package: String,
        /// For which architecture.
        architecture: String,
    },
    /// apt failed.
    #[error("apt could not {doing}: {detail}")]
    Apt {
        /// What it was to do.
        doing: String,
        /// Its own words.
        detail: String,
    },
    /// The package is not as packages are.
    #[error("the package {package} cannot be unpacked: {source}")]
    Deb {
        /// Which.
        package: String,
        /// Why.
        source: DebError,
    },
    /// No file in the package matches.
    #[error("the package {package} has no file that matches {pattern}")]
    NoMatch {
        /// Which package.
        package: String,
        /// What was looked for.
        pattern: String,
    },
    /// Not the name of a package and an architecture.
    #[error("'{0}' is not a package and architecture")]
    BadName(String),
    /// A signal asked to stop.
    #[error("stopped by a signal")]
    Interrupted(u8),
}

impl PackageError {
    /// An I/O error in the cache: a full disk is told apart from the rest.
    pub(super) fn cache(folder: &Path, source: io::Error) -> Self {
        let folder = folder.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::CacheFull { folder },
            _ => Self::Cache { folder, source },
        }
    }

    /// True if trying again may help: mirrors are now and then out of step
    /// with themselves, and networks come and go.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Apt { .. })
    }

    /// What the user can do, as the end of a sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoCacheFolder | Self::Cache { .. } => "set XDG_CACHE_HOME to a folder that can be written",
            Self::CacheFull { .. } => "free 200 MB or set XDG_CACHE_HOME to a folder on another disk",
            Self::NoApt { .. } => "install apt, as Debian and its kin have it",
            Self::Unknown { .. } => "add Debian's archive to the host's apt sources",
            Self::Apt { .. } => "check the network and the host's apt sources, then try again",
            Self::Deb { .. } | Self::NoMatch { .. } => "try again with --refresh",
            Self::BadName(_) => "write PACKAGE or PACKAGE:ARCHITECTURE",
            Self::Interrupted(_) => "start again to continue",
        }
    }

    /// The status to exit with.
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::NoApt { .. } | Self::Unknown { .. } => ExitStatus::HostLacks,
            Self::BadName(_) => ExitStatus::Usage,
            Self::Interrupted(signal) => ExitStatus::Signal(*signal),
            _ => ExitStatus::Internal,
        }
    }
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        match error {
            PackageError::Interrupted(signal) => Self::signal(signal),
            error => Self::new(error.status(), format!("{error}; {}", error.advice())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_just_any_error() {
        let full = PackageError::cache(Path::new("/c"), io::ErrorKind::StorageFull.into());
        assert!(matches!(full, PackageError::CacheFull { .. }));
        let denied = PackageError::cache(Path::new("/c"), io::ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, PackageError::Cache { .. }));
    }

    #[test]
    fn statuses_follow_the_table() {
        let no_apt = PackageError::NoApt { program: "apt-get" };
        assert_eq!(Failure::from(no_apt).status(), ExitStatus::HostLacks);
        let stopped = Failure::from(PackageError::Interrupted(2));
        assert_eq!(stopped.status().code(), 130);
        assert_eq!(stopped.report(), "stopped by SIGINT");
    }
}
