//! What a vCPU counts for `--stats`.

use std::time::Duration;

use serde::Serialize;

/// Why a vCPU left its fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Callout {
    PortIo,
    Mmio,
    Msr,
    Cpuid,
    ControlRegister,
    SystemInstruction,
    Interrupt,
    Exception,
    PageFault,
    Halt,
    TlbMiss,
    TlbFlush,
    BlockDecoded,
    BlockInvalidated,
}

impl Callout {
    /// All reasons with their names in reports.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::PortIo, "port_io"),
        (Self::Mmio, "mmio"),
        (Self::Msr, "msr"),
        (Self::Cpuid, "cpuid"),
        (Self::ControlRegister, "control_register"),
        (Self::SystemInstruction, "system_instruction"),
        (Self::Interrupt, "interrupt"),
        (Self::Exception, "exception"),
        (Self::PageFault, "page_fault"),
        (Self::Halt, "halt"),
        (Self::TlbMiss, "tlb_miss"),
        (Self::TlbFlush, "tlb_flush"),
        (Self::BlockDecoded, "block_decoded"),
        (Self::BlockInvalidated, "block_invalidated"),
    ];
}

/// Counters of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VcpuStats {
    /// Guest instructions executed.
    pub instructions: u64,
    /// Time spent running guest code, halts left out.
    pub busy: Duration,
    /// Time spent in HLT.
    pub halted: Duration,
    /// Callouts, indexed by [`Callout`].
    pub callouts: [u64; Callout::ALL.len()],
}

impl VcpuStats {
    /// Counts one callout.
    #[inline]
    pub fn count(&mut self, why: Callout) {
        self.callouts[why as usize] += 1;
    }

    /// Millions of guest instructions in a second of busy time.
    pub fn mips(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 { self.instructions as f64 / seconds / 1e6 } else { 0.0 }
    }
}
