//! `--net`: what the guest's network card is connected to.

use std::str::FromStr;

use crate::exit::Failure;

/// One TCP port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on the host.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
}

/// The guest's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Net {
    /// No card.
    #[default]
    None,
    /// User-mode address translation, with forwarded ports.
    User(Vec<Forward>),
    /// A tap device by name.
    Tap(String),
}

/// Why a network is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not one of the three kinds.
    #[error("write none, user[,forward=tcp:HOST:GUEST] or tap=NAME")]
    Kind,
    /// A forward that does not parse.
    #[error("'{0}' is not a forward; write forward=tcp:HOST:GUEST with two ports")]
    Forward(String),
    /// Linux names interfaces with 1 to 15 characters.
    #[error("'{0}' cannot be the name of a tap device")]
    TapName(String),
}

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(name) = text.strip_prefix("tap=") {
            return tap(name);
        }
        let mut parts = text.split(',');
        if parts.next() != Some("user") {
            return Err(NetError::Kind);
        }
        parts.map(forward).collect::<Result<_, _>>().map(Self::User)
    }
}

fn tap(name: &str) -> Result<Net, NetError> {
    let legal = |c: char| !c.is_whitespace() && c != '/' && c != ':';
    if name.is_empty() || name.len() > 15 || !name.chars().all(legal) {
        return Err(NetError::TapName(name.to_owned()));
    }
    Ok(Net::Tap(name.to_owned()))
}

fn forward(part: &str) -> Result<Forward, NetError> {
    let parse = || {
        let (host, guest) = part.strip_prefix("forward=tcp:")?.split_once(':')?;
        let forward = Forward { host: host.parse().ok()?, guest: guest.parse().ok()? };
        (forward.host != 0 && forward.guest != 0).then_some(forward)
    };
    parse().ok_or_else(|| NetError::Forward(part.to_owned()))
}

impl Net {
    /// Refuses what this release cannot do: no network card is built yet.
    pub fn require_supported(&self) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::User(_) => Err(Failure::not_yet("--net user")),
            Self::Tap(_) => Err(Failure::not_yet("--net tap=NAME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_parses() {
        assert_eq!("none".parse(), Ok(Net::None));
        assert_eq!("tap=tap0".parse(), Ok(Net::Tap("tap0".to_owned())));
        assert_eq!("user".parse(), Ok(Net::User(vec![])));
        let forward = Forward { host: 2222, guest: 22 };
        assert_eq!("user,forward=tcp:2222:22".parse(), Ok(Net::User(vec![forward])));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!("".parse::<Net>(), Err(NetError::Kind));
        assert_eq!("bridge".parse::<Net>(), Err(NetError::Kind));
        for bad in ["tap=", "tap=a/b", "tap=sixteen-letters-"] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::TapName(_))));
        }
        for bad in ["user,x", "user,forward=tcp:1", "user,forward=tcp:0:22", "user,forward=tcp:1:70000"] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::Forward(_))), "{bad}");
        }
    }
}
