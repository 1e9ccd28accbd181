//! Differential tests: the same instructions on the host's processor and on an
//! engine, compared.
//!
//! A [`Case`] is a short sequence of user code with the seed of the registers
//! and memory around it. [`Native`] runs it in a sandboxed child process;
//! [`Guest`] runs it as user code of a tiny guest on an engine, in several
//! [`Variant`]s; [`Bench`] compares registers, defined flags, memory and the
//! exception at the end with its error code and CR2. The [`Generator`] makes
//! random sequences over all instruction forms that the guest is offered, with
//! operands at page ends and on read-only and absent pages. A failure shrinks
//! to a [`Row`] for the table of [`REGRESSIONS`].
//!
//! The test suite runs fixed seeds. For a longer run:
//!
//! ```text
//! cargo run --release -p ringmaster-differential --example soak -- --engine translate --seconds 600 --seed 1
//! ```

// Running machine code natively, in a forked child, is this crate's job.
#![allow(unsafe_code)]

mod bench;
mod case;
mod generate;
mod guest;
mod habits;
mod host;
mod layout;
mod native;
mod outcome;
mod permitted;
mod regressions;
mod rng;
mod shrink;
mod state;
mod suite;
mod trace;

pub use bench::{Bench, Counts, Failure, Verdict, modes};
pub use case::Case;
pub use generate::{Forms, Generator, Group};
pub use guest::{Guest, Variant};
pub use habits::{TELLING, Telling};
pub use host::host_model;
pub use native::Native;
pub use outcome::{Comparison, Event, Exempt, Outcome};
pub use permitted::permitted;
pub use regressions::{REGRESSIONS, Row};
pub use rng::Rng;
pub use state::{Bits, Plain, Registers};
pub use suite::Suite;
