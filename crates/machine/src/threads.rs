//! The threads of the vCPUs: one for each, the calling one among them. They
//! start together and end together.

use std::sync::Mutex;
use std::thread;

use engine::{Signal, Stop, Vcpu};

use crate::Outcome;
use crate::board::Board;
use crate::sync::lock;

/// Runs all vCPUs until somebody wants something of the machine, or one of them
/// ends the run; then none of them runs.
pub(crate) fn run_all(board: &Board, vcpus: &mut [Box<dyn Vcpu>]) -> Option<Outcome> {
    let (boot, others) = vcpus.split_first_mut()?;
    let ending = Mutex::new(None);
    let note = |outcome: Option<Outcome>| {
        let mut ending = lock(&ending);
        *ending = ending.take().or(outcome);
    };
    thread::scope(|scope| {
        for (id, vcpu) in (1..).zip(others) {
            let thread = thread::Builder::new().name(format!("vcpu{id}"));
            let body = move || note(run(board, id, vcpu.as_mut()));
            if let Err(error) = thread.spawn_scoped(scope, body) {
                let _together = Together(board);
                note(Some(Outcome::Failed(format!("the host refuses a thread for vCPU {id} ({error})"))));
                return;
            }
        }
        note(run(board, 0, boot.as_mut()));
    });
    lock(&ending).take()
}

/// Runs one vCPU; what it ends the run with, if it does.
fn run(board: &Board, id: u32, vcpu: &mut dyn Vcpu) -> Option<Outcome> {
    let _together = Together(board);
    loop {
        match vcpu.run(board) {
            Stop::Kicked => return None,
            Stop::HaltedForGood => {
                board.wait_for_more_than_interrupts(id);
                if board.signals(id).is_pending(Signal::Exit) {
                    return None;
                }
            }
            Stop::TripleFault => return Some(Outcome::TripleFault),
            Stop::GuestFailed(why) => return Some(Outcome::GuestFailed(why)),
            Stop::Failed(why) => return Some(Outcome::Failed(why)),
        }
    }
}

/// Makes all threads end when one does, even by a panic.
struct Together<'a>(&'a Board);

impl Drop for Together<'_> {
    fn drop(&mut self) {
        self.0.control.kick();
    }
}
