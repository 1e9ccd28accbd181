//! Guests that mean harm: random code in every mode, and guests that go for a
//! particular weakness. None may make the process panic, hang or grow.

#![allow(missing_docs, reason = "a test")]

mod board;
mod devices;
mod dice;
mod endings;
mod growth;
mod harness;
mod noise;
mod program;
mod tables;
mod world;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests that measure the process want it for themselves.
static PROCESS: RwLock<()> = RwLock::new(());

/// The process, shared with other tests.
fn shared() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

/// The process, without other tests.
fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}
