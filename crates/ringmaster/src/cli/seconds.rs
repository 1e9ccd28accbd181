//! `--timeout`: how long a guest may run.

use std::str::FromStr;
use std::time::Duration;

/// A length of time in seconds, fractions allowed, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(Duration);

/// Why a time is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write seconds above 0 and up to 1000000000, such as 30 or 0.5")]
pub struct SecondsError;

impl Seconds {
    /// As a duration.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Seconds {
    type Err = SecondsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let seconds: f64 = text.parse().map_err(|_| SecondsError)?;
        if !plain || seconds > 1e9 {
            return Err(SecondsError);
        }
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) if !duration.is_zero() => Ok(Self(duration)),
            _ => Err(SecondsError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_and_fractional_seconds_parse() {
        let parse = |text: &str| text.parse::<Seconds>().map(Seconds::duration);
        assert_eq!(parse("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("0.5"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn other_numbers_are_refused() {
        for text in ["", "0", "-1", "inf", "NaN", "1e3", "1s", "99999999999", "."] {
            assert_eq!(text.parse::<Seconds>(), Err(SecondsError), "{text}");
        }
    }
}
