//! Instructions that compute: the same instruction, with its registers renamed
//! and its memory operand replaced.

use iced_x86::{Code, Instruction, InstructionInfoOptions, OpAccess, OpCodeOperandKind, OpKind, Register};
use interpret::slow::{Plain, portable};

use super::memory::Reached;
use super::{Body, Flow};
use crate::asm::{R9, R10, R11, RCX, Reg, field};
use crate::blocks::Access;
use crate::context::offset;
use crate::registers::{GUEST_RCX, GUEST_RSP, Place, is_high_byte, number_of, place_of, sized};

/// The longest access to which no rules of alignment apply.
const MAX_SINGLE: usize = 8;

/// A guest register that the instruction uses from a scratch register.
#[derive(Clone, Copy)]
struct Moved {
    guest: u8,
    host: Reg,
    loads: bool,
    stores: bool,
}

/// Parts of the floating-point state, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs(pub(super) u8);

impl Needs {
    /// Any of it.
    pub(super) const FPU: Self = Self(1);
    /// Upper parts of vector registers 0 to 15, written.
    pub(super) const UPPER: Self = Self(2);
    /// Vector registers from 16 on, and opmask registers.
    pub(super) const HIGH: Self = Self(4);
}

impl Body<'_> {
    pub(super) fn plain(&mut self, instruction: &Instruction, plain: Plain) -> Option<Flow> {
        let original = in_long_mode(instruction)?;
        let memory = (0..original.op_count()).find(|&op| original.op_kind(op) == OpKind::Memory);
        let mut out = original;
        if memory.is_some() {
            replace_memory(&mut out, Register::None, Register::None);
        }
        let (uses, access) = self.uses(&out, memory);
        if plain == Plain::Integer
            && original.memory_size().size() <= MAX_SINGLE
            && access.is_some_and(is_whole)
        {
            self.accesses(Access::Single);
        }
        if plain != Plain::Integer {
            let needs = self.vector_needs(&out);
            self.need_fpu(needs);
        }
        let high = (0..out.op_count())
            .any(|op| out.op_kind(op) == OpKind::Register && is_high_byte(out.op_register(op)));
        if high {
            return self.high_byte(&original, access);
        }
        let reached = match access {
            Some(access) => {
                let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
                Some(self.reach(&original, write)?)
            }
            None => None,
        };
        let moved = assign(&uses, &out, memory.is_some())?;
        if let Some(reached) = reached {
            self.place_address(&mut out, reached, &moved);
        }
        rename(&mut out, &moved);
        for register in moved.iter().filter(|moved| moved.loads) {
            self.load_guest(register.host, register.guest);
        }
        self.encode(&out)?;
        for register in moved.iter().filter(|moved| moved.stores) {
            self.store_guest(register.guest, register.host);
        }
        self.keeps = moved.iter().all(|moved| moved.host != R11);
        Some(Flow::Next)
    }

    /// Registers that the instruction uses, memory left aside, with whether it
    /// reads and writes them; and what it does with its memory operand.
    fn uses(&mut self, out: &Instruction, memory: Option<u32>) -> (Vec<(u8, bool, bool)>, Option<OpAccess>) {
        let info = self.emitter.info.info_options(out, InstructionInfoOptions::NO_MEMORY_USAGE);
        let mut uses: Vec<(u8, bool, bool)> = Vec::new();
        for used in info.used_registers() {
            let full = used.register().full_register();
            if !full.is_gpr() {
                continue;
            }
            let number = full.number() as u8;
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            // A part of a register leaves the rest as it is.
            let reads = used.access() != OpAccess::Write || used.register().size() < 4;
            match uses.iter_mut().find(|(known, ..)| *known == number) {
                Some(known) => *known = (number, known.1 | reads, known.2 | writes),
                None => uses.push((number, reads, writes)),
            }
        }
        (uses, memory.map(|op| info.op_access(op)))
    }

    /// Gives the instruction its operand's address; with more registers than
    /// scratch has left, it is brought together in R10.
    fn place_address(&mut self, out: &mut Instruction, reached: Reached, moved: &[Moved]) {
        if moved.iter().any(|moved| moved.host == R11) {
            self.asm().lea(true, R10, reached.mem());
            replace_memory(out, Register::R10, Register::None);
        } else {
            reached.put(out);
        }
    }

    /// Which parts of the floating-point state the instruction uses. Writes of
    /// 128 bits leave upper parts as they are, or zero.
    fn vector_needs(&mut self, out: &Instruction) -> Needs {
        let info = self.emitter.info.info_options(out, InstructionInfoOptions::NO_MEMORY_USAGE);
        let mut needs = Needs::FPU.0;
        if out.op_mask() != Register::None {
            needs |= Needs::HIGH.0;
        }
        for op in (0..out.op_count()).filter(|&op| out.op_kind(op) == OpKind::Register) {
            let register = out.op_register(op);
            let writes = !matches!(info.op_access(op), OpAccess::Read | OpAccess::CondRead);
            if register.is_k() || register.is_vector_register() && register.number() >= 16 {
                needs |= Needs::HIGH.0;
            } else if writes && (register.is_ymm() || register.is_zmm()) {
                needs |= Needs::UPPER.0;
            }
        }
        Needs(needs)
    }

    fn load_guest(&mut self, to: Reg, guest: u8) {
        match place_of(guest) {
            Place::Host(host) => self.asm().mov(to, host),
            Place::Home(home) => self.asm().load(to, home.mem()),
        }
    }

    fn store_guest(&mut self, guest: u8, from: Reg) {
        match place_of(guest) {
            Place::Host(host) => self.asm().mov(host, from),
            Place::Home(home) => self.asm().store(home.mem(), from),
        }
    }

    pub(super) fn encode(&mut self, out: &Instruction) -> Option<()> {
        let emitter = &mut *self.emitter;
        let encoded = emitter.encoder.encode(out, 0).is_ok();
        let mut buffer = emitter.encoder.take_buffer();
        emitter.asm.bytes(&buffer);
        buffer.clear();
        emitter.encoder.set_buffer(buffer);
        encoded.then_some(())
    }

    /// Makes sure, once a block, that the guest's floating-point state is in
    /// the registers, and that it is known what of them is used.
    pub(super) fn need_fpu(&mut self, needs: Needs) {
        let runtime = self.emitter.runtime;
        let checks = [
            (Needs::FPU, offset!(fpu_away), runtime.need_fpu),
            (Needs::UPPER, offset!(upper_clean), runtime.need_upper),
            (Needs::HIGH, offset!(high_clean), runtime.need_high),
        ];
        for (what, away, need) in checks {
            if needs.0 & what.0 & !self.needed.0 != 0 {
                let asm = self.asm();
                asm.load32(RCX, field(away));
                asm.unless_rcx_is_zero(|asm| asm.call(need));
            }
        }
        self.needed.0 |= needs.0;
    }

    /// VZEROUPPER: from here on the upper halves are zero.
    pub(super) fn vzeroupper(&mut self) -> Option<Flow> {
        if !self.mode.allows(Plain::Avx) {
            return None;
        }
        self.need_fpu(Needs::FPU);
        let asm = self.asm();
        asm.bytes(&[0xc5, 0xf8, 0x77]);
        asm.store_imm(false, field(offset!(upper_clean)), 1);
        self.needed.0 &= !Needs::UPPER.0;
        Some(Flow::Next)
    }

    /// LEA: the address of an operand that is not accessed.
    pub(super) fn lea(&mut self, instruction: &Instruction) -> Option<Flow> {
        let register = instruction.op_register(0);
        let bytes = register.size();
        if bytes == 2 {
            return None;
        }
        let narrow = bytes == 4 || super::memory::address_bytes(instruction) == Some(4);
        let place = place_of(number_of(register));
        let to = match place {
            Place::Host(host) => host,
            Place::Home(_) => R10,
        };
        self.effective_address(to, instruction)?;
        if narrow {
            self.asm().mov32(to, to);
        }
        if let Place::Home(home) = place {
            self.asm().store(home.mem(), to);
        }
        Some(Flow::Next)
    }
}

/// Whether an access takes place whatever the operands are.
fn is_whole(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::Write | OpAccess::ReadWrite)
}

/// Gives the memory operand these registers and nothing else.
pub(super) fn replace_memory(out: &mut Instruction, base: Register, index: Register) {
    out.set_segment_prefix(Register::None);
    out.set_memory_base(base);
    out.set_memory_index(index);
    out.set_memory_index_scale(1);
    out.set_memory_displacement64(0);
    out.set_memory_displ_size(0);
}

/// The same instruction in an encoding that 64-bit code has.
fn in_long_mode(guest: &Instruction) -> Option<Instruction> {
    // How much it reads depends on the processor's maker.
    if guest.code() == Code::Movsxd_r16_rm16 {
        return None;
    }
    let mut out = portable(guest);
    out.set_code(match out.code() {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        code => code,
    });
    out.op_code().mode64().then_some(out)
}

/// Whether an operand's register is given by the opcode.
fn is_fixed(out: &Instruction, op: u32) -> bool {
    use OpCodeOperandKind as K;
    matches!(out.op_code().op_kind(op), K::al | K::cl | K::ax | K::dx | K::eax | K::rax)
}

/// Scratch registers for guest registers that are elsewhere than the
/// instruction needs them.
fn assign(uses: &[(u8, bool, bool)], out: &Instruction, memory: bool) -> Option<Vec<Moved>> {
    let explicit = |guest: u8| {
        (0..out.op_count()).any(|op| {
            out.op_kind(op) == OpKind::Register
                && out.op_register(op).is_gpr()
                && number_of(out.op_register(op)) == guest
                && !is_fixed(out, op)
        })
    };
    let fixed_rcx = uses.iter().any(|&(guest, ..)| guest == GUEST_RCX)
        && (!explicit(GUEST_RCX)
            || (0..out.op_count()).any(|op| {
                out.op_kind(op) == OpKind::Register
                    && number_of(out.op_register(op)) == GUEST_RCX
                    && out.op_register(op).is_gpr()
                    && is_fixed(out, op)
            }));
    let mut free: Vec<Reg> = if memory { vec![R11, RCX] } else { vec![R11, R10, RCX] };
    if fixed_rcx {
        free.retain(|&reg| reg != RCX);
    }
    let mut moved = Vec::new();
    for &(guest, loads, stores) in uses {
        let host = match place_of(guest) {
            _ if guest == GUEST_RCX && fixed_rcx => RCX,
            Place::Home(_) => free.pop()?,
            Place::Host(_) if guest == GUEST_RSP && !explicit(GUEST_RSP) => return None,
            Place::Host(_) => continue,
        };
        moved.push(Moved { guest, host, loads, stores });
    }
    Some(moved)
}

/// Renames the explicit registers.
fn rename(out: &mut Instruction, moved: &[Moved]) {
    for op in 0..out.op_count() {
        if out.op_kind(op) != OpKind::Register || !out.op_register(op).is_gpr() || is_fixed(out, op) {
            continue;
        }
        let register = out.op_register(op);
        let guest = number_of(register);
        let host = match moved.iter().find(|moved| moved.guest == guest) {
            Some(moved) => moved.host,
            None => match place_of(guest) {
                Place::Host(host) => host,
                Place::Home(_) => continue,
            },
        };
        out.set_op_register(op, sized(host, register.size()));
    }
    debug_assert_ne!(R9, RCX);
}
