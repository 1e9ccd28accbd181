//! Differential tests.
#![allow(unsafe_code)]
pub mod case;
pub mod guest;
pub mod host;
pub mod layout;
pub mod native;
pub mod outcome;
pub mod rng;
pub mod state;
