//! The page that a vCPU shares with the kernel: why it exited, and how it is to
//! go on.
//!
//! It is mapped a second time here, beside the mapping that kvm-ioctls keeps,
//! so that it can be owned by whoever needs it longest: the
//! [kick](crate::kick).

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_EXIT_IO_OUT, kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4 as IoExit,
    kvm_run__bindgen_ty_1__bindgen_ty_6 as MmioExit, kvm_run__bindgen_ty_1__bindgen_ty_13 as InternalError,
    kvm_run__bindgen_ty_1__bindgen_ty_23 as MsrExit,
};

/// Where the part of [`kvm_run`] starts that depends on the reason.
const UNION: usize = offset_of!(kvm_run, __bindgen_anon_1);

/// A port access that is waiting for the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortAccess {
    pub(crate) port: u16,
    pub(crate) size: u8,
    pub(crate) count: u32,
    pub(crate) write: bool,
    offset: u64,
}

/// A memory-mapped access that is waiting for the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MmioAccess {
    pub(crate) at: u64,
    pub(crate) data: [u8; 8],
    pub(crate) len: usize,
    pub(crate) write: bool,
}

/// An MSR access that is waiting for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MsrAccess {
    pub(crate) index: u32,
    pub(crate) data: u64,
}

/// The shared page of one vCPU.
pub(crate) struct RunPage {
    page: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the mapping belongs to this object. Other threads only touch
// `immediate_exit`, atomically; everything else is the vCPU thread's, which
// holds the vCPU exclusively.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the page of `vcpu`; `len` is what KVM_GET_VCPU_MMAP_SIZE says.
    pub(crate) fn map(vcpu: &impl AsRawFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::Error::other("the kernel's kvm_run is too small"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping of the vCPU's file, placed by the
        // kernel; nothing else is at that address.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0)
        };
        match NonNull::new(at) {
            Some(page) if at != libc::MAP_FAILED => Ok(Self { page: page.cast(), len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A field as the kernel left it: the one at `offset` in [`kvm_run`], whose
    /// type the caller knows.
    fn read<T: Copy>(&self, offset: usize) -> T {
        debug_assert!(offset + size_of::<T>() <= size_of::<kvm_run>());
        // SAFETY: the offset is a field's, so it is inside the mapping and
        // aligned; the fields are integers, for which all bits are valid.
        unsafe { self.page.as_ptr().cast::<u8>().add(offset).cast::<T>().read_volatile() }
    }

    fn write<T: Copy>(&self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= size_of::<kvm_run>());
        // SAFETY: as in `read`; only the vCPU's thread writes.
        unsafe { self.page.as_ptr().cast::<u8>().add(offset).cast::<T>().write_volatile(value) }
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: `immediate_exit` is a byte of the mapping, which lives as
        // long as `self`; this process touches it only through this atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) }
    }

    /// Lets the next entry return at once, or no longer.
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        self.flag().store(on.into(), Ordering::SeqCst);
    }

    /// Asks for an exit as soon as an interrupt can be taken.
    pub(crate) fn set_interrupt_window(&self, wanted: bool) {
        self.write(offset_of!(kvm_run, request_interrupt_window), u8::from(wanted));
    }

    /// Whether an interrupt could be taken when the vCPU exited.
    pub(crate) fn ready_for_interrupt(&self) -> bool {
        self.read::<u8>(offset_of!(kvm_run, ready_for_interrupt_injection)) != 0
    }

    /// RFLAGS.IF when the vCPU exited.
    pub(crate) fn interrupt_flag(&self) -> bool {
        self.read::<u8>(offset_of!(kvm_run, if_flag)) != 0
    }

    /// CR8 when the vCPU exited.
    pub(crate) fn cr8(&self) -> u64 {
        self.read(offset_of!(kvm_run, cr8))
    }

    /// Sets CR8 for the next entry.
    pub(crate) fn set_cr8(&self, value: u64) {
        self.write(offset_of!(kvm_run, cr8), value);
    }

    /// KVM_EXIT_*.
    pub(crate) fn exit_reason(&self) -> u32 {
        self.read(offset_of!(kvm_run, exit_reason))
    }

    /// The port access of KVM_EXIT_IO.
    pub(crate) fn port_access(&self) -> PortAccess {
        let io: IoExit = self.read(UNION);
        PortAccess {
            port: io.port,
            size: io.size,
            count: io.count,
            write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
            offset: io.data_offset,
        }
    }

    /// Where element `index` of a port access lies; None if the kernel's
    /// numbers do not stay inside the mapping.
    fn element(&self, access: &PortAccess, index: u32) -> Option<*mut u8> {
        let size = u64::from(access.size);
        let start = access.offset.checked_add(u64::from(index) * size)?;
        let inside = matches!(size, 1 | 2 | 4) && start.checked_add(size)? <= self.len as u64;
        // SAFETY: `start` is inside the mapping.
        inside.then(|| unsafe { self.page.as_ptr().cast::<u8>().add(start as usize) })
    }

    /// Element `index` of what a port access writes.
    pub(crate) fn port_data(&self, access: &PortAccess, index: u32) -> u32 {
        let mut bytes = [0; 4];
        if let Some(place) = self.element(access, index) {
            // SAFETY: `element` has checked that `size` (at most 4) bytes at
            // `place` are inside the mapping.
            unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), access.size.into()) };
        }
        u32::from_le_bytes(bytes)
    }

    /// Answers element `index` of a port access that reads.
    pub(crate) fn set_port_data(&self, access: &PortAccess, index: u32, value: u32) {
        if let Some(place) = self.element(access, index) {
            // SAFETY: as in `port_data`.
            unsafe { place.copy_from_nonoverlapping(value.to_le_bytes().as_ptr(), access.size.into()) };
        }
    }

    /// The access of KVM_EXIT_MMIO.
    pub(crate) fn mmio_access(&self) -> MmioAccess {
        let mmio: MmioExit = self.read(UNION);
        let len = (mmio.len as usize).min(mmio.data.len());
        MmioAccess { at: mmio.phys_addr, data: mmio.data, len, write: mmio.is_write != 0 }
    }

    /// Answers a memory-mapped read.
    pub(crate) fn set_mmio_data(&self, data: [u8; 8]) {
        self.write(UNION + offset_of!(MmioExit, data), data);
    }

    /// The access of KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR.
    pub(crate) fn msr_access(&self) -> MsrAccess {
        let msr: MsrExit = self.read(UNION);
        MsrAccess { index: msr.index, data: msr.data }
    }

    /// Answers an MSR access: the value of a read, or #GP(0).
    pub(crate) fn set_msr_answer(&self, answer: Option<u64>) {
        self.write(UNION + offset_of!(MsrExit, error), u8::from(answer.is_none()));
        if let Some(value) = answer {
            self.write(UNION + offset_of!(MsrExit, data), value);
        }
    }

    /// The hardware's reason in KVM_EXIT_FAIL_ENTRY and KVM_EXIT_UNKNOWN.
    pub(crate) fn hardware_reason(&self) -> u64 {
        self.read(UNION)
    }

    /// Sub-error and data of KVM_EXIT_INTERNAL_ERROR.
    pub(crate) fn internal_error(&self) -> (u32, Vec<u64>) {
        let error: InternalError = self.read(UNION);
        let count = (error.ndata as usize).min(error.data.len());
        (error.suberror, error.data.into_iter().take(count).collect())
    }

    /// The vector of KVM_EXIT_IOAPIC_EOI.
    pub(crate) fn ended_vector(&self) -> u8 {
        self.read(UNION)
    }

    /// Type of KVM_EXIT_SYSTEM_EVENT.
    pub(crate) fn system_event(&self) -> u32 {
        self.read(UNION)
    }
}

#[cfg(test)]
impl RunPage {
    /// The page as the kernel leaves it at an exit for `reason`, with `details`
    /// in the part that depends on the reason.
    pub(crate) fn of_exit(reason: u32, details: &[u64]) -> Self {
        use std::os::fd::{FromRawFd, OwnedFd};
        let len = 0x3000;
        // SAFETY: a fresh file in memory, whose descriptor nobody else has.
        let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"kvm_run".as_ptr(), 0)) };
        // SAFETY: a system call without memory.
        assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), len) }, 0);
        let page = Self::map(&file, len as usize).expect("a file in memory can be mapped");
        page.write(offset_of!(kvm_run, exit_reason), reason);
        for (index, detail) in details.iter().enumerate() {
            page.write(UNION + 8 * index, *detail);
        }
        page
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and nothing
        // borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.len) };
    }
}
