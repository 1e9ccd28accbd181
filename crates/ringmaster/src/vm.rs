//! Starting a machine: the one place where the command line meets it.

use std::time::Duration;

use crate::cli::console::Console;
use crate::cli::engine::EngineName;
use crate::cli::memory::MemorySize;
use crate::cli::options::{OnReset, StatsFormat};
use crate::cli::trace::TraceSet;
use crate::exit::{ExitStatus, Failure};
use crate::image::Image;

/// What the machine starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    /// A kernel, loaded by us.
    Kernel {
        /// bzImage, ELF or multiboot.
        kernel: Image,
        /// Initial RAM disks, loaded one after the other.
        initrds: Vec<Image>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// Firmware, started at the reset vector.
    Firmware(Image),
    /// The guest that is part of this program.
    Embedded,
}

/// Everything that is decided before a machine is built.
#[derive(Debug, Clone)]
pub struct VmRequest {
    /// What it starts with.
    pub guest: Guest,
    /// Who executes it.
    pub engine: EngineName,
    /// Number of processors.
    pub cpus: u16,
    /// Size of its memory.
    pub memory: MemorySize,
    /// Where its serial port goes.
    pub console: Console,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Statistics at the end.
    pub stats: Option<StatsFormat>,
    /// Events to write to standard error.
    pub trace: TraceSet,
}

/// Runs a machine to its end.
pub fn launch(request: VmRequest) -> Result<ExitStatus, Failure> {
    let VmRequest { guest, .. } = request;
    Err(Failure::not_yet(match guest {
        Guest::Kernel { .. } => "running a kernel",
        Guest::Firmware(_) => "running firmware",
        Guest::Embedded => "the built-in guest",
    }))
}
