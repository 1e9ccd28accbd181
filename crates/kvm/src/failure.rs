//! Failures as plain sentences.

use std::fmt::Write;

use engine::{EngineError, EngineKind};
use x86::{CpuState, Gpr, SegmentName};

/// The host does not let the engine work.
pub(crate) fn unusable(reason: String) -> EngineError {
    EngineError::Unusable { engine: EngineKind::Kvm, reason }
}

/// Where the guest was, and with what in its registers.
pub(crate) fn situation(state: &CpuState) -> String {
    const NAMES: [(&str, Gpr); 16] = [
        ("rax", Gpr::Rax),
        ("rcx", Gpr::Rcx),
        ("rdx", Gpr::Rdx),
        ("rbx", Gpr::Rbx),
        ("rsp", Gpr::Rsp),
        ("rbp", Gpr::Rbp),
        ("rsi", Gpr::Rsi),
        ("rdi", Gpr::Rdi),
        ("r8", Gpr::R8),
        ("r9", Gpr::R9),
        ("r10", Gpr::R10),
        ("r11", Gpr::R11),
        ("r12", Gpr::R12),
        ("r13", Gpr::R13),
        ("r14", Gpr::R14),
        ("r15", Gpr::R15),
    ];
    let cs = state.segment(SegmentName::Cs);
    let mut text = format!("cs:rip {:x}:{:x} rflags {:x}", cs.selector.0, state.rip, state.rflags.bits());
    for (name, reg) in NAMES {
        let _ = write!(text, " {name} {:x}", state.reg(reg));
    }
    let _ = write!(
        text,
        " cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
        state.cr0.bits(),
        state.cr2,
        state.cr3,
        state.cr4.bits(),
        state.efer.bits()
    );
    text
}

/// What KVM_EXIT_INTERNAL_ERROR means.
pub(crate) fn internal_error(suberror: u32, data: &[u64]) -> String {
    match suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => {
            format!("the guest executed an instruction that KVM cannot emulate{}", instruction_bytes(data))
        }
        kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => {
            "KVM gave up because exceptions kept interrupting each other".to_owned()
        }
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => format!(
            "KVM could not deliver an event to the guest, because its descriptor tables or its stack are not \
             in memory (details {data:x?})"
        ),
        kvm_bindings::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            format!("the processor left the guest for a reason that KVM does not know (details {data:x?})")
        }
        other => format!("KVM failed inside with sub-error {other} (details {data:x?})"),
    }
}

/// The bytes of the instruction, if the kernel tells them.
fn instruction_bytes(data: &[u64]) -> String {
    let flags = u64::from(kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    let [first, second, third, ..] = data else { return String::new() };
    if first & flags == 0 {
        return String::new();
    }
    let bytes: Vec<u8> = second.to_le_bytes().into_iter().chain(third.to_le_bytes()).collect();
    let Some((&len, bytes)) = bytes.split_first() else { return String::new() };
    let mut text = String::from(" (bytes");
    for byte in bytes.iter().take(len.into()) {
        let _ = write!(text, " {byte:02x}");
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_that_cannot_be_emulated_is_shown() {
        let sentence = internal_error(1, &[1, 0x0000_0000_00f8_0f02, 0]);
        assert_eq!(sentence, "the guest executed an instruction that KVM cannot emulate (bytes 0f f8)");
        assert!(!internal_error(1, &[]).contains("bytes"));
    }

    #[test]
    fn the_situation_is_one_line() {
        let text = situation(&CpuState::reset());
        assert!(text.starts_with("cs:rip f000:fff0") && !text.contains('\n'), "{text}");
    }
}
