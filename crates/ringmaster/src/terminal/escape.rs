//! Ctrl-A, the key that talks to Ringmaster instead of the guest.
//!
//! A pure state machine: bytes in, actions out.

/// Ctrl-A as a terminal sends it.
pub const CTRL_A: u8 = 0x01;

/// What Ctrl-A h prints.
pub const HELP: &[&str] = &[
    "Ctrl-A x   leave; the guest is stopped at once",
    "Ctrl-A c   the monitor: stop and continue, reset, power button; and back",
    "Ctrl-A h   this help",
    "Ctrl-A a   send Ctrl-A to the guest (Ctrl-A Ctrl-A does too)",
];

/// What to do after a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing yet.
    Wait,
    /// The guest gets this byte.
    Send(u8),
    /// The guest gets Ctrl-A and this byte: the pair means nothing to us.
    SendPair(u8),
    /// The user leaves.
    Leave,
    /// The user wants the monitor, or back from it.
    Monitor,
    /// The user wants to know the keys.
    Help,
}

/// The state machine.
#[derive(Debug, Clone, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Takes the next byte that the user typed.
    pub fn feed(&mut self, byte: u8) -> Action {
        if !std::mem::take(&mut self.pending) {
            self.pending = byte == CTRL_A;
            return if self.pending { Action::Wait } else { Action::Send(byte) };
        }
        match byte {
            b'x' | b'X' => Action::Leave,
            b'c' | b'C' => Action::Monitor,
            b'h' | b'H' | b'?' => Action::Help,
            b'a' | b'A' | CTRL_A => Action::Send(CTRL_A),
            other => Action::SendPair(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> Vec<Action> {
        let mut escape = Escape::default();
        bytes.iter().map(|byte| escape.feed(*byte)).collect()
    }

    #[test]
    fn ordinary_bytes_pass() {
        assert_eq!(feed(b"x\x00\xff"), [Action::Send(b'x'), Action::Send(0), Action::Send(0xff)]);
    }

    #[test]
    fn ctrl_a_and_a_key_is_ours() {
        assert_eq!(feed(b"\x01c"), [Action::Wait, Action::Monitor]);
        assert_eq!(feed(b"\x01x"), [Action::Wait, Action::Leave]);
        assert_eq!(feed(b"\x01h"), [Action::Wait, Action::Help]);
    }

    #[test]
    fn ctrl_a_can_be_sent_and_ends_the_sequence() {
        assert_eq!(feed(b"\x01\x01x"), [Action::Wait, Action::Send(CTRL_A), Action::Send(b'x')]);
        assert_eq!(feed(b"\x01a"), [Action::Wait, Action::Send(CTRL_A)]);
    }

    #[test]
    fn an_unknown_key_loses_nothing() {
        assert_eq!(feed(b"\x01lx"), [Action::Wait, Action::SendPair(b'l'), Action::Send(b'x')]);
    }
}
