//! Guest memory in KVM's slots, and the log of what guests have written.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memory::{GuestMemory, MemoryRegion};
use x86::{GuestPhysAddr, PAGE_SIZE};

use crate::vm::Vm;

fn slot(index: usize, region: &MemoryRegion, flags: u32) -> kvm_userspace_memory_region {
    kvm_userspace_memory_region {
        slot: index as u32,
        flags,
        guest_phys_addr: region.start.0,
        memory_size: region.len,
        userspace_addr: region.host.as_ptr() as u64,
    }
}

/// Tells the kernel where each region of `memory` lies; `log` also makes it
/// keep the log of writes.
pub(crate) fn map(vm: &VmFd, memory: &GuestMemory, log: bool) -> io::Result<()> {
    for (index, region) in memory.regions().enumerate() {
        let flags = match (region.writable, log) {
            (false, _) => KVM_MEM_READONLY,
            (true, true) => KVM_MEM_LOG_DIRTY_PAGES,
            (true, false) => 0,
        };
        // SAFETY: the region is mapped for as long as `memory` lives, of which
        // the VM keeps a clone; what a guest does there concerns only memory
        // that is accessed as guest memory everywhere.
        unsafe { vm.set_user_memory_region(slot(index, &region, flags)) }?;
    }
    Ok(())
}

/// The log of the pages that a guest has written, from its creation until it is
/// dropped.
pub struct DirtyLog {
    vm: Arc<Vm>,
}

impl DirtyLog {
    /// Starts to log.
    pub(crate) fn start(vm: Arc<Vm>) -> io::Result<Self> {
        map(vm.fd(), vm.memory(), true)?;
        Ok(Self { vm })
    }

    /// The pages that were written since the last call, in order; they count as
    /// unwritten from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take(&self) -> io::Result<Vec<GuestPhysAddr>> {
        let mut pages = Vec::new();
        for (index, region) in self.vm.memory().regions().enumerate().filter(|(_, region)| region.writable) {
            let size = usize::try_from(region.len).map_err(io::Error::other)?;
            let bitmap = self.vm.fd().get_dirty_log(index as u32, size)?;
            for (at, word) in bitmap.into_iter().enumerate() {
                let set = (0..u64::BITS).filter(|bit| word >> bit & 1 != 0);
                pages.extend(set.map(|bit| {
                    GuestPhysAddr(region.start.0 + (at as u64 * 64 + u64::from(bit)) * PAGE_SIZE)
                }));
            }
        }
        Ok(pages)
    }

    /// Takes the log and tells the memory's tracker of code pages, so that
    /// engines that keep decoded code notice what the guest changed meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn note_writes(&self) -> io::Result<usize> {
        let pages = self.take()?;
        for &page in &pages {
            self.vm.memory().note_write(page, PAGE_SIZE);
        }
        Ok(pages.len())
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        // Without the log the guest is only faster; there is nobody to tell.
        let _ = map(self.vm.fd(), self.vm.memory(), false);
    }
}
