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

/// What a translator counts besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TranslationStats {
    /// Blocks made.
    pub blocks_made: u64,
    /// Bytes of guest code in them.
    pub guest_bytes: u64,
    /// Bytes of host code in them.
    pub host_bytes: u64,
    /// Blocks dropped because the code cache was full.
    pub blocks_evicted: u64,
    /// Blocks executed, if they were counted.
    pub blocks_run: Option<u64>,
    /// Tests of the first level of the TLB, if they were counted.
    pub tlb_tests: Option<u64>,
    /// Misses of the first level of the TLB that the second served.
    pub tlb_refills: u64,
    /// Time spent in translated code, if it was measured.
    pub running: Option<Duration>,
    /// Time spent translating, if it was measured.
    pub translating: Option<Duration>,
    /// How often translated code was left, by reason.
    pub exits: Vec<(&'static str, u64)>,
    /// Instructions that blocks left to the interpreter, by mnemonic, most
    /// frequent first.
    pub interpreted: Vec<(String, u64)>,
}

impl TranslationStats {
    /// The share of executed blocks that another block led to without leaving
    /// translated code, if they were counted.
    pub fn chained_share(&self) -> Option<f64> {
        let run = self.blocks_run.filter(|&run| run > 0)?;
        let branches = ["link", "indirect"];
        let left: u64 =
            self.exits.iter().filter(|(why, _)| branches.contains(why)).map(|(_, count)| count).sum();
        Some(1.0 - left.min(run) as f64 / run as f64)
    }
}

/// Counters of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VcpuStats {
    /// Guest instructions executed; a translator counts those alone that it
    /// leaves to the interpreter.
    pub instructions: u64,
    /// Time spent running guest code, halts left out.
    pub busy: Duration,
    /// Time spent in HLT.
    pub halted: Duration,
    /// Callouts, indexed by [`Callout`].
    pub callouts: [u64; Callout::ALL.len()],
    /// A translator's own counters.
    pub translation: Option<TranslationStats>,
    /// Exits of the hardware by reason, with their number; empty for engines
    /// that have none.
    pub exits: Vec<(&'static str, u64)>,
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
