//! What a machine starts, into its memory; again after each reset.

use boot::{BootRequest, E820Entry, Module, firmware_roms, load_firmware};
use chipset::acpi::{self, AcpiBlob, PlatformLayout, VirtioMmio};
use memory::{GuestMemory, RamLayout};
use x86::cpuid::CpuidModel;
use x86::{CpuState, Gpr, GuestPhysAddr};

use crate::MachineError;
use crate::board::Board;
use crate::config::BootSource;
use crate::firmware;

/// The I/O APIC's id, as the tables tell it.
pub(crate) const PLATFORM_IO_APIC: u8 = 0;

/// RAM, and ROM if there is firmware.
pub(crate) fn guest_memory(size: u64, boot: &BootSource) -> Result<GuestMemory, MachineError> {
    Ok(match boot {
        BootSource::Kernel { .. } => GuestMemory::new(size)?,
        BootSource::Firmware(image) => GuestMemory::with_rom(size, &firmware_roms(image)?)?,
    })
}

/// The description of the machine for its ACPI tables.
fn platform(cpus: u32, virtio_mmio: Vec<VirtioMmio>) -> PlatformLayout {
    let layout = PlatformLayout::new((0..cpus).collect());
    PlatformLayout { io_apic_id: PLATFORM_IO_APIC, virtio_mmio, ..layout }
}

/// A way to start, ready to be repeated.
pub(crate) struct Loader {
    boot: BootSource,
    /// ACPI tables, and where they lie.
    tables: AcpiBlob,
    tables_at: GuestPhysAddr,
}

impl Loader {
    pub(crate) fn new(boot: BootSource, ram: RamLayout, cpus: u32, virtio_mmio: Vec<VirtioMmio>) -> Self {
        let base = match boot {
            BootSource::Kernel { .. } => boot::layout::BIOS_AREA.start,
            BootSource::Firmware(_) => firmware::tables_at(ram),
        };
        let tables = acpi::build(&platform(cpus, virtio_mmio), base);
        Self { boot, tables, tables_at: GuestPhysAddr(base) }
    }

    /// The tables that firmware must be told of, if there is firmware.
    pub(crate) fn tables_for_firmware(&self) -> Option<&AcpiBlob> {
        matches!(self.boot, BootSource::Firmware(_)).then_some(&self.tables)
    }

    /// Loads everything; the state in which the boot processor starts, but for
    /// what [`Loader::set_up`] adds. `memory_is_zero` if nothing has run yet.
    pub(crate) fn load(&self, memory: &GuestMemory, memory_is_zero: bool) -> Result<CpuState, MachineError> {
        memory.write(self.tables_at, &self.tables.bytes)?;
        match &self.boot {
            BootSource::Firmware(image) => Ok(load_firmware(memory, image)?),
            BootSource::Kernel { image, modules, cmdline, protocol } => {
                let modules: Vec<_> = modules
                    .iter()
                    .map(|module| Module { data: &module.data, string: &module.string })
                    .collect();
                let entry = boot::load(
                    memory,
                    &BootRequest {
                        kernel: image,
                        modules: &modules,
                        cmdline,
                        protocol: *protocol,
                        acpi_rsdp: Some(GuestPhysAddr(self.tables.rsdp_address)),
                        memory_is_zero,
                        reserved: NOTHING_ELSE,
                    },
                )?;
                Ok(entry.state)
            }
        }
    }

    /// Leaves the board, and the processor's identity, as the kernel or the
    /// firmware expects them.
    pub(crate) fn set_up(&self, board: &Board, state: &mut CpuState) {
        match &self.boot {
            BootSource::Firmware(_) => identify(state, &board.cpuid),
            BootSource::Kernel { .. } => board.bios_setup(),
        }
    }
}

impl Loader {
    /// The same for a processor that waits to be started; `boot` is the state
    /// of the boot processor.
    pub(crate) fn set_up_other(&self, board: &Board, boot: &CpuState, state: &mut CpuState) {
        identify(state, &board.cpuid);
        if matches!(self.boot, BootSource::Kernel { .. }) {
            // Firmware gives all processors the same memory types.
            state.msrs.mtrr_def_type = boot.msrs.mtrr_def_type;
            state.msrs.mtrr_fixed = boot.msrs.mtrr_fixed;
            state.msrs.mtrr_variable = boot.msrs.mtrr_variable;
        }
    }
}

/// A kernel's tables lie where the memory map has a reservation anyway.
const NOTHING_ELSE: &[E820Entry] = &[];

/// EDX has the processor's signature after reset (SDM 3A table 10-1).
fn identify(state: &mut CpuState, cpuid: &CpuidModel) {
    state.set_reg(Gpr::Rdx, cpuid.signature().into());
}
