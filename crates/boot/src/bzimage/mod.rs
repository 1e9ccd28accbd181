//! Linux bzImage by the 64-bit and the 32-bit boot protocol (Linux
//! `Documentation/x86/boot.rst`).

mod header;
mod zero_page;

use std::ops::Range;

use memory::GuestMemory;
use x86::{CpuState, Gpr, GuestPhysAddr};

pub(crate) use header::{BzImage, is_bzimage};
use header::{XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64};

use crate::e820::E820Entry;
use crate::image::{check_cmdline, write_string};
use crate::layout::{CMDLINE, FOUR_GIB, INFO, ONE_MIB};
use crate::modules::Initrd;
use crate::places::Places;
use crate::{BootError, BootRequest, Entry, KernelKind, Protocol, cpu};

/// The 64-bit entry, from the start of the protected-mode part.
const ENTRY_64: u64 = 0x200;
/// Kernels before protocol 2.10 do not say how much memory they unpack into;
/// none unpacks to more than this times its file.
const OLD_EXPANSION: u64 = 5;

/// Loads a bzImage.
pub(crate) fn load(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    image: &BzImage<'_>,
) -> Result<Entry, BootError> {
    let wide = image.enters_64bit(request.protocol)?;
    check_cmdline(request.cmdline, image.header.cmdline_size.get().into())?;
    let mut places = Places::new(map);
    let start = image.place(&mut places)?;
    let initrd = Initrd::place(request.modules, &mut places, &image.initrd_windows(wide))?;
    memory.write(GuestPhysAddr(start), image.code)?;
    if let Some(initrd) = &initrd {
        initrd.write(memory, request.modules)?;
    }
    write_string(memory, CMDLINE.start, request.cmdline)?;
    zero_page::write(memory, &image.header, request, map, start, initrd.as_ref())?;
    let state = entry_state(memory, start, wide)?;
    let summary = image.summary(state.rip, wide);
    Ok(Entry { state, kind: KernelKind::BzImage, summary })
}

fn entry_state(memory: &GuestMemory, start: u64, wide: bool) -> Result<CpuState, BootError> {
    let mut state = if wide {
        cpu::long_mode(memory, start.saturating_add(ENTRY_64))?
    } else {
        let entry =
            u32::try_from(start).map_err(|_| BootError::BadHeader { field: "pref_address", value: start })?;
        cpu::protected_mode(memory, entry)?
    };
    state.set_reg(Gpr::Rsi, INFO);
    Ok(state)
}

impl BzImage<'_> {
    fn enters_64bit(&self, protocol: Protocol) -> Result<bool, BootError> {
        let offered = self.speaks(2, 12)
            && self.header.xloadflags.get() & XLF_KERNEL_64 != 0
            && self.code.len() as u64 > ENTRY_64;
        match protocol {
            Protocol::Auto => Ok(offered),
            Protocol::Bits32 => Ok(false),
            Protocol::Bits64 if offered => Ok(true),
            Protocol::Bits64 => Err(BootError::No64BitEntry),
        }
    }

    /// Takes the memory that the kernel loads and unpacks itself into; the
    /// result is its start.
    fn place(&self, places: &mut Places) -> Result<u64, BootError> {
        let from = if self.speaks(2, 10) { self.header.pref_address.get() } else { ONE_MIB };
        if !(ONE_MIB..FOUR_GIB).contains(&from) {
            return Err(BootError::BadHeader { field: "pref_address", value: from });
        }
        let len = self.runtime_len();
        let start = if self.header.relocatable_kernel != 0 {
            let align = u64::from(self.header.kernel_alignment.get());
            if !align.is_power_of_two() {
                return Err(BootError::BadHeader { field: "kernel_alignment", value: align });
            }
            // Below `pref_address` the kernel would move itself up again.
            places.lowest(len, align, from)
        } else {
            places.claim(from, len).then_some(from)
        };
        start
            .filter(|start| start.saturating_add(len) <= FOUR_GIB)
            .ok_or(BootError::KernelDoesNotFit { from: GuestPhysAddr(from), len })
    }

    /// Bytes from the start on that the kernel uses before it reads the
    /// memory map.
    fn runtime_len(&self) -> u64 {
        let loaded = self.code.len() as u64;
        if self.speaks(2, 10) {
            loaded.max(self.header.init_size.get().into())
        } else {
            loaded.saturating_mul(OLD_EXPANSION)
        }
    }

    /// Where the initrd may lie, best first.
    fn initrd_windows(&self, wide: bool) -> Vec<Range<u64>> {
        let end = u64::from(self.header.initrd_addr_max.get()).saturating_add(1);
        let anywhere = wide && self.header.xloadflags.get() & XLF_CAN_BE_LOADED_ABOVE_4G != 0;
        let windows = [Some(ONE_MIB..end), anywhere.then_some(ONE_MIB..u64::MAX)];
        windows.into_iter().flatten().collect()
    }

    fn summary(&self, entry: u64, wide: bool) -> String {
        let [minor, major] = self.header.version.get().to_le_bytes();
        let bits = if wide { 64 } else { 32 };
        let release = self.release.unwrap_or("of unknown version");
        format!("Linux {release}, boot protocol {major}.{minor:02}, {bits}-bit entry at {entry:#x}")
    }
}

#[cfg(test)]
mod tests;
