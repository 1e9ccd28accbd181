//! An engine whose vCPU plays a script instead of guest code.

use std::sync::{Arc, Mutex};

use engine::{
    Capabilities, Engine, EngineError, EngineKind, Mode, Platform, ProcessorLimits, Signal, Stop, Vcpu,
    VcpuConfig, VcpuSignals, VcpuStats,
};
use x86::CpuState;

use crate::sync::lock;

/// What the script sees of its processor.
pub(super) struct Cpu<'a> {
    pub(super) platform: &'a dyn Platform,
    pub(super) signals: &'a VcpuSignals,
    /// How often the state was set: once at the start, and once by each reset.
    pub(super) starts: u32,
}

impl Cpu<'_> {
    pub(super) fn out(&self, port: u16, value: u32) {
        self.platform.port_write(port, 1, value);
    }

    /// HLT with interrupts on: the next vector, or None when the machine wants
    /// something else.
    pub(super) fn halt(&self) -> Option<u8> {
        while !self.signals.is_pending(Signal::Exit) {
            if self.signals.is_pending(Signal::Interrupt)
                && let Some(vector) = self.platform.interrupt_acknowledge(0)
            {
                return Some(vector.0);
            }
            self.platform.halt(0);
        }
        None
    }
}

type Script = dyn FnMut(&Cpu<'_>) -> Stop + Send;

/// The engine; it makes one vCPU.
pub(super) struct Player {
    script: Mutex<Option<Box<Script>>>,
    /// The state that the vCPU was given last.
    pub(super) state: Arc<Mutex<CpuState>>,
}

impl Player {
    /// `script` is called for each `run`.
    pub(super) fn new(script: impl FnMut(&Cpu<'_>) -> Stop + Send + 'static) -> Self {
        Self { script: Mutex::new(Some(Box::new(script))), state: Arc::new(Mutex::new(CpuState::reset())) }
    }
}

impl Engine for Player {
    fn kind(&self) -> EngineKind {
        EngineKind::Interpret
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            modes: &Mode::ALL,
            max_vcpus: 1,
            own_interrupt_chip: Err("its local APICs are the machine's"),
            own_hypercalls: false,
            processor: ProcessorLimits::default(),
            guest_debug: false,
            lacks: &[],
        }
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, EngineError> {
        let script = lock(&self.script).take();
        let script = script.ok_or_else(|| EngineError::Unsupported {
            engine: EngineKind::Interpret,
            reason: "the script is played".to_owned(),
        })?;
        Ok(Box::new(Played { script, signals: config.signals, state: Arc::clone(&self.state), starts: 0 }))
    }
}

struct Played {
    script: Box<Script>,
    signals: Arc<VcpuSignals>,
    state: Arc<Mutex<CpuState>>,
    starts: u32,
}

impl Vcpu for Played {
    fn state(&self) -> CpuState {
        lock(&self.state).clone()
    }

    fn set_state(&mut self, state: &CpuState) {
        *lock(&self.state) = state.clone();
        self.starts += 1;
    }

    fn run(&mut self, platform: &dyn Platform) -> Stop {
        (self.script)(&Cpu { platform, signals: &self.signals, starts: self.starts })
    }

    fn step(&mut self, platform: &dyn Platform) -> Option<Stop> {
        Some(self.run(platform))
    }

    fn stats(&self) -> VcpuStats {
        VcpuStats { instructions: self.starts.into(), ..VcpuStats::default() }
    }
}
