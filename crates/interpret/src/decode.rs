//! From bytes to [`Insn`]: iced-x86 decodes, this chooses who executes.

use iced_x86::{
    Code, CodeSize, CpuidFeature, DecoderError, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};
use x86::cpuid::CpuidModel;
use x86::{Exception, SegmentName};

use crate::cpu::{Cpu, Exec};
use crate::insn::{Address, Handler, Insn, NONE, RIP};
use crate::native::{self, Arena, HostCpu};
use crate::{fpu, ops, string, system, vector};

/// The longest instruction, in bytes (SDM 2A 2.3.11).
pub(crate) const MAX_LEN: usize = 15;

/// What follows an instruction in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The next instruction.
    Next,
    /// Nothing: it may jump, change the mode or let an interrupt in.
    End,
}

/// A choice of handler.
pub(crate) type Choice = (Handler, Flow);

/// What came out of some bytes.
pub(crate) enum Decoded {
    Insn(Insn, Flow),
    /// The bytes end before the instruction does.
    MoreBytes,
}

/// Decodes instructions for one vCPU.
pub(crate) struct InsnDecoder {
    pub(crate) arena: Arena,
    host: HostCpu,
    info: InstructionInfoFactory,
}

impl InsnDecoder {
    pub(crate) fn new(arena: Arena) -> Self {
        Self { arena, host: HostCpu::detect(), info: InstructionInfoFactory::new() }
    }

    /// Decodes the first instruction of `bytes` for code of `code_size` bytes.
    pub(crate) fn decode(&mut self, bytes: &[u8], code_size: u8, cpuid: &CpuidModel) -> Decoded {
        let bytes = &bytes[..bytes.len().min(MAX_LEN)];
        let bitness = u32::from(code_size) * 8;
        let (instruction, error) = cpuid.decode(bitness, bytes, 0);
        match error {
            DecoderError::NoMoreBytes if bytes.len() < MAX_LEN => Decoded::MoreBytes,
            DecoderError::NoMoreBytes => fixed(too_long, bytes.len()),
            DecoderError::None if cpuid.allows_instruction(&instruction) => {
                let (mut insn, flow) = self.build(&instruction, bytes, code_size);
                insn.touches_fpu = touches_fpu(&instruction);
                if is_short_movsxd(&instruction) && cpuid.vendor().reads_doubleword_in_short_movsxd() {
                    ops::widen_source(&mut insn);
                }
                Decoded::Insn(insn, flow)
            }
            _ if is_too_long(bytes, bitness, cpuid) => fixed(too_long, bytes.len()),
            _ => fixed(undefined, instruction.len().max(1)),
        }
    }

    fn build(&mut self, instruction: &Instruction, bytes: &[u8], code_size: u8) -> (Insn, Flow) {
        let mut insn = operands(instruction);
        if let Some((handler, flow)) = choose(instruction) {
            insn.handler = handler;
            if keeps_instruction(instruction) {
                insn.full = Some(Box::new(*instruction));
            }
            return (insn, flow);
        }
        self.build_native(instruction, &mut insn, bytes, code_size);
        (insn, Flow::Next)
    }

    /// An instruction that the host executes.
    fn build_native(&mut self, instruction: &Instruction, insn: &mut Insn, bytes: &[u8], code_size: u8) {
        insn.handler = undefined;
        if !ops::native::allowed(instruction) {
            return;
        }
        let mut key = ([0; MAX_LEN], instruction.len() as u8, code_size);
        key.0[..instruction.len()].copy_from_slice(&bytes[..instruction.len()]);
        let thunk = self.arena.find(&key).or_else(|| {
            let code = native::emit(instruction, self.host)?;
            self.arena.insert(key, &code)
        });
        if thunk.is_some() {
            insn.thunk = thunk;
            insn.handler = ops::native::handler(instruction, memory_access(&mut self.info, instruction));
            insn.reg1 = ops::native::unit(instruction) as u8;
            if ops::native::is_x87(instruction) {
                insn.imm = ops::native::x87_opcode(instruction, bytes);
            }
            if let Some(masked) = vector::masked(instruction) {
                insn.handler = masked.handler;
                insn.mem_size = masked.size;
                insn.full = Some(Box::new(*instruction));
            }
        }
    }
}

/// MOVSXD to 16 bits, of which vendors differ in how much memory it reads.
pub(crate) fn is_short_movsxd(instruction: &Instruction) -> bool {
    instruction.code() == Code::Movsxd_r16_rm16
}

/// Whether an instruction may change floating-point or vector registers: all
/// but those of the groups that have none.
fn touches_fpu(instruction: &Instruction) -> bool {
    use CpuidFeature as C;
    let integer = |feature: &CpuidFeature| {
        matches!(
            feature,
            C::INTEL8086
                | C::INTEL8086_ONLY
                | C::INTEL186
                | C::INTEL286
                | C::INTEL386
                | C::INTEL486
                | C::X64
                | C::CPUID
                | C::MSR
                | C::TSC
                | C::RDTSCP
                | C::RDPID
                | C::FSGSBASE
                | C::INVPCID
                | C::SMAP
                | C::SYSCALL
                | C::SEP
                | C::CX8
                | C::BMI1
                | C::BMI2
                | C::MONITOR
        )
    };
    !instruction.cpuid_features().iter().all(integer)
}

fn memory_access(info: &mut InstructionInfoFactory, instruction: &Instruction) -> Option<OpAccess> {
    let position = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)?;
    Some(info.info(instruction).op_access(position))
}

fn fixed(handler: Handler, len: usize) -> Decoded {
    let mut insn = operands(&Instruction::default());
    insn.handler = handler;
    insn.len = len as u8;
    Decoded::Insn(insn, Flow::End)
}

/// #UD: an opcode that does not exist or is not offered.
pub(crate) fn undefined(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    Err(cpu.ud())
}

/// Whether `bytes`, which do not decode, begin an instruction of more than 15
/// bytes: without some of its prefixes it would only lack its end.
fn is_too_long(bytes: &[u8], bitness: u32, cpuid: &CpuidModel) -> bool {
    let prefixes = bytes.iter().take_while(|byte| is_legacy_prefix(**byte)).count();
    bytes.len() == MAX_LEN
        && (1..=prefixes)
            .any(|skipped| cpuid.decode(bitness, &bytes[skipped..], 0).1 == DecoderError::NoMoreBytes)
}

/// SDM 2A 2.1.1.
const fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0x66 | 0x67)
}

/// More than 15 bytes (SDM 3A 6.15, #GP).
fn too_long(cpu: &mut Cpu, _insn: &Insn) -> Exec {
    Err(cpu.raise(Exception::gp(0)))
}

pub(crate) fn choose(instruction: &Instruction) -> Option<Choice> {
    ops::choose(instruction)
        .or_else(|| string::choose(instruction))
        .or_else(|| system::choose(instruction))
        .or_else(|| fpu::choose(instruction))
        .or_else(|| vector::choose(instruction))
        .or_else(|| {
            (instruction.flow_control() != FlowControl::Next).then_some((undefined as Handler, Flow::End))
        })
}

/// Whether the handler looks at more than the operands in [`Insn`].
fn keeps_instruction(instruction: &Instruction) -> bool {
    !ops::is_plain(instruction)
}

/// The operands in the form that handlers use.
fn operands(instruction: &Instruction) -> Insn {
    let mut registers = (0..instruction.op_count())
        .filter(|&op| instruction.op_kind(op) == OpKind::Register)
        .map(|op| register_number(instruction.op_register(op)));
    let (reg1, reg2) = (registers.next().unwrap_or(NONE), registers.next().unwrap_or(NONE));
    let has_memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    Insn {
        handler: undefined,
        thunk: None,
        imm: immediate(instruction),
        address: if has_memory { address(instruction) } else { Address::NOTHING },
        len: instruction.len() as u8,
        size: operand_size(instruction),
        mem_size: if has_memory { instruction.memory_size().size() as u16 } else { 0 },
        reg1,
        reg2,
        touches_fpu: false,
        full: None,
    }
}

/// A general-purpose register's number, with 16 to 19 for AH to BH; for other
/// files the number within the file.
pub(crate) fn register_number(register: Register) -> u8 {
    match register {
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        // Byte registers count anew behind AH to BH: their numbers are those of
        // the registers that they are part of.
        other if other.is_gpr() => other.full_register().number() as u8,
        other => other.number() as u8,
    }
}

/// The size of the first operand.
fn operand_size(instruction: &Instruction) -> u8 {
    if instruction.op_count() == 0 {
        return 0;
    }
    match instruction.op_kind(0) {
        OpKind::Register => instruction.op_register(0).size() as u8,
        OpKind::Memory => instruction.memory_size().size() as u8,
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => 0,
    }
}

/// The immediate, sign-extended as the instruction wants it, or the
/// displacement of a near branch from the next instruction.
fn immediate(instruction: &Instruction) -> u64 {
    for op in 0..instruction.op_count() {
        match instruction.op_kind(op) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                return instruction.near_branch_target().wrapping_sub(instruction.len() as u64);
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => return instruction.immediate(op),
            _ => {}
        }
    }
    0
}

fn address(instruction: &Instruction) -> Address {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let size = address_size(instruction);
    let mut disp = instruction.memory_displacement64();
    let base_number = match base {
        Register::None => NONE,
        Register::RIP | Register::EIP => {
            disp = disp.wrapping_sub(instruction.len() as u64);
            RIP
        }
        other => other.number() as u8,
    };
    let index_number =
        if index == Register::None || index.is_vector_register() { NONE } else { index.number() as u8 };
    Address {
        disp,
        mask: crate::cpu::mask(size),
        base: base_number,
        index: index_number,
        scale: instruction.memory_index_scale().trailing_zeros() as u8,
        segment: operand_segment(instruction),
    }
}

/// The segment of the memory operand. In 64-bit mode only FS and GS can be
/// chosen by a prefix (SDM 1 3.3.7).
pub(crate) fn operand_segment(instruction: &Instruction) -> SegmentName {
    let ignored = instruction.code_size() == CodeSize::Code64
        && matches!(instruction.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS);
    if !ignored {
        return segment_name(instruction.memory_segment());
    }
    let mut plain = *instruction;
    plain.set_segment_prefix(Register::None);
    segment_name(plain.memory_segment())
}

/// The address size of the memory operand, in bytes.
fn address_size(instruction: &Instruction) -> u8 {
    let of = |register: Register| match register {
        Register::None => None,
        Register::RIP => Some(8),
        Register::EIP => Some(4),
        other if other.is_vector_register() => None,
        other => Some(other.size() as u8),
    };
    of(instruction.memory_base()).or_else(|| of(instruction.memory_index())).unwrap_or(
        match instruction.memory_displ_size() {
            2 => 2,
            4 => 4,
            _ => 8,
        },
    )
}

/// The segment register that iced names.
pub(crate) fn segment_name(register: Register) -> SegmentName {
    match register {
        Register::ES => SegmentName::Es,
        Register::CS => SegmentName::Cs,
        Register::SS => SegmentName::Ss,
        Register::FS => SegmentName::Fs,
        Register::GS => SegmentName::Gs,
        _ => SegmentName::Ds,
    }
}
