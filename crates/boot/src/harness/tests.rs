use super::*;
use crate::testing::{bzimage, bzimage_with_payload, multiboot_elf, multiboot_flat, pvh_elf};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Values that sit at the edges of checks.
const EDGES: [u64; 12] = [
    0,
    1,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x10_0000,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes a few bytes or fields, or cuts the file, mostly near its start
/// where the headers are.
fn mutate(file: &mut Vec<u8>, headers: usize, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let region = if random.below(8) == 0 { file.len() } else { headers.min(file.len()) };
        let at = random.below(region);
        match random.below(10) {
            0 => file.truncate(at),
            1..=5 => {
                let value = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                for (to, from) in file.iter_mut().skip(at).zip(&value[..width]) {
                    *to = *from;
                }
            }
            _ => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
}

#[test]
fn mutated_kernels_never_break_a_loader() {
    let memory = GuestMemory::new(MEMORY_SIZE).unwrap();
    let flat = multiboot_flat([0x20_0020, 0x20_0000, 0x20_0100, 0x20_1000, 0x20_0040]);
    let originals: [(Vec<u8>, usize); 5] = [
        (bzimage(), 0x270),
        (pvh_elf(true), 0x1d0),
        (pvh_elf(false), 0x1d0),
        (multiboot_elf(3), 0x250),
        (flat, 0x40),
    ];
    let mut random = Random(1);
    for round in 0..40_000 {
        let (original, headers) = &originals[round % originals.len()];
        let mut file = original.clone();
        mutate(&mut file, *headers, &mut random);
        loaders(&memory, &file);
    }
}

#[test]
fn random_bytes_never_break_a_loader() {
    let memory = GuestMemory::new(MEMORY_SIZE).unwrap();
    let mut random = Random(2);
    for _ in 0..10_000 {
        let len = random.below(2000);
        let file: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        loaders(&memory, &file);
        payloads(&file);
    }
}

#[test]
fn mutated_payloads_never_break_a_decompressor() {
    let data: Vec<u8> = (0..3000_u32).map(|i| (i / 5) as u8).collect();
    let packed = crate::payload::tests::all_packed(&data);
    let mut random = Random(3);
    for round in 0..10_000 {
        let mut payload = packed[round % packed.len()].clone();
        let len = payload.len();
        mutate(&mut payload, len, &mut random);
        payloads(&bzimage_with_payload(&payload));
    }
}
