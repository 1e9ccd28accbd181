//! `--engine`: who executes the guest's instructions.

use clap::ValueEnum;
use engine::EngineKind;

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

impl EngineChoice {
    /// The engine that was named, if one was.
    pub fn named(self) -> Option<EngineKind> {
        match self {
            Self::Auto => None,
            Self::Kvm => Some(EngineKind::Kvm),
            Self::Translate => Some(EngineKind::Translate),
            Self::Interpret => Some(EngineKind::Interpret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_can_be_chosen_by_its_name() {
        for engine in EngineKind::ALL {
            let choice = EngineChoice::from_str(engine.name(), false).unwrap();
            assert_eq!(choice.named(), Some(engine));
        }
        assert_eq!(EngineChoice::default().named(), None);
    }
}
