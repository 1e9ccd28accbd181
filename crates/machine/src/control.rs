//! The machine's control word: what somebody outside the vCPU, or a device,
//! wants of the machine as a whole.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use chipset::MachineEvent;
use engine::{Signal, VcpuSignals};

use crate::sync::lock;

/// What ends, or restarts, a run. Later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Request {
    /// Start again.
    Reset,
    /// The guest has panicked.
    GuestPanic,
    /// The guest switched the machine off.
    PowerOff,
    /// Somebody outside wants the run to end.
    Stop,
}

#[derive(Default)]
struct State {
    request: Option<Request>,
    /// Somebody wants the machine to stand still.
    paused: bool,
    /// The vCPUs run guest code (or are about to).
    running: bool,
}

/// The control word.
#[derive(Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    vcpus: Vec<Arc<VcpuSignals>>,
}

impl Control {
    pub(crate) fn new(vcpus: Vec<Arc<VcpuSignals>>) -> Self {
        Self { vcpus, ..Self::default() }
    }

    /// Notes what a device reports.
    pub(crate) fn event(&self, event: MachineEvent) {
        match event {
            MachineEvent::Reset => self.request(Request::Reset),
            MachineEvent::PowerOff => self.request(Request::PowerOff),
            MachineEvent::GuestPanic => self.request(Request::GuestPanic),
            // Its crash kernel takes over.
            MachineEvent::GuestCrashLoaded => {}
        }
    }

    /// Notes a request; the stronger one wins.
    pub(crate) fn request(&self, request: Request) {
        let mut state = lock(&self.state);
        state.request = state.request.max(Some(request));
        drop(state);
        self.kick();
    }

    /// Makes all vCPUs return.
    pub(crate) fn kick(&self) {
        self.vcpus.iter().for_each(|signals| signals.raise(Signal::Exit));
        self.changed.notify_all();
    }

    /// Wants the machine to stand still, or no longer.
    pub(crate) fn set_paused(&self, paused: bool) {
        lock(&self.state).paused = paused;
        self.kick();
    }

    /// Waits until no vCPU runs.
    pub(crate) fn wait_until_still(&self) {
        let still = |state: &mut State| state.running && state.paused;
        let guard = self.changed.wait_while(lock(&self.state), still);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Says whether the vCPUs run.
    pub(crate) fn set_running(&self, running: bool) {
        lock(&self.state).running = running;
        self.changed.notify_all();
    }

    /// Whether the machine is to stand still and nothing else is wanted.
    pub(crate) fn is_paused(&self) -> bool {
        let state = lock(&self.state);
        state.paused && state.request.is_none()
    }

    /// Waits out a pause.
    pub(crate) fn wait_while_paused(&self) {
        let paused = |state: &mut State| state.paused && state.request.is_none();
        let guard = self.changed.wait_while(lock(&self.state), paused);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the request, if there is one.
    pub(crate) fn take_request(&self) -> Option<Request> {
        lock(&self.state).request.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_request_wins_and_kicks() {
        let signals = Arc::new(VcpuSignals::default());
        let control = Control::new(vec![Arc::clone(&signals)]);
        control.event(MachineEvent::GuestCrashLoaded);
        assert!(!signals.is_pending(Signal::Exit));
        control.event(MachineEvent::PowerOff);
        control.event(MachineEvent::Reset);
        assert!(signals.is_pending(Signal::Exit));
        assert_eq!(control.take_request(), Some(Request::PowerOff));
        assert_eq!(control.take_request(), None);
    }

    #[test]
    fn a_request_ends_a_pause() {
        let control = Control::default();
        control.set_paused(true);
        assert!(control.is_paused());
        control.request(Request::Stop);
        control.wait_while_paused();
        assert!(!control.is_paused());
    }
}
