//! Hardware assistance: guests run in their own ring 0 through Linux' KVM, on
//! VT-x or AMD-V.
//!
//! [`Kvm`] is the engine. The machine, its chipset and its time are the same
//! as under the other engines: what the processor cannot do alone comes back
//! as an exit ([`exits`]) and is asked of the [`engine::Platform`]. The state
//! converts both ways to the neutral [`x86::CpuState`] ([`state`]). Which host
//! can be used is answered by [`survey`], which also measures whether the
//! device runs ring 0 at the hardware's speed ([`probe`]).

// Memory slots hand host memory to the kernel, and the page of `kvm_run` is
// shared with it: `slots`, `run_page`, `ioctls`, `routes` and `kick` are the
// places.
#![allow(unsafe_code)]

mod assist;
mod cpuid;
mod engine_impl;
mod exits;
mod failure;
mod host;
mod ioctls;
mod kick;
mod lacks;
mod msrs;
mod probe;
mod routes;
mod run_page;
mod slots;
mod state;
mod survey;
mod tsc;
mod vcpu;
mod vm;

pub use engine_impl::Kvm;
pub use host::{Host, Lacking};
pub use probe::{MIN_MIPS, Speed};
pub use slots::DirtyLog;
pub use survey::{Absence, Survey, survey};
