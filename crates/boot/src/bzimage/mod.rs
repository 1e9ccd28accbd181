//! Linux bzImage by the 64-bit and the 32-bit boot protocol (Linux
//! `Documentation/x86/boot.rst`), and past its unpacker.

mod direct;
mod header;
mod zero_page;

use std::ops::Range;

use memory::GuestMemory;
use x86::{CpuState, Gpr, GuestPhysAddr};

use direct::Direct;
pub(crate) use header::{BzImage, is_bzimage};
use header::{KASLR_FLAG, SetupHeader, XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64};

use crate::e820::E820Entry;
use crate::elf::ElfKernel;
use crate::image::{check_cmdline, write_string};
use crate::layout::{CMDLINE, FOUR_GIB, INFO, ONE_MIB};
use crate::modules::Initrd;
use crate::places::Places;
use crate::{BootError, BootRequest, Entry, KernelKind, Protocol, cpu, payload, pvh};

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
    check_cmdline(request.cmdline, image.header.cmdline_size.get().into())?;
    match request.protocol {
        Protocol::Pvh => load_pvh(memory, request, map, image),
        Protocol::Auto | Protocol::Direct => {
            let loaded = load_direct(memory, request, map, image)?;
            match (loaded, request.protocol) {
                (Some(entry), _) => Ok(entry),
                (None, Protocol::Direct) => Err(BootError::NotDirect),
                (None, _) => load_packed(memory, request, map, image),
            }
        }
        Protocol::Bits32 | Protocol::Bits64 => load_packed(memory, request, map, image),
    }
}

/// The kernel unpacks itself.
fn load_packed(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    image: &BzImage<'_>,
) -> Result<Entry, BootError> {
    let wide = image.enters_64bit(request.protocol)?;
    let mut places = Places::new(map);
    let start = image.place(&mut places)?;
    let initrd = Initrd::place(request.modules, &mut places, &image.initrd_windows(wide))?;
    memory.write(GuestPhysAddr(start), image.code)?;
    hand_over(memory, request, map, initrd.as_ref(), &setup_header(image, start, 0))?;
    let state = entry_state(memory, start, wide)?;
    let [minor, major] = image.header.version.get().to_le_bytes();
    let bits = if wide { 64 } else { 32 };
    let entry = state.rip;
    let summary = image.summary(&format!("boot protocol {major}.{minor:02}, {bits}-bit entry at {entry:#x}"));
    Ok(Entry { state, kind: KernelKind::BzImage, summary })
}

/// The kernel inside, if it can be entered directly; nothing is written
/// otherwise.
fn load_direct(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    image: &BzImage<'_>,
) -> Result<Option<Entry>, BootError> {
    let Some(direct) = Direct::find(image, memory)? else { return Ok(None) };
    let mut places = Places::new(map);
    let start = image.header.pref_address.get();
    if !direct.place(&mut places, start, image.runtime_len()) {
        return Ok(None);
    }
    let initrd = Initrd::place(request.modules, &mut places, &image.initrd_windows(direct.wide()))?;
    direct.write(memory, request)?;
    let randomize = direct.wide() && !request.cmdline.split_ascii_whitespace().any(|word| word == "nokaslr");
    let flags = if randomize { KASLR_FLAG } else { 0 };
    hand_over(memory, request, map, initrd.as_ref(), &setup_header(image, start, flags))?;
    let state = direct.entry_state(memory)?;
    let bits = if direct.wide() { 64 } else { 32 };
    let (format, entry) = (direct.format(), state.rip);
    let summary = image.summary(&format!("{format} payload unpacked, {bits}-bit ELF entry at {entry:#x}"));
    Ok(Some(Entry { state, kind: KernelKind::BzImage, summary }))
}

/// The kernel inside, by its PVH entry.
fn load_pvh(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    image: &BzImage<'_>,
) -> Result<Entry, BootError> {
    let limit = usize::try_from(memory.size()).unwrap_or(usize::MAX);
    let unpacked = payload::find_in(image)?.unpack(limit)?;
    let kernel = ElfKernel::parse(&unpacked)?;
    let entry = kernel.pvh_entry.ok_or(BootError::NoPvhEntry)?;
    let loaded = pvh::load(memory, request, map, &kernel, entry)?;
    let summary = image.summary(&loaded.summary);
    Ok(Entry { kind: KernelKind::BzImage, summary, ..loaded })
}

/// What the kernel finds besides itself: initrd, command line, zero page.
fn hand_over(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    initrd: Option<&Initrd>,
    header: &SetupHeader,
) -> Result<(), BootError> {
    if let Some(initrd) = initrd {
        initrd.write(memory, request.modules)?;
    }
    write_string(memory, CMDLINE.start, request.cmdline)?;
    zero_page::write(memory, header, request, map, initrd)
}

/// The header as the zero page of a kernel at `start` begins with it.
fn setup_header(image: &BzImage<'_>, start: u64, flags: u8) -> SetupHeader {
    let mut header = image.header.clone();
    header.code32_start = (start as u32).into();
    header.loadflags = header.loadflags & !KASLR_FLAG | flags;
    header
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
            Protocol::Auto | Protocol::Direct | Protocol::Pvh => Ok(offered),
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

    fn summary(&self, how: &str) -> String {
        format!("Linux {}, {how}", self.release.unwrap_or("of unknown version"))
    }
}

#[cfg(test)]
mod tests;
