//! Guests that want to end, and guests that want never to end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{Engine, Mode, Stop};
use x86::{Cr0, DescriptorTable, Dr7, Gpr, Rflags};

use crate::board::Rig;
use crate::world::{CODE, DATA, IDT, MMIO, RAM, STACK, Start, gate};

/// How soon a vCPU must obey [`engine::Signal::Exit`].
const PROMPT: Duration = Duration::from_millis(100);
const WHILE: Duration = Duration::from_millis(20);
/// How long what ends by itself may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);
const UD2: [u8; 2] = [0x0f, 0x0b];

fn rig(engine: &dyn Engine) -> Rig {
    Rig::new(engine, 7, RAM)
}

/// Runs what never ends by itself; it must stop promptly. A host that is busy
/// elsewhere gets a second chance.
fn assert_stoppable(rig: &mut Rig, what: &str) {
    let mut slowest = Duration::MAX;
    for _ in 0..3 {
        let (stop, took) = rig.run_for(WHILE);
        assert_eq!(stop, Stop::Kicked, "{what}");
        slowest = slowest.min(took);
    }
    assert!(slowest < PROMPT, "{what} took {slowest:?} to stop");
}

pub(crate) fn a_triple_fault_ends_every_mode(engine: &dyn Engine) {
    let _shared = crate::shared();
    for mode in Mode::ALL {
        let mut rig = rig(engine);
        let ring = if mode == Mode::Virtual8086 { 3 } else { 0 };
        let mut state = Start::orderly(mode, ring).plain(&rig);
        state.idtr = DescriptorTable { base: 0, limit: 0 };
        rig.load(&state, &UD2);
        for _ in 0..2 {
            assert_eq!(rig.run_for(PATIENCE).0, Stop::TripleFault, "{mode:?}");
        }
        rig.load(&Start::orderly(mode, ring).plain(&rig), &[0xeb, 0xfe]);
        assert_stoppable(&mut rig, &format!("{mode:?} after a triple fault"));
    }
}

pub(crate) fn a_halt_with_interrupts_off_is_told_and_can_be_stopped(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut rig = rig(engine);
    rig.board.patient.store(true, Ordering::Relaxed);
    let state = Start::orderly(Mode::Long64, 0).plain(&rig);
    for _ in 0..2 {
        rig.load(&state, &[0xfa, 0xf4]);
        assert_eq!(rig.run_for(PATIENCE).0, Stop::HaltedForGood);
        assert_stoppable(&mut rig, "the halted processor");
    }
}

pub(crate) fn endless_loops_obey(engine: &dyn Engine) {
    let _shared = crate::shared();
    let loops: [&[u8]; 6] = [
        &[0xeb, 0xfe],
        &[0xfa, 0xeb, 0xfe],
        // Prefixes, and a jump into the middle of itself.
        &[0xf3, 0x90, 0xeb, 0xfc],
        &[0xeb, 0xff, 0xc0, 0xeb, 0xfb],
        // sti; cli; jmp: an interrupt shadow at all times.
        &[0xfb, 0xfa, 0xeb, 0xfc],
        // hlt, mwait.
        &[0x0f, 0x01, 0xc9, 0xeb, 0xfb],
    ];
    for mode in Mode::ALL {
        for code in loops {
            let mut rig = rig(engine);
            let ring = if mode == Mode::Virtual8086 { 3 } else { 0 };
            let mut state = Start::orderly(mode, ring).plain(&rig);
            state.rflags |= Rflags::IOPL;
            rig.load(&state, code);
            let (stop, took) = rig.run_for(WHILE);
            assert!(
                matches!(stop, Stop::Kicked | Stop::TripleFault | Stop::HaltedForGood),
                "{mode:?} {code:x?}"
            );
            assert!(took < PROMPT * 5, "{mode:?} {code:x?} took {took:?}");
        }
    }
}

pub(crate) fn endless_string_instructions_obey(engine: &dyn Engine) {
    let _shared = crate::shared();
    // rep movsb, stosb, lodsb, repe cmpsb, repe scasb, rep insb, rep outsb.
    for opcode in [0xa4, 0xaa, 0xac, 0xa6, 0xae, 0x6c, 0x6e] {
        for (from, to, flags) in [
            (DATA, DATA + 1, Rflags::empty()),
            (MMIO, MMIO, Rflags::empty()),
            (MMIO, MMIO + 0x100_0000, Rflags::DF),
            (RAM - 64, MMIO, Rflags::empty()),
        ] {
            let mut rig = rig(engine);
            rig.board.device.lock().unwrap().push(0);
            let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
            state.rflags |= flags;
            state.set_reg(Gpr::Rcx, u64::MAX);
            state.set_reg(Gpr::Rsi, from);
            state.set_reg(Gpr::Rdi, to);
            rig.load(&state, &[0xf3, opcode, 0xeb, 0xfc]);
            let (stop, took) = rig.run_for(WHILE);
            assert!(matches!(stop, Stop::Kicked | Stop::TripleFault | Stop::HaltedForGood), "{opcode:x}");
            assert!(took < PROMPT * 5, "{opcode:x} took {took:?}");
        }
    }
}

/// An alignment check whose handler's frame is misaligned too: a processor
/// never leaves the delivery of it.
pub(crate) fn alignment_checks_without_end_can_be_stopped(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut rig = rig(engine);
    let mut state = Start::orderly(Mode::Protected32, 3).plain(&rig);
    state.cr0 |= Cr0::AM;
    state.rflags |= Rflags::AC;
    state.set_reg(Gpr::Rsp, STACK + 1);
    let gates = gate(0x2b, CODE, 0xee).to_le_bytes().repeat(256);
    rig.write(IDT, &gates);
    rig.load(&state, &[0xa1, 1, 0, 8, 0]);
    assert_stoppable(&mut rig, "the endless alignment check");
}

/// A data breakpoint on the stack to which debug exceptions push.
pub(crate) fn debug_exceptions_without_end_can_be_stopped(engine: &dyn Engine) {
    let _shared = crate::shared();
    for mode in [Mode::Protected32, Mode::Long64] {
        let mut rig = rig(engine);
        let mut state = Start::orderly(mode, 0).plain(&rig);
        state.dr = [STACK - 16, STACK - 24, STACK - 32, STACK - 40];
        state.dr7 = Dr7::from_bits_retain(0xffff_04ff);
        state.rflags |= Rflags::TF;
        // The handler of everything drops its frame and starts again.
        let selector = state.segment(x86::SegmentName::Cs).selector.0;
        let mut gates = Vec::new();
        for _ in 0..256 {
            gates.extend(gate(selector, CODE, 0x8e).to_le_bytes());
            gates.resize(gates.len() + if mode == Mode::Long64 { 8 } else { 0 }, 0);
        }
        rig.write(IDT, &gates);
        // mov esp, STACK; push eax; jmp
        rig.load(&state, &[0xbc, 0, 0, 5, 0, 0x50, 0xeb, 0xf8]);
        assert_stoppable(&mut rig, "the endless debug exception");
    }
}
