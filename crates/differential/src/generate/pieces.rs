//! What sequences are put together from: instructions, branches among them,
//! and instructions with the preparation that makes them useful.

use iced_x86::Instruction;

use super::{encode, instruction_at};
use crate::layout::{CODE, DATA, PAGE, READ_ONLY, STACK};
use crate::rng::Rng;
use crate::state::Bits;

/// A part of a sequence.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// An instruction whose encoding may depend on its address.
    Plain(Instruction),
    /// Bytes that mean the same everywhere.
    Bytes(Vec<u8>),
    /// A branch to the piece with number `target`.
    Branch { opcode: Vec<u8>, wide: bool, target: usize },
    /// An opcode with the 32-bit address of a piece.
    Address { opcode: Vec<u8>, target: usize, offset: u64 },
    /// An opcode with the 32-bit address of a piece, and an immediate.
    Store { opcode: Vec<u8>, target: usize, offset: u64, immediate: Vec<u8> },
}

/// A sequence that grows.
pub(super) struct Pieces {
    pub(super) bits: Bits,
    pieces: Vec<Piece>,
    /// Flags that the last instructions have left undefined, in iced-x86's
    /// bits.
    undefined: u32,
}

impl Pieces {
    pub(super) fn new(bits: Bits) -> Self {
        Self { bits, pieces: Vec::new(), undefined: 0 }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        if let Piece::Plain(instruction) = &piece {
            self.note_flags(instruction);
        } else if let Piece::Bytes(bytes) = &piece {
            self.note_flags(&instruction_at(bytes, self.bits, CODE));
        }
        self.pieces.push(piece);
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Makes the stores and addresses among `pieces` lead `bytes` into piece
    /// `to`.
    pub(super) fn aim(&mut self, pieces: std::ops::Range<usize>, to: usize, bytes: u64) {
        for piece in &mut self.pieces[pieces] {
            if let Piece::Address { target, offset, .. } | Piece::Store { target, offset, .. } = piece {
                (*target, *offset) = (to, bytes);
            }
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.push(Piece::Bytes(bytes.to_vec()));
    }

    fn note_flags(&mut self, instruction: &Instruction) {
        self.undefined &=
            !(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set());
        self.undefined |= instruction.rflags_undefined();
    }

    /// Defines all flags, by a comparison, if `instruction` reads one that is
    /// undefined.
    pub(super) fn define_flags_for(&mut self, instruction: &Instruction, rng: &mut Rng) {
        if instruction.rflags_read() & self.undefined != 0 {
            self.define_flags(rng);
        }
    }

    pub(super) fn define_flags(&mut self, rng: &mut Rng) {
        // CMP AL, imm8
        self.bytes(&[0x3c, rng.next_u64() as u8]);
    }

    /// `MOV r32, imm32`.
    pub(super) fn set(&mut self, register: x86::Gpr, value: u64) {
        let mut bytes = vec![0xb8 + (register as u8 & 7)];
        bytes.extend((value as u32).to_le_bytes());
        self.bytes(&bytes);
    }

    /// A string instruction, its registers prepared most of the time.
    pub(super) fn string(&mut self, rng: &mut Rng) {
        let opcode = rng.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);
        if rng.chance(1, 4) {
            let direction = rng.pick(&[0xfc, 0xfd]);
            self.bytes(&[direction]);
        }
        for register in [x86::Gpr::Rsi, x86::Gpr::Rdi] {
            if rng.chance(4, 5) {
                let value = string_place(rng);
                self.set(register, value);
            }
        }
        let count = match rng.below(16) {
            0 => rng.interesting(),
            1 | 2 => rng.below(0x900),
            3 => 0,
            _ => rng.below(40),
        };
        self.set(x86::Gpr::Rcx, count);
        let mut bytes = Vec::new();
        if rng.chance(1, 12) {
            bytes.push(0x67);
        }
        if rng.chance(1, 4) {
            bytes.push(0x66);
        }
        if rng.chance(3, 4) {
            bytes.push(rng.pick(&[0xf2, 0xf3]));
        }
        if self.bits == Bits::B64 && rng.chance(1, 3) {
            bytes.push(0x48);
        }
        bytes.push(opcode);
        self.bytes(&bytes);
    }

    /// XLAT, MASKMOVQ and MASKMOVDQU.
    pub(super) fn implicit_memory(&mut self, rng: &mut Rng) {
        let place = string_place(rng);
        if rng.chance(1, 2) {
            self.set(x86::Gpr::Rbx, place);
            self.bytes(&[0xd7]);
        } else {
            self.set(x86::Gpr::Rdi, place);
            let registers = 0xc0 | rng.below(64) as u8;
            let wide: &[u8] = if rng.chance(1, 2) { &[0x66] } else { &[] };
            self.bytes(&[wide, &[0x0f, 0xf7, registers]].concat());
        }
    }

    /// A branch, a call or a return, forward over at most a few pieces; or a
    /// short loop.
    pub(super) fn branch(&mut self, rng: &mut Rng) {
        if self.undefined & FLAGS_OF_CONDITIONS != 0 {
            self.define_flags(rng);
        }
        let here = self.pieces.len();
        let ahead = |pieces: usize, rng: &mut Rng| here + pieces + rng.below(3) as usize;
        let relative = |opcode: &[u8], wide, target| Piece::Branch { opcode: opcode.to_vec(), wide, target };
        let condition = rng.below(16) as u8;
        match rng.below(10) {
            0 | 1 => self.push(relative(&[0x70 | condition], false, ahead(1, rng))),
            2 => self.push(relative(&[0x0f, 0x80 | condition], true, ahead(1, rng))),
            3 => self.push(relative(&[0xeb], false, ahead(1, rng))),
            4 => self.push(relative(&[0xe8], true, ahead(1, rng))),
            5 => self.push(relative(&[rng.pick(&[0xe0, 0xe1, 0xe2, 0xe3])], false, ahead(1, rng))),
            6 => self.indirect(&[0xff, 0xe0], ahead(2, rng)),
            7 => self.indirect(&[0xff, 0xd0], ahead(2, rng)),
            8 => {
                let target = ahead(2, rng);
                self.push(Piece::Address { opcode: vec![0x68], target, offset: 0 });
                let plain = rng.chance(2, 3);
                self.bytes(if plain { &[0xc3] } else { &[0xc2, 0x18, 0x00] });
            }
            _ => {
                self.set(x86::Gpr::Rcx, 1 + rng.below(5));
                // INC or ADD something, and round again.
                let body: &[u8] = rng.pick(&[&[0xff, 0xc0], &[0x01, 0xd8], &[0x11, 0xd2], &[0xd1, 0xd0]]);
                self.bytes(body);
                self.push(relative(&[rng.pick(&[0xe0, 0xe1, 0xe2])], false, here + 1));
            }
        }
    }

    /// `MOV EAX, address` and a jump or call through it.
    fn indirect(&mut self, opcode: &[u8], target: usize) {
        self.push(Piece::Address { opcode: vec![0xb8], target, offset: 0 });
        self.bytes(opcode);
    }

    /// Bytes of the whole sequence.
    pub(super) fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| self.piece_length(piece)).sum()
    }

    fn piece_length(&self, piece: &Piece) -> u64 {
        let length = match piece {
            Piece::Plain(instruction) => encode(instruction, self.bits, CODE).map_or(0, |bytes| bytes.len()),
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Branch { opcode, wide, .. } => opcode.len() + if *wide { 4 } else { 1 },
            Piece::Address { opcode, .. } => opcode.len() + 4,
            Piece::Store { opcode, immediate, .. } => opcode.len() + 4 + immediate.len(),
        };
        length as u64
    }

    /// The sequence at the address `at`.
    pub(super) fn encode(&self, at: u64) -> Vec<u8> {
        let mut starts = vec![at];
        for piece in &self.pieces {
            starts.push(starts[starts.len() - 1] + self.piece_length(piece));
        }
        let address = |target: usize| starts[target.min(starts.len() - 1)];
        let mut code = Vec::new();
        for (piece, &next) in self.pieces.iter().zip(&starts[1..]) {
            let start = at + code.len() as u64;
            match piece {
                Piece::Plain(instruction) => {
                    code.extend(encode(instruction, self.bits, start).unwrap_or_default())
                }
                Piece::Bytes(bytes) => code.extend(bytes),
                Piece::Branch { opcode, wide, target } => {
                    let distance = address(*target).wrapping_sub(next) as i32;
                    code.extend(opcode);
                    code.extend(&distance.to_le_bytes()[..if *wide { 4 } else { 1 }]);
                }
                Piece::Address { opcode, target, offset } => {
                    code.extend(opcode);
                    code.extend(((address(*target) + offset) as u32).to_le_bytes());
                }
                Piece::Store { opcode, target, offset, immediate } => {
                    code.extend(opcode);
                    code.extend(((address(*target) + offset) as u32).to_le_bytes());
                    code.extend(immediate);
                }
            }
        }
        code
    }
}

/// Flags that conditions look at, in iced-x86's bits.
const FLAGS_OF_CONDITIONS: u32 = iced_x86::RflagsBits::OF
    | iced_x86::RflagsBits::SF
    | iced_x86::RflagsBits::ZF
    | iced_x86::RflagsBits::CF
    | iced_x86::RflagsBits::PF;

/// Where a string may start: in the data pages, near their borders, elsewhere.
fn string_place(rng: &mut Rng) -> u64 {
    match rng.below(12) {
        0 => DATA + PAGE - rng.below(64),
        1 => DATA + 2 * PAGE - rng.below(64),
        2 => DATA + rng.below(64),
        3 => READ_ONLY + rng.below(2 * PAGE),
        4 => STACK + rng.below(2 * PAGE),
        _ => DATA + rng.below(2 * PAGE - 0x100),
    }
}
