//! The POST code port 0x80: firmware shows how far it is, and Linux writes to
//! it to pass a microsecond.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Device, VmTime};

/// The diagnostic port.
pub const POST_PORT: u16 = 0x80;

/// The state of the latch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostState {
    code: u8,
}

/// The latch behind port 0x80.
#[derive(Debug, Default)]
pub struct Post {
    state: PostState,
}

impl Post {
    /// The port that it decodes.
    pub const PORTS: &'static [RangeInclusive<u16>] = &[POST_PORT..=POST_PORT];

    /// A latch that holds zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last code written.
    pub fn code(&self) -> u8 {
        self.state.code
    }

    /// The whole state.
    pub fn state(&self) -> PostState {
        self.state.clone()
    }

    /// Restores what [`Post::state`] returned.
    pub fn set_state(&mut self, state: PostState) {
        self.state = state;
    }
}

impl Device for Post {
    fn reset(&mut self, _now: VmTime) {
        self.state = PostState::default();
    }

    fn port_read(&mut self, _now: VmTime, port: u16, _size: u8) -> u32 {
        if port == POST_PORT { u32::MAX << 8 | u32::from(self.state.code) } else { u32::MAX }
    }

    fn port_write(&mut self, _now: VmTime, port: u16, _size: u8, value: u32) {
        if port == POST_PORT {
            self.state.code = value as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_serializes, hammer};

    #[test]
    fn the_last_code_is_kept() {
        let mut post = Post::new();
        post.port_write(VmTime::ZERO, POST_PORT, 2, 0x1234);
        assert_eq!(post.code(), 0x34);
        assert_eq!(post.port_read(VmTime::ZERO, POST_PORT, 1) as u8, 0x34);
        assert_serializes(&post.state());
        let mut other = Post::new();
        other.set_state(post.state());
        assert_eq!(other.code(), 0x34);
        other.reset(VmTime::ZERO);
        assert_eq!(other.code(), 0);
    }

    #[test]
    fn survives_random_use() {
        hammer(&mut Post::new(), &[0x7f..=0x81], 13);
    }
}
