//! What generated code reaches: RSP points to the start of a [`Context`] as long
//! as it runs, and below lies a small stack.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32};

use interpret::tlb::{First, Tlb};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use x86::{CpuState, Rflags};

use crate::jumps::{Entry, Kind};

/// After so many PAUSEs, some tens of microseconds, a vCPU lets others run.
const PAUSES: u64 = 1 << 10;
/// Room for return addresses and signal frames.
const STACK: usize = 256 << 10;

/// The part of a vCPU that generated code works on. Fields before
/// [`Context::save_rax`] are within reach of a one-byte displacement.
#[repr(C, align(4096))]
pub(crate) struct Context {
    /// Return addresses of calls of shared code: RSP points between these.
    pub(crate) calls: [u64; 2],
    /// Guest R8 to R11.
    pub(crate) home: [u64; 4],
    /// Bits of a linear address that choose a first-level TLB entry.
    pub(crate) index_mask: u64,
    /// Bits of an instruction pointer that choose an entry of a table of
    /// indirect branches, by kind.
    pub(crate) jump_masks: [u64; 2],
    /// Linear address of the current code page, in position-independent code.
    pub(crate) page: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    /// Where indirect branches lead in the current mode and address space;
    /// [`Context::nowhere`] while somebody wants the vCPU to look up.
    pub(crate) jumps: AtomicPtr<Entry>,
    /// Zero while somebody wants the vCPU to look up.
    pub(crate) undisturbed: AtomicU32,
    /// The opposite, for tests that go on where RCX is zero: either way it takes
    /// one jump.
    pub(crate) disturbed: AtomicU32,
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
    /// AX after LAHF and SETO; as wide as it is loaded, because processors hand
    /// over at once only what was stored as a whole. The upper half means nothing.
    pub(crate) flags: u32,
    /// Nonzero if floating-point code must not run inline (CR0.TS or EM).
    pub(crate) fpu_blocked: u32,
    /// Nonzero if entering is to load the floating-point state.
    pub(crate) fpu_wanted: u32,
    /// Nonzero while the upper parts of vector registers 0 to 15 are zero.
    pub(crate) upper_clean: u32,
    /// Nonzero while those in [`CpuState`] are.
    pub(crate) memory_clean: u32,
    /// Nonzero while ZMM16 to ZMM31 and the opmask registers are zero, and
    /// only in [`CpuState`].
    pub(crate) high_clean: u32,
    /// MXCSR of host code.
    pub(crate) host_mxcsr: u32,
    /// Where to enter.
    pub(crate) target: u64,
    /// The return address that was behind the exit.
    pub(crate) exit_at: u64,
    pub(crate) host_rsp: u64,
    /// EFLAGS without the arithmetic flags, IF and the bit that is always set.
    pub(crate) system_flags: u64,
    /// EFLAGS.IF in its place.
    pub(crate) interrupt_flag: u64,
    /// The vCPU's word of pending signals.
    pub(crate) signals: *const AtomicU32,
    /// The machine's time-stamp counter minus the host's.
    pub(crate) tsc_offset: u64,
    /// Where they lead in the modes that generated code can switch to: see
    /// [`Way`](crate::mode::Way).
    pub(crate) ways: [*mut Entry; 4],
    /// The table in which nothing is found.
    pub(crate) nowhere: *mut Entry,
    /// The [`Way`] by which the privilege level was last changed since
    /// entering, [`NULL_STACK`] if SS is null there, or 0.
    pub(crate) ring: u64,
    /// Code and address of the handler of SYSCALL.
    pub(crate) syscall_code: u64,
    pub(crate) syscall_entry: u64,
    /// Nonzero if SYSCALL, SYSRET must not be executed inline.
    pub(crate) syscall_blocked: u64,
    pub(crate) sysret_blocked: u64,
    /// Nonzero if IRETQ must not be executed inline.
    pub(crate) iret_blocked: u64,
    /// By privilege level, 0 and 3: selectors that IRETQ inline may load, the
    /// linear address of their descriptors, and what those must be. All but the
    /// address are negated.
    pub(crate) iret_cs: [u64; 2],
    pub(crate) iret_ss: [u64; 2],
    pub(crate) iret_pair: [u64; 2],
    pub(crate) iret_first: [u64; 2],
    pub(crate) iret_second: [u64; 2],
    /// Where the frame lies, and between two steps the way on.
    pub(crate) iret_frame: u64,
    pub(crate) iret_entry: u64,
    /// Flags that SYSCALL leaves alone.
    pub(crate) syscall_kept: u64,
    /// Constants.
    pub(crate) popf_mask: u64,
    pub(crate) sysret_mask: u64,
    pub(crate) iret_mask: u64,
    pub(crate) upper_half_mask: u64,
    pub(crate) direction_mask: u64,
    /// The bit of an instruction pointer that tells the first place of its entry
    /// in a table from the second.
    pub(crate) parity_mask: u64,
    pub(crate) mask_31: u64,
    pub(crate) mask_63: u64,
    /// The bit of [`Self::pauses`] that makes PAUSE leave.
    pub(crate) pause_mask: u64,
    /// How often PAUSE was executed since entering.
    pub(crate) pauses: u64,
    /// EFLAGS.OF by its value.
    pub(crate) overflow: [u32; 2],
    /// Blocks executed, in code that counts.
    pub(crate) blocks: u64,
    /// Tests of the first level of the TLB, in code that counts.
    pub(crate) tests: u64,
    /// First-level misses that the second level served.
    pub(crate) refills: u64,
    pub(crate) tlb: Tlb,
}

/// [`Context::ring`] at privilege level 0 with a null SS.
pub(crate) const NULL_STACK: u64 = 4;

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
        self.jump_masks = [Kind::Supervisor.mask(), Kind::User.mask()];
        self.fpu_away = 1;
        self.host_mxcsr = 0x1f80;
        self.sysret_mask = !(Rflags::ARITHMETIC | Rflags::IF | Rflags::FIXED).bits();
        // The frame of a fault has RF, which nobody sees.
        self.iret_mask = self.sysret_mask & !Rflags::RF.bits();
        // RF, VM, VIF and VIP have rules of their own.
        self.popf_mask = 0x3f_ffff & self.sysret_mask;
        self.upper_half_mask = !0 << 47;
        self.direction_mask = Rflags::DF.bits();
        self.parity_mask = 1 << 1;
        (self.mask_31, self.mask_63) = (31, 63);
        self.pause_mask = PAUSES;
        self.overflow = [0, 1 << 11];
        self.tlb.initialize();
    }
}
