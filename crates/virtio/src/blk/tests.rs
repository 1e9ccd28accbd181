use std::fs;
use std::time::Duration;

use storage::{Disk, DiskFormat, DiskOptions, RateLimit};
use tempfile::TempDir;

use super::*;
use crate::feature;
use crate::testing::{Driver, Transport, over_each_transport};

over_each_transport! {
    sectors_are_read_and_written,
    what_lies_outside_fails_and_changes_nothing,
    ranges_are_zeroed_and_discarded,
    the_serial_number_has_twenty_bytes,
    a_read_only_disk_says_so_and_refuses_writes,
    indirect_chains_and_event_indices_work,
    rate_limits_delay_and_a_reset_does_not_wait_for_them,
    broken_chains_stop_the_queue_until_a_reset,
    impossible_queues_and_features_are_refused,
}

const BASIC: u64 = feature::VERSION_1 | F_FLUSH;

struct Bench {
    driver: Driver,
    folder: TempDir,
}

fn bench(on: Transport, options: DiskOptions, features: u64, queues: u16) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let contents: Vec<u8> = (0..128 * 512_u32).map(|at| (at / 512) as u8).collect();
    fs::write(&path, contents).unwrap();
    let options = DiskOptions { path, format: Some(DiskFormat::Raw), ..options };
    let disk = Arc::new(Disk::open(&options).unwrap());
    Bench { driver: Driver::new(on, Block::new(disk, queues, "serial-number"), features), folder }
}

fn plain(on: Transport) -> Bench {
    bench(on, DiskOptions::default(), BASIC, 1)
}

impl Bench {
    /// A request with `payload` to write, or `room` to read; its status.
    fn request(&mut self, kind: u32, sector: u64, payload: &[u8], room: u32) -> u8 {
        let (header, data, status) = (Driver::buffer(0), Driver::buffer(1), Driver::buffer(2));
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.driver.put(header, &bytes);
        self.driver.put(status, &[0xff]);
        let mut readable = vec![(header, 16)];
        if !payload.is_empty() {
            self.driver.put(data, payload);
            readable.push((data, payload.len() as u32));
        }
        let mut writable = vec![(status, 1)];
        if room != 0 {
            writable.insert(0, (data, room));
        }
        self.driver.send(0, &readable, &writable);
        self.driver.used(0);
        self.driver.get(status, 1)[0]
    }

    fn data(&self, len: usize) -> Vec<u8> {
        self.driver.get(Driver::buffer(1), len)
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("disk.img")).unwrap()
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn sectors_are_read_and_written(on: Transport) {
    let mut bench = plain(on);
    assert_eq!(bench.request(0, 3, &[], 1024), 0);
    assert_eq!([bench.data(1024)[0], bench.data(1024)[1023]], [3, 4]);
    assert_eq!(bench.request(1, 127, &[0x5a; 512], 0), 0);
    assert_eq!(bench.request(4, 0, &[], 0), 0);
    assert_eq!(bench.file()[127 * 512..], [0x5a; 512]);
}

fn what_lies_outside_fails_and_changes_nothing(on: Transport) {
    let mut bench = plain(on);
    let before = bench.file();
    for (kind, sector, payload, room) in [
        (0, 128, 0, 512),
        (0, 127, 0, 1024),
        (0, u64::MAX, 0, 512),
        (0, u64::MAX / 512, 0, 512),
        (0, 0, 0, 511),
        (0, 0, 0, 0),
        (1, 128, 512, 0),
        (1, u64::MAX, 512, 0),
        (1, 0, 100, 0),
    ] {
        assert_eq!(bench.request(kind, sector, &vec![1; payload], room), 1, "{kind} {sector}");
    }
    assert_eq!(bench.request(77, 0, &[], 512), 2);
    assert_eq!(bench.file(), before);
    assert_eq!(bench.driver.status(), 0xf, "the device goes on");
}

fn ranges_are_zeroed_and_discarded(on: Transport) {
    let mut bench = bench(on, DiskOptions::default(), BASIC | F_DISCARD | F_WRITE_ZEROES, 1);
    assert_eq!(bench.request(13, 0, &range(2, 3, 0), 0), 0);
    assert_eq!(bench.request(13, 0, &[range(8, 1, 1), range(10, 1, 0)].concat(), 0), 0);
    assert_eq!(bench.request(11, 0, &range(64, 8, 0), 0), 0);
    let file = bench.file();
    assert_eq!(file[2 * 512..5 * 512], [0; 3 * 512]);
    assert_eq!([file[512], file[8 * 512], file[9 * 512], file[10 * 512]], [1, 0, 9, 0]);
    assert_eq!(file.len(), 128 * 512);
    for (kind, payload, status) in [
        (11, range(0, 1, 1), 2),
        (13, range(0, 1, 2), 2),
        (11, range(128, 1, 0), 1),
        (11, range(u64::MAX, 1, 0), 1),
        (13, range(0, u32::MAX, 0), 1),
        (13, vec![0; 15], 1),
        (13, vec![], 1),
        (13, vec![0; 16 * 33], 1),
    ] {
        assert_eq!(bench.request(kind, 0, &payload, 0), status);
    }
}

fn the_serial_number_has_twenty_bytes(on: Transport) {
    let mut bench = plain(on);
    assert_eq!(bench.request(8, 0, &[], 20), 0);
    assert_eq!(bench.data(20), *b"serial-number\0\0\0\0\0\0\0");
}

fn a_read_only_disk_says_so_and_refuses_writes(on: Transport) {
    let mut bench =
        bench(on, DiskOptions { read_only: true, ..DiskOptions::default() }, feature::VERSION_1, 1);
    assert_eq!(bench.driver.bus.offered() & (F_RO | F_DISCARD), F_RO);
    assert_eq!(bench.request(1, 0, &[1; 512], 0), 1);
    assert_eq!(bench.request(0, 1, &[], 512), 0);
}

fn indirect_chains_and_event_indices_work(on: Transport) {
    let features = BASIC | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX;
    let mut bench = bench(on, DiskOptions::default(), features, 1);
    for sector in 0..40_u64 {
        let mut header = [0; 16];
        header[8] = sector as u8;
        bench.driver.put(Driver::buffer(0), &header);
        let (data, status) = ((Driver::buffer(1), 512), (Driver::buffer(2), 1));
        bench.driver.send_indirect(0, &[(Driver::buffer(0), 16)], &[data, status]);
        assert_eq!(bench.driver.used(0), (0, 513));
        assert_eq!(bench.data(512), [sector as u8; 512]);
    }
    // The interrupt follows the used ring.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while bench.driver.bus.line.rises() == 0 {
        assert!(std::time::Instant::now() < end, "no interrupt");
    }
}

#[test]
fn each_queue_has_its_thread_and_its_vector() {
    let mut bench = bench(Transport::Pci, DiskOptions::default(), BASIC | F_MQ, 4);
    assert_eq!(bench.driver.config(34, 2), 4);
    bench.driver.use_msix();
    for queue in [3, 1] {
        bench.driver.put(Driver::buffer(0), &[0; 16]);
        let (data, status) = ((Driver::buffer(1), 512), (Driver::buffer(2), 1));
        bench.driver.send(queue, &[(Driver::buffer(0), 16)], &[data, status]);
        bench.driver.used(queue);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.driver.messages(), [3, 1]);
}

fn rate_limits_delay_and_a_reset_does_not_wait_for_them(on: Transport) {
    let rate = RateLimit { operations: Some(1), bytes: None };
    let mut bench = bench(on, DiskOptions { rate, ..DiskOptions::default() }, BASIC, 1);
    assert_eq!(bench.request(0, 0, &[], 512), 0);
    let start = std::time::Instant::now();
    bench.driver.offer(0, 0);
    bench.driver.offer(0, 0);
    assert!(bench.driver.used_within(0, Duration::from_millis(300)).is_none());
    bench.driver.bus.set_status(0);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(bench.driver.status(), 0);
}

fn broken_chains_stop_the_queue_until_a_reset(on: Transport) {
    let mut bench = plain(on);
    let (header, data) = (Driver::buffer(0), Driver::buffer(1));
    let broken: [&[crate::testing::RawDescriptor]; 10] = [
        &[(header, 16, 1, 0)],                           // loops
        &[(header, 16, 1, 99)],                          // leads out of its table
        &[(header, 16, 1, 1), (data, u32::MAX, 2, 0)],   // longer than memory
        &[(header, 16, 1, 1), (u64::MAX - 8, 16, 2, 0)], // wraps around
        &[(0xfee0_0000, 16, 0, 0)],                      // no memory
        &[(data, 1, 3, 1), (header, 16, 0, 0)],          // to write before to read
        &[(header, 15, 0, 0)],                           // no header
        &[(header, 16, 0, 0)],                           // no room for the status
        &[(Driver::buffer(3), 17, 4, 0)],                // an indirect table of odd length
        &[(u64::MAX - 15, 16, 4, 0)],                    // one that is nowhere
    ];
    for descriptors in broken {
        for (index, descriptor) in descriptors.iter().enumerate() {
            bench.driver.describe(0, index as u64, *descriptor);
        }
        bench.driver.offer(0, 0);
        bench.driver.wait_for_failure();
        bench.driver.start(BASIC);
        assert_eq!(bench.request(0, 5, &[], 512), 0, "{descriptors:?}");
    }
    bench.driver.offer(0, 16);
    bench.driver.wait_for_failure();
}

fn impossible_queues_and_features_are_refused(on: Transport) {
    let mut bench = plain(on);
    let bus = &mut bench.driver.bus;
    bus.set_status(0);
    bus.set_status(3);
    bus.accept(0xffff_ffff << 32);
    bus.set_status(0xb);
    assert_eq!(bus.status(), 3, "features that were not offered");
    bus.accept(feature::VERSION_1);
    bus.set_status(0xb);
    bus.select_queue(0);
    bus.set_queue_size(100);
    assert_eq!(bus.queue_max(), 256, "no power of two");
    bus.set_queue_addresses([0xffff_ffff_ffff_f000, 0, 0]);
    bus.enable_queue();
    assert!(bus.queue_is_enabled());
    bus.set_status(0xf);
    assert_eq!(bus.status(), 0x4f);
}
