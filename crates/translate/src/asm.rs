//! A small assembler for the host code that surrounds guest instructions. It
//! knows the few instructions that the translator needs, none of which changes
//! flags unless its name says so.

/// A host register's number.
pub(crate) type Reg = u8;

pub(crate) const RAX: Reg = 0;
pub(crate) const RCX: Reg = 1;
pub(crate) const RDX: Reg = 2;
pub(crate) const RBX: Reg = 3;
pub(crate) const RSP: Reg = 4;
pub(crate) const RBP: Reg = 5;
pub(crate) const RSI: Reg = 6;
pub(crate) const RDI: Reg = 7;
pub(crate) const R8: Reg = 8;
pub(crate) const R9: Reg = 9;
pub(crate) const R10: Reg = 10;
pub(crate) const R11: Reg = 11;
pub(crate) const R12: Reg = 12;
pub(crate) const R13: Reg = 13;
pub(crate) const R14: Reg = 14;
pub(crate) const R15: Reg = 15;

/// How many bytes a displacement takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// As few as possible.
    Least,
    /// One, or four if one is not enough.
    AtLeastOne,
    /// Four.
    Four,
}

/// A memory operand of host code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mem {
    base: Option<Reg>,
    index: Option<(Reg, u8)>,
    disp: i32,
    width: Width,
}

/// `[base + disp]`.
pub(crate) const fn at(base: Reg, disp: i32) -> Mem {
    Mem { base: Some(base), index: None, disp, width: Width::Least }
}

/// How far RSP points into the context. Its low six bits are a page's number of
/// bits, so that RSP is the count with which SHRX makes page numbers.
pub(crate) const BIAS: i32 = 12;

/// The field at `disp` of the context.
pub(crate) const fn field(disp: i32) -> Mem {
    at(RSP, disp - BIAS)
}

/// The field at `disp + index << scale` of the context.
pub(crate) const fn element(index: Reg, scale: u8, disp: i32) -> Mem {
    indexed(Some(RSP), index, scale, disp - BIAS)
}

/// `[base + index << scale + disp]`.
pub(crate) const fn indexed(base: Option<Reg>, index: Reg, scale: u8, disp: i32) -> Mem {
    Mem { base, index: Some((index, scale)), disp, width: Width::Least }
}

/// `[disp]`.
pub(crate) const fn absolute(disp: i32) -> Mem {
    Mem { base: None, index: None, disp, width: Width::Least }
}

impl Mem {
    /// The same with a displacement of four bytes.
    pub(crate) const fn with_disp32(mut self) -> Self {
        self.width = Width::Four;
        self
    }

    /// The same with a displacement of one byte even if it is zero.
    pub(crate) const fn with_disp8(mut self) -> Self {
        self.width = Width::AtLeastOne;
        self
    }
}

/// An instruction's place for a branch that is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole(usize);

/// The same for a branch of two bytes: where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortHole(usize);

/// Host code in the making, for a place in the code cache that is known.
pub(crate) struct Asm {
    code: Vec<u8>,
    origin: usize,
}

impl Asm {
    /// For code that is to lie at `origin`.
    pub(crate) fn new(origin: usize) -> Self {
        Self { code: Vec::with_capacity(4096), origin }
    }

    /// Forgets the code, and starts anew at `origin`.
    pub(crate) fn restart(&mut self, origin: usize) {
        self.code.clear();
        self.origin = origin;
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.code
    }

    pub(crate) fn len(&self) -> usize {
        self.code.len()
    }

    /// Forgets what was written after the code had `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.code.truncate(len);
    }

    /// The address of the next instruction.
    pub(crate) fn here(&self) -> usize {
        self.origin + self.code.len()
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn byte(&mut self, byte: u8) {
        self.code.push(byte);
    }

    fn imm32(&mut self, value: i32) {
        self.bytes(&value.to_le_bytes());
    }

    fn modrm_reg(&mut self, reg: Reg, rm: Reg) {
        self.byte(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    fn modrm_mem(&mut self, reg: Reg, mem: Mem) {
        let field = (reg & 7) << 3;
        let small = i8::try_from(mem.disp).is_ok();
        let (mode, bytes) = match (mem.base, mem.disp, mem.width) {
            (None, ..) => (0x00, 4),
            (Some(base), 0, Width::Least) if base & 7 != 5 => (0x00, 0),
            _ if small && mem.width != Width::Four => (0x40, 1),
            _ => (0x80, 4),
        };
        match (mem.base, mem.index) {
            (Some(base), None) if base & 7 != 4 => self.byte(mode | field | base & 7),
            (base, index) => {
                let (index, scale) = index.map_or((4, 0), |(index, scale)| (index & 7, scale));
                self.byte(mode | field | 4);
                self.byte(scale << 6 | index << 3 | base.map_or(5, |base| base & 7));
            }
        }
        match bytes {
            1 => self.byte(mem.disp as u8),
            4 => self.imm32(mem.disp),
            _ => {}
        }
    }

    fn rex(&mut self, wide: bool, reg: Reg, index: Reg, base: Reg, always: bool) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 || always {
            self.byte(rex);
        }
    }

    fn op_reg(&mut self, wide: bool, opcode: &[u8], reg: Reg, rm: Reg) {
        self.rex(wide, reg, 0, rm, false);
        self.bytes(opcode);
        self.modrm_reg(reg, rm);
    }

    fn op_mem(&mut self, wide: bool, opcode: &[u8], reg: Reg, mem: Mem) {
        let index = mem.index.map_or(0, |(index, _)| index);
        self.rex(wide, reg, index, mem.base.unwrap_or(0), false);
        self.bytes(opcode);
        self.modrm_mem(reg, mem);
    }

    /// An instruction with a memory operand, a prefix and an opcode given as
    /// bytes: for the rare ones.
    pub(crate) fn raw_mem(&mut self, prefix: &[u8], wide: bool, opcode: &[u8], reg: Reg, mem: Mem) {
        self.bytes(prefix);
        self.op_mem(wide, opcode, reg, mem);
    }

    /// MOV of 64 bits between registers.
    pub(crate) fn mov(&mut self, to: Reg, from: Reg) {
        self.op_reg(true, &[0x89], from, to);
    }

    /// MOV of 32 bits between registers: clears the upper half.
    pub(crate) fn mov32(&mut self, to: Reg, from: Reg) {
        self.op_reg(false, &[0x89], from, to);
    }

    /// MOV of 16 bits between registers: leaves the rest as it is.
    pub(crate) fn mov16(&mut self, to: Reg, from: Reg) {
        self.byte(0x66);
        self.op_reg(false, &[0x89], from, to);
    }

    /// Loads 64 bits.
    pub(crate) fn load(&mut self, to: Reg, mem: Mem) {
        self.op_mem(true, &[0x8b], to, mem);
    }

    /// Loads 32 bits.
    pub(crate) fn load32(&mut self, to: Reg, mem: Mem) {
        self.op_mem(false, &[0x8b], to, mem);
    }

    /// Loads 16 bits, zero-extended.
    pub(crate) fn load_word(&mut self, to: Reg, mem: Mem) {
        self.op_mem(false, &[0x0f, 0xb7], to, mem);
    }

    /// Stores 64 bits.
    pub(crate) fn store(&mut self, mem: Mem, from: Reg) {
        self.op_mem(true, &[0x89], from, mem);
    }

    /// Stores 32 bits.
    pub(crate) fn store32(&mut self, mem: Mem, from: Reg) {
        self.op_mem(false, &[0x89], from, mem);
    }

    /// Stores 16 bits.
    pub(crate) fn store16(&mut self, mem: Mem, from: Reg) {
        self.byte(0x66);
        self.op_mem(false, &[0x89], from, mem);
    }

    /// Stores a constant of 32 bits, sign-extended if `wide`.
    pub(crate) fn store_imm(&mut self, wide: bool, mem: Mem, value: i32) {
        self.op_mem(wide, &[0xc7], 0, mem);
        self.imm32(value);
    }

    /// A constant of 64 bits.
    pub(crate) fn constant(&mut self, to: Reg, value: u64) {
        if u32::try_from(value).is_ok() {
            self.rex(false, 0, 0, to, false);
            self.byte(0xb8 | to & 7);
            self.imm32(value as i32);
        } else if let Ok(short) = i32::try_from(value as i64) {
            self.op_reg(true, &[0xc7], 0, to);
            self.imm32(short);
        } else {
            self.rex(true, 0, 0, to, false);
            self.byte(0xb8 | to & 7);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// A constant of 64 bits, sign-extended, by an instruction of seven bytes.
    pub(crate) fn constant_of_7(&mut self, to: Reg, value: i32) {
        self.op_reg(true, &[0xc7], 0, to);
        self.imm32(value);
    }

    /// LEA of 64 bits, or of 32 if not `wide`.
    pub(crate) fn lea(&mut self, wide: bool, to: Reg, mem: Mem) {
        self.op_mem(wide, &[0x8d], to, mem);
    }

    /// PEXT with the mask in memory.
    pub(crate) fn pext(&mut self, to: Reg, from: Reg, mask: Mem) {
        let (index, base) = (mask.index.map_or(0, |(index, _)| index), mask.base.unwrap_or(0));
        let inverted = !((to >> 3) << 7 | (index >> 3) << 6 | (base >> 3) << 5) & 0xe0;
        self.bytes(&[0xc4, inverted | 0x02, 0x80 | (!from & 15) << 3 | 0b10, 0xf5]);
        self.modrm_mem(to, mask);
    }

    pub(crate) fn push(&mut self, reg: Reg) {
        self.rex(false, 0, 0, reg, false);
        self.byte(0x50 | reg & 7);
    }

    pub(crate) fn pop(&mut self, reg: Reg) {
        self.rex(false, 0, 0, reg, false);
        self.byte(0x58 | reg & 7);
    }

    pub(crate) fn ret(&mut self) {
        self.byte(0xc3);
    }

    fn rel32(&mut self, target: usize) {
        let rel = target.wrapping_sub(self.here() + 4);
        self.imm32(rel as i32);
    }

    /// CALL of an address within 2 GiB.
    pub(crate) fn call(&mut self, target: usize) {
        self.byte(0xe8);
        self.rel32(target);
    }

    /// JMP to an address within 2 GiB.
    pub(crate) fn jmp(&mut self, target: usize) {
        self.byte(0xe9);
        self.rel32(target);
    }

    /// JMP to a place to be filled in; always five bytes.
    pub(crate) fn jmp_hole(&mut self) -> Hole {
        self.byte(0xe9);
        self.imm32(0);
        Hole(self.code.len() - 4)
    }

    /// Jcc, by the condition's number, to a place to be filled in; always six
    /// bytes.
    pub(crate) fn jcc_hole(&mut self, condition: u8) -> Hole {
        self.bytes(&[0x0f, 0x80 | condition & 15]);
        self.imm32(0);
        Hole(self.code.len() - 4)
    }

    /// Fills in a branch: it leads here.
    pub(crate) fn fill(&mut self, hole: Hole) {
        let rel = (self.code.len() - hole.0 - 4) as i32;
        self.code[hole.0..hole.0 + 4].copy_from_slice(&rel.to_le_bytes());
    }

    /// The address of a hole's displacement.
    pub(crate) fn address_of(&self, hole: Hole) -> usize {
        self.origin + hole.0
    }

    /// JRCXZ over what `body` writes, which must be short.
    pub(crate) fn unless_rcx_is_zero<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        self.bytes(&[0xe3, 0]);
        let from = self.code.len();
        let result = body(self);
        assert!(self.code.len() - from < 128, "JRCXZ does not reach that far");
        self.code[from - 1] = (self.code.len() - from) as u8;
        result
    }

    /// JRCXZ to a place close by, to be filled in.
    pub(crate) fn jrcxz_short(&mut self) -> ShortHole {
        self.bytes(&[0xe3, 0]);
        ShortHole(self.code.len())
    }

    /// Fills in a short branch: it leads here.
    pub(crate) fn fill_short(&mut self, hole: ShortHole) {
        let rel = self.code.len() - hole.0;
        assert!(rel < 128, "a short branch does not reach that far");
        self.code[hole.0 - 1] = rel as u8;
    }

    /// JRCXZ to an address close by.
    pub(crate) fn jrcxz(&mut self, target: usize) {
        let rel = target.wrapping_sub(self.here() + 2) as isize;
        assert!(i8::try_from(rel).is_ok(), "JRCXZ does not reach that far");
        self.bytes(&[0xe3, rel as u8]);
    }

    /// A branch, taken if RCX is zero, to a place to be filled in.
    pub(crate) fn jrcxz_hole(&mut self) -> Hole {
        // JRCXZ reaches only 127 bytes: around a JMP, to a JMP that reaches all.
        self.bytes(&[0xe3, 2, 0xeb, 5]);
        self.jmp_hole()
    }

    /// JMP through memory.
    pub(crate) fn jmp_mem(&mut self, mem: Mem) {
        self.op_mem(false, &[0xff], 4, mem);
    }

    /// JMP to the address in a register.
    pub(crate) fn jmp_reg(&mut self, reg: Reg) {
        self.op_reg(false, &[0xff], 4, reg);
    }

    /// LAHF and SETO AL: the arithmetic flags in AX.
    pub(crate) fn save_flags(&mut self) {
        self.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// The opposite: ADD AL, 127 sets OF if AL is 1; SAHF the others.
    pub(crate) fn restore_flags(&mut self) {
        self.bytes(&[0x04, 0x7f, 0x9e]);
    }

    /// An arithmetic instruction on 64-bit registers; changes flags.
    pub(crate) fn arith_reg(&mut self, kind: Arith, to: Reg, from: Reg) {
        self.op_reg(true, &[(kind as u8) << 3 | 1], from, to);
    }

    /// An arithmetic instruction with a 64-bit memory operand; changes flags.
    pub(crate) fn arith_mem(&mut self, kind: Arith, to: Reg, mem: Mem) {
        self.op_mem(true, &[(kind as u8) << 3 | 3], to, mem);
    }

    /// An arithmetic instruction with a constant; changes flags.
    pub(crate) fn arith_imm(&mut self, kind: Arith, wide: bool, to: Reg, value: i32) {
        self.op_reg(wide, &[0x81], kind as u8, to);
        self.imm32(value);
    }

    /// CMP of 32 bits in memory with a small constant; changes flags.
    pub(crate) fn cmp_mem_imm8(&mut self, mem: Mem, value: i8) {
        self.op_mem(false, &[0x83], 7, mem);
        self.byte(value as u8);
    }

    /// Shifts a 64-bit register right (`left` false) or left; changes flags.
    pub(crate) fn shift(&mut self, left: bool, reg: Reg, count: u8) {
        self.op_reg(true, &[0xc1], if left { 4 } else { 5 }, reg);
        self.byte(count);
    }

    /// NOT of a 64-bit register.
    pub(crate) fn not(&mut self, reg: Reg) {
        self.op_reg(true, &[0xf7], 2, reg);
    }

    /// XCHG of a 64-bit register and memory, which is atomic.
    pub(crate) fn exchange(&mut self, mem: Mem, reg: Reg) {
        self.op_mem(true, &[0x87], reg, mem);
    }

    /// MOVSXD of a 32-bit register to a 64-bit one.
    pub(crate) fn sign_extend_32(&mut self, to: Reg, from: Reg) {
        self.op_reg(true, &[0x63], to, from);
    }

    /// RORX of a 64-bit register.
    pub(crate) fn rorx(&mut self, to: Reg, from: Reg, count: u8) {
        let inverted = !((to >> 3) << 7 | (from >> 3) << 5) & 0xe0;
        self.bytes(&[0xc4, inverted | 0x03, 0xfb, 0xf0]);
        self.modrm_reg(to, from);
        self.byte(count);
    }

    /// SARX of a 64-bit register.
    pub(crate) fn sarx(&mut self, to: Reg, from: Reg, count: Reg) {
        let inverted = !((to >> 3) << 7 | (from >> 3) << 5) & 0xe0;
        self.bytes(&[0xc4, inverted | 0x02, 0x80 | (!count & 15) << 3 | 0b10, 0xf7]);
        self.modrm_reg(to, from);
    }

    /// The page number of an address: SHRX of a 64-bit register by RSP.
    pub(crate) fn page_number(&mut self, to: Reg, from: Reg) {
        let inverted = !((to >> 3) << 7 | (from >> 3) << 5) & 0xe0;
        self.bytes(&[0xc4, inverted | 0x02, 0x80 | (!RSP & 15) << 3 | 0b11, 0xf7]);
        self.modrm_reg(to, from);
    }

    /// NEG of a 64-bit register; changes flags.
    pub(crate) fn neg(&mut self, reg: Reg) {
        self.op_reg(true, &[0xf7], 3, reg);
    }

    /// BTS of a bit of a 32-bit word in memory; changes flags.
    pub(crate) fn bts(&mut self, mem: Mem, bit: Reg) {
        self.op_mem(false, &[0x0f, 0xab], bit, mem);
    }

    /// TEST of a register's low byte with a constant; changes flags.
    pub(crate) fn test_byte(&mut self, reg: Reg, value: u8) {
        self.rex(false, 0, 0, reg, reg >= 4);
        self.byte(0xf6);
        self.modrm_reg(0, reg);
        self.byte(value);
    }
}

/// Arithmetic instructions by their number in opcodes.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Arith {
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Conditions by their number in opcodes.
pub(crate) mod condition {
    pub(crate) const EQUAL: u8 = 4;
    pub(crate) const NOT_EQUAL: u8 = 5;
    pub(crate) const ABOVE: u8 = 7;
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

    use super::*;

    type Write = fn(&mut Asm);

    fn text(write: impl FnOnce(&mut Asm)) -> String {
        let mut asm = Asm::new(0x1000);
        write(&mut asm);
        let mut formatter = NasmFormatter::new();
        formatter.options_mut().set_branch_leading_zeros(false);
        Decoder::with_ip(64, asm.code(), 0x1000, DecoderOptions::NONE)
            .iter()
            .map(|instruction| {
                let mut line = String::new();
                formatter.format(&instruction, &mut line);
                line
            })
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn operands_are_encoded_as_meant() {
        let table: [(&str, Write); 23] = [
            ("mov r9,rax", |a| a.mov(R9, RAX)),
            ("mov rcx,[rsp+r11*8+12345h]", |a| a.load(RCX, indexed(Some(RSP), R11, 3, 0x12345))),
            ("lea rcx,[rcx+r10+7]", |a| a.lea(true, RCX, indexed(Some(RCX), R10, 0, 7))),
            ("lea r10d,[r13]", |a| a.lea(false, R10, at(R13, 0))),
            ("lea r10,[r12]", |a| a.lea(true, R10, at(R12, 0))),
            ("lea r10,[r8*4+100h]", |a| a.lea(true, R10, indexed(None, R8, 2, 0x100))),
            ("lea r10,[0FFFFFFFF80000000h]", |a| a.lea(true, R10, absolute(i32::MIN))),
            ("pext r11,r10,[rsp+20h]", |a| a.pext(R11, R10, at(RSP, 0x20))),
            ("mov rax,8000000000000000h", |a| a.constant(RAX, 1 << 63)),
            ("mov r10,0FFFFFFFF81000000h", |a| a.constant(R10, 0xffff_ffff_8100_0000)),
            ("mov qword [r10+r11],0FFFFFFFFFFFFFFFFh", |a| {
                a.store_imm(true, indexed(Some(R10), R11, 0, 0), -1);
            }),
            ("not r11", |a| a.not(R11)),
            ("xchg rcx,[rsp+8]", |a| a.exchange(at(RSP, 8), RCX)),
            ("movsxd rcx,ecx", |a| a.sign_extend_32(RCX, RCX)),
            ("rorx rdx,rax,20h", |a| a.rorx(RDX, RAX, 32)),
            ("rorx r10,r11,0Ch", |a| a.rorx(R10, R11, 12)),
            ("sarx rcx,r13,r11", |a| a.sarx(RCX, R13, R11)),
            ("shrx rcx,r10,rsp", |a| a.page_number(RCX, R10)),
            ("mov r11,[rsp+r10*8+1000h]", |a| a.load(R11, element(R10, 3, 0x1000 + BIAS))),
            ("jmp qword [rsp+rcx*8+1000h]", |a| a.jmp_mem(indexed(Some(RSP), RCX, 3, 0x1000))),
            ("xor rdx,r10", |a| a.arith_reg(Arith::Xor, RDX, R10)),
            ("test cl,4", |a| a.test_byte(RCX, 4)),
            ("bts [rsp+1000h],eax", |a| a.bts(at(RSP, 0x1000), RAX)),
        ];
        for (expected, write) in table {
            assert_eq!(text(write).replace("dword ", ""), expected);
        }
    }

    #[test]
    fn branches_lead_where_they_should() {
        let lines = text(|a| {
            let hole = a.jcc_hole(condition::EQUAL);
            a.unless_rcx_is_zero(|a| a.call(0x2000));
            a.fill(hole);
            a.jmp(0x1000);
        });
        assert_eq!(lines, "je near 100Dh; jrcxz 100Dh; call 2000h; jmp 1000h");
    }
}
