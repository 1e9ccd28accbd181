//! Notifications that the engine takes in the machine's place: where writes
//! ring a device's doorbell.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use chipset::pci::PlacedBell;
use engine::Assist;
use x86::GuestPhysAddr;

use crate::board::is_bus;
use crate::sync::lock;

#[derive(Default)]
struct State {
    assist: Option<Arc<dyn Assist>>,
    /// Of devices that stay where they are.
    fixed: Vec<PlacedBell>,
    /// Of functions on the PCI bus.
    placed: Vec<PlacedBell>,
    /// Those that the engine rings.
    rung: Vec<PlacedBell>,
}

/// All doorbells of a machine. A leaf among the locks.
#[derive(Default)]
pub(crate) struct Bells(Mutex<State>);

impl Bells {
    /// The bells of devices that stay where they are.
    pub(crate) fn new(fixed: Vec<PlacedBell>) -> Self {
        Self(Mutex::new(State { fixed, ..State::default() }))
    }

    /// The bells on the PCI bus are at these places now.
    pub(crate) fn place(&self, placed: &[PlacedBell]) {
        let mut state = lock(&self.0);
        state.placed = placed.to_vec();
        state.follow();
    }

    /// `assist` rings from now on, and nobody else.
    pub(crate) fn rung_by(&self, assist: Option<&Arc<dyn Assist>>) {
        let mut state = lock(&self.0);
        state.silence(|_| true);
        state.assist = assist.cloned();
        state.follow();
    }
}

impl State {
    /// Takes bells away from the engine.
    fn silence(&mut self, which: impl Fn(&PlacedBell) -> bool) {
        let Some(assist) = &self.assist else { return };
        self.rung.retain(|bell| {
            let silent = which(bell);
            if silent {
                assist.ring_no_more(GuestPhysAddr(bell.at), bell.value, bell.bell.as_fd());
            }
            !silent
        });
    }

    /// Brings what the engine rings to what there is. What it refuses goes the
    /// way of all writes.
    fn follow(&mut self) {
        let there: Vec<_> =
            self.fixed.iter().chain(&self.placed).filter(|bell| is_bus(bell.at)).cloned().collect();
        self.silence(|bell| !there.contains(bell));
        let Some(assist) = &self.assist else { return };
        for bell in there {
            let new = !self.rung.contains(&bell);
            if new && assist.ring_on_write(GuestPhysAddr(bell.at), bell.value, bell.bell.as_fd()).is_ok() {
                self.rung.push(bell);
            }
        }
    }
}
