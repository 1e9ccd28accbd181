//! All opcodes: what the CPUID model offers has a handler, and the host
//! accesses no more memory than the operand is said to have.

use std::collections::HashSet;

use iced_x86::{Code, Decoder, FlowControl, Instruction, OpKind};
use x86::X87State;

use super::{Hole, HostCpu};
use crate::insn::Insn;
use crate::testing::Bench;

/// Every opcode in every map and encoding, with register and memory operands.
fn opcodes(mut visit: impl FnMut(&[u8])) {
    let operands = (0..=255_u8).filter(|modrm| match modrm >> 6 {
        0 => modrm & 7 == 0,
        3 => true,
        _ => false,
    });
    for modrm in operands {
        for opcode in 0..=255 {
            let tail = [opcode, modrm, 0, 0, 0, 0, 0];
            legacy(&tail, &mut visit);
            // VEX and EVEX have no opcode in the low bits of ModRM.
            if modrm & 7 == 0 {
                vector(&tail, &mut visit);
            }
        }
    }
}

fn legacy(tail: &[u8], visit: &mut impl FnMut(&[u8])) {
    for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
        for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3], &[0x48], &[0x66, 0x48], &[0xf3, 0x48]] {
            visit(&[prefix, map, tail].concat());
        }
    }
}

fn vector(tail: &[u8], visit: &mut impl FnMut(&[u8])) {
    for map in 1..=3 {
        for bits in 0..16 {
            // vvvv is 1111b where it must be, else any register.
            for vvvv in [0x78, 0x10] {
                let (w, l, pp) = (bits >> 3 << 7, bits >> 2 & 1, bits & 3);
                visit(&[&[0xc4, 0xe0 | map, w | vvvv | l << 2 | pp], tail].concat());
                for last in [0x08, 0x09, 0x28, 0x29, 0x48, 0x49, 0x58] {
                    visit(&[&[0x62, 0xf0 | map, w | vvvv | 4 | pp, last], tail].concat());
                }
            }
        }
    }
}

fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory)
}

/// Executes the thunk on an operand that ends where memory ends.
fn overruns(bench: &mut Bench, insn: &Insn) -> bool {
    let Some(thunk) = insn.thunk else { return false };
    let size = usize::from(insn.mem_size);
    let lin = 0x1000 - size as u64;
    bench.cpu.state.gpr = [2; 16];
    bench.cpu.state.fpu.k = [u64::MAX; 8];
    bench.cpu.state.fpu.x87 = X87State::INIT;
    bench.cpu.state.fpu.mxcsr = 0x1f80;
    bench.install();
    let guard = bench.cpu.bounce.guard().unwrap();
    guard.part(lin, size, Hole::Second).fill(0x3f);
    let memory = guard.operand(lin, Hole::Second);
    // SAFETY: the operand lies in the guard: in its page or in its hole.
    unsafe { bench.cpu.call(thunk, memory) }.is_err()
}

#[test]
fn what_is_offered_is_done_and_operands_are_as_large_as_they_say() {
    if !HostCpu::detect().avx512 {
        return;
    }
    for mut bench in [Bench::long(), Bench::protected()] {
        let mut seen: HashSet<(Code, bool)> = HashSet::new();
        let bitness = u32::from(bench.cpu.code_size) * 8;
        opcodes(|bytes| {
            let instruction = Decoder::new(bitness, bytes, bench.cpu.cpuid.decoder_options()).decode();
            let memory = has_memory(&instruction);
            if instruction.flow_control() != FlowControl::Next
                || !bench.cpu.cpuid.allows_instruction(&instruction)
                || !seen.insert((instruction.code(), memory))
            {
                return;
            }
            let insn = bench.decode(&bytes[..instruction.len()]);
            let undefined = crate::decode::undefined as crate::insn::Handler;
            assert!(!std::ptr::fn_addr_eq(insn.handler, undefined), "{instruction:?} has no handler");
            // Dividing what is there by what is there overflows.
            let divides =
                matches!(instruction.mnemonic(), iced_x86::Mnemonic::Div | iced_x86::Mnemonic::Idiv);
            if memory && !divides {
                assert!(!overruns(&mut bench, &insn), "{instruction:?}: more than {} bytes", insn.mem_size);
            }
        });
        assert!(seen.len() > 3000, "{} of {bitness}", seen.len());
    }
}
