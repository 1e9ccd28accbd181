//! Random code in every mode: at least a million instructions each.

use std::time::Duration;

use engine::{Engine, Mode};
use x86::{
    Activity, CpuState, Cr0, Cr4, Dr6, Dr7, Efer, InterruptShadow, Rflags, Segment, SegmentAttributes,
    Selector, Xcr0,
};

use crate::board::{Kicker, Rig};
use crate::dice::Dice;
use crate::program;
use crate::world::{CODE, RAM, Start, interesting};

/// Instructions in every mode.
const INSTRUCTIONS: u64 = 1_200_000;
/// The most instructions of one round that count: a loop is not random code.
const COUNTED: u64 = 256;
/// Rounds between two complete sets of tables.
const TABLES_LAST: u64 = 8;
const KICK: Duration = Duration::from_micros(500);

/// Tells where it happened if a test panics.
struct Witness {
    mode: Mode,
    round: u64,
    start: Option<Start>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("random code in {:?} mode, round {}: {:?}", self.mode, self.round, self.start);
        }
    }
}

fn choose(dice: &mut Dice, mode: Mode) -> Start {
    let ring = match mode {
        Mode::Real => 0,
        Mode::Virtual8086 => 3,
        _ => dice.pick(&[0, 3]),
    };
    let segmented = matches!(mode, Mode::Protected32 | Mode::Compatibility) && dice.one_in(3);
    Start { mode, ring, segmented, orderly: !dice.one_in(4) }
}

/// Executes random code that starts in `mode`.
fn storm(engine: &dyn Engine, mode: Mode) {
    let _shared = crate::shared();
    let mut dice = Dice::new(0x5eed_0000 + mode as u64);
    let mut rig = Rig::new(engine, dice.next(), RAM);
    rig.board.restless.store(true, std::sync::atomic::Ordering::Relaxed);
    let kicker = Kicker::new(&rig.board.signals, KICK, format!("random code in {mode:?} mode"));
    let mut witness = Witness { mode, round: 0, start: None };
    let mut counted = 0;
    while counted < INSTRUCTIONS {
        kicker.round(witness.round);
        if witness.round.is_multiple_of(TABLES_LAST) {
            let start = choose(&mut dice, mode);
            start.write(&mut dice, &rig);
            witness.start = Some(start);
        }
        if let Some(start) = witness.start {
            counted += round(&mut dice, &mut rig, start);
        }
        witness.round += 1;
    }
}

/// One program from one state; the number of instructions that count.
fn round(dice: &mut Dice, rig: &mut Rig, start: Start) -> u64 {
    let mut code = [0; 0x200];
    program::fill(dice, start.bitness(), &mut code);
    // Sometimes the last instruction crosses into the next page.
    let skip = if dice.one_in(4) { 0x1000 - dice.below(64) } else { 0 };
    rig.write(CODE + skip, &code);
    let mut state = start.state(dice);
    state.rip += skip;
    rig.calm();
    rig.vcpu.set_state(&state);
    let before = rig.vcpu.stats().instructions;
    if dice.one_in(2) {
        rig.vcpu.run(&rig.board);
    } else {
        for _ in 0..COUNTED {
            if rig.vcpu.step(&rig.board).is_some() {
                break;
            }
        }
    }
    (rig.vcpu.stats().instructions - before).min(COUNTED)
}

/// States that no processor can get into, as a damaged snapshot may hold them.
pub(crate) fn states_full_of_nonsense(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut dice = Dice::new(31);
    let mut rig = Rig::new(engine, dice.next(), RAM);
    let kicker = Kicker::new(&rig.board.signals, KICK, "states full of nonsense".to_owned());
    for round in 0..20_000 {
        kicker.round(round);
        let start = choose(&mut dice, Mode::ALL[round as usize % Mode::ALL.len()]);
        if round.is_multiple_of(TABLES_LAST) {
            start.write(&mut dice, &rig);
        }
        let mut code = [0; 0x80];
        program::fill(&mut dice, start.bitness(), &mut code);
        let mut state = start.state(&mut dice);
        nonsense(&mut dice, &mut state);
        rig.calm();
        rig.load(&state, &code);
        for _ in 0..8 {
            if rig.vcpu.step(&rig.board).is_some() {
                break;
            }
        }
        rig.vcpu.run(&rig.board);
    }
}

/// Replaces a few items by anything.
fn nonsense(dice: &mut Dice, state: &mut CpuState) {
    for _ in 0..1 + dice.below(4) {
        let value = interesting(dice);
        let any = dice.next();
        let segment = Segment {
            base: value,
            limit: any as u32,
            selector: Selector((any >> 32) as u16),
            attributes: SegmentAttributes::from_bits((any >> 48) as u16),
        };
        match dice.below(18) {
            0 => state.rip = value,
            1 => state.rflags = Rflags::from_bits_retain(any),
            2 => state.cr0 = Cr0::from_bits_retain(any),
            3 => state.cr4 = Cr4::from_bits_retain(any),
            4 => state.efer = Efer::from_bits_retain(any),
            5 => state.cr3 = value,
            6 => state.pdpte = [value, any, value | 1, any | 1],
            7 => state.xcr0 = Xcr0::from_bits_retain(any),
            8 => (state.dr7, state.dr) = (Dr7::from_bits_retain(any), [value; 4]),
            9 => state.tr = segment,
            10 => state.ldtr = segment,
            11 => state.fpu.mxcsr = any as u32,
            12 => (state.fpu.x87.fcw, state.fpu.x87.fsw) = (any as u16, (any >> 16) as u16),
            13 => state.fpu.pkru = any as u32,
            14 => state.activity = dice.pick(&[Activity::Halted, Activity::WaitForSipi, Activity::Shutdown]),
            15 => state.interrupt_shadow = dice.pick(&[InterruptShadow::Sti, InterruptShadow::MovSs]),
            16 => (state.nmi_pending, state.dr6) = (any & 1 != 0, Dr6::from_bits_retain(any)),
            _ => state.segments[dice.below(6) as usize] = segment,
        }
    }
}

pub(crate) fn random_code_in_real_mode(engine: &dyn Engine) {
    storm(engine, Mode::Real);
}

pub(crate) fn random_code_in_16_bit_protected_mode(engine: &dyn Engine) {
    storm(engine, Mode::Protected16);
}

pub(crate) fn random_code_in_32_bit_protected_mode(engine: &dyn Engine) {
    storm(engine, Mode::Protected32);
}

pub(crate) fn random_code_in_virtual_8086_mode(engine: &dyn Engine) {
    storm(engine, Mode::Virtual8086);
}

pub(crate) fn random_code_in_compatibility_mode(engine: &dyn Engine) {
    storm(engine, Mode::Compatibility);
}

pub(crate) fn random_code_in_64_bit_mode(engine: &dyn Engine) {
    storm(engine, Mode::Long64);
}
