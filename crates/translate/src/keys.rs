//! Keys of the jump cache: what tells modes and address spaces apart there.

use std::collections::HashMap;

use interpret::tlb::Tlb;
use x86::LinearAddr;

use crate::mode::Mode;

/// Instruction pointers leave their upper bits to the key: canonical addresses
/// have 48 bits that differ, or 57.
pub(crate) const SHIFT_4_LEVEL: u32 = 48;
pub(crate) const SHIFT_5_LEVEL: u32 = 57;

/// Keys that are found at once: of the modes that code switches among.
const RECENT: usize = 6;

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Meaning {
    mode: Mode,
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
    /// Whether keys of supervisor code belong to one address space, and so come
    /// back with it.
    pub(crate) fn is_local(self) -> bool {
        self.local
    }

    /// Notes a page of supervisor code, fetched now.
    pub(crate) fn note(&mut self, lin: LinearAddr, global: bool, tlb: &Tlb) {
        if self.since != tlb.code_flushes.all {
            *self = Self { since: tlb.code_flushes.all, ..Self::default() };
        }
        self.local |= !global;
        self.low |= lin.0 >> 63 == 0;
    }

    /// What tells its address spaces apart now.
    fn meaning(self, mode: Mode, tlb: &Tlb) -> Meaning {
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

/// Keys that have been given out since the jump cache was last cleared.
#[derive(Default)]
pub(crate) struct Keys {
    known: HashMap<Meaning, u64>,
    /// Those asked for last, in a ring.
    recent: [Option<(Meaning, u64)>; RECENT],
    turn: usize,
    next: u64,
    /// How often all were forgotten.
    pub(crate) generation: u64,
    wide: bool,
}

impl Keys {
    /// The key for code in `mode` now; second, whether the jump cache must be
    /// cleared first. `wide` means 5-level paging.
    #[inline]
    pub(crate) fn key(&mut self, mode: Mode, scope: Scope, tlb: &Tlb, wide: bool) -> (u64, bool) {
        let meaning = scope.meaning(mode, tlb);
        if self.wide == wide {
            for &(known, key) in self.recent.iter().flatten() {
                if known == meaning {
                    return (key, false);
                }
            }
        }
        self.find(meaning, wide)
    }

    #[cold]
    fn find(&mut self, meaning: Meaning, wide: bool) -> (u64, bool) {
        let full = self.next >= (1 << (64 - self.shift())) - 1;
        let clear = full || self.wide != wide;
        if clear {
            self.forget();
            self.wide = wide;
        }
        let shift = self.shift();
        let next = &mut self.next;
        let key = *self.known.entry(meaning).or_insert_with(|| {
            *next += 1;
            *next << shift
        });
        self.turn = (self.turn + 1) % RECENT;
        self.recent[self.turn] = Some((meaning, key));
        (key, clear)
    }

    /// The first bit of keys.
    pub(crate) fn shift(&self) -> u32 {
        if self.wide { SHIFT_5_LEVEL } else { SHIFT_4_LEVEL }
    }

    /// Forgets all keys; the jump cache must be cleared too.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.generation += 1;
        self.recent = [None; RECENT];
        self.next = 0;
    }
}
