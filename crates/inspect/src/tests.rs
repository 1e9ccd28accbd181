//! Small files with known contents, a real binary, and garbage.

use super::*;

/// PUSHF; CLI; MOV CR3, RAX; POPF; RET; INT3 as padding.
const CODE: &[u8] = &[0x9c, 0xfa, 0x0f, 0x22, 0xd8, 0x9d, 0xc3, 0xcc, 0xcc];

fn class_counts(report: &Report) -> Vec<u64> {
    report.classes.iter().map(|row| row.count).collect()
}

fn flat(bytes: &[u8], bitness: Bitness) -> Report {
    let options = Options { flat: Some(bitness), base: 0x7c00, list: true, ..Options::default() };
    analyze(bytes, &options).unwrap()
}

#[test]
fn flat_code_is_taken_as_it_is() {
    let report = flat(CODE, Bitness::Bits64);
    assert_eq!((report.instructions, report.undecodable, report.code_bytes), (5, 0, 9));
    assert_eq!(report.padding, 2);
    assert_eq!(class_counts(&report), [1, 1, 2], "the padding does not count");
    assert_eq!(report.robin_irvine(), 2);
    let sites = report.sites.unwrap();
    let texts: Vec<(u64, &str)> = sites.iter().map(|site| (site.address, site.text.as_str())).collect();
    assert_eq!(texts, [(0x7c00, "pushf"), (0x7c01, "cli"), (0x7c02, "mov %rax,%cr3"), (0x7c05, "popf")]);
    assert_eq!(sites[2].symbol, "0x7c00..=0x7c08");
}

#[test]
fn the_width_decides_what_bytes_mean() {
    // POP ES in 16- and 32-bit code, nothing in 64-bit code.
    assert_eq!(class_counts(&flat(&[0x07], Bitness::Bits16)), [0, 0, 1]);
    assert_eq!(class_counts(&flat(&[0x07], Bitness::Bits32)), [0, 0, 1]);
    let report = flat(&[0x07], Bitness::Bits64);
    assert_eq!((class_counts(&report), report.undecodable), (vec![0, 0, 0], 1));
}

#[test]
fn an_int3_that_can_be_reached_counts() {
    assert_eq!(class_counts(&flat(&[0x90, 0xcc, 0x90], Bitness::Bits64)), [0, 0, 1]);
    assert_eq!(class_counts(&flat(&[0xeb, 0x00, 0xcc, 0x90], Bitness::Bits64)), [0, 0, 0]);
    let mut aligned = [0x90; 32];
    aligned[10..16].fill(0xcc);
    assert_eq!(class_counts(&flat(&aligned, Bitness::Bits64)), [0, 0, 0]);
    aligned[15] = 0x90;
    assert_eq!(class_counts(&flat(&aligned, Bitness::Bits64)), [0, 0, 5]);
}

#[test]
fn long_padding_takes_no_time() {
    let report = flat(&vec![0xcc; 4 << 20], Bitness::Bits32);
    assert_eq!((report.padding, report.total()), (4 << 20, 0));
}

fn half(value: u64) -> [u8; 2] {
    (value as u16).to_le_bytes()
}

fn word(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

/// An ELF64 file: CODE at 0x40_0000 in .text, and, unless stripped, a symbol
/// table with `first` at its start and `second` at POPF.
fn elf64(machine: u64, sections: bool) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let strings = b"\0first\0second\0.text\0";
    let code_at = 64 + 56;
    let strings_at = code_at + CODE.len() as u64;
    let symbols_at = (strings_at + strings.len() as u64).next_multiple_of(8);
    let sections_at = symbols_at + 3 * 24;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([half(2), half(machine)].concat());
    file.extend(word(1));
    file.extend([BASE, 64, if sections { sections_at } else { 0 }].map(u64::to_le_bytes).concat());
    file.extend(word(0));
    let section_count = if sections { 4 } else { 0 };
    file.extend([64, 56, 1, 64, section_count, section_count.min(3)].map(half).concat());
    // One executable segment.
    file.extend([word(1), word(5)].concat());
    let len = CODE.len() as u64;
    file.extend([code_at, BASE, BASE, len, len, 16].map(u64::to_le_bytes).concat());
    file.extend(CODE);
    file.extend(strings);
    file.resize(symbols_at as usize, 0);
    let symbol = |name: u64, address: u64| {
        [word(name).as_slice(), &[0x12, 0], &half(1), &address.to_le_bytes(), &[0; 8]].concat()
    };
    file.extend([vec![0; 24], symbol(1, BASE), symbol(7, BASE + 5)].concat());
    let section = |name, kind, rest: [u64; 8]| {
        let [flags, address, offset, size, link, info, align, entry] = rest;
        let head = [word(name), word(kind)].concat();
        let body = [flags, address, offset, size].map(u64::to_le_bytes).concat();
        let tail = [align, entry].map(u64::to_le_bytes).concat();
        [head, body, [word(link), word(info)].concat(), tail].concat()
    };
    if sections {
        file.extend(vec![0; 64]);
        file.extend(section(14, 1, [6, BASE, code_at, len, 0, 0, 1, 0]));
        file.extend(section(0, 2, [0, 0, symbols_at, 72, 3, 1, 8, 24]));
        file.extend(section(0, 3, [0, 0, strings_at, strings.len() as u64, 0, 0, 1, 0]));
    }
    file
}

#[test]
fn elf_files_are_counted_by_symbol() {
    let report = analyze(&elf64(62, true), &Options::default()).unwrap();
    assert_eq!(report.file, "ELF64 executable");
    assert!(report.has_symbols && report.sites.is_none());
    assert_eq!(class_counts(&report), [1, 1, 2]);
    let rows: Vec<_> = report.by_symbol.iter().map(|row| (row.symbol.as_str(), row.total())).collect();
    assert_eq!(rows, [("first", 3), ("second", 1)]);
    assert_eq!(report.by_symbol[0].section, ".text");
}

#[test]
fn stripped_files_are_counted_by_range() {
    let report = analyze(&elf64(62, false), &Options { list: true, ..Options::default() }).unwrap();
    assert!(!report.has_symbols);
    assert_eq!(report.by_symbol.len(), 1);
    assert_eq!(report.by_symbol[0].symbol, "0x400000..=0x400008");
    assert_eq!(report.sites.as_ref().map(Vec::len), Some(4));
}

#[test]
fn the_report_is_readable_and_machine_readable() {
    let report = analyze(&elf64(62, true), &Options { list: true, ..Options::default() }).unwrap();
    let text = report.to_string();
    for line in [
        "ELF64 executable, 64-bit code",
        "4 privileged or sensitive, 2 of them among the seventeen of Robin and Irvine (*)",
        "       1 *PUSHF                    sensitive       shows the real IF and IOPL",
        "       3       1       1       1  first (.text)",
        "0x0000000000400002  privileged      mov %rax,%cr3                    first+0x2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["by_instruction"][0]["instruction"], "MOV (control register)");
    assert_eq!(json["classes"][1]["class"], "iopl-sensitive");
    assert_eq!(json["sites"][1]["address"], 0x40_0001);
}

#[test]
fn what_cannot_be_looked_at_is_said_in_a_sentence() {
    let error = |bytes: &[u8]| analyze(bytes, &Options::default()).unwrap_err();
    assert!(matches!(error(b""), InspectError::Empty));
    assert!(matches!(error(b"plain text"), InspectError::UnknownFormat));
    assert!(matches!(error(b"\x7fELF"), InspectError::BadElf(_)));
    assert!(matches!(error(&elf64(0xb7, true)), InspectError::ForeignMachine));
    let mut no_code = elf64(62, false);
    no_code[64 + 4] = 4;
    assert!(matches!(error(&no_code), InspectError::NoCode));
    let mut kernel = vec![0; 0x400];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    assert!(matches!(error(&kernel), InspectError::Payload(_)));
    for bytes in [&b""[..], b"x", &no_code] {
        assert!(!error(bytes).to_string().contains('\n'));
    }
}

#[test]
fn this_very_program_can_be_looked_at() {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let report = analyze(&bytes, &Options::default()).unwrap();
    assert!(report.instructions > 10_000 && report.has_symbols);
    // Programs for user space have few; most of what is found is data.
    assert!(report.total() * 100 < report.instructions, "{report}");
}

/// A small linear congruential generator: the same garbage every time.
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

#[test]
fn garbage_does_no_harm() {
    let mut garbage = Garbage(1);
    for round in 0..2000usize {
        let bytes: Vec<u8> = (0..round % 700).map(|_| garbage.next()).collect();
        for bitness in [Bitness::Bits16, Bitness::Bits32, Bitness::Bits64] {
            let options =
                Options { flat: Some(bitness), base: u64::MAX - 100, list: true, ..Options::default() };
            if let Ok(report) = analyze(&bytes, &options) {
                assert!(!report.to_string().is_empty());
            }
        }
        for mut file in [elf64(62, true), elf64(3, false)] {
            for _ in 0..=round % 8 {
                let at = (usize::from(garbage.next()) << 8 | usize::from(garbage.next())) % file.len();
                file[at] = garbage.next();
            }
            file.truncate(file.len() - round % 9 * 7);
            if let Ok(report) = analyze(&file, &Options { list: true, ..Options::default() }) {
                assert!(!report.to_string().is_empty());
            }
        }
    }
}
