//! `ringmaster demo`: Debian Linux to a shell, with nothing prepared.

pub mod cpio;
pub mod initramfs;
pub mod modules;

use std::fs;
use std::path::Path;

use clap::Args;
use machine::Protocol;

use crate::cli::net::{Net, NetArgs};
use crate::cli::options::ExecutionArgs;
use crate::exit::{ExitStatus, Failure};
use crate::fetch;
use crate::image::Image;
use crate::output;
use crate::packages::{Entry, PackageError, Request};
use crate::run;
use crate::terminal;
use crate::vm::{Devices, Guest};

/// The Debian package of the kernel, and the file that we want out of it.
pub const KERNEL: (&str, &str) = ("linux-image-cloud-amd64", "boot/vmlinuz-*");
/// The static BusyBox.
pub const BUSYBOX: (&str, &str) = ("busybox-static", "{usr/bin,bin}/busybox");

/// What to do where Debian cannot be had.
const OFFER: &str = "or boot the built-in guest, which needs nothing: ringmaster demo --embedded";

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Boot the built-in guest, which needs no packages and no network
    #[arg(long, conflicts_with_all = ["refresh", "verbose", "exec", "cmdline", "net"])]
    pub embedded: bool,
    /// Fetch the packages again even if they are cached
    #[arg(long)]
    pub refresh: bool,
    /// Show the kernel's messages
    #[arg(long)]
    pub verbose: bool,
    /// Run this command in the guest instead of a shell, then power off
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// Add to the kernel's command line
    #[arg(long, value_name = "STR")]
    pub cmdline: Option<String>,
    /// The network card
    #[command(flatten)]
    pub net: NetArgs,
    /// How to execute and watch the guest
    #[command(flatten)]
    pub execution: ExecutionArgs,
}

/// Fetches what is needed and boots it.
pub fn perform(args: DemoArgs) -> Result<ExitStatus, Failure> {
    machine::begin_calibration();
    args.net.check()?;
    let guest = if args.embedded {
        Guest::Embedded
    } else {
        let cmdline = command_line(&args, terminal::size())?;
        debian(&args, cmdline)?
    };
    run::launch(guest, &args.execution, Devices { net: args.net, ..Devices::default() })
}

fn debian(args: &DemoArgs, cmdline: String) -> Result<Guest, Failure> {
    let entries =
        requests(args).and_then(|requests| fetched(&requests, args.refresh)).map_err(offer_embedded)?;
    let [kernel, busybox, drivers @ ..] = entries.as_slice() else {
        return Err(Failure::internal("a package is missing from the cache"));
    };
    let drivers = drivers.first().map(modules::network).transpose()?.unwrap_or_default();
    output::note(format_args!(
        "Debian's {} {} and {} {}",
        kernel.manifest().package,
        kernel.manifest().version,
        busybox.manifest().package,
        busybox.manifest().version,
    ));
    let initramfs = initramfs::build_with(&read(busybox)?.bytes, &drivers)?;
    Ok(Guest::Kernel {
        kernel: read(kernel)?,
        initrds: vec![Image { name: "the demo's initramfs".to_owned(), bytes: initramfs }],
        cmdline,
        protocol: Protocol::Auto,
    })
}

/// The files of `requests`, those of the kernel and of its drivers out of one
/// package: what was cached on different days is fetched again.
fn fetched(requests: &[Request], refresh: bool) -> Result<Vec<Entry>, PackageError> {
    let entries = fetch::fetch_packages(requests, refresh)?;
    let fits = match entries.as_slice() {
        [kernel, _, drivers] => kernel.manifest().version == drivers.manifest().version,
        _ => true,
    };
    if fits { Ok(entries) } else { fetch::fetch_packages(requests, true) }
}

fn requests(args: &DemoArgs) -> Result<Vec<Request>, PackageError> {
    let files = [KERNEL, BUSYBOX].into_iter();
    let files = files.map(|(package, pattern)| Request::new(package, "amd64", pattern));
    let drivers = (args.net.net != Net::None).then(modules::network_request);
    files.chain(drivers).collect()
}

/// The failure of a fetch, with the guest that needs no fetch.
fn offer_embedded(error: PackageError) -> Failure {
    if let PackageError::Interrupted(signal) = error {
        return Failure::signal(signal);
    }
    let advice = error.advice();
    Failure::new(error.status(), format!("{error}; {advice}, {OFFER}"))
}

fn read(entry: &Entry) -> Result<Image, Failure> {
    let path = entry.paths().next().unwrap_or_default();
    let bytes = fs::read(&path).map_err(|error| unreadable(&path, error))?;
    let manifest = entry.manifest();
    Ok(Image { name: format!("{} {}", manifest.package, manifest.version), bytes })
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::internal(format!("cannot read {}", path.display())).because(error)
}

/// The kernel's command line: quiet unless asked, the rest for our /init.
fn command_line(args: &DemoArgs, size: Option<(u16, u16)>) -> Result<String, Failure> {
    let mut words = vec!["console=ttyS0".to_owned()];
    if !args.verbose {
        words.push("quiet".to_owned());
    }
    if let Some((rows, columns)) = size {
        words.push(format!("{}={rows}x{columns}", initramfs::TTY_PARAMETER));
    }
    if let Some(command) = &args.exec {
        if command.contains(['"', '\n']) || command.is_empty() {
            return Err(Failure::usage(
                "--exec takes one line without double quotes, because it travels in the kernel's command line",
            ));
        }
        words.push(format!("{}=\"{command}\"", initramfs::EXEC_PARAMETER));
    }
    words.extend(args.cmdline.clone());
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, Parsed, parse};

    fn arguments(words: &[&str]) -> DemoArgs {
        let words = ["ringmaster", "demo"].iter().chain(words);
        match parse(words.map(std::ffi::OsString::from)) {
            Ok(Parsed::Do(Command::Demo(args))) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_quiet_unless_asked() {
        let line = command_line(&arguments(&[]), None).unwrap();
        assert_eq!(line, "console=ttyS0 quiet");
        let line = command_line(&arguments(&["--verbose", "--cmdline", "nokaslr"]), None);
        assert_eq!(line.unwrap(), "console=ttyS0 nokaslr");
    }

    #[test]
    fn a_command_and_the_size_travel_to_init() {
        let args = arguments(&["--exec", "uname -a"]);
        let line = command_line(&args, Some((24, 80))).unwrap();
        assert_eq!(line, "console=ttyS0 quiet ringmaster.tty=24x80 ringmaster.exec=\"uname -a\"");
        let args = arguments(&["--exec", "echo \"x\""]);
        assert_eq!(command_line(&args, None).unwrap_err().status().code(), 2);
    }

    #[test]
    fn a_failed_fetch_offers_the_embedded_guest() {
        let failure = offer_embedded(PackageError::NoApt { program: "apt-get" });
        assert_eq!(failure.status().code(), 3);
        assert!(failure.report().contains("demo --embedded"));
        assert_eq!(offer_embedded(PackageError::Interrupted(15)).status().code(), 143);
    }
}
