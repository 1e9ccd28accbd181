//! Sequences that change themselves: stores into the instructions ahead, into
//! a loop's own body, and into data that lies in a page of code.

use super::pieces::{Piece, Pieces};
use crate::layout::{PAGE, SELF};
use crate::rng::Rng;
use crate::state::Bits;

/// Instructions of one byte that stand for one another: NOP, CMC, CLC, STC,
/// CWDE, CDQ.
const SHORT: [u8; 6] = [0x90, 0xf5, 0xf8, 0xf9, 0x98, 0x99];
/// From `ADD EAX, EBX` to `SUB EAX, EBX` and back.
const ADD: [u8; 2] = [0x01, 0xd8];
const ADD_TO_SUB: u8 = 0x28;

/// Somewhere in the code that can be written, mostly away from the sequence.
pub(super) fn beside_code(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => SELF + rng.below(2 * PAGE - 64),
        1 => SELF + PAGE - 1 - rng.below(16),
        _ => SELF + 0x600 + rng.below(0x8_00),
    }
}

fn shorts(rng: &mut Rng) -> [u8; 4] {
    [(); 4].map(|()| rng.pick(&SHORT))
}

/// ModRM with SIB where it takes one, for register field `reg` and a
/// displacement of 32 bits without registers.
fn absolute(bits: Bits, reg: u8) -> Vec<u8> {
    match bits {
        Bits::B64 => vec![reg << 3 | 4, 0x25],
        Bits::B32 => vec![reg << 3 | 5],
    }
}

impl Pieces {
    /// A store into what is added after `between`: that must be executed as it
    /// is by then.
    pub(super) fn modify_ahead(&mut self, rng: &mut Rng, between: impl FnOnce(&mut Self, &mut Rng)) {
        self.define_flags(rng);
        let from = self.len();
        let kind = rng.below(8);
        match kind {
            0 => self.store_short(rng),
            1 => self.store_shorts(rng),
            2 => self.fill_with_short(rng),
            3 => self.store_from_vector(rng),
            4 => self.store(&[0x89], 0, &[]),
            5 => self.store(&[0x83], 0, &[rng.next_u64() as u8]),
            6 => self.store(&[0xf0, 0x0f, 0xc1], 3, &[]),
            _ => self.store(&[0xc6], 0, &[rng.next_u64() as u8]),
        }
        let to = self.len();
        between(self, rng);
        self.define_flags(rng);
        let target = self.len();
        if kind < 4 {
            self.push(Piece::Bytes(shorts(rng).repeat(2)));
        } else {
            self.changed_immediate(rng);
        }
        self.aim(from..to, target, if kind < 4 { rng.below(4) } else { 2 });
    }

    /// `MOV BYTE PTR [target], short`.
    fn store_short(&mut self, rng: &mut Rng) {
        let short = rng.pick(&SHORT);
        self.store(&[0xc6], 0, &[short]);
    }

    /// `MOV DWORD PTR [target], shorts`.
    fn store_shorts(&mut self, rng: &mut Rng) {
        let shorts = shorts(rng);
        self.store(&[0xc7], 0, &shorts);
    }

    /// `REP STOSB` to the target.
    fn fill_with_short(&mut self, rng: &mut Rng) {
        self.push(Piece::Address { opcode: vec![0xbf], target: 0, offset: 0 });
        self.set(x86::Gpr::Rcx, rng.below(5));
        self.bytes(&[0xb0, rng.pick(&SHORT)]);
        self.bytes(&[0xf3, 0xaa]);
    }

    /// Four short instructions by way of XMM0.
    fn store_from_vector(&mut self, rng: &mut Rng) {
        self.set(x86::Gpr::Rax, u32::from_le_bytes(shorts(rng)).into());
        self.bytes(&[0x66, 0x0f, 0x6e, 0xc0]);
        self.store(&[0x66, 0x0f, 0x7e], 0, &[]);
    }

    /// An instruction with an immediate of four bytes at its end.
    fn changed_immediate(&mut self, rng: &mut Rng) {
        let opcode: &[u8] = rng.pick(&[&[0x69, 0xc3], &[0x81, 0xc0], &[0xc7, 0xc2], &[0x81, 0xf1]]);
        let value = (rng.next_u64() as u32).to_le_bytes();
        self.push(Piece::Bytes([opcode, &value].concat()));
        self.define_flags(rng);
    }

    /// An instruction that stores at a target still to be set.
    fn store(&mut self, opcode: &[u8], reg: u8, immediate: &[u8]) {
        let opcode = [opcode, &absolute(self.bits, reg)].concat();
        self.push(Piece::Store { opcode, target: 0, offset: 0, immediate: immediate.to_vec() });
    }

    /// A loop that turns an addition in its body into a subtraction and back.
    pub(super) fn modify_loop(&mut self, rng: &mut Rng, between: impl FnOnce(&mut Self, &mut Rng)) {
        self.set(x86::Gpr::Rcx, 2 + rng.below(4));
        let start = self.len();
        let add_first = rng.chance(1, 2);
        if add_first {
            self.bytes(&ADD);
        }
        let store = self.len();
        self.store(&[0x80], 6, &[ADD_TO_SUB]);
        between(self, rng);
        let target = if add_first { start } else { self.len() };
        if !add_first {
            self.bytes(&ADD);
        }
        self.aim(store..store + 1, target, 0);
        self.push(Piece::Branch { opcode: vec![0xe2], wide: false, target: start });
    }
}
