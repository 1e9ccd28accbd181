//! Failures as plain sentences.

use std::fmt::Write;

use engine::{EngineError, EngineKind};
use kvm_bindings as kb;
use x86::{CpuState, Gpr, SegmentName};

use crate::run_page::RunPage;

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

/// What an exit means after which the guest cannot go on.
pub(crate) fn exit(reason: u32, page: &RunPage) -> String {
    match reason {
        kb::KVM_EXIT_INTERNAL_ERROR => {
            let (suberror, data) = page.internal_error();
            internal_error(suberror, &data)
        }
        kb::KVM_EXIT_FAIL_ENTRY => {
            format!(
                "the processor refuses to enter the guest (hardware reason {:#x})",
                page.hardware_reason()
            )
        }
        kb::KVM_EXIT_UNKNOWN => format!(
            "the guest was left for a reason that KVM does not know (hardware reason {:#x})",
            page.hardware_reason()
        ),
        kb::KVM_EXIT_SYSTEM_EVENT => format!("KVM reports system event {}", page.system_event()),
        other => format!("KVM left the guest for a reason that is unknown here ({other})"),
    }
}

/// What KVM_EXIT_INTERNAL_ERROR means.
fn internal_error(suberror: u32, data: &[u64]) -> String {
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
    fn every_exit_that_ends_a_run_is_a_sentence_with_what_the_kernel_tells() {
        let sentence = |reason, details: &[u64]| exit(reason, &RunPage::of_exit(reason, details));
        let undelivered = sentence(kb::KVM_EXIT_INTERNAL_ERROR, &[2 << 32 | 3, 0x8000_0b0e, 0x20]);
        assert!(
            undelivered.contains("could not deliver") && undelivered.contains("80000b0e, 20"),
            "{undelivered}"
        );
        let stuck = sentence(kb::KVM_EXIT_INTERNAL_ERROR, &[2]);
        assert!(stuck.contains("exceptions kept interrupting"), "{stuck}");
        let unexpected = sentence(kb::KVM_EXIT_INTERNAL_ERROR, &[1 << 32 | 4, 0x404]);
        assert!(unexpected.contains("does not know") && unexpected.contains("404"), "{unexpected}");
        let other = sentence(kb::KVM_EXIT_INTERNAL_ERROR, &[99]);
        assert!(other.contains("sub-error 99"), "{other}");
        let refused = sentence(kb::KVM_EXIT_FAIL_ENTRY, &[0x8000_0021]);
        assert_eq!(refused, "the processor refuses to enter the guest (hardware reason 0x80000021)");
        assert!(sentence(kb::KVM_EXIT_UNKNOWN, &[0x7f]).ends_with("(hardware reason 0x7f)"));
        assert_eq!(sentence(kb::KVM_EXIT_SYSTEM_EVENT, &[2]), "KVM reports system event 2");
        assert!(sentence(kb::KVM_EXIT_XEN, &[]).contains("unknown here (34)"));
        // Numbers of the kernel that are too large are no reason to panic.
        let many = sentence(kb::KVM_EXIT_INTERNAL_ERROR, &[u64::MAX, u64::MAX]);
        assert!(many.contains("sub-error 4294967295") && !many.contains('\n'), "{many}");
    }

    #[test]
    fn the_situation_is_one_line() {
        let text = situation(&CpuState::reset());
        assert!(text.starts_with("cs:rip f000:fff0") && !text.contains('\n'), "{text}");
    }
}
