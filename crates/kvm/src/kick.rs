//! How a vCPU that runs guest code is made to look at its signals.
//!
//! `immediate_exit` makes an entry that is yet to come return at once, a signal
//! to the thread ends one that has begun. The order makes that safe: the vCPU
//! clears the flag and says that it is about to enter *before* it looks at its
//! signals; the kicker sets signal and flag *before* it looks whether the vCPU
//! is inside. Whichever comes first, the other sees it.

use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use engine::Kick;

use crate::run_page::RunPage;

/// The signal; its handler does nothing, its arrival is what counts.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

/// Nobody is inside.
const OUTSIDE: i32 = 0;

/// The kick of one vCPU.
pub(crate) struct VcpuKick {
    page: Arc<RunPage>,
    /// The thread that is inside KVM_RUN, or about to be.
    inside: AtomicI32,
}

impl VcpuKick {
    pub(crate) fn new(page: Arc<RunPage>) -> Self {
        Self { page, inside: AtomicI32::new(OUTSIDE) }
    }

    /// Prepares the calling thread for being kicked.
    pub(crate) fn thread() -> ThreadId {
        install_handler();
        // SAFETY: the set is initialized by sigemptyset before it is used, and
        // the calls take pointers to it that live across them.
        let id = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal());
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::gettid()
        };
        ThreadId(id)
    }

    /// Says that the thread is about to enter; from here on kicks count, until
    /// [`leave`](Self::leave).
    pub(crate) fn enter(&self, thread: ThreadId) {
        self.page.set_immediate_exit(false);
        self.inside.store(thread.0, Ordering::SeqCst);
    }

    /// Says that the thread is outside again.
    pub(crate) fn leave(&self) {
        self.inside.store(OUTSIDE, Ordering::SeqCst);
    }
}

/// The kernel's number of a thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadId(i32);

impl Kick for VcpuKick {
    fn kick(&self) {
        self.page.set_immediate_exit(true);
        let thread = self.inside.load(Ordering::SeqCst);
        if thread != OUTSIDE {
            // SAFETY: a system call without memory. If the thread has ended
            // meanwhile there is nobody to kick; the handler is harmless.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}

extern "C" fn nothing(_signal: libc::c_int) {}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the action is fully initialized, and the handler does nothing
        // that a signal handler must not. Without SA_RESTART, so that KVM_RUN
        // returns.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as libc::sighandler_t;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal(), &raw const action, std::ptr::null_mut());
        }
    });
}
