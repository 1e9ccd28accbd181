//! The monitor: a line of the user's for Ringmaster instead of the guest.
//!
//! Pure state machines: bytes in, echo and commands out.

use std::str::FromStr;

/// What is shown before each line.
pub const PROMPT: &str = "(ringmaster) ";

/// What `help` prints.
pub const HELP: &[&str] = &[
    "status         whether the guest runs, for how long, and by which engine",
    "stop           let the guest and its time stand still",
    "continue       go on",
    "reset          press the reset button",
    "power          press the power button; the guest may shut down",
    "balloon SIZE   ask the guest to give up SIZE of its memory in all, such as 256M",
    "quit           leave; the guest is stopped at once",
    "console        return to the guest's console (so does Ctrl-A c)",
    "help           this help",
];

/// What the user can have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Tell how the guest is.
    Status,
    /// Let it stand still.
    Stop,
    /// Go on.
    Continue,
    /// Press the reset button.
    Reset,
    /// Press the power button.
    Power,
    /// Have the balloon hold this much; the text is a size.
    Balloon(String),
    /// Leave.
    Quit,
    /// Return to the console.
    Console,
    /// List the commands.
    Help,
}

/// No such command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no command '{0}'; 'help' lists them")]
pub struct UnknownCommand(String);

impl FromStr for Command {
    type Err = UnknownCommand;

    /// Names of QEMU's monitor are understood too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let ["balloon", size] = words.as_slice() {
            return Ok(Self::Balloon((*size).to_owned()));
        }
        match words.join(" ").as_str() {
            "status" | "info status" => Ok(Self::Status),
            "stop" | "pause" => Ok(Self::Stop),
            "continue" | "cont" | "c" => Ok(Self::Continue),
            "reset" | "system_reset" => Ok(Self::Reset),
            "power" | "powerdown" | "system_powerdown" => Ok(Self::Power),
            "quit" | "q" | "exit" => Ok(Self::Quit),
            "console" => Ok(Self::Console),
            "help" | "h" | "?" => Ok(Self::Help),
            other => Err(UnknownCommand(other.to_owned())),
        }
    }
}

/// The longest line; more is not taken.
const LONGEST: usize = 200;

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const ERASE: &str = "\x08 \x08";

/// What a byte leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// This is to be shown.
    Echo(String),
    /// A line is complete.
    Line(String),
    /// The user returns to the console.
    End,
}

/// A line that is being typed.
#[derive(Debug, Clone, Default)]
pub struct Line(String);

impl Line {
    /// Takes the next byte.
    pub fn feed(&mut self, byte: u8) -> Typed {
        match byte {
            b'\r' | b'\n' => Typed::Line(std::mem::take(&mut self.0)),
            CTRL_D if self.0.is_empty() => Typed::End,
            BACKSPACE | DELETE => Typed::Echo(self.0.pop().map_or("", |_| ERASE).to_owned()),
            CTRL_U => Typed::Echo(ERASE.repeat(std::mem::take(&mut self.0).len())),
            b' '..=b'~' if self.0.len() < LONGEST => {
                self.0.push(char::from(byte));
                Typed::Echo(char::from(byte).to_string())
            }
            _ => Typed::Echo(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_of_the_help_is_understood() {
        for line in HELP {
            let (name, _) = line.split_once("  ").unwrap();
            assert!(name.parse::<Command>().is_ok(), "{name}");
        }
        assert_eq!(" info   status ".parse(), Ok(Command::Status));
        assert_eq!("system_powerdown".parse(), Ok(Command::Power));
        let unknown = "eject".parse::<Command>().unwrap_err();
        assert_eq!(unknown.to_string(), "there is no command 'eject'; 'help' lists them");
    }

    fn feed(line: &mut Line, bytes: &[u8]) -> Typed {
        bytes.iter().map(|byte| line.feed(*byte)).last().unwrap()
    }

    #[test]
    fn lines_can_be_corrected() {
        let mut line = Line::default();
        assert_eq!(feed(&mut line, b"stx"), Typed::Echo("x".to_owned()));
        assert_eq!(line.feed(0x7f), Typed::Echo(ERASE.to_owned()));
        assert_eq!(feed(&mut line, b"op\r"), Typed::Line("stop".to_owned()));
        assert_eq!(line.feed(8), Typed::Echo(String::new()));
        feed(&mut line, b"nonsense\x15");
        assert_eq!(feed(&mut line, b"help\n"), Typed::Line("help".to_owned()));
    }

    #[test]
    fn control_characters_and_endless_lines_are_harmless() {
        let mut line = Line::default();
        feed(&mut line, &[b'x'; 1000]);
        assert_eq!(feed(&mut line, b"\x1b\xff\x00\r"), Typed::Line("x".repeat(200)));
        assert_eq!(line.feed(4), Typed::End);
    }
}
