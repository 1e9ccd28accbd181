//! Multiboot 1 (Multiboot Specification 0.6.96): flat 32-bit protected mode,
//! EAX holds the magic, EBX points to the multiboot information.

mod header;

use memory::GuestMemory;
use x86::{Gpr, GuestPhysAddr, PAGE_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes};

pub(crate) use header::Multiboot;

use crate::e820::{E820Entry, E820Kind};
use crate::image::{check_cmdline, load_segments, write_string};
use crate::layout::{CMDLINE, EBDA, FOUR_GIB, INFO, MEMORY_MAP, MODULE_LIST, MODULE_STRINGS, ONE_MIB, len};
use crate::places::Places;
use crate::{BootError, BootRequest, Entry, KernelKind, Module, cpu};

/// What EAX holds at the entry (3.2).
const BOOT_MAGIC: u32 = 0x2bad_b002;
const LOADER_NAME: &str = "Ringmaster";

/// Which fields of the information are valid (3.3).
const HAS_MEMORY: u32 = 1 << 0;
const HAS_CMDLINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// The multiboot information, up to the last field that we fill.
#[derive(IntoBytes, Immutable, FromZeros)]
#[repr(C)]
struct Info {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    drives_length: U32,
    drives_addr: U32,
    config_table: U32,
    boot_loader_name: U32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    mod_start: U32,
    mod_end: U32,
    string: U32,
    reserved: U32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    /// Of the fields behind this one.
    size: U32,
    addr: U64,
    len: U64,
    kind: U32,
}

/// Loads a multiboot kernel.
pub(crate) fn load(
    memory: &GuestMemory,
    request: &BootRequest<'_>,
    map: &[E820Entry],
    kernel: &Multiboot<'_>,
) -> Result<Entry, BootError> {
    check_cmdline(request.cmdline, u64::MAX)?;
    check_modules(request.modules)?;
    let inside = kernel.segments.iter().any(|segment| segment.holds(kernel.entry));
    let entry = u32::try_from(kernel.entry).ok().filter(|_| inside);
    let entry = entry.ok_or(BootError::EntryOutside(GuestPhysAddr(kernel.entry)))?;
    let mut places = Places::new(map);
    load_segments(memory, &mut places, &kernel.segments)?;
    let end = kernel.segments.iter().map(|segment| segment.start.saturating_add(segment.len)).max();
    load_modules(memory, &mut places, request.modules, end.unwrap_or(0).max(ONE_MIB))?;
    write_string(memory, CMDLINE.start, request.cmdline)?;
    write_info(memory, request, map)?;
    let mut state = cpu::protected_mode(memory, entry)?;
    state.set_reg(Gpr::Rax, BOOT_MAGIC.into());
    state.set_reg(Gpr::Rbx, INFO);
    let summary = format!("multiboot kernel, entry at {entry:#x}, {} modules", request.modules.len());
    Ok(Entry { state, kind: KernelKind::Multiboot1, summary })
}

fn check_modules(modules: &[Module<'_>]) -> Result<(), BootError> {
    let limit = len(&MODULE_LIST) as usize / size_of::<ModuleEntry>();
    if modules.len() > limit {
        return Err(BootError::TooManyModules { count: modules.len(), limit });
    }
    if modules.iter().any(|module| module.string.contains('\0')) {
        return Err(BootError::CmdlineNul);
    }
    let strings = modules.iter().map(|module| module.string).chain([LOADER_NAME]);
    let used = strings.fold(0_u64, |sum, string| sum.saturating_add(string.len() as u64 + 1));
    let limit = len(&MODULE_STRINGS);
    if used > limit {
        return Err(BootError::ModuleStringsTooLong { len: used, limit });
    }
    Ok(())
}

/// Puts the modules behind the kernel, each at a page boundary: kernels of this
/// kind seldom look far.
fn load_modules(
    memory: &GuestMemory,
    places: &mut Places,
    modules: &[Module<'_>],
    from: u64,
) -> Result<(), BootError> {
    let mut string = MODULE_STRINGS.start + LOADER_NAME.len() as u64 + 1;
    let mut list = Vec::new();
    for module in modules {
        let len = module.data.len() as u64;
        // An empty module still gets an address of its own.
        let start = places
            .lowest(len.max(1), PAGE_SIZE, from)
            .filter(|start| start.saturating_add(len) <= FOUR_GIB)
            .ok_or(BootError::InitrdDoesNotFit { len, below: GuestPhysAddr(FOUR_GIB.min(places.end())) })?;
        memory.write(GuestPhysAddr(start), module.data)?;
        write_string(memory, string, module.string)?;
        let entry = ModuleEntry {
            mod_start: word(start),
            mod_end: word(start.saturating_add(len)),
            string: word(string),
            reserved: 0.into(),
        };
        list.extend_from_slice(entry.as_bytes());
        string += module.string.len() as u64 + 1;
    }
    Ok(memory.write(GuestPhysAddr(MODULE_LIST.start), &list)?)
}

fn write_info(memory: &GuestMemory, request: &BootRequest<'_>, map: &[E820Entry]) -> Result<(), BootError> {
    let entries: Vec<u8> = map.iter().flat_map(|entry| map_entry(entry).as_bytes().to_vec()).collect();
    memory.write(GuestPhysAddr(MEMORY_MAP.start), &entries)?;
    write_string(memory, MODULE_STRINGS.start, LOADER_NAME)?;
    let mut info = Info::new_zeroed();
    info.flags = (HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MEMORY_MAP | HAS_LOADER_NAME).into();
    info.mem_lower = word(EBDA.start >> 10);
    info.mem_upper = word(upper_memory(map) >> 10);
    info.cmdline = word(CMDLINE.start);
    info.mods_count = word(request.modules.len() as u64);
    info.mods_addr = word(MODULE_LIST.start);
    info.mmap_length = word(entries.len() as u64);
    info.mmap_addr = word(MEMORY_MAP.start);
    info.boot_loader_name = word(MODULE_STRINGS.start);
    Ok(memory.write(GuestPhysAddr(INFO), info.as_bytes())?)
}

/// Bytes from 1 MiB to the first hole.
fn upper_memory(map: &[E820Entry]) -> u64 {
    let first = map.iter().find(|entry| entry.start.0 == ONE_MIB && entry.kind == E820Kind::Ram);
    first.map_or(0, |entry| entry.len)
}

fn map_entry(entry: &E820Entry) -> MapEntry {
    MapEntry {
        size: (size_of::<MapEntry>() as u32 - 4).into(),
        addr: entry.start.0.into(),
        len: entry.len.into(),
        kind: (entry.kind as u32).into(),
    }
}

/// A value that the checks above keep below 4 GiB.
fn word(value: u64) -> U32 {
    (value as u32).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use crate::testing::{multiboot_elf, multiboot_flat, read_string};

    #[test]
    fn the_information_tells_everything() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let kernel = multiboot_elf(3);
        let modules =
            [Module { data: b"one!", string: "one.bin a" }, Module { data: b"two!!", string: "two" }];
        let request =
            BootRequest { kernel: &kernel, modules: &modules, cmdline: "hello", ..BootRequest::default() };
        let entry = load(&memory, &request).unwrap();
        assert_eq!(entry.state.reg(Gpr::Rax), 0x2bad_b002);
        assert!(entry.state.protected_mode() && !entry.state.rflags.contains(x86::Rflags::IF));
        let word = |at: u64| memory.read_u32(GuestPhysAddr(at)).unwrap();
        let info = entry.state.reg(Gpr::Rbx);
        assert_eq!(word(info), 0b10_0100_1101);
        assert_eq!((word(info + 4), word(info + 8)), (639, 3 << 10));
        assert_eq!(read_string(&memory, word(info + 16).into()), "hello");
        assert_eq!(read_string(&memory, word(info + 64).into()), "Ringmaster");
        assert_eq!((word(info + 44), word(info + 20)), (4 * 24, 2));
        let second = u64::from(word(info + 24)) + 16;
        assert_eq!((word(second), word(second + 4)), (0x10_4000, 0x10_4005));
        assert_eq!(word(0x10_4000), u32::from_le_bytes(*b"two!"));
        assert_eq!(read_string(&memory, word(second + 8).into()), "two");
        assert_eq!(word(word(info + 48).into()), 20);
    }

    #[test]
    fn limits_of_modules_are_kept() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let kernel = multiboot_elf(0);
        let with = |modules: &[Module<'_>]| {
            load(&memory, &BootRequest { kernel: &kernel, modules, ..BootRequest::default() })
        };
        assert!(matches!(with(&[Module::default(); 257]), Err(BootError::TooManyModules { limit: 256, .. })));
        assert!(with(&[Module::default(); 256]).is_ok());
        let long = "s".repeat(0x4000);
        let module = Module { data: b"", string: &long };
        assert!(matches!(with(&[module]), Err(BootError::ModuleStringsTooLong { .. })));
        let module = Module { data: b"", string: "a\0" };
        assert!(matches!(with(&[module]), Err(BootError::CmdlineNul)));
        let large = vec![0; 3 << 20];
        let module = Module { data: &large, string: "" };
        assert!(matches!(with(&[module]), Err(BootError::InitrdDoesNotFit { .. })));
    }

    #[test]
    fn the_entry_lies_in_what_is_loaded() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let file = multiboot_flat([0x20_0020, 0x20_0000, 0x20_0100, 0x20_1000, 0x20_1000]);
        let request = BootRequest { kernel: &file, ..BootRequest::default() };
        assert!(matches!(load(&memory, &request), Err(BootError::EntryOutside(_))));
        let file = multiboot_flat([0x8_0020, 0x8_0000, 0x8_0100, 0x8_1000, 0x8_0000]);
        let request = BootRequest { kernel: &file, ..BootRequest::default() };
        assert!(matches!(load(&memory, &request), Err(BootError::OutsideMemory { .. })));
    }
}
