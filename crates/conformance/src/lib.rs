//! The conformance kit: tiny guests with expected end states.
//!
//! Every engine passes all of them, or its capability list says why not. The
//! expectations come from the manuals (Intel SDM, AMD APM), never from what an
//! engine happens to do. A [`Guest`] is data: an initial state, memory and what
//! the end must look like; [`run`] loads it into a small bench, runs it and
//! tells every difference in a sentence.
//!
//! A guest ends by writing port F4h, by an exception or interrupt (whose stub
//! ends the run, so that vector, frame and registers can be looked at), by a
//! HLT that nothing can end, or by a triple fault.

// The assembled guests are reached through the symbols that the assembler
// defines: `asm` holds the only unsafe code.
#![allow(unsafe_code)]

mod asm;
mod bench;
mod env;
mod expect;
mod guest;
mod guests;
mod layout;
pub mod processors;
mod run;

pub use bench::Io;
pub use guest::{FrameSize, Guest};
pub use guests::catalogue;
pub use run::{Outcome, excluded, execute, model_for, run};
pub use x86::cpuid::{Feature, Vendor};
