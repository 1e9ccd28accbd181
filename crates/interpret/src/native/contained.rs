//! The last gate before an instruction runs on the host: whatever the handlers
//! believe, nothing passes that could reach beyond the guest's registers, its
//! arithmetic flags and one memory operand whose address we choose.

use iced_x86::{
    CpuidFeature, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits, UsedRegister,
};

/// The longest memory operand, in bytes.
const MAX_OPERAND: usize = 64;
/// Flags that a thunk may change: the arithmetic ones, and the condition codes
/// of the x87, which are part of its state.
const FLAGS: u32 = RflagsBits::CF
    | RflagsBits::PF
    | RflagsBits::AF
    | RflagsBits::ZF
    | RflagsBits::SF
    | RflagsBits::OF
    | RflagsBits::C0
    | RflagsBits::C1
    | RflagsBits::C2
    | RflagsBits::C3;

/// Whether all that `instruction` does stays inside a thunk.
pub(crate) fn contained(instruction: &Instruction) -> bool {
    let harmless = !instruction.is_privileged()
        && !instruction.is_stack_instruction()
        && !instruction.is_string_instruction()
        && !instruction.is_save_restore_instruction()
        && instruction.flow_control() == FlowControl::Next
        && instruction.rflags_modified() & !FLAGS == 0
        && instruction.rflags_read() & !FLAGS == 0
        && !moves_host_state(instruction.mnemonic())
        && instruction.cpuid_features().iter().all(|&feature| computes(feature));
    harmless && has_plain_operands(instruction) && uses_loaded_registers(instruction)
}

/// Registers, immediates, and at most one memory operand: explicit, of a known
/// size, at one address.
fn has_plain_operands(instruction: &Instruction) -> bool {
    let mut memory = 0;
    for op in 0..instruction.op_count() {
        match instruction.op_kind(op) {
            OpKind::Memory => memory += 1,
            OpKind::Register
            | OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
            _ => return false,
        }
    }
    if memory == 0 {
        return true;
    }
    let size = instruction.memory_size().size();
    memory == 1 && (1..=MAX_OPERAND).contains(&size) && !instruction.memory_index().is_vector_register()
}

/// Registers that a thunk loads, and no memory but the explicit operand.
fn uses_loaded_registers(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let explicit = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    let loaded = |register: Register| {
        register.is_gpr()
            || register.is_vector_register()
            || register.is_k()
            || register.is_st()
            || register.is_mm()
    };
    // Segment registers and RIP are no more than a part of the address.
    let addresses = |used: &UsedRegister| {
        let register = used.register();
        explicit && used.access() == OpAccess::Read && (register.is_segment_register() || register.is_ip())
    };
    let operands = (0..instruction.op_count()).filter(|&op| instruction.op_kind(op) == OpKind::Register);
    info.used_memory().len() <= usize::from(explicit)
        && operands.map(|op| instruction.op_register(op)).all(loaded)
        && info.used_registers().iter().all(|used| loaded(used.register()) || addresses(used))
}

/// Members of the computing groups that load or store the floating-point state
/// as the host has it, or whose memory operand is no operand to replace.
const fn moves_host_state(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fldenv
            | M::Fnstenv
            | M::Fnsave
            | M::Frstor
            | M::Ldmxcsr
            | M::Stmxcsr
            | M::Vldmxcsr
            | M::Vstmxcsr
            | M::Vzeroall
            | M::Vzeroupper
            | M::Xlatb
    )
}

/// Whether the instructions of a group compute and do nothing else. Single
/// instructions of these groups are excluded by what they use.
const fn computes(group: CpuidFeature) -> bool {
    use CpuidFeature as C;
    matches!(
        group,
        C::INTEL8086
            | C::INTEL186
            | C::INTEL386
            | C::INTEL486
            | C::X64
            | C::FPU
            | C::FPU287
            | C::FPU387
            | C::CMOV
            | C::CX8
            | C::CMPXCHG16B
            | C::MMX
            | C::SSE
            | C::SSE2
            | C::SSE3
            | C::SSSE3
            | C::SSE4_1
            | C::SSE4_2
            | C::POPCNT
            | C::LZCNT
            | C::MOVBE
            | C::BMI1
            | C::BMI2
            | C::ADX
            | C::RDRAND
            | C::RDSEED
            | C::AES
            | C::PCLMULQDQ
            | C::SHA
            | C::GFNI
            | C::VAES
            | C::VPCLMULQDQ
            | C::AVX
            | C::AVX2
            | C::FMA
            | C::F16C
            | C::AVX512F
            | C::AVX512BW
            | C::AVX512CD
            | C::AVX512DQ
            | C::AVX512VL
            | C::AVX512_BITALG
            | C::AVX512_IFMA
            | C::AVX512_VBMI
            | C::AVX512_VBMI2
            | C::AVX512_VNNI
            | C::AVX512_VPOPCNTDQ
    )
}

#[cfg(test)]
#[path = "contained_tests.rs"]
mod tests;
