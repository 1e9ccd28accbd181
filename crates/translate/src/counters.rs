//! What a vCPU counts for `--stats`.

use std::time::Duration;

use engine::TranslationStats;
use iced_x86::Mnemonic;

use crate::runtime::Exit;

/// Counters of one vCPU, in the form that costs least.
pub(crate) struct Counters {
    pub(crate) blocks_made: u64,
    pub(crate) guest_bytes: u64,
    pub(crate) host_bytes: u64,
    /// Blocks dropped because the code cache was full.
    pub(crate) evicted: u64,
    /// Time in generated code, and in making it, if that is measured.
    pub(crate) running: Duration,
    pub(crate) translating: Duration,
    exits: [u64; Exit::ALL.len()],
    interpreted: Vec<u64>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            blocks_made: 0,
            guest_bytes: 0,
            host_bytes: 0,
            evicted: 0,
            running: Duration::ZERO,
            translating: Duration::ZERO,
            exits: [0; Exit::ALL.len()],
            interpreted: vec![0; Mnemonic::values().len()],
        }
    }

    /// Counts an exit.
    #[inline]
    pub(crate) fn exit(&mut self, why: Exit) {
        self.exits[why as usize] += 1;
    }

    /// Counts an instruction that the interpreter executes.
    #[inline]
    pub(crate) fn interpreted(&mut self, mnemonic: Mnemonic) {
        self.interpreted[mnemonic as usize] += 1;
    }

    /// The counters as others know them; `counted` are blocks and tests, if they
    /// were.
    pub(crate) fn report(&self, counted: Option<(u64, u64)>, tlb_refills: u64) -> TranslationStats {
        let mut interpreted: Vec<(String, u64)> = Mnemonic::values()
            .zip(&self.interpreted)
            .filter(|(_, count)| **count > 0)
            .map(|(mnemonic, &count)| (format!("{mnemonic:?}").to_lowercase(), count))
            .collect();
        interpreted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        TranslationStats {
            blocks_made: self.blocks_made,
            guest_bytes: self.guest_bytes,
            host_bytes: self.host_bytes,
            blocks_evicted: self.evicted,
            blocks_run: counted.map(|(blocks, _)| blocks),
            tlb_tests: counted.map(|(_, tests)| tests),
            running: counted.map(|_| self.running),
            translating: counted.map(|_| self.translating),
            tlb_refills,
            exits: Exit::ALL.iter().map(|&exit| (exit.name(), self.exits[exit as usize])).collect(),
            interpreted,
        }
    }
}
