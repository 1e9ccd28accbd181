//! What an engine is and what a vCPU does.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use memory::GuestMemory;
use serde::Serialize;
use x86::CpuState;
use x86::cpuid::{CpuidModel, Features};

use crate::{Assist, LocalApicRegisters, Platform, TraceSink, VcpuSignals, VcpuStats};

/// The ways to run guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The reference interpreter.
    Interpret,
    /// Binary translation.
    Translate,
    /// Hardware assistance through /dev/kvm.
    Kvm,
}

impl EngineKind {
    /// All of them, fastest last.
    pub const ALL: [Self; 3] = [Self::Interpret, Self::Translate, Self::Kvm];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interpret => "interpret",
            Self::Translate => "translate",
            Self::Kvm => "kvm",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("there is no engine '{name}': choose interpret, translate or kvm"))
    }
}

/// The processor modes that a guest can be in (SDM 3A 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the manual's names")]
pub enum Mode {
    Real,
    Protected16,
    Protected32,
    Virtual8086,
    Compatibility,
    Long64,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 6] = [
        Self::Real,
        Self::Protected16,
        Self::Protected32,
        Self::Virtual8086,
        Self::Compatibility,
        Self::Long64,
    ];
}

/// What the processor that a guest sees must be content with: an engine that
/// lets hardware execute can offer no more than that has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorLimits {
    /// Features that it cannot offer.
    pub without: Features,
    /// The widest physical addresses.
    pub phys_bits: u8,
    /// The guest's time-stamp counter is the host's plus a constant, so the
    /// machine's time must be derived from that one.
    pub host_tsc: bool,
}

impl Default for ProcessorLimits {
    /// No limits.
    fn default() -> Self {
        Self { without: Features::default(), phys_bits: 52, host_tsc: false }
    }
}

/// What an engine can do, asked before anything is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Modes that it runs.
    pub modes: &'static [Mode],
    /// The most vCPUs in one machine.
    pub max_vcpus: u32,
    /// Whether it can bring local APICs of its own, and if not, why.
    pub own_interrupt_chip: Result<(), &'static str>,
    /// Whether it answers hypercalls itself: those that interrupt other
    /// processors only work with its own local APICs.
    pub own_hypercalls: bool,
    /// What the processor that a guest sees must be content with.
    pub processor: ProcessorLimits,
    /// Whether single step and hardware breakpoints are exact.
    pub guest_debug: bool,
    /// What it cannot do and the conformance kit therefore leaves out, each
    /// with its reason.
    pub lacks: &'static [(&'static str, &'static str)],
}

/// Why an engine cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host lacks something.
    #[error("the {engine} engine cannot run on this host: {reason}")]
    Unusable {
        /// Which engine.
        engine: EngineKind,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The configuration is beyond the engine.
    #[error("the {engine} engine cannot run this machine: {reason}")]
    Unsupported {
        /// Which engine.
        engine: EngineKind,
        /// What it cannot do.
        reason: String,
    },
}

/// All that a vCPU needs to come to life.
#[derive(Clone)]
pub struct VcpuConfig {
    /// Its number; also its APIC id.
    pub id: u32,
    /// The machine's memory.
    pub memory: GuestMemory,
    /// The processor that the guest sees.
    pub cpuid: Arc<CpuidModel>,
    /// Where the machine leaves signals.
    pub signals: Arc<VcpuSignals>,
    /// Who wants to see events; none by default.
    pub trace: Option<Arc<dyn TraceSink>>,
}

/// Why [`Vcpu::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`Signal::Exit`](crate::Signal::Exit) was pending.
    Kicked,
    /// HLT with interrupts off and nothing that could end it but an NMI, INIT
    /// or reset; running again goes on waiting.
    HaltedForGood,
    /// A triple fault: the processor shut down (SDM 3A 6.15, "interrupt 8").
    TripleFault,
    /// The guest did what the engine cannot follow; the sentence says what.
    GuestFailed(String),
    /// The engine itself failed; the sentence says how.
    Failed(String),
}

/// One virtual processor. It belongs to one thread at a time.
pub trait Vcpu: Send {
    /// The whole architectural state.
    fn state(&self) -> CpuState;

    /// Replaces the whole architectural state.
    fn set_state(&mut self, state: &CpuState);

    /// The local APIC, if the engine has it.
    fn local_apic(&self) -> Option<LocalApicRegisters> {
        None
    }

    /// Replaces the local APIC, if the engine has it.
    fn set_local_apic(&mut self, registers: &LocalApicRegisters) {
        let _ = registers;
    }

    /// Runs guest code until it must stop, and says why.
    fn run(&mut self, platform: &dyn Platform) -> Stop;

    /// Executes one instruction (delivering what is due before it).
    fn step(&mut self, platform: &dyn Platform) -> Option<Stop>;

    /// What has been counted since the start.
    fn stats(&self) -> VcpuStats;
}

/// A way to run guest code.
pub trait Engine: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> EngineKind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// What it does in the place of the machine with this memory, with local
    /// APICs of its own or without; None if that is nothing. vCPUs that are
    /// made with this memory while the answer lives belong to it.
    ///
    /// # Errors
    /// If the host or the engine cannot.
    fn assist(
        &self,
        memory: &GuestMemory,
        local_apics: bool,
    ) -> Result<Option<Arc<dyn Assist>>, EngineError> {
        let _ = (memory, local_apics);
        Ok(None)
    }

    /// Makes a vCPU in its reset state.
    ///
    /// # Errors
    /// If the host or the engine cannot.
    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError>;
}
