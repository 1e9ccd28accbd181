//! Reading the files that a user names: kernels, initial RAM disks, firmware.
//!
//! They are hostile input. Here it is only made sure that there is something
//! and not too much of it; what it is, the boot crate finds out.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::cli::memory::MemorySize;
use crate::exit::Failure;

/// Nothing that is loaded into a guest lies above the first 4 GiB.
const MAX_LOADED: u64 = 4 << 30;

/// Firmware ends at 4 GiB and must leave room for the devices below it.
pub const MAX_FIRMWARE: u64 = 16 << 20;

/// How much one thread reads at a time.
const SHARE: usize = 2 << 20;
/// More threads than this only wait for memory.
const MAX_THREADS: usize = 4;

/// A file that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What messages call it.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Reads a file that goes into guest memory of the given size.
pub fn read_for_guest(what: &str, path: &Path, memory: MemorySize) -> Result<Image, Failure> {
    let limit = memory.bytes().min(MAX_LOADED);
    read(what, path, limit, &format!("a guest with {memory} of memory"))
}

/// Reads a file of at most `limit` bytes, which is the room of `holder`.
pub fn read(what: &str, path: &Path, limit: u64, holder: &str) -> Result<Image, Failure> {
    let name = path.display().to_string();
    let fail = |error| Failure::internal(format!("cannot read the {what} {name}")).because(error);
    let too_large = || Failure::image(format!("the {what} {name} is too large for {holder}"));
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(Failure::image(format!("the {what} {name} is a folder")));
    }
    let known = known_length(&metadata);
    if known > limit {
        return Err(too_large());
    }
    let mut bytes = usize::try_from(known).map_err(|_| too_large()).and_then(|known| {
        let none = format!("no memory for the {what} {name}");
        memory::zeroed_buffer(known).map_err(|error| Failure::host_lacks(none).because(error))
    })?;
    if known > 0 { read_whole(&file, &mut bytes) } else { read_to_end(file, limit, &mut bytes) }
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    if bytes.is_empty() {
        return Err(Failure::image(format!("the {what} {name} is empty")));
    }
    Ok(Image { name, bytes })
}

/// Fills `bytes` from the start of `file`, on several threads: a large kernel
/// is there sooner.
fn read_whole(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    let threads = bytes.len().div_ceil(SHARE).min(thread::available_parallelism().map_or(1, NonZero::get));
    let shares = Mutex::new(bytes.chunks_mut(SHARE).zip((0_u64..).step_by(SHARE)));
    let next = || shares.lock().unwrap_or_else(PoisonError::into_inner).next();
    let failure = Mutex::new(Ok(()));
    let work = || {
        while let Some((share, offset)) = next() {
            if let Err(error) = file.read_exact_at(share, offset) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(MAX_THREADS) {
            // A host that refuses a thread leaves the work to this one.
            let _ = thread::Builder::new().name("read".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn read_to_end(file: File, limit: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    file.take(limit + 1).read_to_end(bytes).map(|_| ())
}

/// Pipes and devices do not tell their length.
fn known_length(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn status(path: &Path, limit: u64) -> u8 {
        read("kernel", path, limit, "a test").unwrap_err().status().code()
    }

    #[test]
    fn bad_files_have_their_statuses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(status(&file, 10), 1, "absent");
        assert_eq!(status(folder.path(), 10), 5, "a folder");
        fs::write(&file, b"").unwrap();
        assert_eq!(status(&file, 10), 5, "empty");
        fs::write(&file, b"12345678901").unwrap();
        assert_eq!(status(&file, 10), 5, "too large");
        assert_eq!(status(Path::new("/dev/zero"), 10), 5, "endless");
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(status(&file, MAX_LOADED), 5, "enormous");
    }

    #[test]
    fn a_file_up_to_the_limit_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"1234567890").unwrap();
        let image = read("kernel", file.path(), 10, "a test").unwrap();
        assert_eq!(image.bytes, b"1234567890");
    }

    #[test]
    fn large_files_are_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for len in [SHARE - 1, SHARE, 3 * SHARE + 77] {
            let bytes: Vec<u8> = (0..len).map(|i| (i >> 3) as u8 ^ (i >> 17) as u8).collect();
            fs::write(file.path(), &bytes).unwrap();
            assert!(read("kernel", file.path(), 1 << 30, "a test").unwrap().bytes == bytes, "{len}");
        }
    }
}
