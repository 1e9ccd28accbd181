//! Registers that only ring a bell: whoever runs the guest can ring it in the
//! bus's place, if it knows where they are.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::PciBus;

/// A register of a function: any write to it rings `bell`, an eventfd, and does
/// nothing else.
#[derive(Clone, Debug)]
pub struct RegisterBell {
    /// The BAR that it is in.
    pub bar: u8,
    /// Where in it.
    pub offset: u64,
    /// What is rung.
    pub bell: Arc<OwnedFd>,
}

/// A bell at its place in memory.
#[derive(Clone, Debug)]
pub struct PlacedBell {
    /// The address to which is written.
    pub at: u64,
    /// What must be written, in four bytes; None if anything rings.
    pub value: Option<u32>,
    /// What is rung.
    pub bell: Arc<OwnedFd>,
}

impl PartialEq for PlacedBell {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.value) == (other.at, other.value) && Arc::ptr_eq(&self.bell, &other.bell)
    }
}

/// Called with all bells whenever one of them is somewhere else.
pub type BellSink = Box<dyn FnMut(&[PlacedBell]) + Send>;

impl PciBus {
    /// Tells `listener` where the bells are, from now on.
    pub fn listen(&mut self, mut listener: BellSink) {
        listener(&self.bells);
        self.listener = Some(listener);
    }

    /// Looks where the bells are; to be called when a function may decode other
    /// memory than before.
    pub(super) fn find_bells(&mut self) {
        let mut bells = Vec::new();
        for (slot, range) in &self.ranges {
            let Some(function) = self.functions.get(slot) else { continue };
            let of_bar = function.bells().into_iter().filter(|bell| bell.bar == range.bar);
            let placed = of_bar.map(|bell| PlacedBell {
                at: range.start.wrapping_add(bell.offset),
                value: None,
                bell: bell.bell,
            });
            bells.extend(placed);
        }
        if bells != self.bells {
            self.bells = bells;
            if let Some(listener) = &mut self.listener {
                listener(&self.bells);
            }
        }
    }
}
