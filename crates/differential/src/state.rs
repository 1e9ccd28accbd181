//! The registers and the memory that a sequence starts with, made from a seed.

use std::sync::OnceLock;

use x86::{FpuState, Gpr, Rflags, X87State};

use crate::layout::{DATA, FILLER, PAGE, RIGHTS, STACK, STACK_END, WINDOW_SIZE};
use crate::rng::Rng;

/// Whether the code is 64-bit or 32-bit (compatibility mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 64-bit mode.
    B64,
    /// Compatibility mode, 32-bit code.
    B32,
}

impl Bits {
    /// 64 or 32.
    pub const fn count(self) -> u32 {
        match self {
            Self::B64 => 64,
            Self::B32 => 32,
        }
    }

    /// General-purpose registers that the code can name.
    pub const fn registers(self) -> usize {
        match self {
            Self::B64 => 16,
            Self::B32 => 8,
        }
    }

    /// The bits of a general-purpose register that the code can see.
    pub const fn mask(self) -> u64 {
        match self {
            Self::B64 => u64::MAX,
            Self::B32 => 0xffff_ffff,
        }
    }
}

/// Parts of the initial state that are plain instead of random, which makes a
/// failure easier to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain(pub u8);

impl Plain {
    /// x87 and vector registers are as after FNINIT and zero.
    pub const FPU: u8 = 1;
    /// Flags are clear.
    pub const FLAGS: u8 = 2;
    /// Registers that are no pointers are zero.
    pub const GPRS: u8 = 4;

    /// Whether `part` is plain.
    pub const fn has(self, part: u8) -> bool {
        self.0 & part != 0
    }
}

/// The registers of user code.
#[derive(Clone, Debug, PartialEq)]
pub struct Registers {
    /// General-purpose registers, indexed by [`Gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// x87 and vector registers.
    pub fpu: FpuState,
}

/// Registers that start as pointers into the data pages, and that sequences
/// seldom overwrite.
pub(crate) const POINTERS: [Gpr; 6] = [Gpr::Rbx, Gpr::Rbp, Gpr::Rsi, Gpr::Rdi, Gpr::R12, Gpr::R13];

/// The first of eight vector registers that start with small numbers, good as
/// indices of gathers.
pub(crate) const INDEX_REGISTERS: usize = 8;

impl Registers {
    /// The registers that belong to `seed`, with RIP at `rip`.
    pub fn from_seed(seed: u64, bits: Bits, plain: Plain, rip: u64) -> Self {
        let mut rng = Rng::new(seed);
        let gpr = general(&mut rng, plain);
        let rflags = flags(&mut rng, plain);
        let fpu = if plain.has(Plain::FPU) { plain_fpu() } else { random_fpu(&mut rng) };
        Self { gpr: gpr.map(|value| value & bits.mask()), rip, rflags, fpu }
    }
}

fn general(rng: &mut Rng, plain: Plain) -> [u64; 16] {
    let mut gpr = [0; 16].map(|_: u64| rng.interesting());
    if plain.has(Plain::GPRS) {
        gpr = [0; 16];
    }
    for pointer in POINTERS {
        let near_end = rng.chance(1, 6);
        let offset = if near_end { 2 * PAGE - rng.below(64) } else { rng.below(0x70) * 64 };
        gpr[pointer as usize] = DATA + offset;
    }
    gpr[Gpr::Rsp as usize] = match rng.below(24) {
        0 => STACK + rng.below(5) * 8,
        1 => STACK_END - rng.below(5) * 8,
        2 => STACK + PAGE + rng.below(16),
        _ => STACK + PAGE / 2 + rng.below(0x100) * 8,
    };
    gpr
}

fn flags(rng: &mut Rng, plain: Plain) -> u64 {
    let status = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF | Rflags::SF | Rflags::OF;
    let random = rng.next_u64() & status.bits();
    let down = if rng.chance(1, 8) { Rflags::DF.bits() } else { 0 };
    let fixed = (Rflags::FIXED | Rflags::IF).bits();
    if plain.has(Plain::FLAGS) { fixed } else { fixed | random | down }
}

fn plain_fpu() -> FpuState {
    FpuState { x87: X87State::INIT, ..FpuState::RESET }
}

fn random_fpu(rng: &mut Rng) -> FpuState {
    let mut fpu = plain_fpu();
    for (index, zmm) in fpu.zmm.iter_mut().enumerate() {
        let style = if (INDEX_REGISTERS..INDEX_REGISTERS + 8).contains(&index) { 4 } else { rng.below(4) };
        for chunk in zmm.0.chunks_exact_mut(8) {
            chunk.copy_from_slice(&lane(rng, style).to_le_bytes());
        }
    }
    for k in &mut fpu.k {
        *k = rng.interesting();
    }
    fpu.mxcsr = mxcsr(rng);
    fpu.x87 = random_x87(rng);
    fpu
}

/// Eight bytes of a vector register.
fn lane(rng: &mut Rng, style: u64) -> u64 {
    match style {
        0 => rng.next_u64(),
        1 => u64::from(rng.float32()) | u64::from(rng.float32()) << 32,
        2 => rng.float64(),
        3 => rng.interesting(),
        _ => {
            let high = if rng.chance(1, 2) { 0 } else { rng.below(0x100) };
            rng.below(0x100) | high << 32
        }
    }
}

fn mxcsr(rng: &mut Rng) -> u32 {
    let masks = if rng.chance(1, 8) { (rng.next_u64() as u32) & 0x1f80 } else { 0x1f80 };
    let modes = if rng.chance(1, 3) { (rng.next_u64() as u32) & 0xe040 } else { 0 };
    let sticky = if rng.chance(1, 3) { (rng.next_u64() as u32) & 0x3f } else { 0 };
    masks | modes | sticky
}

fn random_x87(rng: &mut Rng) -> X87State {
    let mut x87 = X87State::INIT;
    let masks = if rng.chance(1, 8) { (rng.next_u64() as u16) & 0x3f } else { 0x3f };
    let control = if rng.chance(1, 3) {
        rng.pick(&[0x000, 0x200, 0x300]) | ((rng.below(4) as u16) << 10)
    } else {
        0x300
    };
    x87.fcw = 0x40 | masks | control;
    x87.fsw = (rng.next_u64() as u16) & 0x7f00;
    x87.ftw = if rng.chance(1, 2) { 0xff } else { rng.next_u64() as u8 };
    for st in &mut x87.st {
        let value = extended(rng);
        st[..10].copy_from_slice(&value);
    }
    x87
}

/// An 80-bit number: mostly normal, sometimes anything.
fn extended(rng: &mut Rng) -> [u8; 10] {
    let sign = (rng.next_u64() as u16) & 0x8000;
    let (exponent, mantissa) = match rng.below(8) {
        0 => (rng.next_u64() as u16 & 0x7fff, rng.next_u64()),
        1 => (0, rng.interesting()),
        2 => (0x7fff, rng.interesting() | 1 << 63),
        3 => (0x3fff, 1 << 63),
        _ => (0x3ff0 + rng.below(32) as u16, rng.next_u64() | 1 << 63),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
    bytes
}

/// How many different contents of memory there are.
const IMAGES: u64 = 16;

/// The window's contents that belong to `seed`, without the code.
pub(crate) fn memory_image(seed: u64) -> &'static [u8] {
    static CACHE: [OnceLock<Vec<u8>>; IMAGES as usize] = [const { OnceLock::new() }; IMAGES as usize];
    let which = seed % IMAGES;
    CACHE[which as usize].get_or_init(|| make_image(which))
}

fn make_image(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ 0x6d65_6d6f_7279);
    let mut bytes = vec![FILLER; WINDOW_SIZE];
    for (index, chunk) in bytes.chunks_exact_mut(64).enumerate() {
        if RIGHTS[index * 64 / PAGE as usize].executes() {
            continue;
        }
        let style = rng.below(6);
        for lane_bytes in chunk.chunks_exact_mut(8) {
            let value = if style == 5 { DATA + rng.below(0x3f0) * 8 } else { lane(&mut rng, style) };
            lane_bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CODE, WINDOW};

    #[test]
    fn registers_follow_from_the_seed() {
        let make = |seed| Registers::from_seed(seed, Bits::B64, Plain::default(), CODE);
        assert_eq!(make(5), make(5));
        assert_ne!(make(5).gpr, make(6).gpr);
    }

    #[test]
    fn plain_parts_are_plain() {
        let state = Registers::from_seed(9, Bits::B64, Plain(7), CODE);
        assert_eq!(state.rflags, 0x202);
        assert_eq!(state.gpr[Gpr::Rax as usize], 0);
        assert_eq!(state.fpu.zmm[3].0, [0; 64]);
    }

    #[test]
    fn code_pages_are_filled_with_breakpoints() {
        let image = memory_image(3);
        let start = (CODE - WINDOW) as usize;
        assert!(image[start..start + 2 * PAGE as usize].iter().all(|&byte| byte == FILLER));
    }
}
