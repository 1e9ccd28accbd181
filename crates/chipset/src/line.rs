//! Interrupt lines: a device holds a handle, never an IRQ number.

use std::fmt;
use std::sync::Arc;

/// Something with numbered interrupt inputs (an interrupt controller or the
/// fan-out in front of several).
pub trait LineTarget: Send + Sync {
    /// Drives `input` to `level`. Called with the driving device's lock held.
    fn set_level(&self, input: u32, level: bool);
}

/// A device's end of one interrupt line.
#[derive(Clone)]
pub struct Line {
    target: Arc<dyn LineTarget>,
    input: u32,
}

impl Line {
    /// A line that drives `input` of `target`.
    pub fn new(target: Arc<dyn LineTarget>, input: u32) -> Self {
        Self { target, input }
    }

    /// A line that ends nowhere.
    pub fn unconnected() -> Self {
        struct Nowhere;
        impl LineTarget for Nowhere {
            fn set_level(&self, _input: u32, _level: bool) {}
        }
        Self::new(Arc::new(Nowhere), 0)
    }

    /// Drives the line to `level`.
    pub fn set(&self, level: bool) {
        self.target.set_level(self.input, level);
    }

    /// Drives the line high and low again: one edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("input", &self.input).finish_non_exhaustive()
    }
}
