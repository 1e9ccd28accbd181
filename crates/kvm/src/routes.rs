//! The kernel's table of interrupt routes: what the I/O APIC's inputs send, and
//! the messages of devices, each with an event (irqfd) that the kernel turns
//! into the interrupt.
//!
//! A driver sets up few messages and a device sends them again and again, so
//! each gets a route and an event when it is first sent. When all are in use
//! they are given up together and made anew as they are needed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use engine::InterruptMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use crate::ioctls;

/// Inputs of the I/O APIC, whose routes come first.
pub(crate) const IO_APIC_INPUTS: u32 = 24;
/// The most messages that have an event. Every event is a file descriptor.
const EVENTS: usize = 128;

/// A route's number, and what makes the kernel take it.
struct Event {
    gsi: u32,
    fd: OwnedFd,
}

#[derive(Default)]
struct Table {
    /// The level-triggered messages of the I/O APIC, by input.
    inputs: Vec<Option<InterruptMessage>>,
    events: BTreeMap<InterruptMessage, Event>,
}

/// All routes of a virtual machine.
#[derive(Default)]
pub(crate) struct Routes(RwLock<Table>);

impl Routes {
    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what the I/O APIC's inputs send.
    pub(crate) fn set_inputs(&self, vm: &VmFd, inputs: &[Option<InterruptMessage>]) -> io::Result<()> {
        let mut table = self.write();
        table.inputs = inputs.to_vec();
        table.tell(vm)
    }

    /// Sends `message` by its event.
    ///
    /// # Errors
    /// If the kernel or the process has no room for one more event; then
    /// nothing was sent.
    pub(crate) fn signal(&self, vm: &VmFd, message: InterruptMessage) -> io::Result<()> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = known.events.get(&message) {
            return event.signal();
        }
        drop(known);
        self.write().event(vm, message)?.signal()
    }

    /// Gives all events up; what was sent by them has arrived then.
    pub(crate) fn settle(&self, vm: &VmFd) {
        self.write().settle(vm);
    }
}

impl Table {
    /// The event of `message`, which gets one if it has none.
    fn event(&mut self, vm: &VmFd, message: InterruptMessage) -> io::Result<&Event> {
        if !self.events.contains_key(&message) {
            if self.events.len() == EVENTS {
                self.settle(vm);
            }
            let event = Event::new(IO_APIC_INPUTS + self.events.len() as u32)?;
            self.events.insert(message, event);
            if let Err(error) = self.connect(vm, message) {
                self.events.remove(&message);
                return Err(error);
            }
        }
        self.events.get(&message).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the kernel listen to the event of `message`.
    fn connect(&self, vm: &VmFd, message: InterruptMessage) -> io::Result<()> {
        self.tell(vm)?;
        let event = self.events.get(&message);
        event.map_or(Ok(()), |event| ioctls::irqfd(vm, event.gsi, event.fd.as_fd(), true))
    }

    /// The kernel lets go of an event only after it has delivered what was
    /// signalled by it.
    fn settle(&mut self, vm: &VmFd) {
        for event in std::mem::take(&mut self.events).into_values() {
            // It can only fail if there was no such event.
            let _ = ioctls::irqfd(vm, event.gsi, event.fd.as_fd(), false);
        }
    }

    fn tell(&self, vm: &VmFd) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(&self.entries()).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(vm.set_gsi_routing(&table)?)
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let inputs = (0..).zip(&self.inputs).filter_map(|(gsi, message)| Some((gsi, (*message)?)));
        let events = self.events.iter().map(|(message, event)| (event.gsi, *message));
        inputs.chain(events).map(|(gsi, message)| entry(gsi, message)).collect()
    }
}

impl Event {
    fn new(gsi: u32) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else has it.
        Ok(Self { gsi, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn signal(&self) -> io::Result<()> {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the call reads the 8 bytes, which live across it.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The halves of a message's address, the low one first.
pub(crate) const fn halves(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

fn entry(gsi: u32, message: InterruptMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(message.address);
    let msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};

    use super::*;

    const MESSAGE: InterruptMessage = InterruptMessage { address: 0x100_fee0_1000, data: 0xc041 };

    #[test]
    fn only_level_triggered_inputs_have_routes_at_their_own_numbers() {
        let table = Table { inputs: vec![None, Some(MESSAGE), None], ..Table::default() };
        let entries = table.entries();
        assert_eq!((entries.len(), entries[0].gsi, entries[0].type_), (1, 1, KVM_IRQ_ROUTING_MSI));
        // SAFETY: the entry is of the type whose part of the union is read.
        let msi = unsafe { entries[0].u.msi };
        assert_eq!((msi.address_lo, msi.address_hi, msi.data), (0xfee0_1000, 0x100, 0xc041));
    }

    #[test]
    fn events_have_routes_behind_the_inputs() {
        let mut table = Table { inputs: vec![Some(MESSAGE)], ..Table::default() };
        for (gsi, data) in [(24, 0x41), (25, 0x31)] {
            table.events.insert(InterruptMessage { data, ..MESSAGE }, Event::new(gsi).unwrap());
        }
        let gsis: Vec<_> = table.entries().iter().map(|entry| entry.gsi).collect();
        assert_eq!(gsis, [0, 25, 24]);
    }

    /// A virtual machine with local APICs in the kernel; the reason is printed
    /// if there can be none.
    fn vm() -> Option<VmFd> {
        let vm = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm());
        let request =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [24, 0, 0, 0], ..Default::default() };
        match vm.and_then(|vm| vm.enable_cap(&request).map(|()| vm)) {
            Ok(vm) => Some(vm),
            Err(error) => {
                eprintln!("skipped: no virtual machine with local APICs in the kernel ({error})");
                None
            }
        }
    }

    #[test]
    fn each_message_has_one_event_until_there_are_too_many() {
        let Some(vm) = vm() else { return };
        let routes = Routes::default();
        let signal = |data| routes.signal(&vm, InterruptMessage { data, ..MESSAGE }).unwrap();
        let events = || routes.0.read().unwrap().events.len();
        for data in [0x41, 0x42, 0x41] {
            signal(data);
        }
        assert_eq!(events(), 2);
        routes.set_inputs(&vm, &[None, Some(MESSAGE)]).unwrap();
        assert_eq!(events(), 2);
        (0..EVENTS as u32).for_each(|data| signal(0x1000 + data));
        assert_eq!(events(), 2, "they were given up once, and the last two came after that");
        routes.settle(&vm);
        assert_eq!(events(), 0);
        signal(0x41);
        assert_eq!(events(), 1, "it works as before");
    }
}
