//! `--engine`: who executes the guest's instructions.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// The user's choice of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EngineChoice {
    /// The best engine that this host can use
    #[default]
    Auto,
    /// Hardware assistance through /dev/kvm
    Kvm,
    /// Binary translation; needs no privileges
    Translate,
    /// The reference interpreter; needs nothing, slowest
    Interpret,
}

/// An engine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// Hardware assistance
    Kvm,
    /// Binary translation
    Translate,
    /// Reference interpreter
    Interpret,
}

impl EngineChoice {
    /// The engine that was named, if one was.
    pub fn named(self) -> Option<EngineName> {
        match self {
            Self::Auto => None,
            Self::Kvm => Some(EngineName::Kvm),
            Self::Translate => Some(EngineName::Translate),
            Self::Interpret => Some(EngineName::Interpret),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Translate => "translate",
            Self::Interpret => "interpret",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_can_be_chosen_by_its_name() {
        for engine in EngineName::value_variants() {
            let choice = EngineChoice::from_str(&engine.to_string(), false).unwrap();
            assert_eq!(choice.named(), Some(*engine));
        }
        assert_eq!(EngineChoice::default().named(), None);
    }
}
