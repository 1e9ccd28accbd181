//! Whose descriptor is ready.

/// The owner of a watched descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A TCP connection.
    Tcp(usize),
    /// A UDP association.
    Udp(usize),
    /// A question to a name server.
    Name(usize),
    /// An echo socket.
    Ping(usize),
    /// A forwarded port.
    Forward(usize),
}

const SHIFT: u32 = 56;

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, id) = match token {
            Token::Tcp(id) => (0, id),
            Token::Udp(id) => (1, id),
            Token::Name(id) => (2, id),
            Token::Ping(id) => (3, id),
            Token::Forward(id) => (4, id),
        };
        kind << SHIFT | id as u64
    }
}

impl Token {
    /// The token of a number that was made from one.
    pub(super) fn of(number: u64) -> Option<Self> {
        let id = usize::try_from(number & ((1 << SHIFT) - 1)).ok()?;
        Some(match number >> SHIFT {
            0 => Self::Tcp(id),
            1 => Self::Udp(id),
            2 => Self::Name(id),
            3 => Self::Ping(id),
            4 => Self::Forward(id),
            _ => return None,
        })
    }
}
