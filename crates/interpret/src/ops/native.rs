//! Instructions that the host executes through a thunk.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpAccess};
use x86::{Cr0, Cr4, Exception, SegmentName, Vector, Xcr0};

use crate::cpu::{Break, Cpu, Exec};
use crate::insn::{Handler, Insn};
use crate::native::{self, Hole, Thunk};

/// The register file that an instruction needs, and with it the control bits
/// that allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Unit {
    Integer,
    X87,
    Mmx,
    Sse,
    Avx,
    Avx512,
    /// General-purpose registers by VEX encoding.
    Bmi,
}

impl Unit {
    /// The unit with this number, as [`Insn::reg1`] holds it.
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Integer,
            1 => Self::X87,
            2 => Self::Mmx,
            3 => Self::Sse,
            4 => Self::Avx,
            5 => Self::Avx512,
            _ => Self::Bmi,
        }
    }
}

/// Which unit an instruction uses.
pub(crate) fn unit(instruction: &Instruction) -> Unit {
    use Mnemonic as M;
    use iced_x86::EncodingKind as Encoding;
    let uses = |test: fn(iced_x86::Register) -> bool| {
        (0..instruction.op_count()).any(|op| {
            instruction.op_kind(op) == iced_x86::OpKind::Register && test(instruction.op_register(op))
        })
    };
    match instruction.code().op_code().encoding() {
        Encoding::EVEX => Unit::Avx512,
        Encoding::VEX if native::converts_to_integer(instruction) => Unit::Avx,
        _ if native::converts_to_integer(instruction) => Unit::Sse,
        Encoding::VEX if uses(|register| register.is_k()) => Unit::Avx512,
        Encoding::VEX
            if !uses(|register| register.is_gpr()) || uses(|register| register.is_vector_register()) =>
        {
            Unit::Avx
        }
        Encoding::VEX => Unit::Bmi,
        _ if uses(|register| register.is_xmm()) || instruction.mnemonic() == M::Ldmxcsr => Unit::Sse,
        _ if uses(|register| register.is_mm()) || instruction.mnemonic() == M::Emms => Unit::Mmx,
        _ if is_x87(instruction) => Unit::X87,
        _ => Unit::Integer,
    }
}

/// Whether it is an x87 instruction.
pub(crate) fn is_x87(instruction: &Instruction) -> bool {
    instruction
        .cpuid_features()
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387))
        || instruction.mnemonic() == Mnemonic::Fisttp
}

/// Whether the host may execute the instruction on the guest's behalf: it
/// works on registers, flags and one plain memory operand, and on nothing else.
pub(crate) fn allowed(instruction: &Instruction) -> bool {
    if instruction.is_privileged()
        || instruction.is_stack_instruction()
        || instruction.is_string_instruction()
    {
        return false;
    }
    if matches!(unit(instruction), Unit::Integer | Unit::Bmi) {
        is_integer(instruction.mnemonic())
    } else {
        true
    }
}

/// The integer instructions that compute and do nothing else.
fn is_integer(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    #[rustfmt::skip]
    let plain = matches!(
        mnemonic,
        Adc | Adcx | Add | Adox | And | Andn | Bextr | Blsi | Blsmsk | Blsr | Bsf | Bsr | Bswap | Bt | Btc | Btr | Bts
            | Bzhi | Cbw | Cdq | Cdqe | Clc | Cmc | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl
            | Cmovle | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs | Cmp | Cmpxchg | Cmpxchg16b
            | Cmpxchg8b | Cqo | Crc32 | Cwd | Cwde | Dec | Div | Idiv | Imul | Inc | Lahf | Lfence | Lzcnt | Mfence
            | Mov | Movbe | Movnti | Movsx | Movsxd | Movzx | Mul | Mulx | Neg | Not | Or | Pdep | Pext | Popcnt | Rcl
            | Rcr | Rdrand | Rdseed | Rol | Ror | Rorx | Sahf | Sal | Sar | Sarx | Sbb | Seta | Setae | Setb | Setbe | Sete
            | Setg | Setge | Setl | Setle | Setne | Setno | Setnp | Setns | Seto | Setp | Sets | Sfence | Shl | Shld
            | Shlx | Shr | Shrd | Shrx | Stc | Sub | Test | Tzcnt | Xadd | Xchg | Xor
    );
    plain
}

/// The handler for an instruction whose memory operand, if any, is accessed so.
pub(crate) fn handler(instruction: &Instruction, access: Option<OpAccess>) -> Handler {
    let integer = unit(instruction) == Unit::Integer;
    match (access, integer) {
        (None, true) => register_only,
        (None, false) => fpu_register_only,
        (Some(OpAccess::Read | OpAccess::CondRead), true) => load,
        (Some(OpAccess::Read | OpAccess::CondRead), false) => fpu_load,
        (Some(OpAccess::NoMemAccess | OpAccess::None), _) => register_only,
        (Some(OpAccess::Write), true) => store,
        // After an unmasked exception an x87 instruction does not store (SDM 1
        // 8.5): its operand may stay what it is.
        (Some(OpAccess::Write), false) if unit(instruction) == Unit::X87 => fpu_modify,
        (Some(OpAccess::Write), false) => fpu_store,
        (Some(_), true) if is_atomic(instruction) => modify_atomically,
        (Some(_), true) => modify,
        (Some(_), false) => fpu_modify,
    }
}

/// Whether nobody may come between the instruction's read and its write (SDM 3A
/// 9.1.2.1): XCHG needs no prefix for that.
fn is_atomic(instruction: &Instruction) -> bool {
    instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg
}

/// What an instruction does with its memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Load,
    /// Writes all of it and reads nothing.
    Store,
    Modify,
    /// Without anybody coming between.
    ModifyAtomically,
}

fn register_only(cpu: &mut Cpu, insn: &Insn) -> Exec {
    let thunk = thunk_of(cpu, insn)?;
    // SAFETY: the thunk has no memory operand.
    unsafe { cpu.call(thunk, std::ptr::null_mut()) }
}

fn load(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_memory(cpu, insn, Touch::Load)
}

fn store(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_memory(cpu, insn, Touch::Store)
}

fn modify(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_memory(cpu, insn, Touch::Modify)
}

fn modify_atomically(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_memory(cpu, insn, Touch::ModifyAtomically)
}

fn fpu_register_only(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_unit(cpu, insn, register_only)
}

fn fpu_load(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_unit(cpu, insn, load)
}

fn fpu_store(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_unit(cpu, insn, store)
}

fn fpu_modify(cpu: &mut Cpu, insn: &Insn) -> Exec {
    with_unit(cpu, insn, modify)
}

/// Executes the instruction if its unit, noted in `reg1`, is enabled.
#[inline]
fn with_unit(cpu: &mut Cpu, insn: &Insn, body: Handler) -> Exec {
    let unit = Unit::from_number(insn.reg1);
    cpu.require(unit)?;
    if !matches!(unit, Unit::X87 | Unit::Mmx) {
        return body(cpu, insn);
    }
    if insn.imm & NO_WAIT == 0 {
        // Before any access to memory.
        cpu.require_no_x87_exception()?;
    }
    let before = X87Pointers::of(cpu);
    body(cpu, insn)?;
    cpu.set_x87_pointers(insn, before);
    Ok(())
}

fn thunk_of(cpu: &mut Cpu, insn: &Insn) -> Exec<Thunk> {
    match insn.thunk {
        Some(thunk) => Ok(thunk),
        None => Err(cpu.ud()),
    }
}

/// A memory operand on its way to the host.
pub(crate) struct Operand {
    pub(crate) thunk: Thunk,
    pub(crate) segment: SegmentName,
    pub(crate) lin: u64,
    pub(crate) size: u64,
}

/// Executes the instruction on its memory operand: in place where that is one
/// piece of RAM, else on a copy.
fn with_memory(cpu: &mut Cpu, insn: &Insn, touch: Touch) -> Exec {
    let thunk = thunk_of(cpu, insn)?;
    let write = touch != Touch::Load;
    let segment = insn.address.segment;
    let size = u64::from(insn.mem_size.max(1));
    let offset = cpu.effective_address(insn);
    let place = cpu.linear(segment, offset, size, write);
    if let Ok(lin) = place
        && let Some(host) = cpu.tlb.lookup(cpu.view, write, lin, size)
    {
        // SAFETY: the TLB holds only pages of guest RAM, and the operand lies in
        // one page.
        return unsafe { cpu.call(thunk, host) };
    }
    let lin = place.unwrap_or_else(|_| cpu.without_checks(segment, offset));
    let operand = Operand { thunk, segment, lin, size };
    match place.and_then(|lin| cpu.reach(&operand, lin, size, write)) {
        Ok(()) => cpu.call_on_copy(&operand, touch),
        // Of these, only CMPXCHG16B has anything to say before it accesses
        // memory.
        Err(cause) if insn.reg1 == Unit::Integer as u8 && size < 16 => Err(cause),
        Err(cause) => cpu.call_beyond_reach(&operand, cause),
    }
}

impl Cpu {
    /// Calls a thunk.
    ///
    /// # Safety
    /// `memory` must be valid for the thunk's operand, if it has one, or lie in
    /// a guard's hole.
    #[inline]
    pub(crate) unsafe fn call(&mut self, thunk: Thunk, memory: *mut u8) -> Exec {
        // SAFETY: thunks live as long as the block they belong to; the run loop
        // has announced the arena; the caller answers for the operand.
        let outcome = unsafe { thunk.call(&mut self.state, memory) };
        outcome.map_err(|fault| {
            let exception = fault.exception();
            if exception.vector == Vector::XM && !self.state.cr4.contains(Cr4::OSXMMEXCPT) {
                return self.ud();
            }
            self.raise(exception)
        })
    }

    /// Makes sure that a part of an operand can be accessed.
    #[cold]
    pub(crate) fn reach(&mut self, operand: &Operand, lin: u64, size: u64, write: bool) -> Exec {
        self.probe_linear(self.view, lin, size, write)
            .map_err(|cause| self.as_stack_fault(cause, operand.segment))
    }

    /// Calls a thunk whose operand cannot be accessed because of `cause`, for
    /// an exception that comes before the access: a misaligned operand, or a
    /// floating-point exception of the value to be stored, after which an x87
    /// instruction does not store at all (SDM 1 8.5).
    #[cold]
    fn call_beyond_reach(&mut self, operand: &Operand, cause: Break) -> Exec {
        let fault = self.fault;
        let Some(guard) = self.bounce.guard().filter(|_| cause == Break::Fault) else { return Err(cause) };
        let memory = guard.operand(operand.lin, Hole::Both);
        // SAFETY: the operand lies in the guard's hole.
        match unsafe { self.call(operand.thunk, memory) } {
            Err(Break::Fault) if self.fault.vector == Vector::PF => Err(self.raise(fault)),
            outcome => outcome,
        }
    }

    /// Calls a thunk whose operand can be accessed, if need be on a copy: where
    /// it lies in two pages or is a device's. What is only stored is not read
    /// before: a device would notice.
    #[cold]
    pub(crate) fn call_on_copy(&mut self, operand: &Operand, touch: Touch) -> Exec {
        let Operand { thunk, lin, size, .. } = *operand;
        let write = touch != Touch::Load;
        if let Some(whole) = self.whole(lin, size, write)? {
            // SAFETY: the operand lies in one page of guest RAM.
            unsafe { self.call(thunk, whole.host()) }?;
            if write {
                self.note_write(whole, size);
            }
            return Ok(());
        }
        let _alone = (touch == Touch::ModifyAtomically).then(|| self.alone());
        let mut bytes = [0; crate::native::MAX_OPERAND];
        let bytes = &mut bytes[..size as usize];
        if touch != Touch::Store {
            self.read_slow(self.view, lin, bytes)?;
        }
        let operand = self.bounce.operand(lin, size as usize);
        operand.copy_from_slice(bytes);
        let memory = operand.as_mut_ptr();
        // SAFETY: the bounce buffer has room for the operand.
        unsafe { self.call(thunk, memory) }?;
        if write {
            bytes.copy_from_slice(self.bounce.operand(lin, size as usize));
            self.write_slow(self.view, lin, bytes)?;
        }
        Ok(())
    }

    /// #UD or #NM unless `unit` is enabled (SDM 3A 2.5, 13.1; 2A tables 2-17
    /// to 2-27).
    pub(crate) fn require(&mut self, unit: Unit) -> Exec {
        let (cr0, cr4) = (self.state.cr0, self.state.cr4);
        let vex = |needed| {
            self.state.real_or_v86() || !cr4.contains(Cr4::OSXSAVE) || !self.state.xcr0.contains(needed)
        };
        let avx = Xcr0::SSE.union(Xcr0::AVX);
        let undefined = match unit {
            Unit::X87 if cr0.contains(Cr0::EM) => return Err(self.raise(Exception::NM)),
            Unit::X87 => false,
            Unit::Integer => return Ok(()),
            Unit::Bmi if !self.state.real_or_v86() => return Ok(()),
            Unit::Bmi => true,
            Unit::Mmx => cr0.contains(Cr0::EM),
            Unit::Sse => cr0.contains(Cr0::EM) || !cr4.contains(Cr4::OSFXSR),
            Unit::Avx => vex(avx),
            Unit::Avx512 => vex(avx.union(Xcr0::AVX512)),
        };
        if undefined {
            return Err(self.ud());
        }
        if cr0.contains(Cr0::TS) { Err(self.raise(Exception::NM)) } else { Ok(()) }
    }

    /// Replaces the x87 pointers that the host has set to addresses of its own
    /// (SDM 1 8.1.8). Whether an instruction sets them, and when, is the host's
    /// processor's affair, whose CPUID bits the guest sees.
    fn set_x87_pointers(&mut self, insn: &Insn, before: X87Pointers) {
        let after = X87Pointers::of(self);
        if after == before {
            return;
        }
        if after.fip != before.fip {
            self.state.fpu.x87.fip = self.state.rip;
        }
        if after.fdp != before.fdp && insn.mem_size > 0 {
            self.state.fpu.x87.fdp = self.effective_address(insn);
        }
        if after.fop != before.fop {
            self.state.fpu.x87.fop = insn.imm as u16;
        }
    }
}

/// The last x87 instruction and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct X87Pointers {
    fip: u64,
    fdp: u64,
    fop: u16,
}

impl X87Pointers {
    fn of(cpu: &Cpu) -> Self {
        let x87 = &cpu.state.fpu.x87;
        Self { fip: x87.fip, fdp: x87.fdp, fop: x87.fop }
    }
}

/// A flag in [`Insn::imm`] beside the opcode: pending exceptions can wait.
const NO_WAIT: u64 = 1 << 16;

/// What [`Insn::imm`] holds for an x87 instruction: the opcode as FOP holds
/// it, 11 bits, and [`NO_WAIT`].
pub(crate) fn x87_opcode(instruction: &Instruction, bytes: &[u8]) -> u64 {
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).unwrap_or(0);
    let byte = |index: usize| u64::from(bytes.get(index).copied().unwrap_or(0));
    let no_wait = matches!(
        instruction.mnemonic(),
        Mnemonic::Fnclex
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fninit
            | Mnemonic::Fneni
            | Mnemonic::Fndisi
            | Mnemonic::Fnsetpm
    );
    (byte(escape) & 7) << 8 | byte(escape + 1) | if no_wait { NO_WAIT } else { 0 }
}
