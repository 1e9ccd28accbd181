//! The file system device (5.11): a folder of the host, which the guest mounts
//! by its tag (`mount -t virtiofs TAG /mnt`).
//!
//! The server is part of this process and speaks FUSE (7.31) as far as file
//! systems on disk need it. It holds a descriptor for each file that the guest
//! knows, and reaches others only by single names below such a descriptor,
//! without following links: nothing outside the folder can be named.

mod attributes;
mod message;
mod nodes;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::{ActivateError, Activation, DeviceKind, VirtioDevice, Worker, read_space};
use server::Server;

const KIND: DeviceKind = DeviceKind { id: 26, pci_class: 0x01_8000, name: "virtio-fs" };
const QUEUE_SIZE: u16 = 128;
/// Bytes of a tag.
pub const TAG: usize = 36;

/// A shared folder.
pub struct SharedFolder {
    tag: String,
    server: Arc<Server>,
    workers: Vec<Worker<()>>,
}

impl SharedFolder {
    /// Shares the folder at `path` as `tag`, of which 36 bytes count.
    ///
    /// # Errors
    /// If it is no folder, or cannot be opened.
    pub fn new(path: &Path, tag: &str, read_only: bool) -> io::Result<Self> {
        let server = Arc::new(Server::new(path, read_only)?);
        Ok(Self { tag: tag.to_owned(), server, workers: Vec::new() })
    }
}

impl VirtioDevice for SharedFolder {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    /// One for what must not wait, one for requests.
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; TAG + 4];
        space.iter_mut().zip(self.tag.bytes()).take(TAG).for_each(|(byte, from)| *byte = from);
        space[TAG] = 1;
        read_space(&space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        for mut queue in activation.queues.into_iter().flatten() {
            let server = Arc::clone(&self.server);
            let worker = Worker::spawn(&format!("fs-queue-{}", queue.index()), move |stop| {
                queue.serve(&stop, |memory, chain| server.serve(memory, chain));
            });
            self.workers.push(worker.map_err(|error| ActivateError(error.to_string()))?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.server.forget_all();
    }
}
