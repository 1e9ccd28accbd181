//! What the monitor's commands do to a machine.

use machine::MachineHandle;
use virtio::balloon::BalloonHandle;

use super::VmRequest;
use crate::cli::memory::MemorySize;
use crate::terminal::monitor::Command;

/// What `status` tells of a machine that does not change.
pub(super) fn facts(request: &VmRequest) -> String {
    let processors = match request.cpus {
        1 => "1 processor".to_owned(),
        more => format!("{more} processors"),
    };
    format!("engine {}, {processors}, {} of memory", request.engine.name, request.memory)
}

/// The monitor of one machine.
pub(super) struct Monitor {
    pub(super) machine: MachineHandle,
    /// What the guest has, besides its balloon.
    pub(super) facts: String,
    pub(super) balloon: Option<BalloonHandle>,
    /// Bytes of the guest's memory.
    pub(super) memory: u64,
}

impl Monitor {
    /// Does what `command` says; what is to be told of it.
    pub(super) fn perform(&self, command: Command) -> String {
        let machine = &self.machine;
        match command {
            Command::Stop => {
                machine.pause();
                "the guest stands still; 'continue' lets it go on".to_owned()
            }
            Command::Continue => {
                machine.resume();
                "the guest goes on".to_owned()
            }
            Command::Reset => {
                machine.reset();
                "the reset button is pressed".to_owned()
            }
            Command::Power => {
                machine.power_button();
                "the power button is pressed; what follows is up to the guest".to_owned()
            }
            Command::Balloon(size) => self.inflate(&size),
            Command::Status | Command::Console | Command::Help | Command::Quit => self.status(),
        }
    }

    fn status(&self) -> String {
        let state = if self.machine.is_paused() { "stopped" } else { "running" };
        let time = self.machine.time().as_secs_f64();
        let held = self.balloon.as_ref().map(|balloon| format!(", balloon {}", mebibytes(balloon.actual())));
        format!("the guest is {state}, its time is {time:.1} s; {}{}", self.facts, held.unwrap_or_default())
    }

    fn inflate(&self, size: &str) -> String {
        let Some(balloon) = &self.balloon else {
            return "the guest has no balloon; start it with --balloon".to_owned();
        };
        match MemorySize::parse_bytes(size).filter(|bytes| *bytes < self.memory) {
            Some(bytes) => {
                balloon.set_target(bytes);
                format!("the guest is asked to give up {}; 'status' tells how far it is", mebibytes(bytes))
            }
            None => format!("'{size}' is not possible: give less than the guest's memory, such as 256M"),
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
