//! Tables that lead nowhere, to themselves, to devices, to ROM; stacks and
//! code at the ends of the address space. Nothing is expected but an end.

use std::time::Duration;

use engine::{Engine, Mode, Stop};
use x86::{Cr0, Cr4, DescriptorTable, Efer, Gpr, Rflags};

use crate::board::{ROM, ROM_TABLES, Rig};
use crate::dice::Dice;
use crate::program;
use crate::world::*;

const WHILE: Duration = Duration::from_millis(5);
/// Addresses that no table should be at.
const NOWHERE: [u64; 14] = [
    0,
    MMIO,
    ROM,
    ROM_TABLES,
    RAM - 0x1000,
    RAM,
    0xffff_f000,
    0xffff_fffd,
    0x7fff_ffff_fffc,
    0x8000_0000_0000,
    0xffff_7fff_ffff_fff8,
    0xffff_8000_0000_0000,
    u64::MAX - 0xfff,
    u64::MAX - 3,
];

/// Runs and is content with any end but a failure.
fn endure(rig: &mut Rig, what: &str) {
    let (stop, _) = rig.run_for(WHILE);
    assert!(!matches!(stop, Stop::Failed(_)), "{what}: {stop:?}");
    // What is left is a state like any other.
    let state = rig.vcpu.state();
    rig.vcpu.set_state(&state);
}

/// Touches memory, ports of call and all tables: loads, stores, a software
/// interrupt, segment loads, a far jump.
const TOUR: [u8; 29] = [
    0xa1, 0, 0, 8, 0, // mov eax, [DATA]: longer in 64-bit mode, and other code then
    0xa3, 0, 0, 8, 0, // mov [DATA], eax
    0x50, 0x58, // push; pop
    0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8, // mov eax, 10h; mov ds, ax
    0xcd, 0x80, // int 80h
    0xcc, // int3
    0xff, 0x2c, 0x25, 0, 0, 8, 0, // jmp far [DATA]
];

fn paged(mode: Mode, pae: bool, la57: bool, cr3: u64, rig: &Rig) -> x86::CpuState {
    let mut state = Start::orderly(mode, 0).plain(rig);
    state.cr0 |= Cr0::PG;
    state.cr4.set(Cr4::PAE, pae);
    state.cr4.set(Cr4::LA57, la57);
    state.cr4 |= Cr4::PSE;
    state.cr3 = cr3;
    if mode == Mode::Protected32 {
        state.efer = Efer::empty();
        state.pdpte = if cr3 == PAE_PDPT { PDPTES } else { [cr3 | 1; 4] };
    }
    state
}

pub(crate) fn page_tables_anywhere(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut dice = Dice::new(11);
    for (mode, pae, la57) in [
        (Mode::Protected32, false, false),
        (Mode::Protected32, true, false),
        (Mode::Long64, true, false),
        (Mode::Long64, true, true),
    ] {
        for cr3 in NOWHERE {
            let mut rig = Rig::new(engine, cr3, RAM);
            let state = paged(mode, pae, la57, cr3, &rig);
            rig.load(&state, &TOUR);
            endure(&mut rig, &format!("{mode:?}, tables at {cr3:#x}"));
        }
        // Every entry leads to its own table, or to ROM, a device, nothing.
        for target in [TABLES, ROM_TABLES, MMIO, RAM, 0x000f_ffff_ffff_f000, 1 << 45] {
            for bits in [0x7, 0x67, 0x87, 0xe7] {
                let mut rig = Rig::new(engine, target, RAM);
                let state = paged(mode, pae, la57, TABLES, &rig);
                rig.write(TABLES, &(target | bits).to_le_bytes().repeat(512));
                rig.load(&state, &TOUR);
                endure(&mut rig, &format!("{mode:?}, entries {target:#x} | {bits:#x}"));
            }
        }
        // The first pages in order, so that something runs; the rest noise.
        for seed in 0..50 {
            let mut rig = Rig::new(engine, seed, RAM);
            let state = paged(
                mode,
                pae,
                la57,
                if mode == Mode::Long64 {
                    TABLES
                } else if pae {
                    PAE_PDPT
                } else {
                    NARROW
                },
                &rig,
            );
            let mut noise = [0; 0xfc0];
            dice.fill(&mut noise);
            rig.write(TABLES + 0x40, &noise);
            rig.write(TABLES + 0x1040, &noise);
            rig.write(NARROW + 0x40, &noise);
            let mut code = [0; 0x100];
            program::fill(&mut dice, if mode == Mode::Long64 { 64 } else { 32 }, &mut code);
            rig.load(&state, &code);
            endure(&mut rig, "noise in page tables");
        }
    }
}

pub(crate) fn descriptor_tables_anywhere(engine: &dyn Engine) {
    let _shared = crate::shared();
    for mode in [Mode::Protected16, Mode::Protected32, Mode::Virtual8086, Mode::Compatibility, Mode::Long64] {
        for ring in [0, 3] {
            for at in NOWHERE {
                for which in 0..5 {
                    let mut rig = Rig::new(engine, at, RAM);
                    let mut state = Start::orderly(mode, ring).plain(&rig);
                    let table = DescriptorTable { base: at, limit: 0xffff };
                    match which {
                        0 => state.gdtr = table,
                        1 => state.idtr = table,
                        2 => state.tr.base = at,
                        3 => state.ldtr.base = at,
                        _ => (state.gdtr, state.idtr, state.tr.base) = (table, table, at),
                    }
                    rig.load(&state, &TOUR);
                    endure(&mut rig, &format!("{mode:?} ring {ring}: table {which} at {at:#x}"));
                }
            }
        }
    }
}

/// All vectors are task gates: to the running task, to one that faults at
/// once, to one that is no task.
pub(crate) fn task_gates_that_lead_in_circles(engine: &dyn Engine) {
    let _shared = crate::shared();
    for mode in [Mode::Protected32, Mode::Protected16, Mode::Virtual8086] {
        for selector in [TSS_SELECTOR, OTHER_TSS_SELECTOR, TASK_GATE, 0, 0xfff8, 0xffff] {
            for limit in [0x7ff, 0x40, 0] {
                let mut rig = Rig::new(engine, 5, RAM);
                let mut state =
                    Start::orderly(mode, if mode == Mode::Virtual8086 { 3 } else { 0 }).plain(&rig);
                state.idtr.limit = limit;
                rig.write(IDT, &gate(selector, 0, 0xe5).to_le_bytes().repeat(256));
                // The other task begins where nothing is.
                rig.write(OTHER_TSS + 0x20, &0xdead_0000_u32.to_le_bytes());
                rig.load(&state, &[0x0f, 0x0b]);
                endure(&mut rig, &format!("{mode:?}: task gates to {selector:#x}"));
            }
        }
    }
}

/// Two tasks that jump to each other for ever.
pub(crate) fn tasks_that_switch_for_ever_can_be_stopped(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut rig = Rig::new(engine, 5, RAM);
    let state = Start::orderly(Mode::Protected32, 0).plain(&rig);
    // jmp OTHER_TSS:0; the other task: jmp TSS:0; both again.
    let jump = |selector: u16| [0xea, 0, 0, 0, 0, selector as u8, 0, 0xeb, 0xf7];
    rig.write(HANDLERS, &jump(TSS_SELECTOR));
    rig.load(&state, &jump(OTHER_TSS_SELECTOR));
    let (stop, _) = rig.run_for(Duration::from_millis(50));
    assert_eq!(stop, Stop::Kicked);
    assert!(rig.vcpu.stats().instructions > 100, "{:?}", rig.vcpu.state());
}

/// PUSH, CALL, RET, ENTER, PUSHA, IRET and exceptions with the stack at the
/// ends of everything.
pub(crate) fn stacks_at_the_ends(engine: &dyn Engine) {
    let _shared = crate::shared();
    let codes: [&[u8]; 10] = [
        &[0x50],
        &[0x58],
        &[0xe8, 0, 0, 0, 0],
        &[0xc3],
        &[0xc8, 8, 0, 31],
        &[0x60],
        &[0x61],
        &[0xcf],
        &[0xcc],
        &[0x0f, 0x0b],
    ];
    for mode in Mode::ALL {
        for sp in
            [0, 1, 2, 3, 5, 7, 0x7fff, 0xffff, 0x1_0001, 0xffff_ffff, 0xffff_fffc, 0x8000_0000_0000, u64::MAX]
        {
            for code in codes {
                let mut rig = Rig::new(engine, sp, RAM);
                let ring = if mode == Mode::Virtual8086 { 3 } else { 0 };
                let mut state = Start::orderly(mode, ring).plain(&rig);
                state.rflags |= Rflags::IOPL;
                state.set_reg(Gpr::Rsp, sp);
                state.set_reg(Gpr::Rbp, sp);
                rig.load(&state, &code.repeat(8));
                let (stop, _) = rig.run_for(WHILE);
                assert!(!matches!(stop, Stop::Failed(_)), "{mode:?} {sp:#x} {code:x?}");
            }
        }
    }
}

/// Instructions that reach over the end of a page into nothing, a device, ROM,
/// or over the end of the address space.
pub(crate) fn instructions_at_the_ends_of_pages(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut dice = Dice::new(17);
    let mut rig = Rig::new(engine, 9, RAM);
    for round in 0..4000 {
        let mode = dice.pick(&[Mode::Protected32, Mode::Long64]);
        let mut state = paged(mode, true, false, if mode == Mode::Long64 { TABLES } else { PAE_PDPT }, &rig);
        let mut code = [0; 64];
        program::fill(&mut dice, if mode == Mode::Long64 { 64 } else { 32 }, &mut code);
        let skip = 0x1000 - dice.below(15) - 1;
        let page = dice.pick(&[
            DATA + 0x2000,
            DATA + 0x4000,
            DATA + 0x8000,
            DATA + 0xa000,
            DATA + 0xc000,
            RAM - 0x1000,
        ]);
        let room = (0x1000 - skip) as usize;
        rig.write(page + skip, &code[..room]);
        state.rip = page + skip;
        if round % 16 == 0 {
            state.rip = dice.pick(&[
                0x7fff_ffff_fffe,
                0xffff_ffff,
                u64::MAX,
                0xffff_fffd,
                ROM + 0xffff,
                MMIO + 0xfff,
            ]);
        }
        for reg in 0..16 {
            state.gpr[reg] = interesting(&mut dice);
        }
        rig.vcpu.set_state(&state);
        for _ in 0..4 {
            if rig.vcpu.step(&rig.board).is_some() {
                break;
            }
        }
        rig.calm();
    }
}
