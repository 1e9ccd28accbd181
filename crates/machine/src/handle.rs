//! The handle by which other threads reach a machine.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::board::Board;
use crate::control::Request;

/// Reaches a machine from any thread; clones reach the same machine.
#[derive(Clone)]
pub struct MachineHandle {
    board: Arc<Board>,
}

/// A handle that does not keep the machine's devices alive. What the machine
/// owns itself, such as the sink of its serial port, holds no other.
#[derive(Clone)]
pub struct WeakMachineHandle {
    board: Weak<Board>,
}

impl WeakMachineHandle {
    /// Ends the run, as [`MachineHandle::stop`] does, if the machine still
    /// exists.
    pub fn stop(&self) {
        if let Some(board) = self.board.upgrade() {
            board.control.request(Request::Stop);
        }
    }
}

impl MachineHandle {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board }
    }

    /// A handle that does not keep the machine's devices alive.
    pub fn downgrade(&self) -> WeakMachineHandle {
        WeakMachineHandle { board: Arc::downgrade(&self.board) }
    }

    /// Ends the run, now or as soon as it starts.
    pub fn stop(&self) {
        self.board.control.request(Request::Stop);
    }

    /// Resets the machine, as its reset button would.
    pub fn reset(&self) {
        self.board.control.request(Request::Reset);
    }

    /// Presses the power button: the guest may shut down, or take no notice.
    pub fn power_button(&self) {
        self.board.power.with(|power, _| power.press_power_button());
    }

    /// Types `bytes` on the console. Waits while the guest's queue is full;
    /// false when the run has ended and nobody will read them.
    pub fn input(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(taken) = self.board.input.push(rest) else { return false };
            rest = rest.get(taken..).unwrap_or_default();
            self.board.serial.with(|serial, now| serial.refill(now));
        }
        true
    }

    /// Stops the machine and its time until [`MachineHandle::resume`]; returns
    /// when it stands still. Not to be called on a machine's own threads.
    pub fn pause(&self) {
        self.board.control.set_paused(true);
        self.board.control.wait_until_still();
    }

    /// Whether the machine was paused.
    pub fn is_paused(&self) -> bool {
        self.board.control.is_paused()
    }

    /// How much time has passed for the guest since it was started.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.board.clock.now().nanos())
    }

    /// Goes on after [`MachineHandle::pause`].
    pub fn resume(&self) {
        self.board.control.set_paused(false);
    }
}
