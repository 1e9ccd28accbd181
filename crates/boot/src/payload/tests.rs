use std::io::Write;

use super::*;
use crate::testing::bzimage_with_payload;

/// Compressible, yet not trivial, and longer than one of LZ4's copies.
fn sample() -> Vec<u8> {
    (0..300_000_u32).map(|i| ((i / 7) ^ (i >> 9)) as u8).collect()
}

fn lzop(data: &[u8]) -> Vec<u8> {
    let mut file = b"\x89LZO\0\r\n\x1a\n".to_vec();
    file.extend_from_slice(&[0x10, 0x30, 0x20, 0xa0, 0x09, 0x40, 3, 9, 0, 0, 0, 1]);
    file.extend_from_slice(&[0; 12]);
    file.extend_from_slice(&[1, b'x', 0, 0, 0, 0]);
    for block in data.chunks(256 << 10) {
        let packed = lzokay::compress::compress(block).unwrap();
        file.extend_from_slice(&(block.len() as u32).to_be_bytes());
        file.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&packed);
    }
    file.extend_from_slice(&[0; 4]);
    file
}

fn lz4_legacy(data: &[u8]) -> Vec<u8> {
    let mut file = lz4::MAGIC.to_vec();
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        file.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        file.extend_from_slice(&packed);
    }
    file
}

fn packed(format: Compression, data: &[u8]) -> Vec<u8> {
    let finish = "compression into memory";
    match format {
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(data).and_then(|()| writer.finish()).expect(finish)
        }
        Compression::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(data).and_then(|()| writer.finish()).expect(finish)
        }
        Compression::Lzma => {
            let options = lzma_rust2::LzmaOptions::with_preset(1);
            let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            writer.write_all(data).unwrap();
            writer.finish().unwrap()
        }
        Compression::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(data).unwrap();
            writer.finish().unwrap()
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Lzo => lzop(data),
        Compression::Lz4 => lz4_legacy(data),
        Compression::None => data.to_vec(),
    }
}

/// A bzImage around a payload, with the length appended as Linux's build does.
fn kernel(format: Compression, data: &[u8]) -> Vec<u8> {
    let mut payload = packed(format, data);
    if !matches!(format, Compression::Gzip | Compression::None) {
        payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
    }
    bzimage_with_payload(&payload)
}

/// The data packed in every way, with the length appended.
pub(crate) fn all_packed(data: &[u8]) -> Vec<Vec<u8>> {
    let with_len = |format| [packed(format, data), (data.len() as u32).to_le_bytes().to_vec()].concat();
    Compression::MAGICS.iter().map(|&(_, format)| with_len(format)).collect()
}

#[test]
fn every_format_unpacks() {
    let data = sample();
    for (_, format) in Compression::MAGICS.into_iter().filter(|&(_, format)| format != Compression::None) {
        let kernel = kernel(format, &data);
        assert_eq!(find(&kernel).unwrap().format, format);
        let unpacked = unpack(&kernel, data.len()).unwrap_or_else(|error| panic!("{format}: {error:?}"));
        assert!(unpacked == data, "{format}");
        assert!(matches!(unpack(&kernel, data.len() - 1), Err(PayloadError::TooLarge(_))), "{format}");
    }
    let elf = crate::testing::pvh_elf(true);
    assert_eq!(unpack(&kernel(Compression::None, &elf), 1 << 20).unwrap(), elf);
}

#[test]
fn lying_lengths_are_noticed() {
    let data = sample();
    for (_, format) in Compression::MAGICS.into_iter().filter(|&(_, format)| format != Compression::None) {
        let kernel = kernel(format, &data);
        let payload = find(&kernel).unwrap();
        let short = Payload { unpacked_len: Some(5), ..payload };
        assert!(matches!(short.unpack(data.len()), Err(PayloadError::WrongSize { need: 5, .. })), "{format}");
        let silent = Payload { unpacked_len: None, ..payload };
        assert!(matches!(silent.unpack(1000), Err(PayloadError::TooLarge(1000))), "{format}");
        let cut = Payload { data: &payload.data[..payload.data.len() / 2], ..payload };
        assert!(cut.unpack(1 << 20).is_err(), "{format}");
    }
}

#[test]
fn damage_is_reported_as_such() {
    assert!(matches!(find(&bzimage_with_payload(b"what is this?")), Err(PayloadError::UnknownFormat(_))));
    assert!(matches!(find(&bzimage_with_payload(b"BZh")), Err(PayloadError::UnknownFormat(_))));
    assert!(matches!(find(&bzimage_with_payload(b"")), Err(PayloadError::NotDescribed)));
    assert!(matches!(find(b"\x7fELF"), Err(PayloadError::Image(_))));
    let mut kernel = bzimage_with_payload(&packed(Compression::Xz, b"data"));
    crate::testing::put(&mut kernel, 0x248, &u32::MAX.to_le_bytes());
    assert!(matches!(find(&kernel), Err(PayloadError::Image(crate::BootError::Truncated { .. }))));
}
