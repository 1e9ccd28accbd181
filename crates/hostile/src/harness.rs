//! What the fuzz targets drive, and a test with random input for them.

use std::cell::RefCell;
use std::time::Duration;

use engine::{Engine, Mode};

use crate::board::{Kicker, Rig};
use crate::dice::Dice;
use crate::world::{CODE, MMIO, RAM, Start};

/// Steps of one input: enough for code that is not a loop.
const STEPS: usize = 512;
/// The longest program: up to the code's second page.
const PROGRAM: usize = 0x1000;
/// Ends string instructions that would go on for ever.
const KICK: Duration = Duration::from_millis(50);

struct Bench {
    rig: Rig,
    kicker: Kicker,
    rounds: u64,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

fn with_bench(engine: &dyn Engine, body: impl FnOnce(&mut Rig)) {
    BENCH.with_borrow_mut(|bench| {
        let bench = bench.get_or_insert_with(|| {
            let rig = Rig::new(engine, 0, RAM);
            let kicker = Kicker::new(&rig.board.signals, KICK, "fuzz input".to_owned());
            Bench { rig, kicker, rounds: 0 }
        });
        bench.rounds += 1;
        bench.kicker.round(bench.rounds);
        bench.rig.calm();
        body(&mut bench.rig);
    });
}

fn start(choice: u8) -> Start {
    let mode = Mode::ALL[usize::from(choice) % Mode::ALL.len()];
    let ring = match mode {
        Mode::Real => 0,
        Mode::Virtual8086 => 3,
        _ => (choice >> 3 & 1) * 3,
    };
    let segmented = mode == Mode::Protected32 && choice & 0x10 != 0;
    Start { mode, ring, segmented, orderly: choice & 0xe0 != 0 }
}

/// Decodes the input in every mode: in RAM, over the end of a page and from a
/// device. One instruction of each is executed, at ring 3 where there is one.
pub fn decode_everywhere(engine: &dyn Engine, data: &[u8]) {
    let data = &data[..data.len().min(64)];
    with_bench(engine, |rig| {
        for mode in Mode::ALL {
            let ring = if mode == Mode::Real { 0 } else { 3 };
            let state = Start::orderly(mode, ring).plain(rig);
            let device = &rig.board.device;
            device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).splice(.., data.iter().copied());
            for (at, offset) in [(CODE, 0), (CODE, 0x1000 - (data.len() as u64).div_ceil(2)), (MMIO, 0)] {
                let mut state = state.clone();
                if at == MMIO {
                    state.segment_mut(x86::SegmentName::Cs).base = 0;
                    state.rip = MMIO;
                    state.segment_mut(x86::SegmentName::Cs).limit = u32::MAX;
                } else {
                    rig.write(at + offset, data);
                    state.rip += offset;
                }
                rig.vcpu.set_state(&state);
                let _ = rig.vcpu.step(&rig.board);
                rig.calm();
            }
        }
    });
}

/// Executes the input: the first byte chooses the mode and whether the tables
/// are in order, the next eight the registers, the rest is code.
pub fn run_bytes(engine: &dyn Engine, data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let Some((seed, code)) = rest.split_first_chunk() else { return };
    let start = start(choice);
    with_bench(engine, |rig| {
        let mut dice = Dice::new(u64::from_le_bytes(*seed));
        rig.board.reseed(dice.next());
        start.write(&mut dice, rig);
        let state = start.state(&mut dice);
        rig.load(&state, &code[..code.len().min(PROGRAM)]);
        for _ in 0..STEPS {
            if rig.vcpu.step(&rig.board).is_some() {
                break;
            }
        }
    });
}

pub(crate) fn the_fuzz_targets_stand_random_input(engine: &dyn Engine) {
    let _shared = crate::shared();
    let mut dice = Dice::new(23);
    for _ in 0..2000 {
        let mut data = vec![0; dice.below(100) as usize];
        dice.fill(&mut data);
        decode_everywhere(engine, &data);
        run_bytes(engine, &data);
    }
}
