//! A small random generator whose sequence for a seed never changes.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e6d_62d0_6f6a_9a9b)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit.max(1)
    }

    /// True `part` times of `whole`.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// One of `items`, which is not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A 64-bit value of the kind that finds mistakes: borders, single bits,
    /// small numbers, or anything.
    pub fn interesting(&mut self) -> u64 {
        const BORDERS: [u64; 16] = [
            0,
            1,
            2,
            u64::MAX,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0x0000_8000_0000_0000,
        ];
        match self.below(8) {
            0..=2 => self.pick(&BORDERS),
            3 => 1 << self.below(64),
            4 => self.below(256),
            5 => self.below(256).wrapping_neg(),
            _ => self.next_u64(),
        }
    }

    /// The bits of a 32-bit float of an interesting kind.
    pub fn float32(&mut self) -> u32 {
        const SPECIAL: [u32; 12] = [
            0,
            0x8000_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x7f80_0001,
            1,
            0x007f_ffff,
            0x7f7f_ffff,
            0x4f00_0000,
        ];
        match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => self.next_u64() as u32,
            _ => ((self.below(20_000) as f32 - 10_000.0) / 16.0).to_bits(),
        }
    }

    /// The bits of a 64-bit float of an interesting kind.
    pub fn float64(&mut self) -> u64 {
        const SPECIAL: [u64; 12] = [
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0xbff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            1,
            0x000f_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x43e0_0000_0000_0000,
        ];
        match self.below(4) {
            0 => self.pick(&SPECIAL),
            1 => self.next_u64(),
            _ => ((self.below(20_000) as f64 - 10_000.0) / 16.0).to_bits(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut rng = Rng::new(1);
        let first = [rng.next_u64(), rng.next_u64()];
        let mut again = Rng::new(1);
        assert_eq!(first, [again.next_u64(), again.next_u64()]);
        assert_ne!(first[0], Rng::new(2).next_u64());
    }
}
