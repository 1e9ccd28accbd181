//! A tap device, in a network namespace of its own. Where such a namespace is
//! not permitted, the reason is printed and nothing is tested.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use network::tap::Tap;
use network::{Checksum, Frame, NetBackend, Offloads, Sent};

/// Set in the process that is in the namespace.
const INSIDE: &str = "RINGMASTER_TEST_IN_NAMESPACE";
const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SET_UP: &str = "ip tuntap add dev rmtest0 mode tap && ip addr add 10.9.8.1/24 dev rmtest0 && \
    ip link set rmtest0 up";

#[test]
fn frames_pass_a_tap_device() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let this = std::env::current_exe().unwrap();
    let script = format!("{SET_UP} || exit 99; exec \"$0\" --exact frames_pass_a_tap_device --nocapture");
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", &script])
        .arg(this)
        .env(INSIDE, "1")
        .output();
    match run {
        Err(error) => eprintln!("skipped: unshare cannot be run ({error})"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(0) => {}
                Some(1 | 99 | 127) if !text.contains("panicked") => {
                    eprintln!("skipped: no tap device in a namespace here ({})", text.trim());
                }
                _ => panic!("{}{text}", String::from_utf8_lossy(&output.stdout)),
            }
        }
    }
}

fn ethernet(to: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to[..], &GUEST, &kind, payload].concat()
}

/// Asks until the frame that `wanted` is about has come. Once is not enough:
/// the host drops what it would answer while it has not yet noticed, up to a
/// second later, that the device has a carrier.
fn ask(tap: &mut Tap, mut question: impl FnMut(&mut Tap), wanted: impl Fn(&[u8]) -> bool) -> Frame {
    for _ in 0..300 {
        question(tap);
        if let Some(frame) = receive(tap, &wanted) {
            return frame;
        }
    }
    panic!("the frame does not come");
}

/// The next frame that `wanted` is about, if it comes soon.
fn receive(tap: &mut Tap, wanted: impl Fn(&[u8]) -> bool) -> Option<Frame> {
    let end = Instant::now() + Duration::from_millis(100);
    let mut frame = Frame::default();
    while Instant::now() < end {
        tap.service();
        if tap.receive(&mut frame) && wanted(&frame.bytes) {
            return Some(frame);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Asks the host for its address, and sends it a datagram without checksum.
fn inside() {
    let mut tap = Tap::open("rmtest0").unwrap();
    assert!(tap.is_up());
    tap.choose(Offloads::all());
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend_from_slice(&GUEST);
    arp.extend_from_slice(&[10, 9, 8, 2, 0, 0, 0, 0, 0, 0, 10, 9, 8, 1]);
    let request = Frame::whole(ethernet([0xff; 6], [8, 6], &arp));
    let who_has = |tap: &mut Tap| assert_eq!(tap.send(&request), Sent::Taken);
    let answer = ask(&mut tap, who_has, |bytes| bytes[12..14] == [8, 6] && bytes[20..22] == [0, 2]).bytes;
    let host: [u8; 6] = answer[6..12].try_into().unwrap();

    let socket = UdpSocket::bind("10.9.8.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tap.send(&datagram(host, socket.local_addr().unwrap().port()));
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.to_string().as_str()), (&b"partial"[..], "10.9.8.2:4444"));

    let datagram_back = |_: &mut Tap| assert_eq!(socket.send_to(b"back", from).unwrap(), 4);
    let back = ask(&mut tap, datagram_back, |bytes| bytes[12..14] == [8, 0] && bytes[23] == 17);
    assert!(back.bytes.ends_with(b"back"));
    assert_eq!(back.offload.checksum, Some(Checksum { start: 34, offset: 6 }));
}

fn datagram(host: [u8; 6], port: u16) -> Frame {
    let mut packet = vec![0x45, 0, 0, 35, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 8, 2, 10, 9, 8, 1];
    let checksum = !sum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let partial = sum(&[10, 9, 8, 2, 10, 9, 8, 1, 0, 17, 0, 15]);
    for field in [4444, port, 15, partial] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(b"partial");
    let mut frame = Frame::whole(ethernet(host, [8, 0], &packet));
    frame.offload.checksum = Some(Checksum { start: 34, offset: 6 });
    frame
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let total: u32 = words.sum();
    ((total & 0xffff) + (total >> 16)) as u16
}
