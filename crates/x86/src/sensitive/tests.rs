//! Real encodings in 16-, 32- and 64-bit code.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::*;

fn decode(bitness: u32, bytes: &[u8]) -> Instruction {
    let instruction = Decoder::new(bitness, bytes, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid(), "{bitness}: {bytes:x?}");
    instruction
}

fn name(bitness: u32, bytes: &[u8]) -> Option<&'static str> {
    classify(&decode(bitness, bytes)).map(|entry| entry.name)
}

/// Number, name, encoding, in which widths it exists.
const SEVENTEEN: &[(u8, &str, &[u8], &[u32])] = &[
    (1, "SGDT", &[0x0f, 0x01, 0x03], &[16, 32, 64]),
    (2, "SIDT", &[0x0f, 0x01, 0x0b], &[16, 32, 64]),
    (3, "SLDT", &[0x0f, 0x00, 0xc0], &[16, 32, 64]),
    (4, "SMSW", &[0x0f, 0x01, 0xe0], &[16, 32, 64]),
    (5, "PUSHF", &[0x9c], &[16, 32, 64]),
    (6, "POPF", &[0x9d], &[16, 32, 64]),
    (7, "LAR", &[0x0f, 0x02, 0xc1], &[16, 32, 64]),
    (8, "LSL", &[0x0f, 0x03, 0xc1], &[16, 32, 64]),
    (9, "VERR/VERW", &[0x0f, 0x00, 0xe0], &[16, 32, 64]),
    (9, "VERR/VERW", &[0x0f, 0x00, 0xe8], &[16, 32, 64]),
    (10, "POP (segment register)", &[0x1f], &[16, 32]),
    (10, "POP (segment register)", &[0x07], &[16, 32]),
    (10, "POP (segment register)", &[0x0f, 0xa1], &[16, 32, 64]),
    (11, "PUSH (segment register)", &[0x0e], &[16, 32]),
    (11, "PUSH (segment register)", &[0x16], &[16, 32]),
    (11, "PUSH (segment register)", &[0x0f, 0xa8], &[16, 32, 64]),
    (12, "CALL (far)", &[0xff, 0x1b], &[16, 32, 64]),
    (12, "CALL (far)", &[0x9a, 1, 2, 3, 4, 5, 6], &[16, 32]),
    (13, "JMP (far)", &[0xff, 0x2b], &[16, 32, 64]),
    (13, "JMP (far)", &[0xea, 1, 2, 3, 4, 5, 6], &[16, 32]),
    (14, "INT n", &[0xcd, 0x80], &[16, 32, 64]),
    (15, "RET (far)", &[0xcb], &[16, 32, 64]),
    (15, "RET (far)", &[0xca, 4, 0], &[16, 32, 64]),
    (16, "STR", &[0x0f, 0x00, 0xc8], &[16, 32, 64]),
    (17, "MOV (segment register)", &[0x8c, 0xc8], &[16, 32, 64]),
    (17, "MOV (segment register)", &[0x8e, 0xd8], &[16, 32, 64]),
    (17, "MOV (segment register)", &[0x8c, 0x1b], &[16, 32, 64]),
];

#[test]
fn all_seventeen_are_there_in_every_width() {
    for &(number, expected, bytes, widths) in SEVENTEEN {
        for &bitness in widths {
            let entry = classify(&decode(bitness, bytes)).unwrap_or_else(|| panic!("{expected} {bitness}"));
            assert_eq!((entry.name, entry.robin_irvine), (expected, Some(number)), "{bitness}");
            assert_eq!(entry.class, Class::Sensitive);
        }
    }
    let mut numbers: Vec<u8> = TABLE.iter().filter_map(|entry| entry.robin_irvine).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=17).collect::<Vec<u8>>());
}

#[test]
fn the_table_is_in_alphabetical_order() {
    assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
}

#[test]
fn classes_of_the_others() {
    use Class::{IoplSensitive, Privileged, Sensitive};
    let rows: &[(&[u8], &str, Class)] = &[
        (&[0xfa], "CLI", IoplSensitive),
        (&[0xfb], "STI", IoplSensitive),
        (&[0xe4, 0x60], "IN", IoplSensitive),
        (&[0xee], "OUT", IoplSensitive),
        (&[0xf3, 0x6d], "INS", IoplSensitive),
        (&[0x6e], "OUTS", IoplSensitive),
        (&[0xf4], "HLT", Privileged),
        (&[0x0f, 0x01, 0x17], "LGDT", Privileged),
        (&[0x0f, 0x01, 0x1f], "LIDT", Privileged),
        (&[0x0f, 0x01, 0xf0], "LMSW", Privileged),
        (&[0x0f, 0x20, 0xc0], "MOV (control register)", Privileged),
        (&[0x0f, 0x22, 0xd8], "MOV (control register)", Privileged),
        (&[0x0f, 0x23, 0xf8], "MOV (debug register)", Privileged),
        (&[0x0f, 0x30], "WRMSR", Privileged),
        (&[0x0f, 0x32], "RDMSR", Privileged),
        (&[0x0f, 0x01, 0x3f], "INVLPG", Privileged),
        (&[0x0f, 0x09], "WBINVD", Privileged),
        (&[0x0f, 0x01, 0xcb], "STAC", Privileged),
        (&[0x0f, 0x01, 0xd9], "VMMCALL", Privileged),
        (&[0x0f, 0xa2], "CPUID", Sensitive),
        (&[0x0f, 0x31], "RDTSC", Sensitive),
        (&[0xcf], "IRET", Sensitive),
        (&[0xcc], "INT1/INT3/INTO", Sensitive),
        (&[0xf1], "INT1/INT3/INTO", Sensitive),
        (&[0x0f, 0xb2, 0x03], "LDS/LES/LFS/LGS/LSS", Sensitive),
    ];
    for &(bytes, expected, class) in rows {
        for bitness in [16, 32, 64] {
            let entry = classify(&decode(bitness, bytes)).unwrap_or_else(|| panic!("{expected} {bitness}"));
            assert_eq!((entry.name, entry.class), (expected, class), "{bitness}");
        }
    }
    assert_eq!(name(64, &[0x0f, 0x05]), Some("SYSCALL"));
    assert_eq!(name(64, &[0x0f, 0x01, 0xf8]), Some("SWAPGS"));
    assert_eq!(name(32, &[0xce]), Some("INT1/INT3/INTO"));
}

#[test]
fn harmless_instructions_are_not_in_the_table() {
    let rows: &[&[u8]] = &[
        &[0x90],
        &[0x89, 0xc8],
        &[0x8b, 0x03],
        &[0x50],
        &[0x58],
        &[0x68, 1, 0, 0, 0],
        &[0xe8, 0, 0, 0, 0],
        &[0xeb, 0],
        &[0xff, 0x13],
        &[0xff, 0x23],
        &[0xc3],
        &[0x0f, 0x0b],
        &[0x0f, 0xae, 0x03],
    ];
    for bytes in rows {
        assert_eq!(name(64, bytes), None, "{bytes:x?}");
        assert_eq!(name(32, bytes), None, "{bytes:x?}");
    }
}

#[test]
fn every_entry_tells_what_happens_and_where_it_is_written() {
    for entry in TABLE {
        assert!(!entry.at_user_level.is_empty() && !entry.mnemonics.is_empty(), "{}", entry.name);
        assert!(entry.citation.starts_with("SDM ") || entry.citation.starts_with("APM "), "{}", entry.name);
        assert!(entry.robin_irvine.is_none() || entry.class == Class::Sensitive, "{}", entry.name);
    }
}
