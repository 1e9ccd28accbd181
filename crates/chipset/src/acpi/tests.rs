//! Tests that read the tables as an operating system does.

use super::*;

const BASE: u64 = 0xe_0000;

/// A blob with its address, read like guest memory.
struct Memory {
    base: u64,
    bytes: Vec<u8>,
}

impl Memory {
    fn at(&self, address: u64, length: usize) -> &[u8] {
        let start = (address - self.base) as usize;
        &self.bytes[start..start + length]
    }

    fn number(&self, address: u64, length: usize) -> u64 {
        self.at(address, length).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The table at `address`, its checksum verified.
    fn table(&self, address: u64) -> Vec<u8> {
        let table = self.at(address, self.number(address + 4, 4) as usize);
        assert_eq!(sum(table), 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
        table.to_vec()
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    bytes[offset..offset + length].iter().rev().fold(0, |value, b| value << 8 | u64::from(*b))
}

fn built(layout: &PlatformLayout, base: u64) -> (Memory, u64) {
    let blob = build(layout, base);
    (Memory { base, bytes: blob.bytes }, blob.rsdp_address)
}

/// FADT, MADT and DSDT of a blob, found through its XSDT.
fn tables(layout: &PlatformLayout) -> (Memory, Vec<u8>, Vec<u8>, Vec<u8>) {
    let (memory, rsdp) = built(layout, BASE);
    let xsdt = memory.table(memory.number(rsdp + 24, 8));
    assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 3 * 8));
    let fadt = memory.table(number(&xsdt, 36, 8));
    let madt = memory.table(number(&xsdt, 44, 8));
    let dsdt = memory.table(number(&fadt, 140, 8));
    (memory, fadt, madt, dsdt)
}

/// Type and bytes of each structure of a MADT.
fn structures(madt: &[u8]) -> Vec<&[u8]> {
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (first, others) = rest.split_at(rest[1].into());
        found.push(first);
        rest = others;
    }
    found
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn root_pointer_leads_to_all_tables() {
    let (memory, rsdp) = built(&PlatformLayout::new(vec![0]), BASE);
    assert_eq!(rsdp, BASE);
    assert_eq!(memory.at(rsdp, 8), b"RSD PTR ");
    assert_eq!(sum(memory.at(rsdp, 20)), 0);
    assert_eq!(sum(memory.at(rsdp, 36)), 0);
    assert_eq!(memory.number(rsdp + 15, 1), 2);
    let rsdt = memory.table(memory.number(rsdp + 16, 4));
    let xsdt = memory.table(memory.number(rsdp + 24, 8));
    assert_eq!(&rsdt[..4], b"RSDT");
    for entry in 0..3 {
        assert_eq!(number(&rsdt, 36 + 4 * entry, 4), number(&xsdt, 36 + 8 * entry, 8));
    }
}

#[test]
fn fadt_describes_the_fixed_hardware() {
    let (memory, fadt, _, dsdt) = tables(&PlatformLayout::new(vec![0]));
    assert_eq!((&fadt[..4], fadt.len(), fadt[8]), (&b"FACP"[..], 276, 6));
    assert_eq!(&dsdt[..4], b"DSDT");
    let facs = number(&fadt, 36, 4);
    assert_eq!(facs % 64, 0);
    assert_eq!(memory.at(facs, 8), b"FACS\x40\0\0\0");
    assert_eq!(number(&fadt, 40, 4), number(&fadt, 140, 8), "DSDT and X_DSDT");
    let fields = [
        (46, 2, 9),                // SCI_INT
        (48, 4, 0xb2),             // SMI_CMD
        (52, 2, 0xf0f1),           // ACPI_ENABLE, ACPI_DISABLE
        (56, 4, 0x600),            // PM1a_EVT_BLK
        (64, 4, 0x604),            // PM1a_CNT_BLK
        (76, 4, 0x608),            // PM_TMR_BLK
        (80, 4, 0x620),            // GPE0_BLK
        (88, 6, 0x0004_0400_0204), // lengths
        (108, 1, 0x32),            // CENTURY
        (109, 2, 0b111),           // IAPC_BOOT_ARCH
        (112, 4, 0x565),           // flags
        (116, 4, 0x0100_0801),     // RESET_REG
        (120, 8, 0xcf9),
        (128, 1, 6),     // RESET_VALUE
        (152, 8, 0x600), // X_PM1a_EVT_BLK
        (176, 8, 0x604),
        (212, 8, 0x608),
        (224, 8, 0x620),
    ];
    for (offset, length, value) in fields {
        assert_eq!(number(&fadt, offset, length), value, "offset {offset}");
    }
}

#[test]
fn madt_lists_the_interrupt_controllers() {
    let (_, _, madt, _) = tables(&PlatformLayout::new(vec![0, 2]));
    assert_eq!(number(&madt, 36, 4), 0xfee0_0000);
    assert_eq!(number(&madt, 40, 4), 1);
    let expected: [&[u8]; 6] = [
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 2, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ];
    assert_eq!(structures(&madt), expected);
}

#[test]
fn high_apic_ids_are_x2apic_entries() {
    let (_, _, madt, _) = tables(&PlatformLayout::new(vec![0xfe, 0xff, 0x100]));
    let found = structures(&madt);
    assert_eq!(found[0], [0, 8, 0, 0xfe, 1, 0, 0, 0]);
    assert_eq!(found[1], [9, 16, 0, 0, 0xff, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(found[2], [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(found.last().unwrap()[0], 10);
}

#[test]
fn dsdt_names_the_devices() {
    let mut layout = PlatformLayout::new((0..3).collect());
    let (_, _, _, dsdt) = tables(&layout);
    for name in ["C000", "C002", "PCI0", "COM1", "RTC_", "KBD_", "MOU_", "TIMR", "PIC_", "_S5_"] {
        assert!(contains(&dsdt, name.as_bytes()), "{name}");
    }
    assert!(contains(&dsdt, b"_S5_\x12\x06\x04\0\0\0\0"));
    assert!(contains(&dsdt, b"QEMU0001\0"));
    assert!(!contains(&dsdt, b"C003") && !contains(&dsdt, b"COM2"));
    layout.i8042 = false;
    layout.pvpanic = None;
    layout.serial.push(SerialPort { port: 0x2f8, irq: 3 });
    let (_, fadt, _, dsdt) = tables(&layout);
    assert_eq!(number(&fadt, 109, 2), 0b101);
    assert!(contains(&dsdt, b"COM2"));
    assert!(!contains(&dsdt, b"KBD_") && !contains(&dsdt, b"QEMU0001"));
}

#[test]
fn pci_interrupts_are_on_the_upper_inputs() {
    for device in 0..=255 {
        for pin in 0..=255 {
            let interrupt = pci_interrupt(device, pin);
            assert!((16..24).contains(&interrupt));
            let isa = pci_isa_interrupt(device, pin);
            assert_eq!(isa, if interrupt.is_multiple_of(2) { 10 } else { 11 });
        }
    }
    let (_, _, _, dsdt) = tables(&PlatformLayout::new(vec![0]));
    // Device 3, INTB: 16 + 3 + 1.
    assert!(contains(&dsdt, b"\x12\x0b\x04\x0c\xff\xff\x03\0\x01\0\x0a\x14"));
}

#[test]
fn a_machine_of_many_processors_fits_below_one_mebibyte() {
    let blob = build(&PlatformLayout::new((0..255).collect()), BASE);
    assert!(blob.bytes.len() <= 0x2_0000, "{:#x}", blob.bytes.len());
}

#[test]
fn any_base_gives_aligned_tables() {
    for base in [0, 0xe_0001, 0x7fff_ffff, 0x1_0000_0005] {
        let (memory, rsdp) = built(&PlatformLayout::new(vec![0]), base);
        assert_eq!(rsdp % 16, 0);
        assert!(rsdp >= base);
        let xsdt = memory.table(memory.number(rsdp + 24, 8));
        let fadt = memory.table(number(&xsdt, 36, 8));
        let facs = number(&fadt, 36, 4) | number(&fadt, 132, 8);
        assert_eq!(memory.at(facs, 4), b"FACS");
        assert_eq!(facs % 64, 0);
        let has_rsdt = memory.number(rsdp + 16, 4) != 0;
        assert_eq!(has_rsdt, base < 1 << 32);
    }
}

#[test]
fn wide_windows_and_too_many_processors_are_harmless() {
    let mut layout = PlatformLayout::new((0..5000).collect());
    layout.pci.memory64 = Some(0x40_0000_0000..=0x7f_ffff_ffff);
    layout.pci.last_bus = 255;
    let (_, _, madt, dsdt) = tables(&layout);
    let processors = structures(&madt).iter().filter(|entry| matches!(entry[0], 0 | 9)).count();
    assert_eq!(processors, MAX_PROCESSORS);
    assert!(contains(&dsdt, b"CFFF"));
}

#[test]
fn mcfg_tells_of_ecam_which_is_reserved() {
    let (memory, rsdp) = built(&PlatformLayout::new(vec![0]), BASE);
    let xsdt = memory.table(memory.number(rsdp + 24, 8));
    let mcfg = memory.table(number(&xsdt, 52, 8));
    assert_eq!((&mcfg[..4], mcfg.len()), (&b"MCFG"[..], 60));
    assert_eq!((number(&mcfg, 44, 8), number(&mcfg, 52, 4)), (0xe000_0000, 0));
    let (_, _, _, dsdt) = tables(&PlatformLayout::new(vec![0]));
    assert!(contains(&dsdt, b"\x86\x09\0\x01\0\0\0\xe0\0\0\x10\0"));
}

#[test]
fn virtio_devices_of_their_own_are_told_of() {
    let mut layout = PlatformLayout::new(vec![0]);
    layout.virtio_mmio.push(VirtioMmio { address: 0xfeb0_0000, interrupt: 5 });
    let (_, _, _, dsdt) = tables(&layout);
    assert!(contains(&dsdt, b"LNRO0005\0"));
    assert!(contains(&dsdt, b"\x86\x09\0\x01\0\0\xb0\xfe\0\x10\0\0"));
}
