//! Where a console or a channel of the guest ends on the host.

use std::path::PathBuf;
use std::str::FromStr;

/// The host's end of a serial port, a virtio console or a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Console {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nothing: output is dropped, input never comes.
    None,
    /// Output is written to a file that is created or emptied first.
    File(PathBuf),
    /// A Unix socket that is listened at; one client at a time.
    Socket(PathBuf),
    /// A terminal of its own, whose name is told.
    Pty,
}

/// Why a console is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write stdio, none, file=PATH, socket=PATH or pty")]
pub struct ConsoleError;

impl FromStr for Console {
    type Err = ConsoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            None if text == "pty" => Ok(Self::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("socket", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err(ConsoleError),
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
        assert_eq!("pty".parse(), Ok(Console::Pty));
        assert_eq!("file=a=b".parse(), Ok(Console::File("a=b".into())));
        assert_eq!("socket=/s".parse(), Ok(Console::Socket("/s".into())));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "file", "file=", "stdio=1", "socket=", "pty=1", "vga"] {
            assert_eq!(text.parse::<Console>(), Err(ConsoleError), "{text}");
        }
    }
}
