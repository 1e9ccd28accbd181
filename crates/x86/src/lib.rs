//! Facts of the x86 architecture that every other room builds on: registers
//! and the whole vCPU state, descriptors, exceptions, page-table walk, the
//! CPUID and MSR models and the table of privileged and sensitive
//! instructions.
//!
//! Nothing here runs a guest or touches the host: no unsafe, no I/O.

#![forbid(unsafe_code)]

mod addr;
mod control;
pub mod cpuid;
pub mod descriptor;
mod exception;
mod fpu;
pub mod msr;
pub mod paging;
mod segment;
pub mod sensitive;
mod state;
pub mod xsave;

pub use addr::{GuestPhysAddr, LinearAddr, PAGE_SIZE, is_canonical};
pub use control::{Cr0, Cr4, Dr6, Dr7, Efer, Rflags, Xcr0};
pub use exception::{Exception, ExceptionClass, PageFaultCode, Vector};
pub use fpu::{FpuState, X87State, ZmmReg};
pub use segment::{DescriptorTable, Segment, SegmentAttributes, SegmentName, Selector, SystemType};
pub use state::{Activity, CpuState, Difference, Gpr, InterruptShadow, Msrs, PendingEvent};
