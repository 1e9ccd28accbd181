//! What a network card is connected to.
//!
//! A card knows one contract, [`NetBackend`]: frames in, frames out, what of
//! checksums and segmentation the other side takes over, and one descriptor to
//! wait on. Behind it are
//!
//! - [`user::UserNet`], address translation without any right on the host;
//! - [`tap::Tap`], a tap device;
//! - [`stream::Stream`], a Unix socket in the framing of QEMU and passt;
//! - [`pcap::Capture`], which keeps what passes through another one.
//!
//! Everything runs on the thread that calls: a backend is a state machine that
//! never blocks. The caller waits for [`NetBackend::descriptor`] until
//! [`NetBackend::deadline`] and then asks for frames with
//! [`NetBackend::receive`] as long as the guest has room for them. What the
//! guest has no room for stays in the host's sockets.

#![deny(unsafe_code)]

mod backend;
mod checksum;
pub mod pcap;
mod poller;
pub mod stream;
pub mod tap;
pub mod user;
mod vnet;

pub use backend::{Frame, MAX_FRAME, Mac, NetBackend, Offloads, Sent};
pub use vnet::{Checksum, Offload, SegmentKind, Segmentation, VNET_HEADER};
