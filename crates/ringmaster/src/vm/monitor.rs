//! What the monitor's commands do to a machine.

use machine::MachineHandle;

use super::VmRequest;
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
    machine: MachineHandle,
    facts: String,
}

impl Monitor {
    pub(super) fn new(machine: MachineHandle, facts: String) -> Self {
        Self { machine, facts }
    }

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
            Command::Status | Command::Console | Command::Help | Command::Quit => self.status(),
        }
    }

    fn status(&self) -> String {
        let state = if self.machine.is_paused() { "stopped" } else { "running" };
        let time = self.machine.time().as_secs_f64();
        format!("the guest is {state}, its time is {time:.1} s; {}", self.facts)
    }
}
