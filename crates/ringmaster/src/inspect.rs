//! `ringmaster inspect`: the privileged and sensitive instructions in a file.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::exit::{ExitStatus, Failure};
use crate::image;

/// No kernel or binary is larger.
const MAX_FILE: u64 = 1 << 30;

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// ELF, bzImage or flat binary
    pub file: PathBuf,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Reads the file and prints what is in it.
pub fn run(path: &Path, _json: bool) -> Result<ExitStatus, Failure> {
    let _file = image::read("file", path, MAX_FILE, "an inspection, which ends at 1 GiB")?;
    Err(Failure::not_yet("inspect"))
}
