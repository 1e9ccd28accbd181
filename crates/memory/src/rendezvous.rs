//! How vCPUs that access guest memory without a look at it agree with each
//! other: that nobody writes to a page any more that begins to hold code, and
//! that everybody stands while one does what the host has no atomic
//! instruction for.
//!
//! A vCPU has a [`Seat`]. While it is *inside* it may hold rights to write that
//! it has remembered; it comes to a safepoint whenever it is called. Whoever is
//! outside (it sleeps, or does not run) does what it is asked for when it comes
//! back, and nobody waits for it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use x86::GuestPhysAddr;

use crate::GuestMemory;

/// The most vCPUs that share one memory.
pub const MAX_SEATS: usize = 32;

/// How often somebody who waits looks again before it sleeps.
const SPINS: u32 = 2000;
/// In [`Shared::once`]: no page.
const NOWHERE: u64 = u64::MAX;

thread_local! {
    /// The seat whose vCPU runs on this thread.
    static HERE: Cell<usize> = const { Cell::new(MAX_SEATS) };
}

/// How a vCPU is called to its next safepoint.
pub type Call = Arc<dyn Fn() + Send + Sync>;

/// What somebody else wants a vCPU to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forget {
    /// The rights to write these pages.
    Pages(Vec<GuestPhysAddr>),
    /// All rights to write.
    AllWrites,
}

/// More pages than this are not named one by one.
const FEW: usize = 4;

#[derive(Default)]
struct Place {
    call: Option<Call>,
    inside: bool,
    /// At a safepoint, for as long as somebody wants to be alone.
    stands: bool,
    mail: Vec<GuestPhysAddr>,
    posted: u64,
    served: u64,
}

#[derive(Default)]
struct State {
    places: [Place; MAX_SEATS],
    /// Who wants everybody else to stand.
    alone: Option<usize>,
}

impl State {
    fn others(&self, me: usize) -> impl Iterator<Item = &Place> {
        self.places.iter().enumerate().filter(move |(index, _)| *index != me).map(|(_, place)| place)
    }
}

/// What the vCPUs of one memory share.
pub(crate) struct Rendezvous {
    state: Mutex<State>,
    changed: Condvar,
    /// Advances with everything that somebody may wait for.
    changes: AtomicU64,
    /// Who is inside, a bit each.
    inside: AtomicU32,
    /// The code page in which each vCPU may be about to write data once.
    once: [AtomicU64; MAX_SEATS],
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            once: [const { AtomicU64::new(NOWHERE) }; MAX_SEATS],
        }
    }
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous").field("inside", &self.inside).finish_non_exhaustive()
    }
}

impl Rendezvous {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait. The state is locked, so that none of them is
    /// between its look and its sleep.
    fn tell(&self, _state: &MutexGuard<'_, State>) {
        self.changes.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
    }

    /// Calls all vCPUs inside but the one on this thread: what they have made
    /// of code may be stale.
    pub(crate) fn call_others(&self) {
        let here = HERE.get();
        let mine = if here < MAX_SEATS { 1 << here } else { 0 };
        // Whoever enters later looks at the code's epoch after that.
        fence(Ordering::SeqCst);
        if self.inside.load(Ordering::SeqCst) & !mine == 0 {
            return;
        }
        let state = self.state();
        for (index, place) in state.places.iter().enumerate() {
            if index != here && place.inside {
                place.call.iter().for_each(|call| call());
            }
        }
    }

    fn leave(&self, index: usize) {
        HERE.set(MAX_SEATS);
        self.once[index].store(NOWHERE, Ordering::Release);
        let mut state = self.state();
        state.places[index].inside = false;
        self.inside.fetch_and(!(1 << index), Ordering::SeqCst);
        self.tell(&state);
    }

    /// Sleeps, after a while, until something has changed.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let changes = self.changes.load(Ordering::Acquire);
        drop(state);
        for _ in 0..SPINS {
            if self.changes.load(Ordering::Acquire) != changes {
                return self.state();
            }
            std::hint::spin_loop();
        }
        let state = self.state();
        if self.changes.load(Ordering::Acquire) != changes {
            return state;
        }
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU's part in the agreement.
pub struct Seat {
    index: usize,
    memory: GuestMemory,
}

impl Seat {
    /// A seat beside those that are taken; `call` is how its vCPU is called to
    /// a safepoint. None if all are taken.
    pub fn take(memory: &GuestMemory, call: Call) -> Option<Self> {
        let mut state = memory.rendezvous().state();
        let index = state.places.iter().position(|place| place.call.is_none())?;
        state.places[index] = Place { call: Some(call), ..Place::default() };
        drop(state);
        Some(Self { index, memory: memory.clone() })
    }

    fn shared(&self) -> &Rendezvous {
        self.memory.rendezvous()
    }

    /// Comes inside, on this thread, until what comes back is dropped or the
    /// seat is [left](Seat::leave). `forget` is told of what was asked for
    /// meanwhile.
    #[must_use]
    pub fn stay(&self, forget: &mut dyn FnMut(Forget)) -> Stay {
        self.enter(forget);
        Stay { index: self.index, memory: self.memory.clone() }
    }

    /// Comes inside, on this thread.
    pub fn enter(&self, forget: &mut dyn FnMut(Forget)) {
        HERE.set(self.index);
        let shared = self.shared();
        let mut state = shared.state();
        while state.alone.is_some_and(|who| who != self.index) {
            state = shared.wait(state);
        }
        state.places[self.index].inside = true;
        shared.inside.fetch_or(1 << self.index, Ordering::SeqCst);
        drop(self.until(state, forget, |_| true));
    }

    /// Goes outside: no guest memory is accessed, and nothing that was
    /// remembered is used, until [`Seat::enter`].
    pub fn leave(&self) {
        self.shared().leave(self.index);
    }

    /// A safepoint: does what others have asked for, and stands while one of
    /// them wants to be alone.
    pub fn serve(&self, forget: &mut dyn FnMut(Forget)) {
        drop(self.until(self.shared().state(), forget, |_| true));
    }

    /// Serves others until `done`, and nobody else is alone.
    fn until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        forget: &mut dyn FnMut(Forget),
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let shared = self.shared();
        loop {
            let own = &mut state.places[self.index];
            if own.served != own.posted {
                let (mail, posted) = (std::mem::take(&mut own.mail), own.posted);
                drop(state);
                shared.once[self.index].store(NOWHERE, Ordering::Release);
                self.forget(mail, forget);
                state = shared.state();
                state.places[self.index].served = posted;
                shared.tell(&state);
                continue;
            }
            let stands = state.alone.is_some_and(|who| who != self.index);
            let own = &mut state.places[self.index];
            if own.stands != stands {
                own.stands = stands;
                shared.tell(&state);
            }
            if !stands && done(&state) {
                return state;
            }
            state = shared.wait(state);
        }
    }

    fn forget(&self, mail: Vec<GuestPhysAddr>, forget: &mut dyn FnMut(Forget)) {
        mail.iter().for_each(|&page| self.memory.disclaim(page, self.bit()));
        if mail.len() > FEW {
            forget(Forget::AllWrites);
        } else if !mail.is_empty() {
            forget(Forget::Pages(mail));
        }
    }

    const fn bit(&self) -> u32 {
        1 << self.index
    }

    /// Notes that this vCPU is about to remember a right to write the page of
    /// `at`; false if the page holds code, so that it must not.
    pub fn claim(&self, at: GuestPhysAddr) -> bool {
        self.memory.claim(at, self.bit())
    }

    /// Whether `len` bytes at `at`, in a page that holds code, may be written
    /// once, before the next safepoint, without a note: none of them is code.
    pub fn may_write_once(&self, at: GuestPhysAddr, len: u64) -> bool {
        self.shared().once[self.index].store(at.page().0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.memory.would_hit_code(at, len)
    }

    /// Notes that `len` bytes at `at`, all in one page, hold code, and makes
    /// sure that everybody notices writes to them from now on. What is read
    /// after this is what the code is.
    pub fn mark_code(&self, at: GuestPhysAddr, len: u64, forget: &mut dyn FnMut(Forget)) {
        let writers = self.memory.mark_code_of(at, len);
        if writers & self.bit() != 0 {
            self.forget(vec![at.page()], forget);
        }
        let mut asked = writers & !self.bit();
        let shared = self.shared();
        let others = shared.inside.load(Ordering::SeqCst) & !self.bit();
        for other in (0..MAX_SEATS).filter(|other| others >> other & 1 != 0) {
            if shared.once[other].load(Ordering::SeqCst) == at.page().0 {
                asked |= 1 << other;
            }
        }
        if asked != 0 {
            self.ask(at.page(), asked, forget);
        }
    }

    /// Makes those in `asked` forget their rights to write `page`.
    #[cold]
    fn ask(&self, page: GuestPhysAddr, asked: u32, forget: &mut dyn FnMut(Forget)) {
        let shared = self.shared();
        let mut state = shared.state();
        let mut tickets = Vec::new();
        for index in (0..MAX_SEATS).filter(|index| asked >> index & 1 != 0) {
            let place = &mut state.places[index];
            place.mail.push(page);
            place.posted += 1;
            if place.inside {
                tickets.push((index, place.posted));
                place.call.iter().for_each(|call| call());
            } else {
                // It will forget before it remembers anything anew.
                self.memory.disclaim(page, 1 << index);
            }
        }
        if tickets.is_empty() {
            return;
        }
        shared.tell(&state);
        let served = |state: &State| {
            tickets.iter().all(|&(index, posted)| {
                let place = &state.places[index];
                !place.inside || place.served >= posted
            })
        };
        drop(self.until(state, forget, served));
    }

    /// Makes all others stand, until what comes back is dropped.
    #[must_use]
    pub fn alone(&self, forget: &mut dyn FnMut(Forget)) -> Alone {
        let shared = self.shared();
        let mut state = self.until(shared.state(), forget, |state| state.alone.is_none());
        state.alone = Some(self.index);
        state.others(self.index).filter(|place| place.inside).for_each(|place| {
            place.call.iter().for_each(|call| call());
        });
        shared.tell(&state);
        let still = |state: &State| state.others(self.index).all(|place| !place.inside || place.stands);
        drop(self.until(state, forget, still));
        Alone(self.memory.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let shared = self.memory.rendezvous();
        shared.inside.fetch_and(!self.bit(), Ordering::SeqCst);
        let mut state = shared.state();
        state.places[self.index] = Place::default();
        shared.tell(&state);
    }
}

/// A vCPU is inside.
pub struct Stay {
    index: usize,
    memory: GuestMemory,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.memory.rendezvous().leave(self.index);
    }
}

/// Nobody else is inside and moves.
pub struct Alone(GuestMemory);

impl Drop for Alone {
    fn drop(&mut self) {
        let shared = self.0.rendezvous();
        let mut state = shared.state();
        state.alone = None;
        shared.tell(&state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const PAGE: GuestPhysAddr = GuestPhysAddr(0x3000);

    fn memory() -> GuestMemory {
        GuestMemory::new(2 << 20).unwrap()
    }

    /// A seat whose calls set a flag.
    fn seat(memory: &GuestMemory) -> (Seat, Arc<AtomicBool>) {
        let called = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&called);
        (Seat::take(memory, Arc::new(move || flag.store(true, Ordering::SeqCst))).unwrap(), called)
    }

    fn nothing(forget: Forget) {
        panic!("nobody asked to forget {forget:?}");
    }

    #[test]
    fn seats_are_given_back() {
        let memory = memory();
        let seats: Vec<_> = (0..MAX_SEATS).map(|_| seat(&memory)).collect();
        assert!(Seat::take(&memory, Arc::new(|| ())).is_none());
        drop(seats);
        assert_eq!(seat(&memory).0.index, 0);
    }

    #[test]
    fn rights_and_code_exclude_each_other() {
        let memory = memory();
        let (one, _) = seat(&memory);
        assert!(one.claim(PAGE));
        let mut told = Vec::new();
        one.mark_code(PAGE, 8, &mut |forget| told.push(forget));
        assert_eq!(told, [Forget::Pages(vec![PAGE])]);
        assert!(
            !one.claim(PAGE) && !one.may_write_once(PAGE, 1) && one.may_write_once(GuestPhysAddr(0x3040), 8)
        );
    }

    #[test]
    fn whoever_is_outside_forgets_when_it_comes_back() {
        let memory = memory();
        let ((one, _), (two, called)) = (seat(&memory), seat(&memory));
        let pages: Vec<_> = (1..9).map(|page| GuestPhysAddr(page << 12)).collect();
        let mut told = Vec::new();
        for count in [1, pages.len()] {
            assert!(pages.iter().all(|&page| two.claim(page)));
            pages[..count].iter().for_each(|&page| one.mark_code(page, 8, &mut nothing));
            drop(two.stay(&mut |forget| told.push(forget)));
            drop(two.stay(&mut nothing));
            pages[..count].iter().for_each(|&page| assert!(memory.note_write(page, 8)));
        }
        assert_eq!(told, [Forget::Pages(vec![pages[0]]), Forget::AllWrites]);
        assert!(!called.load(Ordering::SeqCst), "nobody was inside");
    }

    #[test]
    fn a_mark_waits_for_writers_inside_who_serve_each_other() {
        let memory = memory();
        let seats = [seat(&memory), seat(&memory)];
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (number, (seat, called)) in seats.iter().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    let _stay = seat.stay(&mut nothing);
                    for round in 0..100_u64 {
                        let page = |who: u64| GuestPhysAddr((1 + round * 2 + who) << 12);
                        assert!(seat.claim(page(1 - number as u64)));
                        barrier.wait();
                        let mut told = 0;
                        // Each marks what the other may write: both wait.
                        seat.mark_code(page(number as u64), 8, &mut |_| told += 1);
                        while told == 0 {
                            if called.swap(false, Ordering::SeqCst) {
                                seat.serve(&mut |_| told += 1);
                            }
                            std::thread::yield_now();
                        }
                        barrier.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn who_is_alone_is_alone() {
        let memory = memory();
        let seats: Vec<_> = (0..3).map(|_| seat(&memory)).collect();
        let (count, end) = (AtomicU32::new(0), AtomicBool::new(false));
        let mut total = 0;
        std::thread::scope(|scope| {
            for (seat, called) in &seats[1..] {
                let (count, end) = (&count, &end);
                scope.spawn(move || {
                    let _stay = seat.stay(&mut nothing);
                    while !end.load(Ordering::SeqCst) {
                        if called.swap(false, Ordering::SeqCst) {
                            seat.serve(&mut nothing);
                        }
                        // Not atomic: only those who are alone may do that.
                        let _alone = seat.alone(&mut nothing);
                        let old = count.load(Ordering::SeqCst);
                        std::thread::yield_now();
                        count.store(old + 1, Ordering::SeqCst);
                    }
                });
            }
            let one = &seats[0].0;
            for _ in 0..200 {
                let _stay = one.stay(&mut nothing);
                let _alone = one.alone(&mut nothing);
                let old = count.load(Ordering::SeqCst);
                std::thread::yield_now();
                assert_eq!(count.load(Ordering::SeqCst), old);
                count.store(old + 1, Ordering::SeqCst);
                total += 1;
            }
            end.store(true, Ordering::SeqCst);
        });
        assert!(count.load(Ordering::SeqCst) >= total);
    }

    #[test]
    fn writes_to_code_call_those_inside() {
        let memory = memory();
        let ((one, own), (two, other)) = (seat(&memory), seat(&memory));
        let _stay = two.stay(&mut nothing);
        // On another thread, as a device: the thread of `two` is this one.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                one.mark_code(PAGE, 8, &mut nothing);
                assert!(memory.note_write(PAGE, 1));
            });
        });
        assert!(other.load(Ordering::SeqCst) && !own.load(Ordering::SeqCst));
    }
}
