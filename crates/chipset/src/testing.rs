//! What the device tests share: recording lines and sinks, a fixed-seed
//! generator, and a guest that hammers ports at random.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Device, EventSink, Line, LineTarget, MachineEvent, SerialSink, VmTime};

/// The far end of a line.
#[derive(Default)]
pub(crate) struct Probe {
    level: AtomicBool,
    rises: AtomicU32,
}

impl Probe {
    /// A probe and the line that it watches.
    pub(crate) fn new() -> (Arc<Self>, Line) {
        let probe = Arc::new(Self::default());
        (probe.clone(), Line::new(probe, 0))
    }

    pub(crate) fn level(&self) -> bool {
        self.level.load(Ordering::Relaxed)
    }

    /// Low-to-high transitions since the last call.
    pub(crate) fn take_rises(&self) -> u32 {
        self.rises.swap(0, Ordering::Relaxed)
    }
}

impl LineTarget for Probe {
    fn set_level(&self, _input: u32, level: bool) {
        if !self.level.swap(level, Ordering::Relaxed) && level {
            self.rises.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The machine's ear in a test.
pub(crate) fn event_log() -> (Arc<Mutex<Vec<MachineEvent>>>, EventSink) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    (log, Arc::new(move |event| sink.lock().unwrap().push(event)))
}

/// A sink whose bytes can be read back.
pub(crate) fn byte_log() -> (Arc<Mutex<Vec<u8>>>, Box<dyn SerialSink>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    (log, Box::new(move |byte| sink.lock().unwrap().push(byte)))
}

/// xorshift64*: the same numbers in every run.
pub(crate) struct Prng(u64);

impl Prng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// Any number of bits below `bits` is equally likely.
    fn log(&mut self, bits: u64) -> u64 {
        let limit = 1 << self.below(bits);
        self.below(limit)
    }
}

/// Decades of virtual time.
const LATEST: VmTime = VmTime::from_nanos(1 << 60);

/// Does `steps` random port accesses and time advances. Fails when a deadline
/// is not in the future after an advance.
pub(crate) fn hammer_steps(device: &mut dyn Device, ports: &[RangeInclusive<u16>], seed: u64, steps: u32) {
    let mut rng = Prng::new(seed);
    let mut now = VmTime::ZERO;
    for _ in 0..steps {
        let range = &ports[rng.below(ports.len() as u64) as usize];
        let port = range.start() + rng.below(range.len() as u64) as u16;
        let size = [1, 1, 1, 2, 4][rng.below(5) as usize];
        match rng.below(16) {
            0..=7 => device.port_write(now, port, size, rng.next() as u32),
            8..=11 => drop(device.port_read(now, port, size)),
            12 | 13 => now = now + Duration::from_nanos(rng.log(14)),
            14 => now = now + Duration::from_nanos(rng.log(42)),
            // Not to the end of time, where a damaged state may point.
            _ => now = device.deadline().filter(|at| *at < LATEST).unwrap_or(now).max(now),
        }
        if rng.below(4) == 0 {
            device.advance(now);
            assert!(device.deadline().is_none_or(|at| at > now), "deadline not after {now:?}");
        }
        if rng.below(5000) == 0 {
            device.reset(now);
        }
    }
}

/// [`hammer_steps`] with the number of steps that each device must survive.
pub(crate) fn hammer(device: &mut dyn Device, ports: &[RangeInclusive<u16>], seed: u64) {
    hammer_steps(device, ports, seed, 150_000);
}

/// Damages states as a broken snapshot might and lets a guest hammer what
/// comes out of restoring them.
pub(crate) fn survive_damaged_states<D, S>(
    make: impl Fn() -> D,
    ports: &[RangeInclusive<u16>],
    get: impl Fn(&D) -> S,
    set: impl Fn(&mut D, S),
) where
    D: Device,
    S: Serialize + DeserializeOwned,
{
    let mut rng = Prng::new(99);
    let mut restored = 0;
    for seed in 0..600 {
        let mut device = make();
        hammer_steps(&mut device, ports, seed, 100);
        let mut state = serde_json::to_value(get(&device)).unwrap();
        damage(&mut rng, &mut state);
        if let Ok(state) = serde_json::from_value(state) {
            set(&mut device, state);
            hammer_steps(&mut device, ports, seed + 1, 300);
            restored += 1;
        }
    }
    assert!(restored > 50, "too few damaged states could be read: {restored}");
}

fn damage(rng: &mut Prng, value: &mut Value) {
    const EXTREMES: [u64; 8] = [0, 1, 2, 9, 77, 255, u32::MAX as u64, u64::MAX];
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(|item| damage(rng, item));
            match rng.below(16) {
                0 => items.truncate(1),
                1 => items.extend(items.clone()),
                _ => {}
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| damage(rng, field)),
        Value::Bool(flag) => *flag ^= rng.below(8) == 0,
        // Mostly values that fit the field; larger ones replace large ones.
        Value::Number(number) if rng.below(6) == 0 => {
            let fits = if number.as_u64() > Some(255) { EXTREMES.len() } else { 6 };
            *number = EXTREMES[rng.below(fits as u64) as usize].into();
        }
        _ => {}
    }
}

/// A state must survive serialization unchanged.
pub(crate) fn assert_serializes<T>(state: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let text = serde_json::to_string(state).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), state);
}
