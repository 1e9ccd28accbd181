//! What tells apart the modes and address spaces in which code is found.

use interpret::tlb::Tlb;
use x86::LinearAddr;

use crate::mode::Mode;

/// What it depends on which code lies at a linear address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Meaning {
    pub(crate) mode: Mode,
    asid: u64,
    flushes: (u64, u64),
}

/// What supervisor code that was fetched depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Some of its pages belong to one address space.
    local: bool,
    /// Some of it lies in the lower half.
    low: bool,
    /// The flushes of everything that came before.
    since: u64,
}

impl Scope {
    /// Notes a page of supervisor code, fetched now.
    pub(crate) fn note(&mut self, lin: LinearAddr, global: bool, tlb: &Tlb) {
        if self.since != tlb.code_flushes.all {
            *self = Self { since: tlb.code_flushes.all, ..Self::default() };
        }
        self.local |= !global;
        self.low |= lin.0 >> 63 == 0;
    }

    /// What code in `mode` depends on now.
    pub(crate) fn meaning(self, mode: Mode, tlb: &Tlb) -> Meaning {
        let flushes = tlb.code_flushes;
        if mode.position_independent() {
            return Meaning { mode, asid: tlb.asid, flushes: (flushes.all, tlb.space_flushes().into()) };
        }
        let asid = if self.local { tlb.asid } else { 0 };
        Meaning { mode, asid, flushes: (flushes.all, self.flushes(tlb)) }
    }

    /// How many single pages with supervisor code may have been flushed.
    pub(crate) fn flushes(self, tlb: &Tlb) -> u64 {
        let flushes = tlb.code_flushes;
        flushes.high.wrapping_add(if self.low { flushes.low } else { 0 })
    }
}
