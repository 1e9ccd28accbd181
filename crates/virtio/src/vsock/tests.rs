use std::io::{Read, Write};
use std::time::Duration;

use super::packet::*;
use super::*;
use crate::feature;
use crate::testing::{Driver, Transport, over_each_transport};

over_each_transport! {
    the_guest_reaches_a_program_on_the_host,
    a_program_on_the_host_reaches_the_guest,
    what_leads_nowhere_is_reset,
    a_guest_that_sends_more_than_it_may_loses_its_connection,
}

struct Bench {
    driver: Driver,
    folder: tempfile::TempDir,
}

fn bench(on: Transport) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let device = Vsock::new(GUEST_CID, &folder.path().join("vsock")).unwrap();
    Bench { driver: Driver::new(on, device, feature::VERSION_1), folder }
}

impl Bench {
    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("vsock{suffix}"))
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header {
            src_cid: if header.src_cid == 0 { GUEST_CID } else { header.src_cid },
            dst_cid: HOST_CID,
            kind: if header.kind == 0 { STREAM } else { header.kind },
            buf_alloc: 4096,
            ..header
        };
        self.driver.put(Driver::buffer(0), &[header.bytes(), data.to_vec()].concat());
        self.driver.send(1, &[(Driver::buffer(0), 44 + data.len() as u32)], &[]);
        self.driver.used(1);
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        self.receive_within(Duration::from_secs(10)).expect("a packet")
    }

    fn receive_within(&mut self, limit: Duration) -> Option<(Header, Vec<u8>)> {
        self.driver.send(0, &[], &[(Driver::buffer(1), 8192)]);
        let (_, len) = self.driver.used_within(0, limit)?;
        let bytes = self.driver.get(Driver::buffer(1), len as usize);
        let header = Header::parse(bytes[..44].try_into().unwrap());
        Some((header, bytes[44..].to_vec()))
    }
}

fn the_guest_reaches_a_program_on_the_host(on: Transport) {
    let mut bench = bench(on);
    let listener = UnixListener::bind(bench.path("_52")).unwrap();
    bench.send(Header { src_port: 1000, dst_port: 52, op: REQUEST, ..Header::default() }, &[]);
    let (response, _) = bench.receive();
    assert_eq!((response.op, response.src_port, response.dst_port), (RESPONSE, 52, 1000));
    assert_eq!((response.src_cid, response.dst_cid), (HOST_CID, GUEST_CID));
    let (mut stream, _) = listener.accept().unwrap();
    let data = Header { src_port: 1000, dst_port: 52, op: RW, len: 5, ..Header::default() };
    bench.send(data, b"hello");
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    stream.write_all(&[7; 6000]).unwrap();
    let (header, bytes) = bench.receive();
    assert_eq!((header.op, header.len, header.fwd_cnt, bytes), (RW, 4096, 5, vec![7; 4096]));
    assert!(bench.receive_within(Duration::from_millis(100)).is_none(), "no credit is left");
    let news = Header { src_port: 1000, dst_port: 52, op: CREDIT_UPDATE, fwd_cnt: 4096, ..Header::default() };
    bench.driver.put(Driver::buffer(0), &[0]);
    bench.send(news, &[]);
    bench.driver.used(0);
    bench.send(Header { src_port: 1000, dst_port: 52, op: SHUTDOWN, flags: 3, ..Header::default() }, &[]);
    assert_eq!(bench.receive().0.op, RST);
    assert_eq!(stream.read(&mut got).unwrap(), 0);
}

fn a_program_on_the_host_reaches_the_guest(on: Transport) {
    let mut bench = bench(on);
    let mut stream = UnixStream::connect(bench.path("")).unwrap();
    stream.write_all(b"CONNECT 22\nearly").unwrap();
    let (request, _) = bench.receive();
    assert_eq!((request.op, request.dst_port), (REQUEST, 22));
    let port = request.src_port;
    bench.send(Header { src_port: 22, dst_port: port, op: RESPONSE, ..Header::default() }, &[]);
    let mut greeting = vec![0; format!("OK {port}\n").len()];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, format!("OK {port}\n").as_bytes());
    assert_eq!(bench.receive().1, b"early");
    drop(stream);
    let (end, _) = bench.receive();
    assert_eq!((end.op, end.flags), (SHUTDOWN, NO_SEND));
    bench.send(Header { src_port: 22, dst_port: port, op: RST, ..Header::default() }, &[]);
}

fn what_leads_nowhere_is_reset(on: Transport) {
    let mut bench = bench(on);
    let lost = Header { src_port: 1, dst_port: 9, ..Header::default() };
    for op in [REQUEST, RESPONSE, RW, SHUTDOWN, CREDIT_REQUEST, 0, 99] {
        bench.send(Header { op, ..lost }, &[]);
        assert_eq!(bench.receive().0.op, RST, "{op}");
    }
    bench.send(Header { op: REQUEST, kind: 2, ..lost }, &[]);
    assert_eq!((bench.receive().0.op, bench.driver.status()), (RST, 0xf));
    bench.send(Header { op: REQUEST, src_cid: 77, ..lost }, &[]);
    bench.send(Header { op: RST, ..lost }, &[]);
    assert!(bench.receive_within(Duration::from_millis(50)).is_none());
}

fn a_guest_that_sends_more_than_it_may_loses_its_connection(on: Transport) {
    let mut bench = bench(on);
    let listener = UnixListener::bind(bench.path("_5")).unwrap();
    bench.send(Header { src_port: 1, dst_port: 5, op: REQUEST, ..Header::default() }, &[]);
    assert_eq!(bench.receive().0.op, RESPONSE);
    let _stream = listener.accept().unwrap();
    let data = Header { src_port: 1, dst_port: 5, op: RW, len: u32::MAX, ..Header::default() };
    bench.send(data, &[1; 100]);
    assert_eq!(bench.receive().0.op, RST);
}

#[test]
fn the_socket_goes_with_the_device_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vsock");
    let device = Vsock::new(GUEST_CID, &path).unwrap();
    assert_eq!(Vsock::new(GUEST_CID, &path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(device);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    drop(Vsock::new(GUEST_CID, &path).expect("what is left over is removed"));
    fs::write(&path, b"precious").unwrap();
    assert_eq!(Vsock::new(GUEST_CID, &path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
