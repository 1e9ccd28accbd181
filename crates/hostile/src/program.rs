//! Instruction streams: pure noise, and instructions built opcode by opcode so
//! that every one that the decoder knows gets its turn.

use std::sync::OnceLock;

use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, MandatoryPrefix, OpCodeInfo, OpCodeTableKind};

use super::dice::Dice;

/// All opcodes.
fn codes() -> &'static [Code] {
    static CODES: OnceLock<Vec<Code>> = OnceLock::new();
    CODES.get_or_init(|| Code::values().filter(|&code| code != Code::INVALID).collect())
}

/// Fills `bytes` with a program for code of `bitness` bits.
pub(crate) fn fill(dice: &mut Dice, bitness: u32, bytes: &mut [u8]) {
    if dice.one_in(3) {
        dice.fill(bytes);
        return;
    }
    let mut at = 0;
    while at < bytes.len() {
        let code = dice.pick(codes());
        if !exists(code.op_code(), bitness) {
            continue;
        }
        let instruction = instruction(dice, code, bitness);
        let count = instruction.len().min(bytes.len() - at);
        bytes[at..at + count].copy_from_slice(&instruction[..count]);
        at += count;
    }
}

fn exists(info: &OpCodeInfo, bitness: u32) -> bool {
    let mode = match bitness {
        16 => info.mode16(),
        32 => info.mode32(),
        _ => info.mode64(),
    };
    mode && info.is_instruction()
}

/// One instruction with random operands.
pub(crate) fn instruction(dice: &mut Dice, code: Code, bitness: u32) -> Vec<u8> {
    let info = code.op_code();
    let mut bytes = Vec::new();
    if dice.one_in(8) {
        bytes.push(dice.pick(&[0xf0, 0xf2, 0xf3, 0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65]));
    }
    match info.encoding() {
        EncodingKind::VEX | EncodingKind::XOP => three_byte_prefix(dice, info, &mut bytes),
        EncodingKind::EVEX | EncodingKind::MVEX => four_byte_prefix(dice, info, &mut bytes),
        _ => legacy_prefixes(dice, info, bitness, &mut bytes),
    }
    let opcode = info.op_code();
    let three_d_now = info.encoding() == EncodingKind::D3NOW;
    if !three_d_now {
        if info.op_code_len() == 2 {
            bytes.push((opcode >> 8) as u8);
        }
        bytes.push(opcode as u8);
    }
    if info.op_code_len() < 2 || three_d_now {
        bytes.push(modrm(dice, info));
    }
    tail(dice, &mut bytes);
    if three_d_now {
        bytes.push(opcode as u8);
    }
    let mut decoder = Decoder::new(bitness, &bytes, DecoderOptions::NONE);
    let len = decoder.decode().len().clamp(1, bytes.len());
    bytes.truncate(len);
    bytes
}

fn legacy_prefixes(dice: &mut Dice, info: &OpCodeInfo, bitness: u32, bytes: &mut Vec<u8>) {
    if info.fwait() {
        bytes.push(0x9b);
    }
    let operand = info.operand_size();
    if operand != 0 && operand != 64 && (operand == 16) != (bitness == 16) {
        bytes.push(0x66);
    }
    let address = info.address_size();
    if address != 0 && address != bitness {
        bytes.push(0x67);
    }
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => bytes.push(0x66),
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        _ => {}
    }
    if bitness == 64 && (operand == 64 || dice.one_in(2)) {
        let wide = operand == 64 || operand == 0 && info.w() == 1;
        bytes.push(0x40 | u8::from(wide) << 3 | dice.below(8) as u8);
    }
    match info.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
        OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
        _ => {}
    }
    if info.encoding() == EncodingKind::D3NOW {
        bytes.extend([0x0f, 0x0f]);
    }
}

/// The two bits that stand for a mandatory prefix.
fn pp(info: &OpCodeInfo) -> u8 {
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    }
}

fn map(info: &OpCodeInfo) -> u8 {
    match info.table() {
        OpCodeTableKind::T0F => 1,
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        OpCodeTableKind::MAP5 => 5,
        OpCodeTableKind::MAP6 => 6,
        OpCodeTableKind::MAP8 => 8,
        OpCodeTableKind::MAP9 => 9,
        OpCodeTableKind::MAP10 => 10,
        _ => 0,
    }
}

fn w(dice: &mut Dice, info: &OpCodeInfo) -> u8 {
    if info.is_wig() { dice.below(2) as u8 } else { info.w() as u8 }
}

fn three_byte_prefix(dice: &mut Dice, info: &OpCodeInfo, bytes: &mut Vec<u8>) {
    let registers = dice.pick(&[0xe0, 0xe0, 0xc0, 0xa0, 0x80, 0x60, 0x40, 0x20, 0]);
    bytes.push(if info.encoding() == EncodingKind::XOP { 0x8f } else { 0xc4 });
    bytes.push(registers | map(info));
    let vvvv = dice.pick(&[0xf, 0xf, dice.clone().next() as u8 & 0xf]);
    bytes.push(w(dice, info) << 7 | vvvv << 3 | (info.l() as u8 & 1) << 2 | pp(info));
}

fn four_byte_prefix(dice: &mut Dice, info: &OpCodeInfo, bytes: &mut Vec<u8>) {
    let registers = dice.pick(&[0xf0, 0xf0, 0xe0, 0xd0, 0xb0, 0x70, 0x10, 0]);
    let vvvv = dice.pick(&[0xf, 0xf, dice.clone().next() as u8 & 0xf]);
    let (mask, high) = (dice.below(8) as u8, dice.pick(&[8, 8, 0]));
    let zeroing = if dice.one_in(4) { 0x80 } else { 0 };
    let broadcast = if dice.one_in(4) { 0x10 } else { 0 };
    bytes.extend([
        0x62,
        registers | map(info),
        w(dice, info) << 7 | vvvv << 3 | 4 | pp(info),
        zeroing | (info.l() as u8 & 3) << 5 | broadcast | high | mask,
    ]);
}

/// Memory operands mostly without or with a short displacement, so that they
/// reach something.
fn modrm(dice: &mut Dice, info: &OpCodeInfo) -> u8 {
    let mode = dice.pick(&[0_u8, 0, 1, 1, 2, 3, 3]);
    let reg = if info.group_index() >= 0 { info.group_index() as u8 } else { dice.below(8) as u8 };
    let rm = if info.rm_group_index() >= 0 {
        info.rm_group_index() as u8
    } else {
        dice.pick(&[0, 1, 2, 3, 4, 4, 5, 6, 7])
    };
    mode << 6 | (reg & 7) << 3 | rm & 7
}

/// SIB, displacement and immediate, whichever the instruction has.
fn tail(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let mut tail = [0; 12];
    dice.fill(&mut tail);
    if dice.one_in(2) {
        tail[2..4].fill(0);
        tail[5] = 0;
    }
    bytes.extend(tail);
}
