//! Calling a thunk.

use std::arch::asm;

use x86::{CpuState, Exception, Vector};

/// Host code for one guest instruction. It expects the state in RDI and the
/// host address of the memory operand, if any, in RSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thunk(usize);

/// The host's processor refused to execute the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostFault {
    vector: u8,
    /// The host address behind a page fault.
    address: u64,
}

impl HostFault {
    /// The same exception. The address of a page fault is the host's.
    pub(crate) fn exception(self) -> Exception {
        let vector = Vector(self.vector);
        if vector == Vector::PF {
            Exception { cr2: Some(self.address), ..Exception::with_code(vector, 0) }
        } else if vector.has_error_code() {
            Exception::with_code(vector, 0)
        } else {
            Exception::plain(vector)
        }
    }
}

impl Thunk {
    pub(super) const fn at(address: usize) -> Self {
        Self(address)
    }

    /// Executes the instruction.
    ///
    /// # Safety
    /// The arena that holds the thunk must be alive and announced to the fault
    /// handler by [`install_handlers`](super::install_handlers), and `memory`
    /// must be valid for the instruction's operand.
    #[inline]
    pub(crate) unsafe fn call(self, state: &mut CpuState, memory: *mut u8) -> Result<(), HostFault> {
        let result: u64;
        let mxcsr: u64;
        let address: u64;
        // SAFETY: the thunk changes no memory but `state` and the operand,
        // leaves RSP alone, and every register that it may change is declared
        // or saved here.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "sub rsp, 24",
                "call rax",
                "mov rdx, [rsp]",
                "add rsp, 24",
                "pop rbp",
                "pop rbx",
                inlateout("rax") self.0 => result,
                inlateout("rdi") std::ptr::from_mut(state) => _,
                inlateout("rsi") memory => _,
                lateout("rdx") mxcsr,
                lateout("rcx") address,
                lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
                clobber_abi("sysv64"),
            );
        }
        if result == 0 {
            return Ok(());
        }
        let vector = (result - 1) as u8;
        if Vector(vector) == Vector::XM {
            state.fpu.mxcsr = mxcsr as u32;
        }
        Err(HostFault { vector, address })
    }
}
