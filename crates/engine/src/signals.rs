//! How the machine reaches a vCPU that runs: a word of pending signals.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// A signal for a vCPU. Levels stay until they are cleared; the others are
/// taken once by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// Level: a maskable interrupt can be acknowledged.
    Interrupt = 1 << 0,
    /// A non-maskable interrupt.
    Nmi = 1 << 1,
    /// INIT.
    Init = 1 << 2,
    /// Start-up IPI; its vector is in bits 24 to 31.
    Sipi = 1 << 3,
    /// Level: the machine wants the vCPU to return from `run`.
    Exit = 1 << 4,
    /// Another vCPU wants this one at a safepoint of their engine.
    Safepoint = 1 << 5,
    /// Another vCPU has ended this one's HLT, or the next one, by a hypercall.
    Unhalt = 1 << 6,
}

/// The bits of the word that are signals; the others hold a SIPI's vector.
const SIGNALS: u32 = 0x00ff_ffff;

/// A second NMI has come before the first was taken.
const SECOND_NMI: u32 = 1 << 23;

/// How a vCPU that executes guest code without looking at the word is made to
/// look at it. An engine that needs this gives one to its vCPU's signals.
pub trait Kick: Send + Sync {
    /// Makes the vCPU look soon. Any thread may call it, with locks held; it
    /// must not block.
    fn kick(&self);
}

/// The pending signals of one vCPU, shared by its engine and the machine.
#[derive(Default)]
pub struct VcpuSignals {
    word: AtomicU32,
    kick: RwLock<Option<Arc<dyn Kick>>>,
    sleeper: Mutex<()>,
    wake: Condvar,
}

impl VcpuSignals {
    /// The pending signals; zero means that there is nothing to do. Cheap
    /// enough to ask at every block of guest code.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.word.load(Ordering::Relaxed) & SIGNALS
    }

    /// The word itself: nonzero while something is pending, or was.
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Whether `signal` is pending.
    pub fn is_pending(&self, signal: Signal) -> bool {
        self.word.load(Ordering::Acquire) & signal as u32 != 0
    }

    /// Raises `signal` and wakes the vCPU if it sleeps. NMIs are counted up to
    /// two: a processor that is slow to look would else lose the one that it
    /// would have had in service.
    pub fn raise(&self, signal: Signal) {
        self.set(|word| match signal {
            Signal::Nmi if word & Signal::Nmi as u32 != 0 => word | SECOND_NMI,
            _ => word | signal as u32,
        });
    }

    /// Raises a start-up IPI with its vector.
    pub fn raise_sipi(&self, vector: u8) {
        self.set(|word| word & SIGNALS | u32::from(vector) << 24 | Signal::Sipi as u32);
    }

    /// Changes the word, and calls the vCPU if that is news.
    fn set(&self, change: impl Fn(u32) -> u32) {
        if self.update(&change).is_some_and(|word| change(word) & SIGNALS != word & SIGNALS) {
            // Taking the lock orders this against a sleeper between its test
            // and its wait.
            drop(self.sleeper.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
            if let Some(kick) = &*self.kick.read().unwrap_or_else(PoisonError::into_inner) {
                kick.kick();
            }
        }
    }

    /// Changes the word at once; what it was.
    fn update(&self, change: impl Fn(u32) -> u32) -> Option<u32> {
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(change(word))).ok()
    }

    /// Calls `kick` from now on, after a signal has become pending; it replaces
    /// the one before.
    pub fn set_kick(&self, kick: Option<Arc<dyn Kick>>) {
        *self.kick.write().unwrap_or_else(PoisonError::into_inner) = kick;
    }

    /// Withdraws a level, or takes a signal; true if it was pending. Of two NMIs
    /// one remains.
    pub fn take(&self, signal: Signal) -> bool {
        let before = self.update(|word| match signal {
            Signal::Nmi if word & SECOND_NMI != 0 => word & !SECOND_NMI,
            _ => word & !(signal as u32),
        });
        before.is_some_and(|word| word & signal as u32 != 0)
    }

    /// Takes INIT, and a start-up IPI with its vector. Both at once, because one
    /// follows the other: INIT comes first.
    pub fn take_init_and_sipi(&self) -> (bool, Option<u8>) {
        const INIT: u32 = Signal::Init as u32;
        const SIPI: u32 = Signal::Sipi as u32;
        let word = self.word.fetch_and(!(INIT | SIPI), Ordering::AcqRel);
        (word & INIT != 0, (word & SIPI != 0).then_some((word >> 24) as u8))
    }

    /// Sleeps until any signal is pending, at most for `limit`.
    pub fn wait(&self, limit: Option<Duration>) {
        let guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |_: &mut ()| self.word.load(Ordering::Acquire) & SIGNALS == 0;
        match limit {
            None => drop(self.wake.wait_while(guard, idle)),
            Some(limit) => drop(self.wake.wait_timeout_while(guard, limit, idle)),
        }
    }
}

impl fmt::Debug for VcpuSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuSignals").field("word", &self.word).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(AtomicU32);

    impl Kick for Count {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_kick_follows_each_new_signal() {
        let (signals, count) = (VcpuSignals::default(), Arc::new(Count(AtomicU32::new(0))));
        signals.set_kick(Some(count.clone()));
        signals.raise(Signal::Interrupt);
        signals.raise(Signal::Interrupt);
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "the second is no news");
        signals.raise(Signal::Nmi);
        signals.set_kick(None);
        signals.raise(Signal::Exit);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn levels_stay_and_edges_are_taken_once() {
        let signals = VcpuSignals::default();
        signals.raise(Signal::Nmi);
        signals.raise_sipi(0x9f);
        assert!(signals.take(Signal::Nmi) && !signals.take(Signal::Nmi));
        assert_eq!(signals.take_init_and_sipi(), (false, Some(0x9f)));
        signals.raise(Signal::Init);
        assert_eq!(signals.take_init_and_sipi(), (true, None));
        assert_eq!(signals.pending(), 0, "the vector is no signal");
    }

    #[test]
    fn nmis_are_counted_up_to_two() {
        let signals = VcpuSignals::default();
        for _ in 0..3 {
            signals.raise(Signal::Nmi);
        }
        assert_eq!([(); 3].map(|()| signals.take(Signal::Nmi)), [true, true, false]);
        assert_eq!(signals.pending(), 0);
    }

    #[test]
    fn a_signal_wakes_the_sleeper() {
        let signals = Arc::new(VcpuSignals::default());
        let other = Arc::clone(&signals);
        let sleeper = std::thread::spawn(move || other.wait(None));
        signals.raise(Signal::Interrupt);
        sleeper.join().unwrap();
        signals.take(Signal::Interrupt);
        signals.wait(Some(Duration::from_millis(1)));
    }
}
