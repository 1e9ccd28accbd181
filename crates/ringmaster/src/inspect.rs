//! `ringmaster inspect`: the privileged and sensitive instructions in a file.

use std::path::PathBuf;

use ::inspect::{Bitness, Options};
use clap::Args;

use crate::exit::{ExitStatus, Failure};
use crate::{image, output};

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
    /// Take the file as plain code of this width: 16, 32 or 64
    #[arg(long, value_name = "BITS", value_parser = bitness)]
    pub flat: Option<Bitness>,
    /// List every place, not only counts
    #[arg(long)]
    pub list: bool,
}

fn bitness(text: &str) -> Result<Bitness, String> {
    match text {
        "16" => Ok(Bitness::Bits16),
        "32" => Ok(Bitness::Bits32),
        "64" => Ok(Bitness::Bits64),
        _ => Err("choose 16, 32 or 64".to_owned()),
    }
}

/// Reads the file and prints what is in it.
pub fn perform(args: &InspectArgs) -> Result<ExitStatus, Failure> {
    let file = image::read("file", &args.file, MAX_FILE, "an inspection, which ends at 1 GiB")?;
    let options = Options { flat: args.flat, list: args.list, ..Options::default() };
    let report = ::inspect::analyze(&file.bytes, &options)
        .map_err(|error| Failure::image(format!("cannot inspect {}", file.name)).because(error))?;
    let text = if args.json {
        serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::internal("cannot write JSON").because(error))?
    } else {
        report.to_string()
    };
    output::print(&format!("{}\n", text.trim_end()))?;
    Ok(ExitStatus::Success)
}
