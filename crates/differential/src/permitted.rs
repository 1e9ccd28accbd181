//! Which instructions may stand in a sequence: those whose effect depends on
//! nothing but registers and memory, and that the guest is offered.

use iced_x86::{CpuidFeature, FlowControl, Instruction, Mnemonic, Register};
use x86::cpuid::CpuidModel;

/// Privileged instructions that do nothing but #GP(0) at CPL 3, whatever the
/// host.
const PRIVILEGED: &[Mnemonic] = {
    use Mnemonic::*;
    &[Hlt, Cli, Sti, Clts, Invd, Wbinvd, Lmsw, Lgdt, Lidt, Lldt, Ltr, Invlpg, Rdmsr, Wrmsr, In, Out]
};

/// Whether `instruction` may be executed by a sequence on both sides.
pub fn permitted(instruction: &Instruction, model: &CpuidModel) -> bool {
    !instruction.is_invalid()
        && model.allows_instruction(instruction)
        && !leaks(instruction)
        && !system_group(instruction)
        && !segment_change(instruction)
        && (!instruction.is_privileged() || PRIVILEGED.contains(&instruction.mnemonic()))
        && flow_is_known(instruction)
}

/// Instructions that show the host: time, identity, its system's tables and
/// its own state, or the place of the last x87 instruction.
fn leaks(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    #[rustfmt::skip]
    let leaks = matches!(
        instruction.mnemonic(),
        Syscall | Sysenter | Sysexit | Sysexitq | Sysret | Sysretq | Cpuid | Rdtsc | Rdtscp | Rdpid | Rdrand | Rdseed
            | Rdpmc | Sgdt | Sidt | Sldt | Str | Smsw | Lar | Lsl | Verr | Verw | Xgetbv | Xsetbv | Rdpkru | Wrpkru
            | Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase | Fxsave | Fxsave64 | Fxrstor | Fxrstor64 | Fnsave | Fsave
            | Fnstenv | Fstenv | Monitor | Mwait | Umonitor | Umwait | Tpause | Vmcall | Vmmcall | Xbegin | Xabort
            | Xend | Xtest | Iret | Iretd | Iretq | Int1 | Insb | Insw | Insd | Outsb | Outsw | Outsd | Rdsspd | Rdsspq
            | Bound | Rsm | Getsec | Swapgs | Invpcid | Clac | Stac | Serialize
    );
    leaks
}

fn system_group(instruction: &Instruction) -> bool {
    use CpuidFeature as C;
    instruction.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            C::XSAVE | C::XSAVEC | C::XSAVEOPT | C::XSAVES | C::VMX | C::SVM | C::SMX | C::SMM | C::PKU
        )
    })
}

/// Writes to segment registers and far transfers: Linux's descriptors are not
/// ours.
fn segment_change(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let loads = matches!(instruction.mnemonic(), Lds | Les | Lss | Lfs | Lgs)
        || matches!(instruction.mnemonic(), Mov | Pop) && instruction.op0_register().is_segment_register();
    let far = instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || instruction.mnemonic() == Retf;
    // Processors differ in how much of the stack PUSH of a selector writes
    // (SDM 2B PUSH).
    let pushed = instruction.mnemonic() == Push && instruction.op0_register().is_segment_register();
    loads || far || pushed || memory_in_fs(instruction)
}

/// The host keeps a thread block in FS.
fn memory_in_fs(instruction: &Instruction) -> bool {
    instruction.segment_prefix() == Register::FS
}

fn flow_is_known(instruction: &Instruction) -> bool {
    !matches!(instruction.flow_control(), FlowControl::XbeginXabortXend)
        && !matches!(instruction.mnemonic(), Mnemonic::Int)
}
