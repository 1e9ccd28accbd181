//! `ringmaster fetch`: a file out of a Debian package, for tests and scripts.

use clap::Args;

use crate::exit::{ExitStatus, Failure};
use crate::output;
use crate::packages::{Cancel, Entry, PackageError, Progress, Request, Store};
use crate::terminal::signals::Watcher;

/// Options of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The package, as PACKAGE or PACKAGE:ARCHITECTURE (amd64 if not said)
    pub package: String,
    /// Which files, as a glob over paths without a leading slash
    pub pattern: String,
    /// Fetch again even if cached
    #[arg(long)]
    pub refresh: bool,
}

/// Fetches, and prints the paths of the files on this host.
pub fn perform(args: &FetchArgs) -> Result<ExitStatus, Failure> {
    let (package, architecture) = args.package.split_once(':').unwrap_or((&args.package, "amd64"));
    let request = Request::new(package, architecture, &args.pattern)?;
    let entries = fetch_packages(&[request], args.refresh)?;
    let paths: Vec<String> =
        entries.iter().flat_map(Entry::paths).map(|path| format!("{}\n", path.display())).collect();
    output::print(&paths.concat())?;
    Ok(ExitStatus::Success)
}

/// Gets packages from the user's cache with progress on standard error; a
/// signal ends it and leaves nothing half done.
pub fn fetch_packages(requests: &[Request], refresh: bool) -> Result<Vec<Entry>, PackageError> {
    let cancel = Cancel::default();
    let for_signals = cancel.clone();
    // Without a watcher a signal still ends the process; what it leaves is
    // swept by the next fetch.
    let _watcher = Watcher::start(move |signal| for_signals.raise(signal));
    let progress = Progress::on_stderr();
    Store::of_user()?.get(requests, refresh, &progress, &cancel)
}
