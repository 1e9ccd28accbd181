//! One random instruction of a given form: registers, immediates and a memory
//! operand at a place that was chosen first.

use iced_x86::{
    Code, EncodingKind, Instruction, OpCodeInfo, OpCodeOperandKind, OpKind, Register, RoundingControl,
};

use super::modify::beside_code;
use crate::layout::{ABSENT, DATA, DATA_END, GS_BASE, PAGE, READ_ONLY, STACK, WINDOW};
use crate::rng::Rng;
use crate::state::{Bits, INDEX_REGISTERS, POINTERS, Registers};

/// Makes operands.
pub(super) struct Operands<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) bits: Bits,
    /// The initial registers, from which addresses are computed.
    pub(super) registers: &'a Registers,
    /// Whether an operand that may be a register or memory is memory; chosen
    /// by chance if None.
    pub(super) memory: Option<bool>,
    /// Whether data may lie beside code.
    pub(super) beside: bool,
}

impl Operands<'_> {
    /// An instruction of the form `code`; None if the form has an operand that
    /// is not for sequences.
    pub(super) fn instruction(&mut self, code: Code) -> Option<Instruction> {
        let form = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let evex = form.encoding() == EncodingKind::EVEX;
        let use_memory = self.memory.unwrap_or_else(|| self.rng.chance(1, 2));
        for (index, &kind) in form.op_kinds().iter().enumerate() {
            self.operand(&mut instruction, form, index as u32, kind, use_memory)?;
        }
        if evex {
            self.decorate(&mut instruction, form);
        }
        if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory {
            let lock = form.can_use_lock_prefix() && self.rng.chance(1, 3);
            instruction.set_has_lock_prefix(lock);
        }
        Some(instruction)
    }

    fn operand(
        &mut self,
        instruction: &mut Instruction,
        form: &OpCodeInfo,
        index: u32,
        kind: OpCodeOperandKind,
        use_memory: bool,
    ) -> Option<()> {
        if let Some(vsib) = vsib_base(kind) {
            self.gather_address(instruction, index, vsib);
        } else if is_memory(kind) || may_be_memory(kind) && use_memory {
            self.memory_operand(instruction, form, index, kind);
        } else if let Some(register) = self.register(kind, form) {
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, register);
        } else {
            self.immediate(instruction, index, kind)?;
        }
        Some(())
    }

    fn register(&mut self, kind: OpCodeOperandKind, form: &OpCodeInfo) -> Option<Register> {
        use OpCodeOperandKind as K;
        let many = form.encoding() == EncodingKind::EVEX;
        Some(match kind {
            K::r8_or_mem | K::r8_reg | K::r8_opcode => self.byte_register(),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => Register::AX + self.gpr(),
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                Register::EAX + self.gpr()
            }
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                Register::RAX + self.gpr()
            }
            K::k_or_mem | K::k_reg | K::k_rm | K::k_vvvv => Register::K0 + self.rng.below(8) as u32,
            K::kp1_reg => Register::K0 + 2 * self.rng.below(4) as u32,
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + self.rng.below(8) as u32,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => {
                Register::XMM0 + self.vector(many)
            }
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => {
                Register::YMM0 + self.vector(many)
            }
            K::zmm_or_mem | K::zmm_reg | K::zmm_rm | K::zmm_vvvv => Register::ZMM0 + self.vector(many),
            K::sti_opcode => Register::ST0 + self.rng.below(8) as u32,
            K::seg_reg => self.rng.pick(&[Register::ES, Register::SS, Register::DS]),
            K::st0 => Register::ST0,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            _ => return None,
        })
    }

    /// The number of a general-purpose register, seldom RSP or a pointer.
    fn gpr(&mut self) -> u32 {
        loop {
            let number = self.rng.below(self.bits.registers() as u64) as u32;
            let spared = number == 4 && !self.rng.chance(1, 16)
                || POINTERS.iter().any(|&pointer| pointer as u32 == number) && !self.rng.chance(1, 6);
            if !spared {
                return number;
            }
        }
    }

    fn byte_register(&mut self) -> Register {
        let high = self.rng.chance(1, 4);
        match (high, self.bits) {
            (true, _) => Register::AL + 4 + self.rng.below(4) as u32,
            (false, Bits::B32) => Register::AL + self.rng.below(4) as u32,
            (false, Bits::B64) => {
                let number = self.gpr();
                if number < 4 { Register::AL + number } else { Register::SPL + (number - 4) }
            }
        }
    }

    fn vector(&mut self, many: bool) -> u32 {
        let count = match (self.bits, many) {
            (Bits::B32, _) => 8,
            (Bits::B64, false) => 16,
            (Bits::B64, true) => 32,
        };
        self.rng.below(count) as u32
    }

    fn immediate(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: OpCodeOperandKind,
    ) -> Option<()> {
        use OpCodeOperandKind as K;
        let value = self.rng.interesting();
        let second = (0..index).any(|op| {
            instruction.op_kind(op) == OpKind::Immediate16 || instruction.op_kind(op) == OpKind::Immediate8
        });
        let op_kind = match kind {
            K::imm8 if second => OpKind::Immediate8_2nd,
            K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
            K::imm4_m2z => OpKind::Immediate8,
            K::imm8sex16 => OpKind::Immediate8to16,
            K::imm8sex32 => OpKind::Immediate8to32,
            K::imm8sex64 => OpKind::Immediate8to64,
            K::imm16 => OpKind::Immediate16,
            K::imm32 => OpKind::Immediate32,
            K::imm32sex64 => OpKind::Immediate32to64,
            K::imm64 => OpKind::Immediate64,
            _ => return None,
        };
        instruction.set_op_kind(index, op_kind);
        match op_kind {
            OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(value as u8 & 31),
            OpKind::Immediate8 if kind == K::imm8_const_1 => instruction.set_immediate8(1),
            OpKind::Immediate8 if kind == K::imm4_m2z => instruction.set_immediate8(value as u8 & 15),
            OpKind::Immediate8 => instruction.set_immediate8(value as u8),
            OpKind::Immediate8to16 => instruction.set_immediate8to16((value as i8).into()),
            OpKind::Immediate8to32 => instruction.set_immediate8to32((value as i8).into()),
            OpKind::Immediate8to64 => instruction.set_immediate8to64((value as i8).into()),
            OpKind::Immediate16 => instruction.set_immediate16(value as u16),
            OpKind::Immediate32 => instruction.set_immediate32(value as u32),
            OpKind::Immediate32to64 => instruction.set_immediate32to64((value as i32).into()),
            _ => instruction.set_immediate64(value),
        }
        Some(())
    }

    /// Mask, zeroing, broadcast and rounding (SDM 2A 2.7).
    fn decorate(&mut self, instruction: &mut Instruction, form: &OpCodeInfo) {
        let memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
        let required = form.require_op_mask_register();
        if required || form.can_use_op_mask_register() && self.rng.chance(2, 3) {
            instruction.set_op_mask(Register::K1 + self.rng.below(7) as u32);
            let target_is_memory = instruction.op0_kind() == OpKind::Memory;
            let zeroing = form.can_use_zeroing_masking() && !target_is_memory && self.rng.chance(1, 2);
            instruction.set_zeroing_masking(zeroing);
        }
        if memory {
            instruction.set_is_broadcast(form.can_broadcast() && self.rng.chance(1, 2));
        } else if form.can_use_rounding_control() && self.rng.chance(1, 3) {
            let modes = [
                RoundingControl::RoundToNearest,
                RoundingControl::RoundDown,
                RoundingControl::RoundUp,
                RoundingControl::RoundTowardZero,
            ];
            instruction.set_rounding_control(self.rng.pick(&modes));
        } else if form.can_suppress_all_exceptions() && self.rng.chance(1, 3) {
            instruction.set_suppress_all_exceptions(true);
        }
    }

    /// Where in the window (or outside) an operand of `size` bytes goes.
    fn place(&mut self, size: u64) -> u64 {
        if self.beside && self.rng.chance(1, 3) {
            return beside_code(self.rng);
        }
        let inside = 1 + self.rng.below(size.max(2) - 1);
        match self.rng.below(40) {
            0..=17 => DATA + self.rng.below(2 * PAGE / 64) * 64,
            18..=23 => DATA + self.rng.below(2 * PAGE - 64),
            24..=26 => DATA + PAGE - inside,
            27..=29 => DATA_END - size,
            30..=31 => DATA_END - inside,
            32..=33 => READ_ONLY + self.rng.below(PAGE / 64) * 64,
            34 => READ_ONLY + PAGE - inside,
            35 => ABSENT + self.rng.below(PAGE),
            36 => READ_ONLY - inside,
            37 => STACK + self.rng.below(2 * PAGE - 64),
            38 => WINDOW + self.rng.below(12 * PAGE),
            _ => self.rng.interesting(),
        }
    }

    fn memory_operand(
        &mut self,
        instruction: &mut Instruction,
        form: &OpCodeInfo,
        index: u32,
        kind: OpCodeOperandKind,
    ) {
        instruction.set_op_kind(index, OpKind::Memory);
        let size = form.memory_size().size().clamp(1, 512) as u64;
        let target = self.place(size);
        if kind == OpCodeOperandKind::mem_offs {
            let full = self.bits == Bits::B64;
            instruction.set_memory_displ_size(if full { 8 } else { 4 });
            instruction.set_memory_displacement64(target & self.bits.mask());
            return;
        }
        match self.rng.below(12) {
            0..=2 => self.absolute(instruction, target, 0),
            3 if self.bits == Bits::B64 => self.absolute(instruction, target, GS_BASE),
            4..=5 if self.bits == Bits::B64 => self.relative(instruction, target),
            6 if self.bits == Bits::B64 => self.based(instruction, target, Register::EAX, true),
            7 | 8 => self.based(instruction, target, self.full(), true),
            _ => self.based(instruction, target, self.full(), false),
        }
    }

    /// The first of the registers that addresses are usually made of.
    const fn full(&self) -> Register {
        match self.bits {
            Bits::B64 => Register::RAX,
            Bits::B32 => Register::EAX,
        }
    }

    fn absolute(&mut self, instruction: &mut Instruction, target: u64, base: u64) {
        if base != 0 {
            instruction.set_segment_prefix(Register::GS);
        }
        self.displacement(instruction, target.wrapping_sub(base));
    }

    fn relative(&mut self, instruction: &mut Instruction, target: u64) {
        instruction.set_memory_base(Register::RIP);
        instruction.set_memory_displ_size(8);
        instruction.set_memory_displacement64(target & 0x3fff_ffff);
    }

    /// A displacement of 32 bits, sign-extended in 64-bit mode.
    fn displacement(&mut self, instruction: &mut Instruction, value: u64) {
        let value = match self.bits {
            Bits::B64 => value as i32 as i64 as u64,
            Bits::B32 => value & 0xffff_ffff,
        };
        instruction.set_memory_displ_size(if self.bits == Bits::B64 { 8 } else { 4 });
        instruction.set_memory_displacement64(value);
    }

    fn based(&mut self, instruction: &mut Instruction, target: u64, first: Register, indexed: bool) {
        let usable = if self.bits == Bits::B64 { POINTERS.len() } else { 4 };
        let base = if self.rng.chance(1, 12) {
            x86::Gpr::Rsp
        } else {
            POINTERS[self.rng.below(usable as u64) as usize]
        };
        let mut rest = target.wrapping_sub(self.registers.gpr[base as usize]);
        instruction.set_memory_base(first + base as u32);
        if indexed {
            let number = self.gpr();
            let scale = 1 << self.rng.below(4);
            let value = self.registers.gpr[number as usize].wrapping_mul(scale);
            let narrow = first == Register::EAX;
            let left = rest.wrapping_sub(value);
            if number != 4 && (narrow || left as i64 == i64::from(left as i32)) {
                instruction.set_memory_index(first + number);
                instruction.set_memory_index_scale(scale as u32);
                rest = left;
            }
        }
        if first == Register::EAX && self.bits == Bits::B64 {
            instruction.set_memory_displ_size(4);
            instruction.set_memory_displacement64(rest & 0xffff_ffff);
        } else {
            self.displacement(instruction, rest);
        }
    }

    /// The address of a gather or scatter: a vector of small numbers as the
    /// index.
    fn gather_address(&mut self, instruction: &mut Instruction, index: u32, first: Register) {
        instruction.set_op_kind(index, OpKind::Memory);
        let usual = self.bits == Bits::B64 && self.rng.chance(7, 8);
        let number = if usual { INDEX_REGISTERS as u64 + self.rng.below(8) } else { self.rng.below(8) };
        instruction.set_memory_index(first + number as u32);
        instruction.set_memory_index_scale(1 << self.rng.below(4));
        let target = match self.rng.below(4) {
            0 => DATA_END - self.rng.below(0x200),
            1 => DATA + self.rng.below(2 * PAGE),
            _ => DATA + self.rng.below(0x40) * 64,
        };
        self.displacement(instruction, target);
    }
}

fn vsib_base(kind: OpCodeOperandKind) -> Option<Register> {
    use OpCodeOperandKind as K;
    match kind {
        K::mem_vsib32x | K::mem_vsib64x => Some(Register::XMM0),
        K::mem_vsib32y | K::mem_vsib64y => Some(Register::YMM0),
        K::mem_vsib32z | K::mem_vsib64z => Some(Register::ZMM0),
        _ => None,
    }
}

fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(kind, K::mem | K::mem_offs)
}

fn may_be_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::zmm_or_mem
            | K::k_or_mem
    )
}
