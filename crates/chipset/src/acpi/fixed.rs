//! The tables of fixed layout: RSDP, RSDT, XSDT, FADT, FACS, MADT.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;

use super::layout::{PciWindows, PlatformLayout, PowerPorts};

/// OEM id of all tables.
pub(super) const OEM_ID: [u8; 6] = *b"RINGM ";
/// OEM table id of all tables.
pub(super) const OEM_TABLE_ID: [u8; 8] = *b"RINGMSTR";
/// OEM revision of all tables.
pub(super) const OEM_REVISION: u32 = 1;

/// Length of a table's header.
const HEADER: u32 = 36;

/// Length of the RSDP of ACPI 2.0 and later.
pub(super) const RSDP_LENGTH: usize = 36;

/// The root pointer (ACPI 6.5 section 5.2.5.3). `rsdt` is 0 if there is none.
pub(super) fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RSDP_LENGTH);
    bytes.extend_from_slice(b"RSD PTR ");
    bytes.push(0); // checksum of the first 20 bytes
    bytes.extend_from_slice(&OEM_ID);
    bytes.push(2); // revision
    bytes.extend_from_slice(&rsdt.to_le_bytes());
    bytes.extend_from_slice(&(RSDP_LENGTH as u32).to_le_bytes());
    bytes.extend_from_slice(&xsdt.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]); // extended checksum, reserved
    bytes[8] = checksum(&bytes[..20]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// The byte that makes the sum of `bytes` and itself zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, HEADER, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

/// The root table with 32-bit addresses, for systems that know ACPI 1.0.
pub(super) fn rsdt(tables: &[u32]) -> Vec<u8> {
    let mut rsdt = table(*b"RSDT", 1);
    for address in tables {
        rsdt.append_slice(&address.to_le_bytes());
    }
    rsdt.as_slice().to_vec()
}

/// The root table with 64-bit addresses.
pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let mut xsdt = table(*b"XSDT", 1);
    for address in tables {
        xsdt.append_slice(&address.to_le_bytes());
    }
    xsdt.as_slice().to_vec()
}

/// The differentiated table: a header around `aml`. Revision 2 makes AML's
/// integers 64 bits wide.
pub(super) fn dsdt(aml: &[u8]) -> Vec<u8> {
    let mut dsdt = table(*b"DSDT", 2);
    dsdt.append_slice(aml);
    dsdt.as_slice().to_vec()
}

/// The firmware control structure (ACPI 6.5 section 5.2.10).
pub(super) fn facs() -> Vec<u8> {
    let mut bytes = Vec::new();
    acpi_tables::facs::FACS::new().to_aml_bytes(&mut bytes);
    bytes
}

/// IA-PC boot architecture flags: ISA devices are there, VGA is not.
const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
const BOOT_8042: u16 = 1 << 1;
const BOOT_NO_VGA: u16 = 1 << 2;

/// The fixed description table (ACPI 6.5 section 5.2.9), revision 6.5.
pub(super) fn fadt(layout: &PlatformLayout, facs: u64, dsdt: u64) -> Vec<u8> {
    let power = &layout.power;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The power button is fixed hardware (flag clear); there is no sleep
        // button, and the RTC cannot wake the machine through PM1.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    if power.timer_is_32_bits {
        fadt = fadt.flag(Flags::TmrValExt);
    }
    match u32::try_from(facs) {
        Ok(address) => fadt.firmware_ctrl = address.into(),
        Err(_) => fadt.x_firmware_ctrl = facs.into(),
    }
    // Both fields, and alike: old systems know only the first.
    fadt.dsdt = u32::try_from(dsdt).unwrap_or(0).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(power.sci).into();
    fadt.smi_cmd = u32::from(power.smi_command).into();
    fadt.acpi_enable = power.acpi_enable;
    fadt.acpi_disable = power.acpi_disable;
    fadt.century = layout.century;
    // Latencies above 100 and 1000 us: no C2, no C3.
    fadt.p_lvl2_lat = 0xffff.into();
    fadt.p_lvl3_lat = 0xffff.into();
    let i8042 = if layout.i8042 { BOOT_8042 } else { 0 };
    fadt.iapc_boot_arch = (BOOT_LEGACY_DEVICES | BOOT_NO_VGA | i8042).into();
    fadt.reset_reg = io_register(power.reset, 1);
    fadt.reset_value = power.reset_value;
    let mut bytes = Vec::new();
    with_power_blocks(fadt, power).finalize().to_aml_bytes(&mut bytes);
    bytes
}

fn with_power_blocks(mut fadt: FADTBuilder, power: &PowerPorts) -> FADTBuilder {
    fadt.pm1a_evt_blk = u32::from(power.pm1a_event).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io_register(power.pm1a_event, 4);
    fadt.pm1a_cnt_blk = u32::from(power.pm1a_control).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io_register(power.pm1a_control, 2);
    fadt.pm_tmr_blk = u32::from(power.timer).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = io_register(power.timer, 4);
    fadt.gpe0_blk = u32::from(power.gpe0).into();
    fadt.gpe0_blk_len = power.gpe0_length;
    fadt.x_gpe0_blk = io_register(power.gpe0, power.gpe0_length);
    fadt
}

fn io_register(port: u16, bytes: u8) -> GAS {
    // Blocks of several registers are accessed register by register.
    let access = match bytes {
        1 => AccessSize::ByteAccess,
        2 => AccessSize::WordAccess,
        _ => AccessSize::Undefined,
    };
    GAS::new(AddressSpace::SystemIo, bytes.saturating_mul(8), 0, access, port.into())
}

/// MADT flag: there are also 8259As.
const PCAT_COMPAT: u32 = 1;
/// Override flags: active high, level-triggered (ACPI 6.5 table 5.26).
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// Ids from here on do not fit the xAPIC entries: 0xFF means all processors.
const FIRST_X2APIC_ID: u32 = 0xff;

/// The interrupt controllers (ACPI 6.5 section 5.2.12).
pub(super) fn madt(layout: &PlatformLayout) -> Vec<u8> {
    let mut madt = table(*b"APIC", 5);
    madt.append_slice(&layout.local_apic_address.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for (uid, id) in layout.apic_ids.iter().take(super::MAX_PROCESSORS).enumerate() {
        madt.append_slice(&processor(uid as u32, *id));
    }
    let mut io_apic = Vec::new();
    IoApic::new(layout.io_apic_id, layout.io_apic_address, 0).to_aml_bytes(&mut io_apic);
    madt.append_slice(&io_apic);
    // The timer is on input 2; the SCI is a level.
    madt.append_slice(&interrupt_override(0, 2, 0));
    let sci = layout.power.sci;
    madt.append_slice(&interrupt_override(sci, sci.into(), ACTIVE_HIGH_LEVEL));
    // NMI on LINT1 of all processors: type 4, and type 10 for x2APIC ids.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    if layout.apic_ids.iter().any(|id| *id >= FIRST_X2APIC_ID) {
        madt.append_slice(&[10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    madt.as_slice().to_vec()
}

fn processor(uid: u32, id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (u8::try_from(uid), u8::try_from(id)) {
        (Ok(uid), Ok(id)) if u32::from(id) < FIRST_X2APIC_ID && uid < 0xff => {
            let entry = ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled);
            entry.to_aml_bytes(&mut bytes);
        }
        _ => {
            // Processor local x2APIC: type, length, reserved, id, flags, uid.
            bytes.extend_from_slice(&[9, 16, 0, 0]);
            for field in [id, 1, uid] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
    }
    bytes
}

fn interrupt_override(irq: u8, interrupt: u32, flags: u16) -> Vec<u8> {
    let mut bytes = vec![2, 10, 0, irq];
    bytes.extend_from_slice(&interrupt.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes
}

/// Where ECAM lies (PCI Firmware 3.3, 4.1.2).
pub(super) fn mcfg(pci: &PciWindows) -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(pci.ecam.into(), 0, 0, pci.last_bus);
    let mut bytes = Vec::new();
    mcfg.to_aml_bytes(&mut bytes);
    bytes
}
