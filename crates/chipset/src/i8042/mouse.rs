//! A three-button PS/2 mouse that never moves: enough to be found.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::keyboard::{ACK, QUEUE, RESEND, SELF_TEST_PASSED};

/// The device identity of a mouse without wheel.
const PLAIN_MOUSE: u8 = 0x00;
const DEFAULT_RATE: u8 = 100;
const DEFAULT_RESOLUTION: u8 = 2;
/// The first byte of a movement packet with nothing to report; bit 3 is fixed.
const NO_MOVEMENT: [u8; 3] = [0x08, 0, 0];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Argument {
    Resolution,
    Rate,
}

/// The state of the mouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MouseState {
    queue: VecDeque<u8>,
    argument: Option<Argument>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    double_scale: bool,
    resolution: u8,
    rate: u8,
    last_sent: u8,
}

impl Default for MouseState {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            argument: None,
            reporting: false,
            remote: false,
            wrap: false,
            double_scale: false,
            resolution: DEFAULT_RESOLUTION,
            rate: DEFAULT_RATE,
            last_sent: 0,
        }
    }
}

impl MouseState {
    pub(super) fn sanitize(&mut self) {
        self.queue.truncate(QUEUE);
    }

    /// The next byte to the controller.
    pub(super) fn send(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            return self.answer(&[byte]);
        }
        match self.argument.take() {
            Some(Argument::Resolution) => self.resolution = byte & 3,
            Some(Argument::Rate) => self.rate = byte,
            None => return self.command(byte),
        }
        self.answer(&[ACK]);
    }

    fn command(&mut self, byte: u8) {
        match byte {
            0xe6 => self.double_scale = false,
            0xe7 => self.double_scale = true,
            0xe8 => self.argument = Some(Argument::Resolution),
            0xe9 => return self.answer(&[ACK, self.status(), self.resolution, self.rate]),
            0xea => self.remote = false,
            0xeb => return self.answer(&[&[ACK][..], &NO_MOVEMENT].concat()),
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.answer(&[ACK, PLAIN_MOUSE]),
            0xf3 => self.argument = Some(Argument::Rate),
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => *self = Self::default(),
            0xfe => return self.answer(&[self.last_sent]),
            0xff => {
                *self = Self::default();
                return self.answer(&[ACK, SELF_TEST_PASSED, PLAIN_MOUSE]);
            }
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACK]);
    }

    fn status(&self) -> u8 {
        let bit = |flag: bool, index: u8| u8::from(flag) << index;
        bit(self.remote, 6) | bit(self.reporting, 5) | bit(self.double_scale, 4)
    }

    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.queue.len() >= QUEUE {
                self.queue.pop_front();
            }
            self.queue.push_back(*byte);
        }
    }
}
