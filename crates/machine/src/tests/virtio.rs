//! How the interrupts of virtio devices reach the processor, by each of their
//! ways.

use std::sync::{Arc, Mutex};

use chipset::acpi::{pci_interrupt, pci_isa_interrupt};
use chipset::pci::ECAM_BASE;
use engine::Platform;
use virtio::{ActivateError, Activation, DeviceKind, Interrupt, VirtioDevice};
use x86::GuestPhysAddr;

use super::Bench;
use crate::sync::lock;
use crate::{Transport, VirtioSlot};

type Handle = Arc<Mutex<Option<Interrupt>>>;

/// A device that interrupts when the test wants it.
struct Bell(Handle);

impl VirtioDevice for Bell {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 4, pci_class: 0x00_ff00, name: "bell" }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![16]
    }

    fn config_read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        *lock(&self.0) = Some(activation.interrupt);
        Ok(())
    }

    fn reset(&mut self) {}
}

impl Bench {
    /// A board with `count` bells, and their handles.
    fn with_bells(count: usize, transport: Transport) -> (Self, Vec<Handle>) {
        let handles: Vec<Handle> = (0..count).map(|_| Handle::default()).collect();
        let slots = handles.iter().map(|handle| VirtioSlot::new(Bell(Arc::clone(handle)), transport));
        let bench = Self::with_devices(1, None, slots.collect());
        bench.board.bios_setup();
        bench.apic_write(0, 0xf0, 0x1ff);
        (bench, handles)
    }

    fn put(&self, at: u64, size: usize, value: u32) {
        self.board.mmio_write(0, GuestPhysAddr(at), &value.to_le_bytes()[..size]);
    }

    fn peek(&self, at: u64) -> u32 {
        let mut data = [0; 4];
        self.board.mmio_read(0, GuestPhysAddr(at), &mut data);
        u32::from_le_bytes(data)
    }

    /// Starts the function in PCI slot `slot`; where its registers are.
    fn start_function(&self, slot: u64) -> u64 {
        let bar = u64::from(self.peek(ECAM_BASE + (slot << 15) + 0x10));
        for (offset, size, value) in
            [(0x14, 1, 3), (0x08, 4, 1), (0x0c, 4, 1), (0x14, 1, 0xb), (0x14, 1, 0xf)]
        {
            self.put(bar + offset, size, value);
        }
        bar
    }

    /// Starts the device in register page `index`; where that is.
    fn start_page(&self, index: u64) -> u64 {
        let page = 0xfe00_0000 + index * 0x1000;
        for (offset, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0xb), (0x70, 0xf)] {
            self.put(page + offset, 4, value);
        }
        page
    }
}

fn ring(handle: &Handle) {
    lock(handle).as_ref().expect("it was started").queue(0);
}

/// Masked, as an entry of the I/O APIC.
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;

#[test]
fn inta_of_each_slot_is_where_the_routing_table_says() {
    let (bench, handles) = Bench::with_bells(9, Transport::Pci);
    for (slot, handle) in (1..).zip(&handles) {
        let bar = bench.start_function(slot);
        let input = pci_interrupt(slot as u8, 0);
        bench.redirect(input, LEVEL | (0x40 + slot));
        ring(handle);
        assert_eq!(bench.interrupt(), Some(0x40 + slot as u8), "slot {slot}");
        bench.peek(bar + 0x1000);
        bench.apic_write(0, 0xb0, 0);
        assert_eq!(bench.interrupt(), None, "the ISR was read");
        bench.redirect(input, MASKED);
    }
}

#[test]
fn slots_that_share_an_input_are_both_heard() {
    let (bench, handles) = Bench::with_bells(9, Transport::Pci);
    let bars = [bench.start_function(1), bench.start_function(9)];
    assert_eq!(pci_interrupt(1, 0), pci_interrupt(9, 0));
    bench.redirect(pci_interrupt(1, 0), LEVEL | 0x41);
    ring(&handles[0]);
    ring(&handles[8]);
    for bar in bars {
        assert_eq!(bench.interrupt(), Some(0x41));
        bench.peek(bar + 0x1000);
        bench.apic_write(0, 0xb0, 0);
    }
    assert_eq!(bench.interrupt(), None);
}

#[test]
fn the_8259as_have_inta_too() {
    let (bench, handles) = Bench::with_bells(2, Transport::Pci);
    bench.init_pics(1 << 10 | 1 << 11);
    for (slot, handle) in (1..).zip(&handles) {
        let bar = bench.start_function(slot);
        ring(handle);
        assert_eq!(bench.interrupt(), Some(0x20 + pci_isa_interrupt(slot as u8, 0)), "slot {slot}");
        bench.peek(bar + 0x1000);
        bench.out(0xa0, 0x20);
        bench.out(0x20, 0x20);
        assert_eq!(bench.interrupt(), None);
    }
}

/// Where a function's capability `id` is in ECAM.
fn capability(bench: &Bench, slot: u64, id: u32) -> u64 {
    let space = ECAM_BASE + (slot << 15);
    let mut at = space + u64::from(bench.peek(space + 0x34) & 0xff);
    while bench.peek(at) & 0xff != id {
        at = space + u64::from(bench.peek(at) >> 8 & 0xff);
        assert_ne!(at, space, "no capability {id:#x}");
    }
    at
}

#[test]
fn msi_is_a_vector_of_the_local_apic() {
    let (bench, handles) = Bench::with_bells(1, Transport::Pci);
    bench.start_function(1);
    let at = capability(&bench, 1, 0x05);
    for (field, size, value) in [(4, 4, 0xfee0_0000), (8, 4, 0), (12, 2, 0x62), (2, 2, 1)] {
        bench.put(at + field, size, value);
    }
    ring(&handles[0]);
    assert_eq!(bench.interrupt(), Some(0x62));
    bench.apic_write(0, 0xb0, 0);
    assert_eq!(bench.interrupt(), None, "one message, one interrupt");
    ring(&handles[0]);
    assert_eq!(bench.interrupt(), Some(0x62), "whether or not the ISR was read");
}

#[test]
fn msix_is_a_vector_for_each_queue() {
    let (bench, handles) = Bench::with_bells(1, Transport::Pci);
    let bar = bench.start_function(1);
    let table = u64::from(bench.peek(ECAM_BASE + (1 << 15) + 0x14));
    for (field, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x63), (12, 0)] {
        bench.put(table + 16 + field, 4, value);
    }
    bench.put(bar + 0x16, 2, 0);
    bench.put(bar + 0x1a, 2, 1);
    bench.put(capability(&bench, 1, 0x11) + 2, 2, 0x8000);
    ring(&handles[0]);
    assert_eq!(bench.interrupt(), Some(0x63));
}

#[test]
fn devices_in_pages_of_their_own_take_turns_with_the_free_interrupts() {
    let (bench, handles) = Bench::with_bells(8, Transport::Mmio);
    for (index, irq) in [5, 6, 7, 3, 14, 15, 5, 6].into_iter().enumerate() {
        let page = bench.start_page(index as u64);
        bench.redirect(irq, LEVEL | (0x40 + index as u64));
        ring(&handles[index]);
        assert_eq!(bench.interrupt(), Some(0x40 + index as u8), "page {index}");
        bench.put(page + 0x64, 4, bench.peek(page + 0x60));
        bench.apic_write(0, 0xb0, 0);
        assert_eq!(bench.interrupt(), None);
        bench.redirect(irq, MASKED);
    }
}

#[test]
fn pages_that_share_an_interrupt_are_both_heard() {
    let (bench, handles) = Bench::with_bells(7, Transport::Mmio);
    let pages = [bench.start_page(0), bench.start_page(6)];
    bench.redirect(5, LEVEL | 0x45);
    ring(&handles[0]);
    ring(&handles[6]);
    for page in pages {
        assert_eq!(bench.interrupt(), Some(0x45));
        bench.put(page + 0x64, 4, 1);
        bench.apic_write(0, 0xb0, 0);
    }
    assert_eq!(bench.interrupt(), None);
}

#[test]
fn too_many_devices_are_refused() {
    for (transport, most) in [(Transport::Pci, 31), (Transport::Mmio, 32)] {
        let slots = |count: usize| {
            (0..count).map(|_| VirtioSlot::new(Bell(Handle::default()), transport)).collect::<Vec<_>>()
        };
        Bench::with_devices(1, None, slots(most));
        let refused = Bench::try_with_devices(1, None, slots(most + 1)).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|error| error.contains(&most.to_string())), "{transport:?}");
    }
}
