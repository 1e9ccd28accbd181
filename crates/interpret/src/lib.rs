//! The reference interpreter: the one place that says what an instruction
//! means to a guest.
//!
//! The way of an instruction: [`blocks`] finds its decoded form by
//! guest-physical page ([`decode`] makes it), [`vcpu`] calls its handler, the
//! handler in [`ops`], [`string`], [`system`], [`fpu`] or [`vector`] computes addresses
//! ([`segmentation`]), reaches memory ([`tlb`], [`access`]) and either acts
//! itself or lets the host's processor execute the instruction ([`native`]). A
//! fault comes back as [`cpu::Break`] and is delivered by [`system`].

// Thunks of host code and direct access to guest RAM are this crate's job.
#![allow(unsafe_code)]

mod access;
mod blocks;
mod cpu;
mod decode;
mod fpu;
mod insn;
mod native;
mod ops;
mod segmentation;
pub mod slow;
mod step;
mod string;
mod system;
#[cfg(test)]
mod testing;
pub mod tlb;
mod vcpu;
mod vector;
#[cfg(test)]
mod vendor_tests;

pub use vcpu::Interpreter;
