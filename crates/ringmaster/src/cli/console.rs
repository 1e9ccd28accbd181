//! `--console`: where the guest's serial port goes.

use std::path::PathBuf;
use std::str::FromStr;

use crate::exit::Failure;

/// The host's end of the guest's first serial port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Console {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nothing: output is dropped, input never comes.
    None,
    /// Output is written to a file that is created or emptied first.
    File(PathBuf),
    /// A Unix socket.
    Socket(PathBuf),
}

/// Why a console is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write stdio, none, file=PATH or socket=PATH")]
pub struct ConsoleError;

impl FromStr for Console {
    type Err = ConsoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("socket", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err(ConsoleError),
        }
    }
}

impl Console {
    /// Refuses what this release cannot do.
    pub fn require_supported(&self) -> Result<(), Failure> {
        match self {
            Self::Socket(_) => Err(Failure::not_yet("--console socket=PATH")),
            Self::Stdio | Self::None | Self::File(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_parses() {
        assert_eq!("stdio".parse(), Ok(Console::Stdio));
        assert_eq!("none".parse(), Ok(Console::None));
        assert_eq!("file=a=b".parse(), Ok(Console::File("a=b".into())));
        assert_eq!("socket=/s".parse(), Ok(Console::Socket("/s".into())));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "file", "file=", "stdio=1", "pty"] {
            assert_eq!(text.parse::<Console>(), Err(ConsoleError), "{text}");
        }
    }

    #[test]
    fn sockets_wait_for_a_later_release() {
        let failure = Console::Socket("/s".into()).require_supported().unwrap_err();
        assert_eq!(failure.status().code(), 2);
        assert!(Console::File("/f".into()).require_supported().is_ok());
    }
}
