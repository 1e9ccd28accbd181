//! `--trace`: which events of the guest are written to standard error.

use std::str::FromStr;

/// The events to trace; none by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceSet {
    /// Exceptions and interrupts as they are delivered.
    pub exceptions: bool,
    /// Port and memory-mapped I/O.
    pub io: bool,
    /// RDMSR and WRMSR.
    pub msr: bool,
}

/// Why a list of events is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot be traced; exceptions, io and msr can, separated by commas")]
pub struct TraceError(String);

impl FromStr for TraceSet {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::default();
        for event in text.split(',') {
            match event {
                "exceptions" => set.exceptions = true,
                "io" => set.io = true,
                "msr" => set.msr = true,
                other => return Err(TraceError(other.to_owned())),
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_set_what_they_name() {
        let set: TraceSet = "msr,exceptions".parse().unwrap();
        assert!(set.msr && set.exceptions && !set.io);
    }

    #[test]
    fn unknown_and_empty_events_are_refused() {
        for text in ["", "io,", "irq"] {
            assert!(text.parse::<TraceSet>().is_err(), "{text}");
        }
    }
}
