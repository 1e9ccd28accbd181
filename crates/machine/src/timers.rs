//! Deadlines of all devices, and the thread that waits for the earliest.
//!
//! The thread sleeps until a deadline is due and is woken only for an earlier
//! one: an idle machine costs what its guest's timers cost.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use chipset::VmTime;

use crate::clock::VmClock;
use crate::sync::lock;

/// No part is woken more often than this, whatever period a guest programs.
/// Devices merge what they missed.
const MIN_INTERVAL: Duration = Duration::from_micros(50);

/// The place of one part among the timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId(usize);

impl TimerId {
    /// The number of timers that were registered before.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

#[derive(Clone, Copy, Default)]
struct Timer {
    deadline: Option<VmTime>,
    not_before: VmTime,
}

impl Timer {
    fn due_at(&self) -> Option<VmTime> {
        self.deadline.map(|deadline| deadline.max(self.not_before))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Standing,
    Running,
    Ended,
}

struct State {
    timers: Vec<Timer>,
    mode: Mode,
    /// Until when the thread sleeps; no earlier deadline needs to wake it. Zero
    /// while it is awake and will look itself.
    sleeps_until: VmTime,
}

/// The deadlines of one machine.
pub(crate) struct Timers {
    clock: Arc<VmClock>,
    state: Mutex<State>,
    wake: Condvar,
}

impl Timers {
    pub(crate) fn new(clock: Arc<VmClock>) -> Self {
        let state = State { timers: Vec::new(), mode: Mode::Standing, sleeps_until: VmTime::ZERO };
        Self { clock, state: Mutex::new(state), wake: Condvar::new() }
    }

    /// A place for one more part.
    pub(crate) fn register(&self) -> TimerId {
        let timers = &mut lock(&self.state).timers;
        timers.push(Timer::default());
        TimerId(timers.len() - 1)
    }

    /// Sets or clears the deadline of a part.
    pub(crate) fn arm(&self, id: TimerId, deadline: Option<VmTime>) {
        let mut state = lock(&self.state);
        let Some(timer) = state.timers.get_mut(id.0) else { return };
        timer.deadline = deadline;
        let earlier = timer.due_at().is_some_and(|at| at < state.sleeps_until);
        drop(state);
        if earlier {
            self.wake.notify_one();
        }
    }

    /// Lets the thread fire deadlines.
    pub(crate) fn start(&self) {
        self.set_mode(Mode::Running);
    }

    /// Keeps the thread from firing: the clock stands.
    pub(crate) fn stand(&self) {
        self.set_mode(Mode::Standing);
    }

    /// Ends the thread.
    pub(crate) fn end(&self) {
        self.set_mode(Mode::Ended);
    }

    fn set_mode(&self, mode: Mode) {
        lock(&self.state).mode = mode;
        self.wake.notify_one();
    }

    /// The thread: calls `expire` for every part whose deadline has passed,
    /// until [`Timers::end`].
    pub(crate) fn run(&self, expire: impl Fn(TimerId)) {
        let mut due = Vec::new();
        while self.sleep(&mut due) {
            due.drain(..).for_each(&expire);
        }
    }

    /// Waits until parts are due and takes them out; false at the end.
    fn sleep(&self, due: &mut Vec<TimerId>) -> bool {
        let mut state = lock(&self.state);
        state.sleeps_until = VmTime::ZERO;
        loop {
            let next = match state.mode {
                Mode::Ended => return false,
                Mode::Standing => None,
                Mode::Running => state.next(),
            };
            let now = self.clock.now();
            if next.is_some_and(|at| at <= now) {
                state.take_due(now, due);
                return true;
            }
            state.sleeps_until = next.unwrap_or(VmTime::from_nanos(u64::MAX));
            state = match next {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => self.wake.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.sleeps_until = VmTime::ZERO;
        }
    }

    /// Takes out the parts that are due now, for machines without the thread.
    #[cfg(test)]
    pub(crate) fn due(&self) -> Vec<TimerId> {
        let mut due = Vec::new();
        lock(&self.state).take_due(self.clock.now(), &mut due);
        due
    }
}

impl State {
    fn next(&self) -> Option<VmTime> {
        self.timers.iter().filter_map(Timer::due_at).min()
    }

    /// The earliest first.
    fn take_due(&mut self, now: VmTime, due: &mut Vec<TimerId>) {
        let mut found = Vec::new();
        for (index, timer) in self.timers.iter_mut().enumerate() {
            if let Some(at) = timer.due_at().filter(|at| *at <= now) {
                *timer = Timer { deadline: None, not_before: now + MIN_INTERVAL };
                found.push((at, TimerId(index)));
            }
        }
        found.sort_by_key(|(at, _)| *at);
        due.extend(found.into_iter().map(|(_, id)| id));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::testing::FakeTicks;

    const MILLI: u64 = 1_000_000;

    fn real() -> Arc<Timers> {
        let clock = Arc::new(VmClock::new(crate::host::ticks(false)));
        clock.run();
        Arc::new(Timers::new(clock))
    }

    #[test]
    fn the_thread_fires_in_order_and_ends() {
        let timers = real();
        let (late, early) = (timers.register(), timers.register());
        let (sender, fired) = mpsc::channel();
        let thread = std::thread::spawn({
            let timers = Arc::clone(&timers);
            move || timers.run(|id| sender.send(id).unwrap())
        });
        timers.start();
        let now = timers.clock.now().nanos();
        timers.arm(late, Some(VmTime::from_nanos(now + 2000 * MILLI)));
        std::thread::sleep(Duration::from_millis(5));
        timers.arm(early, Some(VmTime::from_nanos(now + 20 * MILLI)));
        assert_eq!(fired.recv_timeout(Duration::from_secs(10)), Ok(early));
        assert!(timers.clock.now().nanos() < now + 1900 * MILLI, "woken for the earlier one");
        assert_eq!(fired.recv_timeout(Duration::from_secs(10)), Ok(late));
        assert!(timers.clock.now().nanos() >= now + 2000 * MILLI);
        timers.end();
        thread.join().unwrap();
    }

    #[test]
    fn a_cleared_deadline_does_not_fire_and_tiny_periods_are_stretched() {
        let ticks = FakeTicks::new(1_000_000_000, 0);
        let clock = Arc::new(VmClock::new(ticks.clone()));
        clock.run();
        let timers = Timers::new(clock);
        let (a, b) = (timers.register(), timers.register());
        timers.arm(a, Some(VmTime::from_nanos(10)));
        timers.arm(b, Some(VmTime::from_nanos(10)));
        timers.arm(a, None);
        ticks.pass(10);
        assert_eq!(timers.due(), [b]);
        assert_eq!(timers.due(), []);
        timers.arm(b, Some(VmTime::from_nanos(11)));
        ticks.pass(49_999);
        assert_eq!(timers.due(), []);
        ticks.pass(1);
        assert_eq!(timers.due(), [b]);
    }
}
