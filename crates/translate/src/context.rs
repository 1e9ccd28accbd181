//! What generated code reaches: RSP points at a [`Context`] as long as it runs,
//! and below it lies a small stack.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use interpret::tlb::{First, Tlb};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use x86::CpuState;

/// Entries of the jump cache.
pub(crate) const JUMPS: usize = 4096;
/// Room for return addresses and signal frames.
const STACK: usize = 256 << 10;

/// Indirect branch targets by instruction pointer and key.
#[repr(C, align(64))]
pub(crate) struct JumpCache {
    /// Negated sum of instruction pointer and key.
    pub(crate) tags: [u64; JUMPS],
    /// Host code.
    pub(crate) code: [u64; JUMPS],
}

/// The part of a vCPU that generated code works on. Fields before
/// [`Context::save_rax`] are within reach of a one-byte displacement.
#[repr(C, align(4096))]
pub(crate) struct Context {
    /// Guest R8 to R11.
    pub(crate) home: [u64; 4],
    /// Bits of a linear address that choose a first-level TLB entry.
    pub(crate) index_mask: u64,
    /// Bits of a linear address above the page offset.
    pub(crate) page_mask: u64,
    /// Bits of a keyed instruction pointer that choose a jump-cache entry.
    pub(crate) jump_mask: u64,
    /// Host minus linear address of the page behind the stack window.
    pub(crate) window: u64,
    /// Linear address of the current code page, in position-independent code.
    pub(crate) page: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    /// What distinguishes the current mode and address space in the jump
    /// cache; 0 while somebody wants the vCPU to look up.
    pub(crate) key: AtomicU64,
    /// Nonzero while somebody wants the vCPU to look up.
    pub(crate) exit_request: AtomicU32,
    /// Nonzero while the guest's floating-point state is in [`CpuState`], not
    /// in the registers.
    pub(crate) fpu_away: u32,
    /// A value between two steps of one instruction.
    pub(crate) temporary: u64,
    /// The architectural state.
    pub(crate) state: *mut CpuState,

    pub(crate) save_rax: u64,
    pub(crate) save_rdx: u64,
    pub(crate) save_r10: u64,
    pub(crate) save_r11: u64,
    /// AX after LAHF and SETO.
    pub(crate) flags: u32,
    /// Nonzero if floating-point code must not run inline (CR0.TS or EM).
    pub(crate) fpu_blocked: u32,
    /// Nonzero if entering is to load the floating-point state.
    pub(crate) fpu_wanted: u32,
    /// MXCSR of host code.
    pub(crate) host_mxcsr: u32,
    /// Where to enter.
    pub(crate) target: u64,
    /// The return address that was behind the exit.
    pub(crate) exit_at: u64,
    pub(crate) host_rsp: u64,
    /// Blocks executed, in code that counts.
    pub(crate) blocks: u64,
    /// First-level misses that the second level served.
    pub(crate) refills: u64,
    pub(crate) jumps: JumpCache,
    pub(crate) tlb: Tlb,
}

macro_rules! offset {
    ($($field:tt)+) => { std::mem::offset_of!(crate::context::Context, $($field)+) as i32 };
}
pub(crate) use offset;

/// Where the tags of a view's first-level array lie; the addends follow.
pub(crate) const fn tags(view: usize, write: bool) -> i32 {
    let array = (view * 2 + write as usize) * size_of::<First>();
    (offset_of!(Context, tlb) + offset_of!(Tlb, first) + array + offset_of!(First, tags)) as i32
}

/// Where the addends of a view's first-level array lie.
pub(crate) const fn addends(view: usize, write: bool) -> i32 {
    tags(view, write) + (offset_of!(First, addends) - offset_of!(First, tags)) as i32
}

/// A context with its stack, in memory of its own.
pub(crate) struct ContextBox {
    mapping: NonNull<u8>,
    context: NonNull<Context>,
}

// SAFETY: the mapping belongs to this value alone; other threads get at the
// atomics only.
unsafe impl Send for ContextBox {}
// SAFETY: as above.
unsafe impl Sync for ContextBox {}

const LEN: usize = STACK + size_of::<Context>();

impl ContextBox {
    /// # Errors
    /// If the host has no memory for it.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at =
            unsafe { mmap_anonymous(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let mapping = NonNull::new(at.cast::<u8>()).unwrap_or(NonNull::dangling());
        // SAFETY: the context lies inside the mapping, aligned to a page.
        let context = unsafe { mapping.add(STACK) }.cast::<Context>();
        // SAFETY: zeroed memory is a context, and nobody else knows it yet.
        unsafe { (*context.as_ptr()).initialize() };
        Ok(Self { mapping, context })
    }

    pub(crate) fn pointer(&self) -> NonNull<Context> {
        self.context
    }

    pub(crate) fn tlb(&self) -> NonNull<Tlb> {
        // SAFETY: a field of a valid context.
        unsafe { NonNull::new_unchecked(&raw mut (*self.context.as_ptr()).tlb) }
    }
}

impl Drop for ContextBox {
    fn drop(&mut self) {
        // SAFETY: a valid TLB, which nobody uses any more.
        unsafe { std::ptr::drop_in_place(&raw mut (*self.context.as_ptr()).tlb) };
        // SAFETY: mapped in `new` with this length; the borrows have ended.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), LEN) };
    }
}

impl Context {
    fn initialize(&mut self) {
        self.index_mask = (interpret::tlb::ENTRIES as u64 - 1) << 12;
        self.page_mask = !0xfff;
        self.jump_mask = (JUMPS as u64 - 1) << 1;
        self.fpu_away = 1;
        self.host_mxcsr = 0x1f80;
        self.tlb.initialize();
        self.jumps.clear();
    }
}

impl JumpCache {
    /// Notes where the code for `rip` under `key` is.
    pub(crate) fn note(&mut self, rip: u64, key: u64, code: u64) {
        let keyed = rip.wrapping_add(key);
        let index = (keyed >> 1) as usize % JUMPS;
        self.tags[index] = keyed.wrapping_neg();
        self.code[index] = code;
    }

    /// The code for `rip` under `key`, if it is known.
    pub(crate) fn find(&self, rip: u64, key: u64) -> Option<u64> {
        let keyed = rip.wrapping_add(key);
        let index = (keyed >> 1) as usize % JUMPS;
        (self.tags[index] == keyed.wrapping_neg()).then(|| self.code[index])
    }

    /// Forgets all indirect branch targets.
    pub(crate) fn clear(&mut self) {
        for (index, tag) in self.tags.iter_mut().enumerate() {
            // What would hit it has another index.
            *tag = (((index ^ 1) as u64) << 1).wrapping_neg();
        }
    }
}
