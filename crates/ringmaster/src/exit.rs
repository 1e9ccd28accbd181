//! Exit statuses, and the one error type that reaches `main`.
//!
//! Scripts rely on the statuses, so there is exactly one table of them.

use std::error::Error;
use std::fmt;

/// How the process ends. [`TABLE`] says what each status promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// The guest powered off, the user left, or a command did its work.
    Success,
    /// Something inside failed, or reading or writing did.
    Internal,
    /// The command line cannot be followed as written.
    Usage,
    /// The host lacks what was asked for.
    HostLacks,
    /// The guest failed: panic or triple fault.
    GuestFailed,
    /// An image or snapshot is invalid.
    InvalidImage,
    /// `--timeout` passed.
    TimedOut,
    /// A signal stopped the run; the shell's convention of 128 + number.
    Signal(u8),
}

/// Every status with its meaning, in numeric order; the manual prints it.
pub const TABLE: [(&str, &str); 8] = [
    ("0", "the guest powered off (or reset with --on-reset exit), or you left with Ctrl-A x"),
    ("1", "internal or input/output error"),
    ("2", "bad usage"),
    ("3", "the host lacks what was asked for"),
    ("4", "the guest failed (panic, triple fault)"),
    ("5", "an image or snapshot is invalid"),
    ("124", "--timeout passed"),
    ("128+N", "stopped cleanly by signal N (130: SIGINT, 143: SIGTERM)"),
];

impl ExitStatus {
    /// The number that the process hands to its parent.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Internal => 1,
            Self::Usage => 2,
            Self::HostLacks => 3,
            Self::GuestFailed => 4,
            Self::InvalidImage => 5,
            Self::TimedOut => 124,
            Self::Signal(number) => 128u8.saturating_add(number),
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// Why the process ends other than well: a status, one sentence, its causes.
#[derive(Debug)]
pub struct Failure {
    status: ExitStatus,
    sentence: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with the given status. The sentence starts in lower case and
    /// has no full stop, because causes may follow it.
    pub fn new(status: ExitStatus, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into(), source: None }
    }

    /// Internal or I/O error (status 1).
    pub fn internal(sentence: impl Into<String>) -> Self {
        Self::new(ExitStatus::Internal, sentence)
    }

    /// Bad usage (status 2).
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, sentence)
    }

    /// The host lacks what was asked for (status 3).
    pub fn host_lacks(sentence: impl Into<String>) -> Self {
        Self::new(ExitStatus::HostLacks, sentence)
    }

    /// An image is invalid (status 5).
    pub fn image(sentence: impl Into<String>) -> Self {
        Self::new(ExitStatus::InvalidImage, sentence)
    }

    /// Stopped by a signal (status 128 + number).
    pub fn signal(number: u8) -> Self {
        Self::new(ExitStatus::Signal(number), format!("stopped by {}", signal_name(number)))
    }

    /// Adds the cause; its message is printed after the sentence.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// The status to exit with.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// The sentence followed by all its causes, on one line.
    pub fn report(&self) -> String {
        let mut text = self.sentence.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text.replace('\n', " ")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|cause| {
            let cause: &(dyn Error + 'static) = cause.as_ref();
            cause
        })
    }
}

fn signal_name(number: u8) -> String {
    signal_hook::low_level::signal_name(i32::from(number))
        .map_or_else(|| format!("signal {number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn statuses_match_the_table() {
        let statuses = [
            ExitStatus::Success,
            ExitStatus::Internal,
            ExitStatus::Usage,
            ExitStatus::HostLacks,
            ExitStatus::GuestFailed,
            ExitStatus::InvalidImage,
            ExitStatus::TimedOut,
        ];
        let codes: Vec<String> = statuses.iter().map(|s| s.code().to_string()).collect();
        let table: Vec<&str> = TABLE.iter().map(|row| row.0).take(7).collect();
        assert_eq!(codes, table);
        assert_eq!(ExitStatus::Signal(15).code(), 143);
    }

    #[test]
    fn a_report_is_one_line_with_every_cause_once() {
        let failure = Failure::internal("cannot read /x").because(io::Error::other("bad\nsector"));
        assert_eq!(failure.report(), "cannot read /x: bad sector");
        assert_eq!(failure.status(), ExitStatus::Internal);
    }

    #[test]
    fn signals_have_their_names() {
        assert_eq!(Failure::signal(15).report(), "stopped by SIGTERM");
        assert_eq!(Failure::signal(2).status().code(), 130);
    }
}
