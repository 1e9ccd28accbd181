//! What really goes into thunks, looked at as machine code: every instruction
//! that the decoder knows, many times, in every mode.

use std::collections::HashSet;
use std::mem::size_of;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, Register};
use x86::CpuState;

use super::super::plan::Plan;
use super::super::{HostCpu, emit};
use crate::ops;

#[path = "../../../hostile/src/dice.rs"]
mod dice;
#[path = "../../../hostile/src/program.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod program;

const TRIES: usize = 48;
/// A host with everything: what it lacks would only hide instructions.
const HOST: HostCpu = HostCpu { avx: true, avx512: true };

/// Calls `body` with all instructions, and whether the interpreter would let
/// the host execute them.
fn every_instruction(mut body: impl FnMut(&Instruction, bool)) {
    let mut dice = dice::Dice::new(1);
    for code in Code::values() {
        for bitness in [16, 32, 64].repeat(TRIES) {
            let bytes = program::instruction(&mut dice, code, bitness);
            let mut decoder = Decoder::new(bitness, &bytes, DecoderOptions::NONE);
            let instruction = decoder.decode();
            if !instruction.is_invalid() {
                let native =
                    crate::decode::choose(&instruction).is_none() && ops::native::allowed(&instruction);
                body(&instruction, native);
            }
        }
    }
}

/// Checks the machine code of a thunk: memory is reached through the state,
/// the stack, or plainly through the operand's register.
fn check(guest: &Instruction, thunk: &[u8]) {
    let plan = Plan::new(guest).expect("there is a thunk");
    let (mut factory, mut pushed) = (InstructionInfoFactory::new(), 0_i32);
    let decoded: Vec<Instruction> = Decoder::new(64, thunk, DecoderOptions::NONE).into_iter().collect();
    for instruction in &decoded {
        assert!(!instruction.is_invalid() && !instruction.is_privileged(), "{guest}: {instruction}");
        pushed += instruction.stack_pointer_increment();
        if instruction.mnemonic() == Mnemonic::Lea && instruction.op0_register() == Register::RSP {
            pushed += instruction.memory_displacement32() as i32;
        }
        for memory in factory.info(instruction).used_memory() {
            let what = format!("{guest} ({:?}): {instruction} uses {memory:?}", guest.code());
            assert_eq!(memory.index(), Register::None, "{what}");
            assert!(!matches!(memory.segment(), Register::FS | Register::GS), "{what}");
            let end = memory.displacement().wrapping_add(memory.memory_size().size() as u64);
            // The flags are loaded before the state's address moves.
            let flags =
                instruction.code() == Code::Mov_r32_rm32 && instruction.op0_register() == Register::EAX;
            if flags && memory.base() == Register::RDI && plan.flags_loaded {
                assert!(end <= size_of::<CpuState>() as u64, "{what}");
            } else if memory.base() == plan.memory {
                assert_eq!(memory.displacement(), 0, "{what}");
                assert_eq!(instruction.code(), plan.instruction.code(), "{what}");
            } else if memory.base() == Register::RSP {
                assert!(memory.displacement().wrapping_add(8) <= 16, "{what}");
            } else {
                assert_eq!(memory.base(), plan.state, "{what}");
                assert!(end <= size_of::<CpuState>() as u64, "{what}");
            }
        }
    }
    assert_eq!(decoded.last().map(Instruction::mnemonic), Some(Mnemonic::Ret));
    assert_eq!(pushed, 8, "{guest}: the stack is uneven");
}

#[test]
fn thunks_reach_nothing_but_state_stack_and_operand() {
    let mut native = HashSet::new();
    every_instruction(|instruction, allowed| {
        if allowed && let Some(thunk) = emit(instruction, HOST) {
            check(instruction, &thunk);
            native.insert(instruction.code());
        }
    });
    assert!(native.len() > 2000, "only {} codes are executed by the host", native.len());
}

/// What would touch the host if it got there.
#[rustfmt::skip]
const FORBIDDEN: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Aesdec128kl, Aesdec256kl, Aesdecwide128kl, Aesdecwide256kl, Aesenc128kl, Aesenc256kl, Aesencwide128kl,
        Aesencwide256kl, Call, Cli, Clui, Clzero, Cpuid, Encodekey128, Encodekey256, Enqcmd,
        Enqcmds, Femms, Fldenv, Fnsave, Fnstenv, Frstor, Fxrstor, Fxrstor64, Fxsave, Fxsave64, Getsec, Hlt, Hreset,
        Incsspd, Incsspq, Int, Int1, Int3, Invlpg, Invpcid, Iretq, Ldmxcsr, Ldtilecfg, Lds, Les, Lfs, Lgs, Llwpcb,
        Loadiwkey, Lss, Lwpins, Lwpval, Maskmovdqu, Maskmovq, Monitor, Monitorx, Movdir64b, Mwait, Mwaitx, Pop, Popfq,
        Ptwrite, Push, Pushfq, Rdfsbase, Rdgsbase, Rdpid, Rdpkru, Rdpmc, Rdpru, Rdsspd, Rdsspq, Rdtsc, Rdtscp,
        Rstorssp, Saveprevssp, Senduipi, Serialize, Setssbsy, Slwpcb, Std, Cld, Sti, Stmxcsr, Sttilecfg, Stui, Syscall,
        Sysenter, Testui, Tileloadd, Tilerelease, Tilestored, Tpause, Umonitor, Umwait, Vgatherdpd, Vgatherdps,
        Vgatherqpd, Vgatherqps, Vldmxcsr, Vmaskmovdqu, Vpgatherdd, Vpgatherdq, Vpgatherqd, Vpgatherqq, Vpscatterdd,
        Vpscatterdq, Vpscatterqd, Vpscatterqq, Vscatterdpd, Vscatterdps, Vscatterqpd, Vscatterqps, Vstmxcsr, Vzeroall,
        Vzeroupper, Wrfsbase, Wrgsbase, Wrpkru, Wrssd, Wrssq, Xabort, Xbegin, Xcryptecb, Xend, Xgetbv, Xlatb, Xrstor,
        Xrstor64, Xrstors, Xrstors64, Xsave, Xsave64, Xsavec, Xsaveopt, Xsaves, Xsetbv, Xstore, Xtest,
    ]
};

#[test]
fn what_touches_the_host_never_gets_there() {
    let mut seen = HashSet::new();
    every_instruction(|instruction, allowed| {
        if FORBIDDEN.contains(&instruction.mnemonic()) {
            seen.insert(instruction.mnemonic());
            let native = allowed && emit(instruction, HOST).is_some();
            assert!(!native, "{instruction} ({:?})", instruction.code());
        }
    });
    let missed: Vec<_> = FORBIDDEN.iter().filter(|mnemonic| !seen.contains(mnemonic)).collect();
    assert!(missed.is_empty(), "never tried: {missed:?}");
}

/// The gate alone, without the handlers before it.
#[test]
fn the_gate_holds_without_the_handlers() {
    every_instruction(|instruction, _| {
        if let Some(thunk) = emit(instruction, HOST) {
            assert!(!FORBIDDEN.contains(&instruction.mnemonic()), "{instruction} ({:?})", instruction.code());
            check(instruction, &thunk);
        }
    });
}
