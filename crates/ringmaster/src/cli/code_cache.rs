//! `--code-cache`: memory for translated code.

use std::fmt;
use std::str::FromStr;

use super::memory::MemorySize;

const MIB: u64 = 1 << 20;

/// Bytes of translated code that are kept for each processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeCacheSize(u64);

impl CodeCacheSize {
    /// Below it hardly a working set fits.
    pub const MIN: Self = Self(MIB);
    /// Branches in translated code reach that far, with room to spare.
    pub const MAX: Self = Self(1024 * MIB);
    /// What a guest gets when nothing is said.
    pub const DEFAULT: Self = Self(128 * MIB);

    /// The size in bytes.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// Why a size is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose a size from {} to {}, such as 64M", CodeCacheSize::MIN, CodeCacheSize::MAX)]
pub struct CodeCacheSizeError;

impl FromStr for CodeCacheSize {
    type Err = CodeCacheSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = MemorySize::parse_bytes(text).ok_or(CodeCacheSizeError)?;
        let possible = (Self::MIN.0..=Self::MAX.0).contains(&bytes);
        possible.then_some(Self(bytes)).ok_or(CodeCacheSizeError)
    }
}

impl fmt::Display for CodeCacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, suffix) = [(1 << 30, "G"), (MIB, "M"), (1 << 10, "K")]
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
    fn sizes_have_bounds() {
        for (text, bytes) in [("1M", 1 << 20), ("1024K", 1 << 20), ("1g", 1 << 30), ("1048577", 1_048_577)] {
            assert_eq!(text.parse::<CodeCacheSize>().map(CodeCacheSize::bytes), Ok(bytes), "{text}");
        }
        for text in ["", "0", "1023K", "1025M", "2G", "-1M", "1.5M", "much", "99999999999999999999G"] {
            let error = text.parse::<CodeCacheSize>().unwrap_err();
            assert_eq!(error.to_string(), "choose a size from 1M to 1G, such as 64M", "{text}");
        }
    }

    #[test]
    fn the_engine_agrees() {
        assert_eq!(CodeCacheSize::DEFAULT.bytes(), translate::Options::default().code_cache);
    }
}
