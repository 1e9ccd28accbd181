//! What KVM does in the machine's place: local APICs in the kernel, and
//! doorbells that a guest's write rings there.
//!
//! The chip is the split one: the kernel has the local APICs, by which every
//! interrupt comes, ends and is timed, and the machine keeps its I/O APIC, its
//! 8259As and its 8254 (docs/decisions/0012). What those send
//! goes in as messages; what ends at them comes out as an exit.

use std::io;
use std::os::fd::BorrowedFd;

use engine::{Assist, InterruptMessage};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_msi,
};
use x86::GuestPhysAddr;

use crate::ioctls;
use crate::vm::Vm;

/// Inputs of the I/O APIC: as many routes are kept for its messages.
pub(crate) const IO_APIC_INPUTS: u64 = 24;

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

    fn expect_ends(&self, inputs: &[Option<InterruptMessage>]) {
        let routes = routes(inputs);
        if let Ok(table) = KvmIrqRouting::from_entries(&routes) {
            // Refused, it costs the ends of level-triggered interrupts, which
            // the guest can see and nobody else can do anything about.
            let _ = self.fd().set_gsi_routing(&table);
        }
    }

    fn ring_on_write(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) -> io::Result<()> {
        ioctls::ioeventfd(self.fd(), at.0, value, bell, true)
    }

    fn ring_no_more(&self, at: GuestPhysAddr, value: Option<u32>, bell: BorrowedFd<'_>) {
        // It can only fail if there was no such bell.
        let _ = ioctls::ioeventfd(self.fd(), at.0, value, bell, false);
    }
}

const fn halves(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

/// The routing table in which KVM looks for the vectors whose end it tells.
fn routes(inputs: &[Option<InterruptMessage>]) -> Vec<kvm_irq_routing_entry> {
    let route = |(gsi, message): (u32, &Option<InterruptMessage>)| {
        let InterruptMessage { address, data } = (*message)?;
        let (address_lo, address_hi) = halves(address);
        let msi = kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() };
        Some(kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
            ..Default::default()
        })
    };
    (0..).zip(inputs).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_level_triggered_inputs_have_routes_at_their_own_numbers() {
        let message = InterruptMessage { address: 0x100_fee0_1000, data: 0xc041 };
        let routes = routes(&[None, Some(message), None]);
        assert_eq!((routes.len(), routes[0].gsi, routes[0].type_), (1, 1, KVM_IRQ_ROUTING_MSI));
        // SAFETY: the entry is of the type whose part of the union is read.
        let msi = unsafe { routes[0].u.msi };
        assert_eq!((msi.address_lo, msi.address_hi, msi.data), (0xfee0_1000, 0x100, 0xc041));
    }
}
