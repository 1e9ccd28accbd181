//! The disks of a machine.

use std::sync::Arc;

use machine::{Transport, VirtioSlot};
use storage::{Disk as Image, StorageError};
use virtio::blk::Block;

use crate::cli::disk::Disk;
use crate::exit::{ExitStatus, Failure};

/// The most queues that a disk has without being told to.
const QUEUES: u16 = 4;

/// The open disks, which outlive the machine.
#[derive(Default)]
pub(super) struct Disks(Vec<Arc<Image>>);

impl Disks {
    /// Opens `disks` and makes their devices.
    pub(super) fn open(
        disks: &[Disk],
        cpus: u16,
        transport: Transport,
    ) -> Result<(Self, Vec<VirtioSlot>), Failure> {
        let (mut images, mut slots) = (Vec::new(), Vec::new());
        for disk in disks {
            let image = Arc::new(Image::open(&disk.options).map_err(failure)?);
            let queues = disk.queues.unwrap_or(cpus.min(QUEUES));
            let device = Block::new(Arc::clone(&image), queues, &disk.serial);
            slots.push(VirtioSlot::new(device, disk.transport.unwrap_or(transport)));
            images.push(image);
        }
        Ok((Self(images), slots))
    }

    /// Makes durable what the guest has written, when no device writes any
    /// more.
    pub(super) fn close(self) -> Result<(), Failure> {
        self.0.into_iter().try_for_each(|image| {
            image.flush().map_err(|error| {
                let path = image.path().display();
                Failure::internal(format!("what was written to the disk {path} may be lost")).because(error)
            })
        })
    }
}

fn failure(error: StorageError) -> Failure {
    let status = match &error {
        error if error.is_invalid_image() => ExitStatus::InvalidImage,
        StorageError::InUse { .. } => ExitStatus::HostLacks,
        error if error.is_host() => ExitStatus::Internal,
        _ => ExitStatus::Usage,
    };
    Failure::new(status, "the machine cannot be started").because(error)
}
