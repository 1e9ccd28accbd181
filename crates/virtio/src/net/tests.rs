use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use network::{Checksum, Frame, Mac, Offload, Sent};

use super::*;
use crate::testing::{Driver, Transport, over_each_transport};
use crate::{Doorbell, feature};

over_each_transport! {
    the_configuration_shows_address_and_link,
    frames_of_the_guest_reach_the_backend,
    what_is_no_frame_is_dropped_and_the_next_passes,
    a_backend_that_takes_nothing_leaves_frames_in_their_queue,
    a_frame_waits_for_room,
    a_large_frame_is_spread_over_mergeable_buffers,
    a_large_frame_waits_until_there_are_enough_buffers,
    a_frame_that_can_never_fit_is_dropped,
    buffers_too_small_for_the_header_break_the_rules,
    commands_change_what_comes,
    a_reset_gives_the_card_back_as_it_was,
    chains_of_any_kind_are_survived,
}

const OWN: Mac = [0x52, 0x54, 0, 1, 2, 3];
const BASIC: u64 = feature::VERSION_1 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 23;
const MERGEABLE: u64 = 1 << 15;
const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 2;
const GUEST_OFFLOADS: u64 = 1 << 2;

/// What the test's backend has seen and has.
#[derive(Default)]
struct Seen {
    sent: Vec<Frame>,
    coming: Vec<Frame>,
    chosen: Vec<Offloads>,
    takes_nothing: bool,
    resets: usize,
}

#[derive(Clone)]
struct Backend {
    seen: Arc<Mutex<Seen>>,
    bell: Doorbell,
    up: Arc<AtomicBool>,
}

impl NetBackend for Backend {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn choose(&mut self, offloads: Offloads) {
        lock(&self.seen).chosen.push(offloads);
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        let mut seen = lock(&self.seen);
        if seen.takes_nothing {
            return Sent::Later;
        }
        seen.sent.push(frame.clone());
        Sent::Taken
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        let next = lock(&self.seen).coming.pop();
        next.map(|next| *frame = next).is_some()
    }

    fn service(&mut self) {
        self.bell.take();
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    fn reset(&mut self) {
        lock(&self.seen).resets += 1;
    }
}

struct Bench {
    driver: Driver,
    backend: Backend,
}

fn bench(on: Transport, features: u64) -> Bench {
    let up = Arc::new(AtomicBool::new(true));
    let backend = Backend { seen: Arc::default(), bell: Doorbell::new().unwrap(), up };
    let driver = Driver::new(on, Net::new(OWN, Box::new(backend.clone())), features);
    Bench { driver, backend }
}

impl Bench {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        lock(&self.backend.seen)
    }

    /// The backend has a frame for the guest.
    fn arrives(&mut self, frame: Frame) {
        self.seen().coming.insert(0, frame);
        self.backend.bell.ring();
    }

    /// The driver sends a header and a frame.
    fn transmit(&mut self, header: [u8; 12], frame: &[u8]) {
        self.driver.put(Driver::buffer(0), &header);
        self.driver.put(Driver::buffer(1), frame);
        let buffers = [(Driver::buffer(0), 12), (Driver::buffer(1), frame.len() as u32)];
        self.driver.send(1, &buffers, &[]);
    }

    /// The answer to a command.
    fn command(&mut self, bytes: &[u8]) -> u8 {
        let (command, ack) = (Driver::buffer(2), Driver::buffer(3));
        self.driver.put(command, bytes);
        self.driver.put(ack, &[0xee]);
        self.driver.send(2, &[(command, bytes.len() as u32)], &[(ack, 1)]);
        assert_eq!(self.driver.used(2).1, 1);
        self.driver.get(ack, 1)[0]
    }
}

fn frame(length: usize) -> Vec<u8> {
    let mut bytes = OWN.to_vec();
    bytes.extend((6..length).map(|n| n as u8));
    bytes
}

fn the_configuration_shows_address_and_link(on: Transport) {
    let mut bench = bench(on, BASIC);
    assert_eq!(bench.driver.config(0, 4), 0x0100_5452);
    assert_eq!(bench.driver.config(4, 4), 0x0001_0302);
    bench.backend.up.store(false, Ordering::Release);
    bench.backend.bell.ring();
    let end = Instant::now() + Duration::from_secs(10);
    while bench.driver.config(6, 2) != 0 {
        assert!(Instant::now() < end, "the link stays up");
    }
}

fn frames_of_the_guest_reach_the_backend(on: Transport) {
    let mut bench = bench(on, BASIC | CSUM);
    bench.transmit([0; 12], &frame(60));
    assert_eq!(bench.driver.used(1), (0, 0));
    bench.transmit([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame(70));
    bench.driver.used(1);
    let checksum = Some(Checksum { start: 34, offset: 16 });
    let partial = Frame { bytes: frame(70), offload: Offload { checksum, ..Offload::default() } };
    assert_eq!(bench.seen().sent, [Frame::whole(frame(60)), partial]);
}

fn what_is_no_frame_is_dropped_and_the_next_passes(on: Transport) {
    let mut bench = bench(on, BASIC);
    // A checksum to compute that was not negotiated, a segmentation of no kind.
    bench.transmit([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame(60));
    bench.driver.used(1);
    bench.transmit([0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(60));
    bench.driver.used(1);
    bench.driver.send(1, &[(Driver::buffer(0), 5)], &[]);
    bench.driver.used(1);
    bench.driver.send(1, &[(Driver::buffer(0), 2 << 20)], &[]);
    bench.driver.used(1);
    bench.transmit([0; 12], &frame(61));
    bench.driver.used(1);
    assert_eq!(bench.seen().sent, [Frame::whole(frame(61))]);
}

fn a_backend_that_takes_nothing_leaves_frames_in_their_queue(on: Transport) {
    let mut bench = bench(on, BASIC);
    bench.seen().takes_nothing = true;
    bench.transmit([0; 12], &frame(60));
    assert_eq!(bench.driver.used_within(1, Duration::from_millis(50)), None);
    bench.seen().takes_nothing = false;
    bench.backend.bell.ring();
    bench.driver.used(1);
    assert_eq!(bench.seen().sent.len(), 1);
}

fn a_frame_waits_for_room(on: Transport) {
    let mut bench = bench(on, BASIC);
    bench.arrives(Frame::whole(frame(100)));
    assert_eq!(bench.driver.used_within(0, Duration::from_millis(50)), None);
    bench.driver.send(0, &[], &[(Driver::buffer(0), 1600)]);
    assert_eq!(bench.driver.used(0), (0, 112));
    let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(bench.driver.get(Driver::buffer(0), 12), expected);
    assert_eq!(bench.driver.get(Driver::buffer(0) + 12, 100), frame(100));
}

fn a_large_frame_is_spread_over_mergeable_buffers(on: Transport) {
    let mut bench = bench(on, BASIC | MERGEABLE);
    bench.arrives(Frame::whole(frame(250)));
    for index in 0..3 {
        bench.driver.describe(0, index, (Driver::buffer(index), 100, 2, 0));
        bench.driver.offer(0, index as u16);
    }
    assert_eq!(bench.driver.used(0), (0, 100));
    assert_eq!(bench.driver.used(0), (1, 100));
    assert_eq!(bench.driver.used(0), (2, 62));
    assert_eq!(bench.driver.get(Driver::buffer(0) + 10, 2), [3, 0]);
    let mut whole = bench.driver.get(Driver::buffer(0) + 12, 88);
    whole.extend(bench.driver.get(Driver::buffer(1), 100));
    whole.extend(bench.driver.get(Driver::buffer(2), 62));
    assert_eq!(whole, frame(250));
}

fn a_large_frame_waits_until_there_are_enough_buffers(on: Transport) {
    let mut bench = bench(on, BASIC | MERGEABLE | feature::RING_EVENT_IDX);
    bench.driver.describe(0, 0, (Driver::buffer(0), 100, 2, 0));
    bench.driver.describe(0, 1, (Driver::buffer(1), 200, 2, 0));
    bench.driver.offer(0, 0);
    bench.arrives(Frame::whole(frame(250)));
    assert_eq!(bench.driver.used_within(0, Duration::from_millis(50)), None);
    bench.driver.offer(0, 1);
    assert_eq!(bench.driver.used(0), (0, 100));
    assert_eq!(bench.driver.used(0), (1, 162));
    // Small ones take one each, also of those that waited for a large one.
    bench.driver.offer(0, 0);
    bench.arrives(Frame::whole(frame(150)));
    assert_eq!(bench.driver.used_within(0, Duration::from_millis(50)), None);
    bench.driver.offer(0, 1);
    assert_eq!((bench.driver.used(0), bench.driver.used(0)), ((0, 100), (1, 62)));
    bench.arrives(Frame::whole(frame(60)));
    bench.driver.offer(0, 1);
    assert_eq!(bench.driver.used(0), (1, 72));
}

fn a_frame_that_can_never_fit_is_dropped(on: Transport) {
    let mut bench = bench(on, BASIC);
    bench.driver.send(0, &[], &[(Driver::buffer(0), 200)]);
    bench.arrives(Frame::whole(frame(1000)));
    bench.arrives(Frame::whole(frame(100)));
    assert_eq!(bench.driver.used(0), (0, 112));
}

fn buffers_too_small_for_the_header_break_the_rules(on: Transport) {
    let mut bench = bench(on, BASIC | MERGEABLE);
    bench.driver.send(0, &[], &[(Driver::buffer(0), 11)]);
    bench.arrives(Frame::whole(frame(100)));
    bench.driver.wait_for_failure();
}

fn commands_change_what_comes(on: Transport) {
    let mut bench = bench(on, BASIC | GUEST_CSUM | GUEST_OFFLOADS);
    assert_eq!(bench.command(&[0, 0, 0]), 0);
    assert_eq!(bench.command(&[1, 1, 2, 2, 2, 2, 2, 2]), 0);
    assert_eq!(bench.driver.config(0, 4), 0x0202_0202);
    // To the old address, then to the new one.
    bench.arrives(Frame::whole(frame(100)));
    bench.arrives(Frame::whole([2; 80].to_vec()));
    bench.driver.send(0, &[], &[(Driver::buffer(0), 1600)]);
    assert_eq!(bench.driver.used(0), (0, 92));
    assert_eq!(bench.command(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(bench.command(&[5, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1);
    assert_eq!(bench.command(&[77, 0, 1]), 1);
    assert_eq!(bench.seen().chosen, [Offloads::GUEST_CSUM, Offloads::empty()]);
}

fn a_reset_gives_the_card_back_as_it_was(on: Transport) {
    let mut bench = bench(on, BASIC);
    assert_eq!(bench.command(&[1, 1, 2, 2, 2, 2, 2, 2]), 0);
    let before = bench.seen().resets;
    bench.driver.start(BASIC);
    assert!(bench.seen().resets > before);
    assert_eq!(bench.driver.config(0, 4), 0x0100_5452);
    bench.transmit([0; 12], &frame(60));
    bench.driver.used(1);
    assert_eq!(bench.seen().sent.len(), 1);
}

/// xorshift64: the same numbers in every run.
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A descriptor of any kind: most lie in memory, some anywhere.
fn descriptor(state: &mut u64) -> (u64, u32, u16, u16) {
    let near = Driver::buffer(chance(state) % 8) + chance(state) % 64;
    let at = if chance(state).is_multiple_of(8) { chance(state) } else { near };
    let lengths = [0, 1, 11, 12, 13, 1500, 65_535, 70_000, u32::MAX];
    let length = lengths[chance(state) as usize % lengths.len()];
    (at, length, chance(state) as u16 & 7, chance(state) as u16 & 31)
}

fn chains_of_any_kind_are_survived(on: Transport) {
    let state = &mut 77;
    let mut bench = bench(on, BASIC | MERGEABLE | CSUM | GUEST_CSUM | GUEST_OFFLOADS);
    for _ in 0..400 {
        for index in 0..16 {
            let queue = chance(state) % 3;
            bench.driver.describe(queue, index, descriptor(state));
        }
        let noise: Vec<u8> = (0..64).map(|_| chance(state) as u8).collect();
        bench.driver.put(Driver::buffer(chance(state) % 8), &noise);
        bench.arrives(Frame::whole(frame(60 + chance(state) as usize % 3000)));
        for queue in 0..3 {
            bench.driver.offer(queue, chance(state) as u16 & 31);
        }
        if bench.driver.status() & 0x40 != 0 {
            bench.driver.start(BASIC | MERGEABLE | CSUM);
        }
    }
    bench.driver.start(BASIC);
    bench.seen().sent.clear();
    bench.transmit([0; 12], &frame(60));
    bench.driver.used(1);
    assert_eq!(bench.seen().sent, [Frame::whole(frame(60))]);
}
