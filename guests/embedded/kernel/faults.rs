//! Exceptions in 64-bit mode, each raised on purpose (SDM 3A 7.15).

use crate::probe::{Expect, Facts, Probe, UD, fragments64, gp};
use crate::selectors::NOT_PRESENT;

fn exception(vector: u8) -> Expect {
    Expect::Fault(vector, 0)
}

fn absent_segment(_: &Facts) -> Expect {
    Expect::Fault(11, (NOT_PRESENT & !3).into())
}

/// The table; page faults are in [`crate::paging`].
pub const PROBES: [Probe; 10] = [
    Probe::both(0, "DIV by zero", divide, |_| exception(0), |_| exception(0)),
    Probe::both(0, "single step (TF)", step, |_| exception(1), |_| exception(1)),
    // INT3's gate has DPL 0 here: at ring 3 it is refused (error code 3 * 8 + IDT).
    Probe::both(0, "INT3, DPL 0", int3, |_| exception(3), |_| gp(3 * 8 + 2)),
    Probe::both(0, "UD2", ud2, |_| UD, |_| UD),
    Probe::ring0(0, "SSE with CR0.TS", no_fpu, |_| exception(7)),
    Probe::both(0, "FS not present", absent, absent_segment, absent_segment),
    Probe::both(0, "stack not canonical", stack, |_| exception(12), |_| exception(12)),
    Probe::both(0, "load not canonical", canonical, |_| gp(0), |_| gp(0)),
    Probe::both(0, "GDT limit exceeded", beyond, |_| gp(0xFF8), |_| gp(0xFF8)),
    Probe::both(0, "DIVSS by 0, unmasked", simd, |_| exception(19), |_| exception(19)),
];

fragments64! {
    divide: ["xor ecx, ecx", "div ecx"];
    step: ["pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop"];
    int3: ["int3"];
    ud2: ["ud2"];
    no_fpu: ["mov rax, cr0", "or eax, 8", "mov cr0, rax", "xorps xmm0, xmm0"];
    absent: ["mov eax, {selector}", "mov fs, eax"], selector = const NOT_PRESENT;
    stack: ["mov rbp, 0x8000000000000000", "mov rax, [rbp]"];
    canonical: ["mov rbx, 0x8000000000000000", "mov rax, [rbx]"];
    beyond: ["mov eax, 0xffb", "mov fs, eax"];
    /// MXCSR with the divide-by-zero mask off; the recovery from the fault puts it back.
    simd: ["sub rsp, 8", "mov dword ptr [rsp], 0x1d80", "ldmxcsr [rsp]", "mov dword ptr [rsp], 0x3f800000",
        "movss xmm1, [rsp]", "xorps xmm0, xmm0", "divss xmm1, xmm0", "add rsp, 8"];
}
