//! Every port and every MSR, with whatever comes to mind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{Engine, Mode, Stop};
use x86::Gpr;

use crate::board::Rig;
use crate::dice::Dice;
use crate::world::{HANDLERS, IDT, KCODE64, RAM, Start, gate};

const LIMIT: Duration = Duration::from_secs(20);
/// Where the guest finds numbers and values for WRMSR.
const LIST: u64 = 0x10_0000;

pub(crate) fn every_port_in_every_size(engine: &dyn Engine) {
    let _shared = crate::shared();
    for (mode, word, dword) in [(Mode::Real, 0x90, 0x66), (Mode::Protected32, 0x66, 0x90)] {
        let mut rig = Rig::new(engine, 3, RAM);
        let state = Start::orderly(mode, 0).plain(&rig);
        let code = [
            0xee, word, 0xef, dword, 0xef, // out dx, al; ax; eax
            0xec, word, 0xed, dword, 0xed, // in al; ax; eax, dx
            word, 0x42, 0x75, 0xf2, // inc dx; jnz
            0xf4,
        ];
        let back = (code.len() - 1) as u8;
        let mut code = code;
        code[13] = 0_u8.wrapping_sub(back);
        rig.load(&state, &code);
        assert_eq!(rig.run_for(LIMIT).0, Stop::HaltedForGood, "{mode:?}");
        assert_eq!(rig.board.port_accesses.load(Ordering::Relaxed), 6 * 0x1_0000);
    }
}

fn indices() -> impl Iterator<Item = u32> {
    [0..0x2000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4e00, 0xc000_0000..0xc001_2000]
        .into_iter()
        .flatten()
}

/// The guest writes and reads each MSR; the handler of #GP skips the
/// instruction.
pub(crate) fn every_msr_with_random_values(engine: &dyn Engine) {
    let _shared = crate::shared();
    for seed in 0..4 {
        let mut rig = Rig::new(engine, seed, RAM);
        let mut dice = Dice::new(seed);
        let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
        let mut list = Vec::new();
        for index in indices() {
            let value = if seed == 0 { 0 } else { dice.next() >> dice.below(64) };
            list.extend(index.to_le_bytes());
            list.extend(value.to_le_bytes());
        }
        rig.write(LIST, &list);
        let gates: Vec<u8> = [gate(KCODE64, HANDLERS, 0x8e).to_le_bytes(), [0; 8]].concat().repeat(256);
        rig.write(IDT, &gates);
        // add rsp, 8; add qword [rsp], 2; iretq
        rig.write(HANDLERS, &[0x48, 0x83, 0xc4, 8, 0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf]);
        state.set_reg(Gpr::Rsi, LIST);
        state.set_reg(Gpr::Rdi, indices().count() as u64);
        let code = [
            0x8b, 0x0e, 0x8b, 0x46, 4, 0x8b, 0x56, 8, // mov ecx, [rsi]; eax, [rsi + 4]; edx, [rsi + 8]
            0x0f, 0x30, 0x0f, 0x32, // wrmsr; rdmsr
            0x83, 0xc6, 12, 0xff, 0xcf, 0x75, 0xed, // add esi, 12; dec edi; jnz
            0xf4,
        ];
        rig.load(&state, &code);
        assert_eq!(rig.run_for(LIMIT).0, Stop::HaltedForGood, "seed {seed}");
        assert_eq!(rig.vcpu.state().reg(Gpr::Rdi), 0);
        let written = rig.vcpu.state();
        rig.vcpu.set_state(&written);
    }
}
