//! The socket device (5.10): stream sockets between guest and host, which on
//! the host are Unix sockets, in the hybrid form that Firecracker introduced.
//!
//! A program on the host connects to the device's socket and writes
//! `CONNECT PORT\n`; once a program in the guest has accepted, it reads
//! `OK PORT\n`, and the connection stands. A guest that connects to port P of
//! CID 2 is connected to the Unix socket of the same name with `_P` appended.

mod connection;
mod mux;
mod packet;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{ActivateError, Activation, DeviceKind, VirtioDevice, Worker, read_space};
use mux::Mux;

const KIND: DeviceKind = DeviceKind { id: 19, pci_class: 0x07_8000, name: "virtio-vsock" };
const QUEUE_SIZE: u16 = 128;
/// The host's context identifier.
const HOST_CID: u64 = 2;
/// The guest's, unless it is told otherwise.
pub const GUEST_CID: u64 = 3;

/// The device's socket on the host. It goes with the device.
#[derive(Debug)]
struct HostSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl HostSocket {
    fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), listener })
    }
}

/// A socket that nobody listens at is left over from a process that was
/// killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let refused = |error: io::Error| matches!(error.kind(), io::ErrorKind::ConnectionRefused);
    if metadata.file_type().is_socket() && UnixStream::connect(path).is_err_and(refused) {
        return fs::remove_file(path);
    }
    Err(io::ErrorKind::AddrInUse.into())
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    host: Arc<HostSocket>,
    worker: Option<Worker<()>>,
}

impl Vsock {
    /// A device for the guest with context identifier `cid`, with its socket
    /// at `path`.
    ///
    /// # Errors
    /// If the socket cannot be made; `AddrInUse` if something is there.
    pub fn new(cid: u64, path: &Path) -> io::Result<Self> {
        Ok(Self { cid, host: Arc::new(HostSocket::bind(path)?), worker: None })
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    /// Receive, transmit, event.
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let (Some(receive), Some(transmit)) = (activation.take(0), activation.take(1)) else {
            return Ok(());
        };
        // There are no events to send: they belong to migration.
        let events = activation.take(2);
        let (host, cid) = (Arc::clone(&self.host), self.cid);
        let worker = Worker::spawn(KIND.name, move |stop| {
            Mux::new(cid, &host.path, &host.listener).serve(receive, transmit, &stop);
            drop(events);
        });
        self.worker = Some(worker.map_err(|error| ActivateError(error.to_string()))?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}
