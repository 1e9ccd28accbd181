//! The user-mode network with a guest that is a whole network stack, against
//! real servers on the host's loopback.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod forwards;
mod guest;
mod hostile;
mod policy;
mod services;
mod tcp;
mod udp;
mod wire;
mod world;
