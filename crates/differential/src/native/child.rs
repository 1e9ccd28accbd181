//! The child: it lives in its signal handlers. Each trap of the code under
//! test brings the handler up, which hands the registers over, waits for the
//! next request, and returns into it with all registers loaded by the kernel.
//!
//! It was forked from a process with threads, so it calls nothing but the
//! kernel, and uses neither the heap nor thread-local storage.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t, ucontext_t};

use super::shared::{CONTROL_SIZE, Carried, Control};
use super::{sandbox, syscall};
use crate::layout::{GS_BASE, PAGE, RIGHTS, Rights, WINDOW, selector};

static CONTROL: AtomicPtr<Control> = AtomicPtr::new(std::ptr::null_mut());
static REQUESTS: AtomicUsize = AtomicUsize::new(0);
static ANSWERS: AtomicUsize = AtomicUsize::new(0);
static SEEN_BY_TIMER: AtomicU64 = AtomicU64::new(0);

const SIGNALS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, libc::SIGVTALRM];

/// Between two ticks of the processor time that a sequence may use.
const TICK_MICROSECONDS: i64 = 20_000;

/// `struct sigaction` as the kernel has it.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;

std::arch::global_asm!(
    ".pushsection .text.differential_restorer, \"ax\", @progbits",
    ".globl ringmaster_differential_restorer",
    ".hidden ringmaster_differential_restorer",
    "ringmaster_differential_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2",
    ".popsection",
);

unsafe extern "C" {
    fn ringmaster_differential_restorer();
}

/// What the child needs to know.
pub(super) struct Setup {
    pub(super) control: *mut Control,
    pub(super) file: c_int,
    pub(super) requests: c_int,
    pub(super) answers: c_int,
    /// An alternate stack that nothing else uses.
    pub(super) stack: *mut c_void,
    pub(super) stack_size: usize,
}

/// Turns this process into a worker.
///
/// # Safety
/// Only right after `fork`, in the child.
pub(super) unsafe fn live(setup: &Setup) -> ! {
    CONTROL.store(setup.control, Ordering::Relaxed);
    REQUESTS.store(setup.requests as usize, Ordering::Relaxed);
    ANSWERS.store(setup.answers as usize, Ordering::Relaxed);
    // SAFETY: each step changes only this process; the breakpoint brings up
    // the handler, which never comes back here.
    unsafe {
        let ready = map_window(setup.file)
            && install_handlers(setup)
            && load_segments()
            && start_timer()
            && sandbox::enter();
        if ready {
            std::arch::asm!("int3");
        }
        exit(if ready { 3 } else { 2 })
    }
}

fn exit(status: usize) -> ! {
    // SAFETY: ends the process.
    unsafe { syscall(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]) };
    loop {
        std::hint::spin_loop();
    }
}

/// Maps the window's pages with their rights, all of them present from the
/// start, so that fault codes are those of the rights.
unsafe fn map_window(file: c_int) -> bool {
    for (page, rights) in RIGHTS.iter().enumerate() {
        let protection = match rights {
            Rights::Absent => continue,
            Rights::Code => libc::PROT_READ | libc::PROT_EXEC,
            Rights::Data => libc::PROT_READ | libc::PROT_WRITE,
            Rights::ReadOnly => libc::PROT_READ,
            Rights::All => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        };
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
        let address = WINDOW as usize + page * PAGE as usize;
        let offset = CONTROL_SIZE + page * PAGE as usize;
        let arguments = [address, PAGE as usize, protection as usize, flags as usize, file as usize, offset];
        // SAFETY: nothing is mapped there yet (NOREPLACE).
        if unsafe { syscall(libc::SYS_mmap, arguments) } != address as isize {
            return false;
        }
    }
    true
}

unsafe fn install_handlers(setup: &Setup) -> bool {
    let stack = libc::stack_t { ss_sp: setup.stack, ss_flags: 0, ss_size: setup.stack_size };
    let none = 0_u64;
    // SAFETY: the kernel reads the structures; handler and restorer are of the
    // kinds that it expects.
    unsafe {
        if syscall(libc::SYS_sigaltstack, [(&raw const stack).addr(), 0, 0, 0, 0, 0]) != 0 {
            return false;
        }
        let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | SA_RESTORER;
        let restorer = ringmaster_differential_restorer as *const () as usize;
        let action = KernelAction { handler: handle as *const () as usize, flags, restorer, mask: u64::MAX };
        for signal in SIGNALS {
            let arguments = [signal as usize, (&raw const action).addr(), 0, 8, 0, 0];
            if syscall(libc::SYS_rt_sigaction, arguments) != 0 {
                return false;
            }
        }
        let unblock = [libc::SIG_SETMASK as usize, (&raw const none).addr(), 0, 8, 0, 0];
        syscall(libc::SYS_rt_sigprocmask, unblock) == 0
    }
}

/// DS and ES as 32-bit code wants them. No signal frame keeps them, so code
/// that has changed them, as self-modifying code may by chance, would change
/// them for all that comes after it.
fn load_data_segments() {
    // SAFETY: 64-bit code ignores DS and ES.
    unsafe { std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) u32::from(selector::DATA)) };
}

/// DS, ES, and a base for GS. FS stays: the process keeps its thread block there.
unsafe fn load_segments() -> bool {
    const ARCH_SET_GS: usize = 0x1001;
    load_data_segments();
    // SAFETY: nothing here uses GS.
    unsafe { syscall(libc::SYS_arch_prctl, [ARCH_SET_GS, GS_BASE as usize, 0, 0, 0, 0]) == 0 }
}

unsafe fn start_timer() -> bool {
    let tick = libc::timeval { tv_sec: 0, tv_usec: TICK_MICROSECONDS };
    let timer = libc::itimerval { it_interval: tick, it_value: tick };
    let arguments = [libc::ITIMER_VIRTUAL as usize, (&raw const timer).addr(), 0, 0, 0, 0];
    // SAFETY: the kernel reads the structure.
    unsafe { syscall(libc::SYS_setitimer, arguments) == 0 }
}

extern "C" fn handle(signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // The kernel leaves AC, NT and ID as the code under test had them, and
    // would let the next request start with the last two.
    // SAFETY: flags that no compiled code depends on are cleared.
    unsafe { std::arch::asm!("push 2", "popfq") };
    // SAFETY: the control block is mapped as long as this process lives and the
    // parent leaves it alone until it is answered; the kernel gives a valid
    // context to an SA_SIGINFO handler.
    let (control, context) =
        unsafe { (&mut *CONTROL.load(Ordering::Relaxed), &mut *context.cast::<ucontext_t>()) };
    if signal == libc::SIGVTALRM && SEEN_BY_TIMER.swap(control.number, Ordering::Relaxed) != control.number {
        return;
    }
    give(control, signal, context);
    wait_for_request();
    take(control, context);
    load_data_segments();
}

/// Tells the parent that there is an answer and waits for its next request.
fn wait_for_request() {
    let byte = 0_u8;
    let at = (&raw const byte).addr();
    let (requests, answers) = (REQUESTS.load(Ordering::Relaxed), ANSWERS.load(Ordering::Relaxed));
    // SAFETY: one byte is read from and written to a live variable.
    let fine = unsafe {
        syscall(libc::SYS_write, [answers, at, 1, 0, 0, 0]) == 1
            && syscall(libc::SYS_read, [requests, at, 1, 0, 0, 0]) == 1
    };
    if !fine {
        exit(0);
    }
}

/// `gregs` indices in the order of register numbers.
const ORDER: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Places in the frame's XSAVE image (SDM 1 13.4; the kernel's own words are
/// in bytes 464 to 511).
const LEGACY_USED: usize = 464;
const KERNEL_MAGIC: usize = 464;
const KERNEL_FEATURES: usize = 472;
const XSTATE_BV: usize = 512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;

fn give(control: &mut Control, signal: c_int, context: &ucontext_t) {
    let registers = &context.uc_mcontext.gregs;
    let get = |index: c_int| registers[index as usize] as u64;
    control.signal = signal as u64;
    control.trap = get(libc::REG_TRAPNO);
    control.error = get(libc::REG_ERR);
    control.cr2 = get(libc::REG_CR2);
    let answer = &mut control.answer;
    for (slot, index) in answer.gpr.iter_mut().zip(ORDER) {
        *slot = get(index);
    }
    answer.rip = get(libc::REG_RIP);
    answer.rflags = get(libc::REG_EFL);
    let image = context.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: the frame's image is valid for the sizes that the kernel states
    // in it; the components lie within them.
    unsafe {
        let known = extended_features(image);
        let xstate_bv = if known == 3 { 3 } else { image.add(XSTATE_BV).cast::<u64>().read_unaligned() };
        copy(image, answer.xsave.as_mut_ptr(), 0, LEGACY_USED);
        answer.xsave[XSTATE_BV..XSTATE_BV + 8]
            .copy_from_slice(&(xstate_bv & control.xstate_bv).to_le_bytes());
        for ([offset, size], bit) in control.components.iter().zip(super::shared::COMPONENTS) {
            if known >> bit & 1 != 0 {
                copy(image, answer.xsave.as_mut_ptr(), *offset as usize, *size as usize);
            }
        }
    }
}

fn take(control: &Control, context: &mut ucontext_t) {
    let request: &Carried = &control.request;
    let registers = &mut context.uc_mcontext.gregs;
    for (value, index) in request.gpr.iter().zip(ORDER) {
        registers[index as usize] = *value as i64;
    }
    registers[libc::REG_RIP as usize] = request.rip as i64;
    registers[libc::REG_EFL as usize] = request.rflags as i64;
    let segments = registers[libc::REG_CSGSFS as usize] as u64 & 0xffff_ffff_0000;
    let segments = segments & 0x0000_ffff_ffff_0000 | control.cs | u64::from(selector::DATA) << 48;
    registers[libc::REG_CSGSFS as usize] = segments as i64;
    let image = context.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: as in `give`.
    unsafe {
        let known = extended_features(image);
        copy(request.xsave.as_ptr(), image, 0, LEGACY_USED);
        if known == 3 {
            return;
        }
        let place = image.add(XSTATE_BV).cast::<u64>();
        place.write_unaligned(place.read_unaligned() | control.xstate_bv & known);
        for ([offset, size], bit) in control.components.iter().zip(super::shared::COMPONENTS) {
            if known >> bit & 1 != 0 {
                copy(request.xsave.as_ptr(), image, *offset as usize, *size as usize);
            }
        }
    }
}

/// The components in a signal frame's image; x87 and SSE are always there.
unsafe fn extended_features(image: *const u8) -> u64 {
    // SAFETY: the legacy region is always whole.
    unsafe {
        let magic = image.add(KERNEL_MAGIC).cast::<u32>().read_unaligned();
        if magic == FP_XSTATE_MAGIC1 { image.add(KERNEL_FEATURES).cast::<u64>().read_unaligned() } else { 3 }
    }
}

unsafe fn copy(from: *const u8, to: *mut u8, offset: usize, size: usize) {
    // SAFETY: the caller says that both are valid for it.
    unsafe { std::ptr::copy_nonoverlapping(from.add(offset), to.add(offset), size) }
}

/// Memory for the child's alternate stack.
pub(super) fn alternate_stack() -> Box<[MaybeUninit<u8>]> {
    Box::new_uninit_slice(256 * 1024)
}
