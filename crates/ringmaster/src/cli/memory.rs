//! `--memory`: the size of the guest's RAM.

use std::fmt;
use std::str::FromStr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4 * KIB;

/// A size of guest RAM: a whole number of pages between [`MemorySize::MIN`]
/// and [`MemorySize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

impl MemorySize {
    /// A PC has its first megabyte full of holes; nothing boots below two.
    pub const MIN: Self = Self(2 * MIB);
    /// One tebibyte: beyond it lie the addresses we keep for devices.
    pub const MAX: Self = Self(1 << 40);
    /// What a guest gets when nothing is said.
    pub const DEFAULT: Self = Self(512 * MIB);

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Any number of bytes, with or without K, M or G.
    pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
        let (digits, unit) = split_suffix(text);
        let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| whole)?.checked_mul(unit)
    }
}

/// Why a size is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemorySizeError {
    /// Not a number with an optional suffix.
    #[error("write a whole number followed by K, M or G, such as 512M")]
    Malformed,
    /// Below the least size; most often a forgotten suffix.
    #[error("a guest needs at least {}; was a suffix meant, such as 512M?", MemorySize::MIN)]
    TooSmall,
    /// Above the greatest size.
    #[error("a guest can have at most {}", MemorySize::MAX)]
    TooLarge,
    /// Not a whole number of pages.
    #[error("the size must be a multiple of 4K")]
    Unaligned,
}

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = split_suffix(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MemorySizeError::Malformed);
        }
        // Digits only, so the one way to fail is a number that does not fit.
        let count: u64 = digits.parse().map_err(|_| MemorySizeError::TooLarge)?;
        let size = Self(count.checked_mul(unit).ok_or(MemorySizeError::TooLarge)?);
        if size < Self::MIN {
            Err(MemorySizeError::TooSmall)
        } else if size > Self::MAX {
            Err(MemorySizeError::TooLarge)
        } else if !size.0.is_multiple_of(PAGE) {
            Err(MemorySizeError::Unaligned)
        } else {
            Ok(size)
        }
    }
}

fn split_suffix(text: &str) -> (&str, u64) {
    for (suffix, unit) in [("K", KIB), ("M", MIB), ("G", GIB)] {
        let lower = suffix.to_ascii_lowercase();
        if let Some(digits) = text.strip_suffix(suffix).or_else(|| text.strip_suffix(lower.as_str())) {
            return (digits, unit);
        }
    }
    (text, 1)
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, suffix) = [(GIB, "G"), (MIB, "M"), (KIB, "K")]
            .into_iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
            .unwrap_or((1, ""));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale_in_both_cases() {
        let cases =
            [("2097152", 2 * MIB), ("4096K", 4 * MIB), ("256m", 256 * MIB), ("1G", GIB), ("1024g", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(text.parse::<MemorySize>().map(MemorySize::bytes), Ok(bytes));
        }
    }

    #[test]
    fn impossible_sizes_are_refused_with_their_reason() {
        let cases = [
            ("", MemorySizeError::Malformed),
            ("M", MemorySizeError::Malformed),
            ("-1G", MemorySizeError::Malformed),
            ("1.5G", MemorySizeError::Malformed),
            ("1T", MemorySizeError::Malformed),
            ("+4M", MemorySizeError::Malformed),
            ("0", MemorySizeError::TooSmall),
            ("512", MemorySizeError::TooSmall),
            ("1M", MemorySizeError::TooSmall),
            ("1025G", MemorySizeError::TooLarge),
            ("18446744073709551615G", MemorySizeError::TooLarge),
            ("99999999999999999999999", MemorySizeError::TooLarge),
            ("4194305", MemorySizeError::Unaligned),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<MemorySize>(), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["2M", "512M", "3G", "2052K"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
    }
}
