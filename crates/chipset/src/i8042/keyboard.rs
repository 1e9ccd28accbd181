//! A PS/2 keyboard, as far as firmware and operating systems probe it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::scancode::to_set_1;

pub(super) const ACK: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
pub(super) const SELF_TEST_PASSED: u8 = 0xaa;
/// What a keyboard can hold before it drops keys.
pub(super) const QUEUE: usize = 16;

/// A command that waits for its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Argument {
    Leds,
    ScanCodeSet,
    Rate,
}

/// The state of the keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyboardState {
    queue: VecDeque<u8>,
    argument: Option<Argument>,
    scanning: bool,
    set: u8,
    leds: u8,
    last_sent: u8,
    /// A release prefix (F0) was seen by the translation to set 1.
    released: bool,
}

impl Default for KeyboardState {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            argument: None,
            scanning: true,
            set: 2,
            leds: 0,
            last_sent: 0,
            released: false,
        }
    }
}

impl KeyboardState {
    pub(super) fn sanitize(&mut self) {
        self.queue.truncate(QUEUE);
    }

    /// Scroll, num and caps lock in bits 0 to 2.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// Takes the set-2 codes of one key event; refuses them when they do not
    /// fit or the keyboard is disabled.
    pub(super) fn key(&mut self, codes: &[u8]) -> bool {
        let fits = self.scanning && self.queue.len() + codes.len() <= QUEUE;
        for code in codes.iter().filter(|_| fits) {
            if self.set == 1 {
                self.queue.extend(to_set_1(*code, &mut self.released));
            } else {
                self.queue.push_back(*code);
            }
        }
        fits
    }

    /// The next byte to the controller.
    pub(super) fn send(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        match self.argument.take() {
            Some(argument) if byte < 0x80 => self.receive_argument(argument, byte),
            _ => self.command(byte),
        }
    }

    fn receive_argument(&mut self, argument: Argument, byte: u8) {
        match (argument, byte) {
            (Argument::Leds, _) => self.leds = byte & 7,
            (Argument::Rate, _) => {}
            (Argument::ScanCodeSet, 0) => return self.answer(&[ACK, self.set]),
            (Argument::ScanCodeSet, 1 | 2) => self.set = byte,
            // Set 3 is optional; few keyboards had it.
            (Argument::ScanCodeSet, _) => return self.answer(&[RESEND]),
        }
        self.answer(&[ACK]);
    }

    fn command(&mut self, byte: u8) {
        let argument = match byte {
            0xed => Some(Argument::Leds),
            0xf0 => Some(Argument::ScanCodeSet),
            0xf3 => Some(Argument::Rate),
            _ => None,
        };
        if argument.is_some() {
            self.argument = argument;
            return self.answer(&[ACK]);
        }
        match byte {
            0xee => self.answer(&[0xee]),
            // Identify: an MF2 keyboard.
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf4 => self.restart(true),
            0xf5 => self.restart(false),
            0xf6 => self.restart(self.scanning),
            // Typematic and make/break behaviour of set 3.
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                *self = Self::default();
                self.answer(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// Enable, disable and "set defaults" empty the queue but keep the scan code
    /// set and the lights.
    fn restart(&mut self, scanning: bool) {
        *self = Self { scanning, set: self.set, leds: self.leds, ..Self::default() };
        self.answer(&[ACK]);
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
