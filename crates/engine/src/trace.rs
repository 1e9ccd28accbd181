//! `--trace`: events that an engine reports when somebody listens. With no
//! listener the engines do not even look.

use std::str::FromStr;
use std::sync::Arc;

use x86::Exception;

/// What can be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceWhat {
    /// Exceptions and interrupts as they are delivered.
    pub exceptions: bool,
    /// Port and memory-mapped I/O.
    pub io: bool,
    /// RDMSR and WRMSR.
    pub msr: bool,
    /// Blocks of code as they are translated.
    pub blocks: bool,
}

impl FromStr for TraceWhat {
    type Err = String;
    fn from_str(list: &str) -> Result<Self, String> {
        let mut what = Self::default();
        for name in list.split(',') {
            match name {
                "exceptions" => what.exceptions = true,
                "io" => what.io = true,
                "msr" => what.msr = true,
                "blocks" => what.blocks = true,
                _ => return Err(format!("cannot trace '{name}': choose from exceptions, io, msr, blocks")),
            }
        }
        Ok(what)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// An exception is delivered; `rip` is where it happened.
    Exception {
        /// Instruction pointer.
        rip: u64,
        /// What happened.
        exception: Exception,
    },
    /// An external interrupt is delivered before the instruction at `rip`.
    Interrupt {
        /// Instruction pointer.
        rip: u64,
        /// Its vector.
        vector: u8,
    },
    /// A port was read or written.
    Port {
        /// Port number.
        port: u16,
        /// Bytes.
        size: u8,
        /// The value.
        value: u32,
        /// Direction.
        write: bool,
    },
    /// Memory-mapped I/O.
    Mmio {
        /// Guest-physical address.
        at: u64,
        /// Bytes.
        size: u8,
        /// The value.
        value: u64,
        /// Direction.
        write: bool,
    },
    /// An MSR was read or written.
    Msr {
        /// MSR number.
        index: u32,
        /// The value; None if the access faulted.
        value: Option<u64>,
        /// Direction.
        write: bool,
    },
    /// A block of code was translated.
    Block {
        /// Linear address of its first instruction.
        lin: u64,
        /// Guest and host code side by side, in lines.
        listing: Arc<str>,
    },
}

/// Somebody who wants to see events.
pub trait TraceSink: Send + Sync {
    /// What it wants to see.
    fn wants(&self) -> TraceWhat;

    /// Takes one event of vCPU `vcpu`.
    fn event(&self, vcpu: u32, event: &TraceEvent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_set_what_they_name() {
        let what: TraceWhat = "msr,exceptions".parse().unwrap();
        assert!(what.msr && what.exceptions && !what.io && !what.blocks);
        assert!("blocks".parse::<TraceWhat>().is_ok_and(|what| what.blocks));
        for list in ["", "io,", "irq"] {
            assert!(list.parse::<TraceWhat>().is_err(), "{list}");
        }
    }
}
