//! The receiving half of a 16550A: FIFO, errors and time-out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::VmTime;

const DATA_READY: u8 = 0x01;
const OVERRUN: u8 = 0x02;
/// Break interrupt.
pub(super) const BREAK: u8 = 0x10;
/// Overrun, parity, framing and break: what raises the line status interrupt.
pub(super) const ERRORS: u8 = 0x1e;
const ERROR_IN_FIFO: u8 = 0x80;

const FIFO_DEPTH: usize = 16;
const TRIGGERS: [usize; 4] = [1, 4, 8, 14];

/// The state of the receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverState {
    /// Bytes with the errors that came with them, oldest first.
    fifo: VecDeque<(u8, u8)>,
    fifo_enabled: bool,
    trigger: u8,
    /// Errors to be shown in the LSR: overrun, and those of the oldest byte.
    errors: u8,
    timeout_at: Option<VmTime>,
    timed_out: bool,
}

impl ReceiverState {
    /// Bounds what a damaged snapshot may bring.
    pub(super) fn sanitize(&mut self) {
        self.fifo.truncate(FIFO_DEPTH);
    }

    fn depth(&self) -> usize {
        if self.fifo_enabled { FIFO_DEPTH } else { 1 }
    }

    pub(super) fn room(&self) -> usize {
        self.depth().saturating_sub(self.fifo.len())
    }

    pub(super) fn fifo_enabled(&self) -> bool {
        self.fifo_enabled
    }

    /// Switching the FIFO on or off empties it.
    pub(super) fn set_fifo(&mut self, enabled: bool, trigger: u8) {
        if enabled != self.fifo_enabled {
            self.clear();
        }
        self.fifo_enabled = enabled;
        self.trigger = if enabled { trigger } else { 0 };
    }

    pub(super) fn clear(&mut self) {
        self.fifo.clear();
        self.errors &= OVERRUN;
        self.restart(None);
    }

    fn restart(&mut self, timeout_at: Option<VmTime>) {
        self.timed_out = false;
        self.timeout_at = timeout_at.filter(|_| self.fifo_enabled && !self.fifo.is_empty());
    }

    /// A character arrived. Without room it is an overrun: the FIFO keeps what
    /// it has, the bare holding register takes the new one.
    pub(super) fn push(&mut self, byte: u8, errors: u8, timeout_at: VmTime) {
        if self.room() == 0 {
            self.errors |= OVERRUN;
            if self.fifo_enabled {
                return;
            }
            self.fifo.clear();
        }
        if self.fifo.is_empty() {
            self.errors |= errors;
        }
        self.fifo.push_back((byte, errors));
        self.restart(Some(timeout_at));
    }

    /// A read of the receiver buffer.
    pub(super) fn pop(&mut self, timeout_at: VmTime) -> u8 {
        let byte = self.fifo.pop_front().map_or(0, |(byte, _)| byte);
        self.errors |= self.fifo.front().map_or(0, |(_, errors)| *errors);
        self.restart(Some(timeout_at));
        byte
    }

    pub(super) fn at_trigger(&self) -> bool {
        let level = TRIGGERS.get(usize::from(self.trigger & 3)).copied().unwrap_or(1);
        self.fifo.len() >= level
    }

    pub(super) fn timed_out(&self) -> bool {
        self.timed_out
    }

    pub(super) fn timeout_at(&self) -> Option<VmTime> {
        self.timeout_at
    }

    /// Whether the time-out has just passed.
    pub(super) fn expire(&mut self, now: VmTime) -> bool {
        let expired = self.timeout_at.is_some_and(|at| at <= now);
        if expired {
            self.timeout_at = None;
            self.timed_out = true;
        }
        expired
    }

    /// The receiver's bits of the LSR.
    pub(super) fn line_status(&self) -> u8 {
        let ready = if self.fifo.is_empty() { 0 } else { DATA_READY };
        let marked = self.fifo_enabled && self.fifo.iter().any(|(_, errors)| *errors != 0);
        ready | (self.errors & ERRORS) | if marked { ERROR_IN_FIFO } else { 0 }
    }

    /// A read of the LSR clears the errors that it shows.
    pub(super) fn take_line_status(&mut self) -> u8 {
        let status = self.line_status();
        self.errors = 0;
        if let Some((_, errors)) = self.fifo.front_mut() {
            *errors = 0;
        }
        status
    }
}
