use std::fs;

use tempfile::TempDir;

use super::*;
use crate::feature;
use crate::testing::{Driver, Transport, over_each_transport};

over_each_transport! {
    files_are_found_read_and_written,
    folders_are_listed_made_and_removed,
    nothing_leads_out_of_the_folder,
    a_read_only_folder_does_not_change,
    nonsense_is_refused_and_forgotten_files_are_gone,
    files_are_created_but_pipes_are_not_opened,
}

struct Bench {
    driver: Driver,
    folder: TempDir,
}

fn bench(on: Transport, read_only: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello"), b"hello, guest").unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    std::os::unix::fs::symlink("/etc", folder.path().join("way-out")).unwrap();
    let device = SharedFolder::new(folder.path(), "home", read_only).unwrap();
    Bench { driver: Driver::new(on, device, feature::VERSION_1), folder }
}

impl Bench {
    /// A request; its error and its data.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let mut bytes = (40 + body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        self.driver.put(Driver::buffer(0), &bytes);
        self.driver.send(1, &[(Driver::buffer(0), bytes.len() as u32)], &[(Driver::buffer(1), 8192)]);
        let (_, len) = self.driver.used(1);
        let reply = self.driver.get(Driver::buffer(1), len as usize);
        assert_eq!(reply[..4], len.to_le_bytes());
        assert_eq!(reply[8..16], 7_u64.to_le_bytes());
        (i32::from_le_bytes(reply[4..8].try_into().unwrap()), reply[16..].to_vec())
    }

    fn node(&mut self, folder: u64, name: &str) -> u64 {
        let (error, entry) = self.ask(1, folder, format!("{name}\0").as_bytes());
        assert_eq!(error, 0, "{name}");
        u64::from_le_bytes(entry[..8].try_into().unwrap())
    }

    fn open(&mut self, node: u64, flags: u32) -> (i32, Vec<u8>) {
        let (error, reply) = self.ask(14, node, &[flags.to_le_bytes(), [0; 4]].concat());
        (error, reply.into_iter().take(8).collect())
    }
}

fn at(handle: &[u8], offset: u64, size: u32) -> Vec<u8> {
    let mut bytes = handle.to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend([0; 20]);
    bytes
}

fn files_are_found_read_and_written(on: Transport) {
    let mut bench = bench(on, false);
    assert_eq!(bench.driver.config(0, 4), u64::from(u32::from_le_bytes(*b"home")));
    let (error, init) = bench.ask(26, 0, &[7_u32, 37, 4096, u32::MAX].map(u32::to_le_bytes).concat());
    assert_eq!((error, init.len(), init[0], init[4]), (0, 64, 7, 31));
    let node = bench.node(1, "hello");
    let (error, handle) = bench.open(node, 2);
    assert_eq!(error, 0);
    assert_eq!(bench.ask(15, node, &at(&handle, 7, 100)), (0, b"guest".to_vec()));
    let write = [at(&handle, 7, 4), b"host".to_vec()].concat();
    assert_eq!(bench.ask(16, node, &write).0, 0);
    assert_eq!(fs::read(bench.folder.path().join("hello")).unwrap(), b"hello, hostt");
    assert_eq!(bench.ask(18, node, &at(&handle, 0, 0)).0, 0);
    assert_eq!(bench.ask(15, node, &at(&handle, 0, 1)).0, -9);
}

fn folders_are_listed_made_and_removed(on: Transport) {
    let mut bench = bench(on, false);
    let (_, handle) = bench.ask(27, 1, &[0; 8]);
    let (error, listing) = bench.ask(28, 1, &at(&handle[..8], 0, 4096));
    assert_eq!(error, 0);
    let text = String::from_utf8_lossy(&listing).into_owned();
    assert!(["hello", "inner", "way-out"].iter().all(|name| text.contains(name)), "{text:?}");
    let body = [&[0xed, 1, 0, 0, 0, 0, 0, 0][..], b"made\0"].concat();
    assert_eq!(bench.ask(9, 1, &body).0, 0);
    assert!(bench.folder.path().join("made").is_dir());
    assert_eq!(bench.ask(9, 1, &body).0, -17);
    let rename = [&1_u64.to_le_bytes()[..], b"made\0moved\0"].concat();
    assert_eq!(bench.ask(12, 1, &rename).0, 0);
    assert_eq!(bench.ask(11, 1, b"moved\0").0, 0);
    assert_eq!(bench.ask(10, 1, b"absent\0").0, -2);
}

fn nothing_leads_out_of_the_folder(on: Transport) {
    let mut bench = bench(on, false);
    for name in ["..", ".", "", "../x", "inner/../..", "/etc", "way-out/passwd"] {
        let (error, _) = bench.ask(1, 1, format!("{name}\0").as_bytes());
        assert_eq!(error, -22, "{name}");
    }
    assert_eq!(bench.ask(1, 1, b"no end").0, -22);
    let link = bench.node(1, "way-out");
    assert_eq!(bench.ask(5, link, &[]), (0, b"/etc".to_vec()));
    assert_eq!(bench.open(link, 0).0, -40);
    assert_eq!(bench.ask(1, link, b"passwd\0").0, -20);
    assert_eq!(bench.ask(27, link, &[0; 8]).0, -40);
    // A device node would be one of the host.
    let device = [0o020_600_u32, 0x0103, 0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(bench.ask(8, 1, &[&device[..], b"null\0"].concat()).0, -1);
}

fn a_read_only_folder_does_not_change(on: Transport) {
    let mut bench = bench(on, true);
    let node = bench.node(1, "hello");
    assert_eq!(bench.open(node, 1).0, -30);
    assert_eq!(bench.open(node, 0o1000).0, -30);
    assert_eq!(bench.open(node, 0).0, 0);
    for opcode in [4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 43, 45] {
        assert_eq!(bench.ask(opcode, 1, &[1; 100]).0, -30, "{opcode}");
    }
}

fn nonsense_is_refused_and_forgotten_files_are_gone(on: Transport) {
    let mut bench = bench(on, false);
    for opcode in 0..64 {
        for len in [0, 1, 8, 16, 40, 100] {
            if !matches!(opcode, 2 | 42) {
                bench.ask(opcode, 77, &vec![0xff; len]);
            }
        }
    }
    let node = bench.node(1, "hello");
    let body = 1_u64.to_le_bytes();
    let header =
        [&48_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), &[0; 8], &node.to_le_bytes(), &[0; 16]].concat();
    bench.driver.put(Driver::buffer(0), &[&header[..], &body].concat());
    bench.driver.send(0, &[(Driver::buffer(0), 48)], &[]);
    assert_eq!(bench.driver.used(0), (0, 0));
    assert_eq!(bench.ask(3, node, &[0; 16]).0, -2);
    bench.driver.send(1, &[(Driver::buffer(0), 39)], &[(Driver::buffer(1), 100)]);
    bench.driver.wait_for_failure();
}

fn files_are_created_but_pipes_are_not_opened(on: Transport) {
    let mut bench = bench(on, false);
    let create = |name: &str, flags: u32| {
        let mut body = [flags, 0o644, 0, 0].map(u32::to_le_bytes).concat();
        body.extend(format!("{name}\0").bytes());
        body
    };
    assert_eq!(bench.ask(35, 1, &create("new", 2)).0, 0);
    assert_eq!(bench.ask(35, 1, &create("new", 2)).0, 0);
    assert_eq!(bench.ask(35, 1, &create("new", 2 | 0o200)).0, -17);
    let fifo = [0o010_600_u32, 0, 0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(bench.ask(8, 1, &[&fifo[..], b"pipe\0"].concat()).0, 0);
    assert_eq!(bench.ask(35, 1, &create("pipe", 0)).0, -1);
    assert_eq!(bench.ask(35, 1, &create("way-out", 0)).0, -40);
}
