//! The seam between the engines, which run guest code, and the machine, which
//! is everything that the code can reach.
//!
//! An [`Engine`] says what it can do before anything is built and makes
//! [`Vcpu`]s. A vCPU runs until it must stop and asks all else of the
//! [`Platform`]. The machine reaches a running vCPU only through its
//! [`VcpuSignals`]. An engine knows no device; a device knows no engine.

#![forbid(unsafe_code)]

mod assist;
mod platform;
mod signals;
mod stats;
mod trace;
mod vcpu;

pub use assist::{Assist, InterruptMessage, LocalApicRegisters};
pub use platform::{Hypercall, MsrFault, Platform};
pub use signals::{Kick, Signal, VcpuSignals};
pub use stats::{Callout, TranslationStats, VcpuStats};
pub use trace::{TraceEvent, TraceSink, TraceWhat};
pub use vcpu::{
    Capabilities, Engine, EngineError, EngineKind, Mode, ProcessorLimits, Stop, Vcpu, VcpuConfig,
};
