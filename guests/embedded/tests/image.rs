//! What a loader relies on in the guest's image, read by hand from the ELF (ELF-64
//! object file format, TIS ELF 1.2; PVH: Xen's docs/misc/pvh).

use embedded_guest::IMAGE;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
const MULTIBOOT_MAGIC: u32 = 0x1BAD_B002;
const MIB: u64 = 1 << 20;

fn u16_at(offset: usize) -> u16 {
    u16::from_le_bytes(IMAGE[offset..offset + 2].try_into().expect("2 bytes"))
}

fn u32_at(offset: usize) -> u32 {
    u32::from_le_bytes(IMAGE[offset..offset + 4].try_into().expect("4 bytes"))
}

fn u64_at(offset: usize) -> u64 {
    u64::from_le_bytes(IMAGE[offset..offset + 8].try_into().expect("8 bytes"))
}

struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    physical: u64,
    virtual_: u64,
    file_size: u64,
    memory_size: u64,
}

fn segments() -> Vec<Segment> {
    let (table, size, count) = (u64_at(32) as usize, usize::from(u16_at(54)), usize::from(u16_at(56)));
    (0..count)
        .map(|i| table + i * size)
        .map(|at| Segment {
            kind: u32_at(at),
            flags: u32_at(at + 4),
            offset: u64_at(at + 8) as usize,
            virtual_: u64_at(at + 16),
            physical: u64_at(at + 24),
            file_size: u64_at(at + 32),
            memory_size: u64_at(at + 40),
        })
        .collect()
}

fn loads() -> Vec<Segment> {
    segments().into_iter().filter(|s| s.kind == PT_LOAD).collect()
}

#[test]
fn it_is_a_static_x86_64_executable() {
    assert_eq!(&IMAGE[..6], b"\x7fELF\x02\x01", "64-bit, little endian");
    assert_eq!(u16_at(16), 2, "ET_EXEC: not relocatable, not position independent");
    assert_eq!(u16_at(18), 62, "EM_X86_64");
    assert!(segments().iter().all(|s| s.kind != PT_DYNAMIC && s.kind != PT_INTERP), "nothing to link");
}

#[test]
fn it_loads_where_it_is_linked_between_1_and_16_mib() {
    let loads = loads();
    assert!(!loads.is_empty());
    for segment in &loads {
        assert_eq!(segment.physical, segment.virtual_, "identity mapped");
        assert!(segment.physical >= MIB);
        assert!(segment.memory_size >= segment.file_size);
        assert!(segment.physical + segment.memory_size <= 4 * MIB, "within its 4 KiB page tables");
        assert!(segment.offset + segment.file_size as usize <= IMAGE.len());
        assert_ne!(segment.flags & 3, 3, "no segment is writable and executable");
    }
    assert!(loads.windows(2).all(|w| w[0].physical + w[0].memory_size <= w[1].physical), "no overlap");
}

#[test]
fn its_pvh_note_names_the_entry() {
    let note = segments().into_iter().find(|s| s.kind == PT_NOTE).expect("a note segment");
    let at = note.offset;
    assert_eq!((u32_at(at), u32_at(at + 4), u32_at(at + 8)), (4, 8, PHYS32_ENTRY));
    assert_eq!(&IMAGE[at + 12..at + 16], b"Xen\0");
    let entry = u64_at(at + 16);
    assert_eq!(entry, u64_at(24), "the ELF entry is the same");
    let code = loads().into_iter().find(|s| s.flags & 1 != 0).expect("code");
    assert!((code.physical..code.physical + code.file_size).contains(&entry));
}

#[test]
fn its_multiboot_header_describes_the_same_image() {
    let at = (0..8192).step_by(4).find(|&at| u32_at(at) == MULTIBOOT_MAGIC).expect("in the first 8 KiB");
    let field = |i: usize| u32_at(at + 4 * i);
    assert_eq!(field(0).wrapping_add(field(1)).wrapping_add(field(2)), 0, "checksum");
    let (header, start, load_end, bss_end) = (field(3), field(4), field(5), field(6));
    let loads = loads();
    let (first, last) = (loads.first().unwrap(), loads.last().unwrap());
    assert_eq!(u64::from(start), first.physical);
    assert_eq!(u64::from(load_end), last.physical + last.file_size);
    assert_eq!(u64::from(bss_end), last.physical + last.memory_size);
    assert_eq!(u64::from(field(7)), u64_at(24), "entry");
    // A multiboot loader copies one block: file offsets must follow addresses.
    for segment in &loads {
        let expected = at as u64 + segment.physical - u64::from(header);
        assert_eq!(segment.offset as u64, expected);
    }
}

#[test]
fn its_text_is_what_the_library_promises() {
    let contains = |text: &str| IMAGE.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(contains(embedded_guest::LAST_LINE));
    assert!(contains(" differ"));
    assert!(!contains(env!("CARGO_MANIFEST_DIR")), "no path of the building machine");
}
