//! Binary translation: guest code runs as host code that is made from it, in an
//! ordinary process, without any help of virtualization hardware.
//!
//! The way of an instruction: [`vcpu`] looks for the block at the guest's
//! instruction pointer ([`blocks`]); if there is none, [`emit`] makes one, in
//! the [`cache`]. The block runs on the [`context`] that RSP points at, goes on
//! to other blocks by itself, and comes back through [`runtime`] when it needs
//! something. What is not inline is the interpreter's
//! ([`interpret::slow`]), so that it is said in one place what an instruction
//! means.

// Host code, made here and called from here, is this crate's job.
#![allow(unsafe_code)]

mod asm;
mod blocks;
mod cache;
mod context;
mod counters;
mod emit;
mod engine_impl;
mod fault;
#[cfg(test)]
mod golden;
mod jumps;
mod keys;
mod listing;
mod mode;
mod registers;
mod rest;
mod runtime;
mod span;
mod vcpu;

pub use engine_impl::{Options, Translator};
