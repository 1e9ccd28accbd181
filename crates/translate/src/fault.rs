//! Host faults inside blocks: a divide error, a misaligned vector operand, an
//! unmasked floating-point exception. The block is left as if by an exit, and
//! the interpreter executes the instruction, with the fault that the guest is
//! to see.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t, ucontext_t};

/// What the handler must know of the running vCPU.
#[derive(Clone, Copy)]
struct Current {
    start: usize,
    end: usize,
    exit: usize,
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current { start: 0, end: 0, exit: 0 }) };
}

const SIGNALS: [c_int; 4] = [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS];

static PREVIOUS: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Makes faults of this thread in `blocks` leave by `exit`.
pub(crate) fn install_handlers(blocks: Range<usize>, exit: usize) {
    CURRENT.set(Current { start: blocks.start, end: blocks.end, exit });
    PREVIOUS.get_or_init(|| SIGNALS.map(install));
}

fn install(signal: c_int) -> libc::sigaction {
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a zeroed sigaction is a valid one; the handler is
    // async-signal-safe: it reads a constant-initialized thread-local and
    // changes the interrupted context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, previous.as_mut_ptr());
        previous.assume_init()
    }
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid context to an SA_SIGINFO handler.
    let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let current = CURRENT.get();
    let rip = registers[libc::REG_RIP as usize] as usize;
    if !(current.start..current.end).contains(&rip) {
        return pass_on(signal, info, context);
    }
    // As a CALL of the exit would do. Blocks have RSP at the context, below
    // which lies their stack.
    registers[libc::REG_RSP as usize] -= 8;
    // SAFETY: that stack has room for more than signal frames, which lie below
    // the red zone. RSP is not aligned: its lowest bits are a page's shift.
    unsafe { (registers[libc::REG_RSP as usize] as *mut u64).write_unaligned(rip as u64 + 1) };
    registers[libc::REG_RIP as usize] = current.exit as i64;
}

/// Hands a fault that is not ours to the previous handler; without one, the
/// default action follows when the instruction faults again.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = SIGNALS
        .iter()
        .position(|&known| known == signal)
        .and_then(|index| PREVIOUS.get().map(|all| all[index]));
    // SAFETY: the previous action is called the way it was registered, or the
    // default action is put back.
    unsafe {
        match previous {
            Some(action) if action.sa_sigaction > libc::SIG_IGN => {
                if action.sa_flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                        std::mem::transmute(action.sa_sigaction);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(c_int) = std::mem::transmute(action.sa_sigaction);
                    handler(signal);
                }
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}
