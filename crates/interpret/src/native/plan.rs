//! What a thunk must load and store around its instruction.

use iced_x86::{
    Code, EncodingKind, Instruction, InstructionInfoFactory, InstructionInfoOptions, OpAccess, OpKind,
    Register,
};

use super::contained::contained;

/// A register used by the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// Number within its file.
    pub(super) number: usize,
    pub(super) written: bool,
}

/// An instruction that is ready to be executed on the host, and what it needs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) instruction: Instruction,
    /// Guest registers by the host register that stands for them.
    pub(super) gprs: Vec<(Register, Use)>,
    pub(super) vectors: Vec<Use>,
    pub(super) masks: Vec<Use>,
    pub(super) x87: bool,
    pub(super) vex: bool,
    /// Whether MXCSR matters though no vector register does.
    converts: bool,
    /// Arithmetic flags that it may change.
    pub(super) flags_changed: u32,
    /// Whether the guest's flags must be loaded first.
    pub(super) flags_loaded: bool,
    /// The host register with the state's address.
    pub(super) state: Register,
    /// The host register with the operand's address.
    pub(super) memory: Register,
}

const RSP: usize = 4;
/// Registers for the state's address, in order of preference.
const STATE: [Register; 9] = [
    Register::RDI,
    Register::R15,
    Register::R14,
    Register::R13,
    Register::R12,
    Register::R11,
    Register::R10,
    Register::RBX,
    Register::RBP,
];
/// Registers for the operand's address; the first ones need no REX prefix,
/// which AH to BH do not tolerate.
const MEMORY: [Register; 10] = [
    Register::RSI,
    Register::RBX,
    Register::RBP,
    Register::RCX,
    Register::RDX,
    Register::RAX,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
];

impl Plan {
    /// Plans for `guest`, decoded in any mode; `None` if it cannot be executed
    /// this way.
    pub(super) fn new(guest: &Instruction) -> Option<Self> {
        if !contained(guest) {
            return None;
        }
        let mut instruction = portable(guest);
        let has_memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
        if has_memory {
            detach_memory(&mut instruction);
        }
        let stand_in = replace_rsp(&mut instruction)?;
        let mut plan = Self {
            instruction,
            gprs: Vec::new(),
            vectors: Vec::new(),
            masks: Vec::new(),
            x87: is_x87_or_mmx(&instruction),
            vex: !matches!(instruction.code().op_code().encoding(), EncodingKind::Legacy),
            converts: converts_to_integer(&instruction),
            flags_changed: flags_changed(&instruction),
            flags_loaded: needs_flags(&instruction),
            state: Register::None,
            memory: Register::None,
        };
        plan.note_registers(stand_in);
        plan.choose_addresses(has_memory)?;
        Some(plan)
    }

    /// Whether it changes or uses XMM, YMM, ZMM registers or MXCSR.
    pub(super) fn uses_vectors(&self) -> bool {
        !self.vectors.is_empty() || !self.masks.is_empty() || self.converts
    }

    fn note_registers(&mut self, stand_in: Option<Register>) {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info_options(&self.instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        for used in info.used_registers() {
            let full = used.register().full_register();
            let written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            let number = full.number();
            if full.is_gpr() {
                let guest = if Some(full) == stand_in { RSP } else { number };
                add(&mut self.gprs, full, Use { number: guest, written });
            } else if full.is_vector_register() {
                add_plain(&mut self.vectors, Use { number, written });
            } else if full.is_k() {
                add_plain(&mut self.masks, Use { number, written });
            }
        }
    }

    fn choose_addresses(&mut self, has_memory: bool) -> Option<()> {
        let used: Vec<Register> = self.gprs.iter().map(|(host, _)| *host).collect();
        let free = |register: &&Register| !used.contains(*register);
        self.state = *STATE.iter().find(free)?;
        if has_memory {
            let state = self.state;
            self.memory = *MEMORY.iter().filter(|&&register| register != state).find(free)?;
            self.instruction.set_memory_base(self.memory);
        }
        Some(())
    }
}

fn add(list: &mut Vec<(Register, Use)>, host: Register, this: Use) {
    match list.iter_mut().find(|(known, _)| *known == host) {
        Some((_, known)) => known.written |= this.written,
        None => list.push((host, this)),
    }
}

fn add_plain(list: &mut Vec<Use>, this: Use) {
    match list.iter_mut().find(|known| known.number == this.number) {
        Some(known) => known.written |= this.written,
        None => list.push(this),
    }
}

const fn arithmetic(iced_flags: u32) -> u32 {
    use iced_x86::RflagsBits as Bits;
    let mut flags = 0;
    let table = [(Bits::CF, 0), (Bits::PF, 2), (Bits::AF, 4), (Bits::ZF, 6), (Bits::SF, 7), (Bits::OF, 11)];
    let mut index = 0;
    while index < table.len() {
        if iced_flags & table[index].0 != 0 {
            flags |= 1 << table[index].1;
        }
        index += 1;
    }
    flags
}

/// The flags that may change. iced-x86 says that rotations by a multiple of the
/// width change none, which does not hold for OF on every processor.
fn flags_changed(instruction: &Instruction) -> u32 {
    use iced_x86::Mnemonic::{Rcl, Rcr};
    use iced_x86::RflagsBits as Bits;
    let rotates = matches!(instruction.mnemonic(), Rcl | Rcr);
    let more = if rotates { Bits::CF | Bits::OF } else { 0 };
    arithmetic(instruction.rflags_modified() | more)
}

/// Whether the instruction's outcome, flags included, depends on the flags
/// before it. Shifts and rotates by zero keep all of them.
fn needs_flags(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    arithmetic(instruction.rflags_read()) != 0
        || matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd)
}

/// Conversions from floating-point numbers, perhaps in memory, to a
/// general-purpose or MMX register.
pub(crate) fn converts_to_integer(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Cvtsd2si
            | M::Cvtss2si
            | M::Cvttsd2si
            | M::Cvttss2si
            | M::Vcvtsd2si
            | M::Vcvtss2si
            | M::Vcvttsd2si
            | M::Vcvttss2si
            | M::Vcvtsd2usi
            | M::Vcvtss2usi
            | M::Vcvttsd2usi
            | M::Vcvttss2usi
            | M::Cvtps2pi
            | M::Cvtpd2pi
            | M::Cvttps2pi
            | M::Cvttpd2pi
    )
}

fn is_x87_or_mmx(instruction: &Instruction) -> bool {
    use iced_x86::CpuidFeature::{FPU, FPU287, FPU387};
    let features = instruction.cpuid_features();
    let x87 = features.iter().any(|feature| matches!(feature, FPU | FPU287 | FPU387));
    let mmx = (0..instruction.op_count())
        .any(|op| instruction.op_kind(op) == OpKind::Register && instruction.op_register(op).is_mm());
    x87 || mmx || instruction.mnemonic() == iced_x86::Mnemonic::Emms || instruction.is_fpu_sse_mix()
}

/// Instructions on XMM registers that count as MMX all the same.
trait FpuMix {
    fn is_fpu_sse_mix(&self) -> bool;
}

impl FpuMix for Instruction {
    fn is_fpu_sse_mix(&self) -> bool {
        use iced_x86::Mnemonic::{Cvtpi2pd, Cvtpi2ps, Fisttp};
        matches!(self.mnemonic(), Cvtpi2pd | Cvtpi2ps | Fisttp)
    }
}

/// The same instruction in an encoding that 64-bit code has, where one of the
/// same operands exists (SDM Vol. 2A, 2.2.1.2: REX took the place of the short
/// INC and DEC; opcode 82 is invalid).
pub fn portable(guest: &Instruction) -> Instruction {
    let mut instruction = *guest;
    let code = match guest.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        code => code,
    };
    instruction.set_code(code);
    instruction
}

/// Leaves the memory operand without registers, displacement and segment.
fn detach_memory(instruction: &mut Instruction) {
    instruction.set_segment_prefix(Register::None);
    // A base that is no guest register, until the real one is chosen.
    instruction.set_memory_base(Register::None);
    instruction.set_memory_index(Register::None);
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(0);
    instruction.set_memory_displ_size(0);
}

/// Gives RSP, which the host needs, a stand-in wherever it is an operand. The
/// first candidates need no REX prefix, which AH to BH do not tolerate.
fn replace_rsp(instruction: &mut Instruction) -> Option<Option<Register>> {
    let uses_rsp = |instruction: &Instruction, op| {
        instruction.op_kind(op) == OpKind::Register
            && instruction.op_register(op).full_register() == Register::RSP
    };
    if !(0..instruction.op_count()).any(|op| uses_rsp(instruction, op)) {
        return Some(None);
    }
    let taken: Vec<Register> = InstructionInfoFactory::new()
        .info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE)
        .used_registers()
        .iter()
        .map(|used| used.register().full_register())
        .collect();
    let candidates = [Register::RBP, Register::RBX, Register::RSI, Register::R9, Register::R8];
    let stand_in = *candidates.iter().find(|candidate| !taken.contains(candidate))?;
    for op in 0..instruction.op_count() {
        if uses_rsp(instruction, op) {
            let size = instruction.op_register(op).size();
            instruction.set_op_register(op, sized(stand_in.number() as u32, size));
        }
    }
    Some(Some(stand_in))
}

/// General-purpose register `number` with `bytes` bytes.
fn sized(number: u32, bytes: usize) -> Register {
    match bytes {
        1 if number < 4 => Register::AL + number,
        1 if number < 8 => Register::SPL + (number - 4),
        1 => Register::R8L + (number - 8),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}
