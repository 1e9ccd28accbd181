//! Options that `run` and `demo` share: how a guest is executed and watched.

use clap::{Args, ValueEnum};

use super::code_cache::CodeCacheSize;
use super::console::Console;
use super::engine::EngineChoice;
use super::memory::MemorySize;
use super::seconds::Seconds;
use engine::TraceWhat;

/// What a reset of the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnReset {
    /// The guest starts again
    #[default]
    Reboot,
    /// Ringmaster exits with status 0
    Exit,
}

/// How statistics are written at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Which hypervisor's interface a guest finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Paravirt {
    /// None
    None,
    /// KVM's: clock, end of interrupts, hypercalls
    #[default]
    Kvm,
}

impl From<Paravirt> for machine::Paravirt {
    fn from(choice: Paravirt) -> Self {
        match choice {
            Paravirt::None => Self::None,
            Paravirt::Kvm => Self::Kvm,
        }
    }
}

/// How a guest reaches virtio devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum VirtioTransport {
    /// As functions on the PCI bus
    #[default]
    Pci,
    /// By memory-mapped registers, which ACPI tells of
    Mmio,
}

impl From<VirtioTransport> for machine::Transport {
    fn from(choice: VirtioTransport) -> Self {
        match choice {
            VirtioTransport::Pci => Self::Pci,
            VirtioTransport::Mmio => Self::Mmio,
        }
    }
}

/// Where the local APICs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IrqChip {
    /// In the kernel
    Kernel,
    /// In this program
    User,
}

/// What the guest is told of flaws of speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mitigations {
    /// host under kvm, off under the other engines
    #[default]
    Auto,
    /// The host's flaws, so that it works around them
    Host,
    /// That there are none
    Off,
}

impl From<Mitigations> for machine::Mitigations {
    fn from(choice: Mitigations) -> Self {
        match choice {
            Mitigations::Auto => Self::Auto,
            Mitigations::Host => Self::Host,
            Mitigations::Off => Self::Off,
        }
    }
}

/// How to execute and watch a guest.
#[derive(Debug, Clone, Args)]
pub struct ExecutionArgs {
    /// Who executes the guest's instructions
    #[arg(long, value_enum, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,
    /// Under kvm, where the local APICs are; in the kernel if it can have them
    #[arg(long, value_enum, value_name = "WHERE")]
    pub irqchip: Option<IrqChip>,
    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(machine::MAX_CPUS)))]
    pub cpus: u16,
    /// Size of the guest's memory, with K, M or G
    #[arg(long, value_name = "SIZE", default_value_t = MemorySize::DEFAULT)]
    pub memory: MemorySize,
    /// Where the guest's serial port goes: stdio, none, file=PATH, socket=PATH or pty
    #[arg(long, visible_alias = "serial", value_name = "WHERE", default_value = "stdio")]
    pub console: Console,
    /// How virtio devices are reached: as PCI functions, or by memory-mapped registers
    #[arg(long, value_enum, value_name = "TRANSPORT", default_value = "pci")]
    pub virtio: VirtioTransport,
    /// Stop after this many seconds, with status 124
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<Seconds>,
    /// Which hypervisor's interface the guest finds
    #[arg(long, value_enum, value_name = "INTERFACE", default_value = "kvm")]
    pub paravirt: Paravirt,
    /// Whether the guest works around the host's flaws of speculation
    #[arg(long, value_enum, value_name = "WHICH", default_value = "auto")]
    pub mitigations: Mitigations,
    /// What a reset of the guest does
    #[arg(long, value_enum, value_name = "WHAT", default_value = "reboot")]
    pub on_reset: OnReset,
    /// Write statistics to standard error at the end
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    pub stats: Option<StatsFormat>,
    /// Memory for translated code, from 1M to 1G, with K, M or G
    #[arg(long, value_name = "SIZE", default_value_t = CodeCacheSize::DEFAULT)]
    pub code_cache: CodeCacheSize,
    /// Add the device that kvm-unit-tests drive (QEMU's pc-testdev)
    #[arg(long)]
    pub test_device: bool,
    /// Write events to standard error: exceptions, io, msr, blocks, separated by commas
    #[arg(long, value_name = "WHAT")]
    pub trace: Option<TraceWhat>,
}
