//! A second look at a difference: the sequence again, instruction by
//! instruction, to see what its end may depend on.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind, Register, RflagsBits};
use x86::cpuid::CpuidModel;
use x86::{CpuState, Gpr, Rflags};

use crate::case::Case;
use crate::guest::{Guest, Variant};
use crate::layout::PAGE;
use crate::outcome::Exempt;
use crate::permitted::permitted;

/// Instructions that are followed.
const LIMIT: usize = 4_000;

/// The longest instruction, in bytes (SDM 2A 2.3.11).
const MAX_LEN: u64 = 15;

/// What the manual leaves open in the end of `case`; None if its way is not
/// determined at all, because it read an undefined flag or came upon an
/// instruction that sequences may not have, or upon one that does not exist at
/// the end of a page: how many bytes the processor wants to see before it says
/// so is its own affair.
pub(crate) fn exempt(guest: &mut Guest, case: &Case, model: &CpuidModel, variant: Variant) -> Option<Exempt> {
    guest.prepare(case, Variant::Stepped);
    let mut undefined = 0;
    for _ in 0..LIMIT {
        let before = guest.state();
        let bytes = guest.code_at(before.rip);
        let (instruction, _) = model.decode(case.bits.count(), &bytes, before.rip);
        if instruction.is_invalid() {
            if before.rip % PAGE > PAGE - MAX_LEN {
                return None;
            }
        } else {
            let unknown = !permitted(&instruction, model) || instruction.rflags_read() & undefined != 0;
            if unknown || undefined_result(&instruction, &before) || trapping_gather(&instruction, &before) {
                return None;
            }
        }
        let stopped = guest.step().is_some();
        // How many more elements are on their way when a repeated instruction
        // has overwritten itself is the processor's affair.
        let len = instruction.len();
        if is_repeated(&instruction) && guest.code_at(before.rip)[..len] != bytes[..len] {
            return None;
        }
        if stopped || guest.state().cpl() == 0 {
            return Some(at_end(&instruction, undefined, variant));
        }
        if sets_flags(&instruction, &before) {
            undefined &=
                !(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set());
            undefined |= instruction.rflags_undefined();
        }
    }
    None
}

/// Whether flags change at all: a shift by zero and a repetition of nothing
/// leave them.
fn sets_flags(instruction: &Instruction, state: &CpuState) -> bool {
    let by_cl = (0..instruction.op_count())
        .any(|op| instruction.op_kind(op) == OpKind::Register && instruction.op_register(op) == Register::CL);
    let shift = matches!(
        instruction.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    let count = state.reg(Gpr::Rcx);
    if shift && by_cl {
        let wide = instruction.op0_register().is_gpr64() || instruction.memory_size().size() == 8;
        return count & if wide { 63 } else { 31 } != 0;
    }
    !(is_repeated(instruction) && count & count_mask(instruction) == 0)
}

/// The part of RCX that counts a string instruction's repetitions: as wide as
/// its addresses (SDM 2B REP).
fn count_mask(instruction: &Instruction) -> u64 {
    use OpKind as K;
    (0..instruction.op_count())
        .find_map(|op| match instruction.op_kind(op) {
            K::MemorySegSI | K::MemorySegDI | K::MemoryESDI => Some(0xffff),
            K::MemorySegESI | K::MemorySegEDI | K::MemoryESEDI => Some(0xffff_ffff),
            _ => None,
        })
        .unwrap_or(u64::MAX)
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.is_string_instruction() && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
}

/// A fault in a gather or scatter gives way to a trap that is pending from the
/// elements already done (SDM 2C VPGATHERDD); whether a single step is pending
/// then is open.
fn trapping_gather(instruction: &Instruction, state: &CpuState) -> bool {
    instruction.is_vsib() && state.rflags.contains(Rflags::TF)
}

/// Double shifts of 16 bits by more than that give anything (SDM 2B SHLD).
fn undefined_result(instruction: &Instruction, state: &CpuState) -> bool {
    if !matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd) {
        return false;
    }
    let word = instruction.op1_register().is_gpr16();
    let count = if instruction.op2_kind() == OpKind::Register {
        state.reg(Gpr::Rcx) as u8
    } else {
        instruction.immediate8()
    };
    word && count & 31 > 16
}

fn at_end(last: &Instruction, undefined: u32, variant: Variant) -> Exempt {
    let mut exempt = Exempt { flags: rflags(undefined), ..Exempt::default() };
    // An MMX instruction that faults may already have made the x87 registers
    // its own; a call whose target is bad may have pushed its return address.
    exempt.x87 = last.cpuid_features().contains(&CpuidFeature::MMX)
        || (0..last.op_count()).any(|op| last.op_register(op).is_mm());
    exempt.memory = last.is_call_near() || last.is_call_near_indirect();
    // Some processors write part of what these push before they fault.
    exempt.memory |= matches!(last.mnemonic(), Mnemonic::Pusha | Mnemonic::Pushad | Mnemonic::Enter);
    // They also store the significand of these, which the engine does not,
    // before they find that there is no page for the exponent.
    exempt.memory |= matches!(last.code(), Code::Fstp_m80fp | Code::Fbstp_m80bcd);
    // A page fault that leaves the flags of masked exceptions behind is allowed
    // and found in some processors: they convert before they store, and the
    // flags are sticky (SDM 1 10.2.3.1).
    exempt.mxcsr = matches!(last.mnemonic(), Mnemonic::Vcvtps2ph);
    // Operands of many pieces: in which order they are reached is open.
    exempt.cr2 = matches!(
        last.mnemonic(),
        Mnemonic::Frstor
            | Mnemonic::Fldenv
            | Mnemonic::Pusha
            | Mnemonic::Pushad
            | Mnemonic::Popa
            | Mnemonic::Popad
    );
    // A fault gives repeated comparisons the flags back that they began with,
    // which an interrupt between two elements has changed.
    if variant == Variant::Mmio && is_repeated(last) {
        exempt.flags |= Rflags::ARITHMETIC.bits();
    }
    // A gather that faults may have done more than the elements below the one
    // that faulted (SDM 2C VPGATHERDD).
    if last.is_vsib() {
        exempt.memory |= last.op0_kind() == OpKind::Memory;
        exempt.k = u8::MAX;
        for op in 0..last.op_count() {
            if last.op_kind(op) == OpKind::Register && last.op_register(op).is_vector_register() {
                exempt.zmm |= 1 << last.op_register(op).number();
            }
        }
    }
    exempt
}

/// From iced-x86's flag bits to those of RFLAGS.
fn rflags(bits: u32) -> u64 {
    const PAIRS: [(u32, Rflags); 6] = [
        (RflagsBits::OF, Rflags::OF),
        (RflagsBits::SF, Rflags::SF),
        (RflagsBits::ZF, Rflags::ZF),
        (RflagsBits::AF, Rflags::AF),
        (RflagsBits::CF, Rflags::CF),
        (RflagsBits::PF, Rflags::PF),
    ];
    PAIRS.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |flags, (_, flag)| flags | flag.bits())
}
