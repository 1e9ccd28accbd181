//! Memory that the test process and its sandboxed child share: a control block
//! with the request and the answer, and the window.

use std::io;
use std::ptr::NonNull;

use x86::xsave::XsaveLayout;

use crate::layout::WINDOW_SIZE;

/// Room for an XSAVE image in standard format, up to AVX-512.
pub(super) const XSAVE_SIZE: usize = 4096;
/// The components that are carried: AVX, opmask, ZMM_Hi256, Hi16_ZMM.
pub(super) const COMPONENTS: [u32; 4] = [2, 5, 6, 7];
/// Bytes of the control block, in whole pages.
pub(super) const CONTROL_SIZE: usize = 4 * 4096;

/// Registers on their way into and out of the child.
#[repr(C, align(64))]
pub(super) struct Carried {
    pub(super) xsave: [u8; XSAVE_SIZE],
    pub(super) gpr: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
}

/// The control block.
#[repr(C, align(64))]
pub(super) struct Control {
    pub(super) request: Carried,
    pub(super) answer: Carried,
    /// CS and SS to run with.
    pub(super) cs: u64,
    /// Counts requests, so that a timer tick knows whether it has seen this
    /// one before.
    pub(super) number: u64,
    /// Offset and size of each component of [`COMPONENTS`] in an XSAVE image.
    pub(super) components: [[u32; 2]; 4],
    /// The components' bits in XSTATE_BV, with x87 and SSE.
    pub(super) xstate_bv: u64,
    pub(super) signal: u64,
    pub(super) trap: u64,
    pub(super) error: u64,
    pub(super) cr2: u64,
}

const _: () = assert!(size_of::<Control>() <= CONTROL_SIZE);

/// The shared mapping and the file behind it.
pub(super) struct Shared {
    base: NonNull<u8>,
    fd: libc::c_int,
}

// SAFETY: the mapping belongs to this value alone; the child's accesses are
// ordered by the pipes.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) fn new(layout: &XsaveLayout, xcr0: u64) -> io::Result<Self> {
        let size = CONTROL_SIZE + WINDOW_SIZE;
        // SAFETY: plain system calls with checked results; a fresh mapping
        // aliases nothing.
        let shared = unsafe {
            let fd = libc::memfd_create(c"differential".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let shared = Self { base: NonNull::dangling(), fd };
            if libc::ftruncate(fd, size as libc::off_t) != 0 {
                return Err(io::Error::last_os_error());
            }
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(std::ptr::null_mut(), size, rights, libc::MAP_SHARED, fd, 0);
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Self { base: NonNull::new_unchecked(base.cast()), fd: std::mem::ManuallyDrop::new(shared).fd }
        };
        let mut shared = shared;
        let control = shared.control();
        control.xstate_bv = 3;
        for (slot, index) in control.components.iter_mut().zip(COMPONENTS) {
            let component = layout.component(index).filter(|_| xcr0 >> index & 1 != 0);
            let component = component.filter(|c| (c.offset + c.size) as usize <= XSAVE_SIZE);
            if let Some(component) = component {
                *slot = [component.offset, component.size];
                control.xstate_bv |= 1 << index;
            }
        }
        Ok(shared)
    }

    pub(super) fn fd(&self) -> libc::c_int {
        self.fd
    }

    pub(super) fn control(&mut self) -> &mut Control {
        // SAFETY: the mapping is large enough, zeroed at first, and any bytes
        // make a valid control block; the child touches it only while this
        // process waits for it.
        unsafe { self.base.cast::<Control>().as_mut() }
    }

    pub(super) fn control_address(&self) -> *mut Control {
        self.base.as_ptr().cast()
    }

    pub(super) fn window(&mut self) -> &mut [u8] {
        // SAFETY: as above; the window follows the control block.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(CONTROL_SIZE), WINDOW_SIZE) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: both were made by `new` and nobody else has them.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), CONTROL_SIZE + WINDOW_SIZE);
            libc::close(self.fd);
        }
    }
}
