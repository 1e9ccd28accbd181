//! Guests that want all of the host's memory: code that changes, code that is
//! never the same, code that overlaps itself.

use std::time::Duration;

use engine::{Engine, Mode, Stop};
use x86::Gpr;

use crate::board::Rig;
use crate::world::{CODE, MMIO, RAM, Start};

const LIMIT: Duration = Duration::from_secs(300);

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// Runs `body`, in which the process may grow by `mebibytes`.
fn bounded(mebibytes: u64, body: impl FnOnce()) {
    let _alone = crate::alone();
    let before = resident();
    body();
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < mebibytes, "the process has grown by {grown} MiB");
}

/// Counts up in the immediate of an instruction: the products of 3 with 1 to
/// `count` are summed in EBX.
fn rewriting_loop(engine: &dyn Engine, count: u32) -> Rig {
    let mut rig = Rig::new(engine, 1, RAM);
    let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
    state.set_reg(Gpr::Rcx, 3);
    state.set_reg(Gpr::Rdi, CODE + 4);
    state.set_reg(Gpr::Rdx, count.into());
    let code = [
        0xff, 0x07, // inc dword [rdi]
        0x69, 0xc1, 0, 0, 0, 0, // imul eax, ecx, imm32
        0x01, 0xc3, // add ebx, eax
        0xff, 0xca, 0x75, 0xf2, // dec edx; jnz
        0xf4,
    ];
    rig.load(&state, &code);
    rig
}

fn sum_of_products(count: u32) -> u64 {
    (1..=count).fold(0_u32, |sum, i| sum.wrapping_add(i.wrapping_mul(3))).into()
}

pub(crate) fn code_that_rewrites_itself_stays_right_and_small(engine: &dyn Engine) {
    bounded(200, || {
        // More distinct instructions than there is room for host code.
        const COUNT: u32 = 700_000;
        let mut rig = rewriting_loop(engine, COUNT);
        assert_eq!(rig.run_for(LIMIT).0, Stop::HaltedForGood);
        let state = rig.vcpu.state();
        assert_eq!((state.reg(Gpr::Rdx), state.reg(Gpr::Rbx)), (0, sum_of_products(COUNT)));
    });
}

/// A block at every offset of many pages, each as long as blocks get.
pub(crate) fn overlapping_blocks_do_not_pile_up(engine: &dyn Engine) {
    bounded(400, || {
        const PAGES: u64 = 64;
        let mut rig = Rig::new(engine, 1, RAM);
        let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
        let start = 0x10_0000;
        rig.write(start, &vec![0x90; (PAGES as usize + 1) << 12]);
        for offset in 0..PAGES << 12 {
            state.rip = start + offset;
            rig.vcpu.set_state(&state);
            assert_eq!(rig.vcpu.step(&rig.board), None);
        }
    });
}

/// Instructions from a device, never the same: nothing can be remembered.
pub(crate) fn code_from_devices_runs_and_stays_small(engine: &dyn Engine) {
    bounded(200, || {
        let mut rig = Rig::new(engine, 1, RAM);
        let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
        state.rip = MMIO;
        rig.board.device.lock().unwrap().extend([0xff, 0xc0, 0x90, 0xeb, 0xfb, 0x90, 0x90, 0x90]);
        rig.vcpu.set_state(&state);
        assert_eq!(rig.run_for(Duration::from_millis(100)).0, Stop::Kicked);
        assert!(rig.vcpu.state().reg(Gpr::Rax) > 100);
        rig.board.device.lock().unwrap().clear();
        for _ in 0..20_000 {
            rig.vcpu.set_state(&state);
            for _ in 0..8 {
                if rig.vcpu.step(&rig.board).is_some() {
                    break;
                }
            }
            rig.calm();
        }
    });
}

/// The same by way of the guest itself, which calls every offset of some
/// pages: an engine may translate what it only steps through above.
pub(crate) fn calls_into_the_middle_of_code_do_not_pile_up(engine: &dyn Engine) {
    bounded(400, || {
        const PAGES: u64 = 4;
        let mut rig = Rig::new(engine, 1, RAM);
        let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
        let start = 0x10_0000;
        let mut page = vec![0x90; 0xfff];
        page.push(0xc3);
        rig.write(start, &page.repeat(PAGES as usize));
        state.set_reg(Gpr::Rdi, start);
        state.set_reg(Gpr::Rcx, PAGES << 12);
        // call rdi; inc rdi; dec rcx; jnz; hlt
        let code = [0xff, 0xd7, 0x48, 0xff, 0xc7, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xf4];
        rig.load(&state, &code);
        assert_eq!(rig.run_for(LIMIT).0, Stop::HaltedForGood);
        assert_eq!(rig.vcpu.state().reg(Gpr::Rdi), start + (PAGES << 12));
    });
}

/// More code than a small code cache has room for, round and round.
pub(crate) fn code_beyond_every_cache_stays_right(engine: &dyn Engine) {
    bounded(200, || {
        const ROUNDS: u32 = 4;
        const COUNT: u32 = (2 << 20) / 6;
        let mut rig = Rig::new(engine, 1, RAM);
        let mut state = Start::orderly(Mode::Long64, 0).plain(&rig);
        state.set_reg(Gpr::Rax, 0);
        state.set_reg(Gpr::Rcx, ROUNDS.into());
        // add rax, N for each N; then dec ecx; jnz; hlt.
        let mut code: Vec<u8> =
            (0..COUNT).flat_map(|n| [&[0x48, 0x05], &n.to_le_bytes()[..]].concat()).collect();
        code.extend([0xff, 0xc9, 0x0f, 0x85]);
        let back = -(code.len() as i32 + 4);
        code.extend(back.to_le_bytes());
        code.push(0xf4);
        state.rip = 0x10_0000;
        rig.write(state.rip, &code);
        rig.vcpu.set_state(&state);
        assert_eq!(rig.run_for(LIMIT).0, Stop::HaltedForGood);
        let sum = u64::from(COUNT) * u64::from(COUNT - 1) / 2 * u64::from(ROUNDS);
        assert_eq!(rig.vcpu.state().reg(Gpr::Rax), sum);
        if let Some(translation) = &rig.vcpu.stats().translation {
            assert!(translation.host_bytes > 6 << 20, "{translation:?}");
        }
    });
}
