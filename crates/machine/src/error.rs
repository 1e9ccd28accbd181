//! Why a machine cannot be built.

use boot::BootError;
use chipset::fwcfg::FwCfgError;
use engine::EngineError;
use memory::MemoryError;

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The number of processors is beyond the engine or the machine.
    #[error("{asked} processors are not possible here: choose 1 to {most}")]
    Processors {
        /// How many were asked for.
        asked: u32,
        /// How many are possible.
        most: u32,
    },
    /// More devices than there are slots.
    #[error("{asked} virtio devices by {transport} are too many: {most} are possible")]
    Slots {
        /// How many were asked for.
        asked: usize,
        /// How many are possible.
        most: usize,
        /// By which transport.
        transport: &'static str,
    },
    /// The host has no more file descriptors.
    #[error("a virtio device cannot be made")]
    Virtio(#[source] std::io::Error),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel or firmware cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The firmware cannot be told of the machine.
    #[error("the firmware's configuration cannot be made")]
    Firmware(#[from] FwCfgError),
}
