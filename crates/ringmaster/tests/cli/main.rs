//! The program as its users meet it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod check;
mod common;
mod demo;
mod output;
mod terminal;
mod usage;
