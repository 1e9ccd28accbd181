//! What KVM does in the machine's place: local APICs in the kernel, events that
//! interrupt the guest, and doorbells that a guest's write rings there.
//!
//! The chip is the split one: the kernel has the local APICs, by which every
//! interrupt comes, ends and is timed, and the machine keeps its I/O APIC, its
//! 8259As and its 8254 (docs/decisions/0012). What those send
//! goes in as messages; what ends at them comes out as an exit.

use std::io;
use std::os::fd::BorrowedFd;

use engine::{Assist, InterruptMessage};
use kvm_bindings::kvm_msi;
use x86::GuestPhysAddr;

use crate::ioctls;
use crate::routes::halves;
use crate::vm::Vm;

impl Assist for Vm {
    fn has_local_apics(&self) -> bool {
        self.local_apics()
    }

    fn deliver(&self, message: InterruptMessage) {
        let (address_lo, address_hi) = halves(message.address);
        let message = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        // A message that names nobody is lost, as on the bus.
        let _ = self.fd().signal_msi(message);
    }

    fn signal(&self, message: InterruptMessage) {
        if self.routes().signal(self.fd(), message).is_err() {
            self.deliver(message);
        }
    }

    fn expect_ends(&self, inputs: &[Option<InterruptMessage>]) {
        // Refused, it costs the ends of level-triggered interrupts, which the
        // guest can see and nobody else can do anything about.
        let _ = self.routes().set_inputs(self.fd(), inputs);
    }

    fn ring_on_write(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) -> io::Result<()> {
        ioctls::ioeventfd(self.fd(), at.0, value, bell, true)
    }

    fn ring_no_more(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) {
        // It can only fail if there was no such bell.
        let _ = ioctls::ioeventfd(self.fd(), at.0, value, bell, false);
    }
}
