//! What a machine is built from.

use std::fmt;
use std::sync::Arc;

use boot::Protocol;
use chipset::SerialSink;
use engine::{Engine, TraceSink};

use crate::{TickSource, VirtioSlot};

/// A file that a kernel gets along, kept for the next reset too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedModule {
    /// Its contents.
    pub data: Vec<u8>,
    /// Its string (multiboot only).
    pub string: String,
}

/// What a machine starts.
#[derive(Clone, PartialEq, Eq)]
pub enum BootSource {
    /// A kernel, loaded and entered without firmware.
    Kernel {
        /// The kernel file.
        image: Vec<u8>,
        /// Initrds, or multiboot modules.
        modules: Vec<OwnedModule>,
        /// Its command line.
        cmdline: String,
        /// By which entry a bzImage is started.
        protocol: Protocol,
    },
    /// Firmware, at the reset vector.
    Firmware(Vec<u8>),
}

impl fmt::Debug for BootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { image, modules, cmdline, .. } => f
                .debug_struct("Kernel")
                .field("bytes", &image.len())
                .field("modules", &modules.len())
                .field("cmdline", cmdline)
                .finish_non_exhaustive(),
            Self::Firmware(image) => f.debug_tuple("Firmware").field(&image.len()).finish(),
        }
    }
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReset {
    /// The machine starts again.
    #[default]
    Reboot,
    /// The run ends.
    Exit,
}

/// Whose the local APICs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterruptChip {
    /// The engine's, if it has some, else the machine's.
    #[default]
    Engine,
    /// The machine's.
    Machine,
}

/// Which hypervisor's interface a guest finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paravirt {
    /// None; CPUID says that there is a hypervisor, and who.
    None,
    /// KVM's.
    #[default]
    Kvm,
}

/// What the guest is told of the flaws by which processors leak through
/// speculation (Meltdown, Spectre and their kin).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mitigations {
    /// [`Mitigations::Host`] where hardware runs the guest, else
    /// [`Mitigations::Off`].
    #[default]
    Auto,
    /// The host's flaws, with what works around them.
    Host,
    /// That there are none.
    Off,
}

/// Where the bytes go that a guest prints. They are handed over on the vCPU's
/// thread.
pub struct Consoles {
    /// The first serial port.
    pub serial: Box<dyn SerialSink>,
    /// The debug console at port 0xE9.
    pub debug: Box<dyn SerialSink>,
    /// The firmware's log at port 0x402.
    pub firmware: Box<dyn SerialSink>,
}

impl Default for Consoles {
    fn default() -> Self {
        Self { serial: no_sink(), debug: no_sink(), firmware: no_sink() }
    }
}

/// A sink that nobody reads.
pub fn no_sink() -> Box<dyn SerialSink> {
    Box::new(|_| {})
}

/// The description of a machine.
pub struct MachineConfig<'a> {
    /// Bytes of RAM.
    pub memory: u64,
    /// Number of processors.
    pub cpus: u32,
    /// What it starts.
    pub boot: BootSource,
    /// Who executes it.
    pub engine: &'a dyn Engine,
    /// Whose the local APICs are.
    pub interrupt_chip: InterruptChip,
    /// What a reset by the guest does.
    pub on_reset: OnReset,
    /// Where its output goes.
    pub consoles: Consoles,
    /// Virtio devices, in the order of their slots.
    pub virtio: Vec<VirtioSlot>,
    /// Who wants to see what the engine does.
    pub trace: Option<Arc<dyn TraceSink>>,
    /// Which hypervisor's interface the guest finds.
    pub paravirt: Paravirt,
    /// What the guest is told of flaws of speculation.
    pub mitigations: Mitigations,
    /// What the clocks of the guest show at the start, in seconds since 1970;
    /// the host's time if it is not given.
    pub wall_clock: Option<i64>,
    /// The counter that drives the machine's time; the host's best one if it
    /// is not given.
    pub ticks: Option<Arc<dyn TickSource>>,
    /// Whether it has a device for test kernels
    /// ([`chipset::testdev::TestDevice`]).
    pub test_device: bool,
}

impl<'a> MachineConfig<'a> {
    /// One processor that starts `boot` on `engine` with `memory` bytes of RAM;
    /// nobody sees its output.
    pub fn new(engine: &'a dyn Engine, memory: u64, boot: BootSource) -> Self {
        Self {
            memory,
            cpus: 1,
            boot,
            engine,
            interrupt_chip: InterruptChip::default(),
            on_reset: OnReset::default(),
            consoles: Consoles::default(),
            virtio: Vec::new(),
            trace: None,
            paravirt: Paravirt::default(),
            mitigations: Mitigations::default(),
            wall_clock: None,
            ticks: None,
            test_device: false,
        }
    }
}
