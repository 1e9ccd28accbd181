//! What an engine may ask of the machine: one screen of calls.

use x86::{GuestPhysAddr, Vector};

/// The machine refuses an MSR access: the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// Registers of a VMCALL or VMMCALL; the answer goes back in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypercall {
    /// Number and arguments: RAX, RBX, RCX, RDX, RSI, RDI, R8, R9, R10.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// R8, R9 and R10.
    pub r8_to_r10: [u64; 3],
    /// The caller's privilege level.
    pub cpl: u8,
    /// Whether the caller runs in 64-bit mode.
    pub long: bool,
}

/// The machine as one vCPU's engine sees it. `vcpu` is the number of the vCPU
/// that asks. Implementations are shared by all vCPU threads.
pub trait Platform: Sync {
    /// Reads `size` (1, 2 or 4) bytes from an I/O port.
    fn port_read(&self, port: u16, size: u8) -> u32;

    /// Writes `size` (1, 2 or 4) bytes to an I/O port.
    fn port_write(&self, port: u16, size: u8, value: u32);

    /// Reads 1 to 8 bytes, in one page, from an address that is not RAM.
    fn mmio_read(&self, vcpu: u32, at: GuestPhysAddr, data: &mut [u8]);

    /// Writes 1 to 8 bytes, in one page, to an address that is not RAM.
    fn mmio_write(&self, vcpu: u32, at: GuestPhysAddr, data: &[u8]);

    /// Takes the maskable interrupt that [`Signal::Interrupt`] announced: the
    /// interrupt-acknowledge cycle. None if it has gone.
    fn interrupt_acknowledge(&self, vcpu: u32) -> Option<Vector>;

    /// A local APIC of the engine has ended the level-triggered interrupt
    /// `vector`, one of those in
    /// [`Assist::expect_ends`](crate::Assist::expect_ends).
    fn end_of_interrupt(&self, vector: Vector) {
        let _ = vector;
    }

    /// The task priority of the local APIC, as CR8 shows it (0 to 15).
    fn task_priority(&self, vcpu: u32) -> u8;

    /// Sets the task priority by CR8.
    fn set_task_priority(&self, vcpu: u32, priority: u8);

    /// Reads an MSR that lives in the machine (local APIC, paravirtual
    /// clocks). None if the machine knows no such MSR.
    fn msr_read(&self, vcpu: u32, index: u32) -> Option<Result<u64, MsrFault>>;

    /// Writes an MSR that lives in the machine. None if it knows no such MSR.
    fn msr_write(&self, vcpu: u32, index: u32, value: u64) -> Option<Result<(), MsrFault>>;

    /// The machine's time-stamp counter, without any vCPU's IA32_TSC_ADJUST.
    fn tsc(&self) -> u64;

    /// What must be added to the host's time-stamp counter to make
    /// [`Self::tsc`], if that is all there is to it until the vCPU stops.
    fn tsc_offset(&self) -> Option<u64> {
        None
    }

    /// Tells the machine that a vCPU's IA32_TSC_ADJUST is now `adjust`, for
    /// deadlines in guest time.
    fn tsc_adjusted(&self, vcpu: u32, adjust: u64);

    /// Handles a VMCALL or VMMCALL; false if there is nobody to call (#UD).
    fn hypercall(&self, vcpu: u32, call: &mut Hypercall) -> bool;

    /// Puts the calling thread to sleep in HLT (or MWAIT) until a signal for
    /// this vCPU is pending.
    fn halt(&self, vcpu: u32);
}
