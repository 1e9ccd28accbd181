//! Writing TCP segments for the guest.

use super::flow::{Flow, Key};
use super::inbound::SCALE;
use super::outbound::{OUR_MSS, Plan};
use super::segment::Segment;
use super::seq::Seq;
use crate::checksum::{add, pseudo_header, sum};
use crate::user::emit::{ETHERNET, IPV4, PROTOCOL_TCP, Route, ipv4};
use crate::user::link::Link;
use crate::{Checksum, Frame, Offload, Offloads, SegmentKind, Segmentation};

const TCP: usize = 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Where the checksum is in a TCP header.
const CHECKSUM_AT: usize = 16;

/// The fixed part of a header.
struct Header {
    seq: Seq,
    ack: Option<Seq>,
    flags: u8,
    window: u16,
}

/// Writes the segment that `plan` describes.
pub(super) fn segment(flow: &mut Flow, plan: Plan, frame: &mut Frame, link: &Link) {
    let acknowledges = flow.acknowledges();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let header = Header {
        seq: plan.seq,
        ack: acknowledges.then_some(flow.inbound.next),
        flags: flag(plan.syn, SYN) | flag(plan.fin, FIN) | flag(plan.push, PSH),
        window: flow.inbound.announce(plan.syn),
    };
    let options = options(plan.syn, flow.inbound.scaled);
    let length = TCP + options.len() + plan.length;
    ipv4(&mut frame.bytes, route(flow.key, link), length);
    write_header(&mut frame.bytes, flow.key, &header, &options);
    flow.outbound.payload(&plan, &mut frame.bytes);
    frame.offload = Offload::default();
    if plan.length > usize::from(flow.outbound.mss) {
        frame.offload.segmentation = Some(Segmentation {
            kind: SegmentKind::TcpV4,
            size: flow.outbound.mss,
            headers: (ETHERNET + IPV4 + TCP) as u16,
            ecn: false,
        });
    }
    finish(frame, flow.key, link);
}

fn options(syn: bool, scaled: bool) -> Vec<u8> {
    if !syn {
        return Vec::new();
    }
    let [high, low] = OUR_MSS.to_be_bytes();
    let mut options = vec![2, 4, high, low];
    if scaled {
        options.extend_from_slice(&[1, 3, 3, SCALE]);
    }
    options
}

fn route(key: Key, link: &Link) -> Route {
    Route { to: link.guest, source: *key.remote.ip(), destination: *key.guest.ip(), protocol: PROTOCOL_TCP }
}

fn write_header(bytes: &mut Vec<u8>, key: Key, header: &Header, options: &[u8]) {
    let words = (TCP + options.len()) / 4;
    let ack = if header.ack.is_some() { ACK } else { 0 };
    bytes.extend_from_slice(&key.remote.port().to_be_bytes());
    bytes.extend_from_slice(&key.guest.port().to_be_bytes());
    bytes.extend_from_slice(&header.seq.0.to_be_bytes());
    bytes.extend_from_slice(&header.ack.unwrap_or_default().0.to_be_bytes());
    bytes.extend_from_slice(&[(words << 4) as u8, header.flags | ack]);
    bytes.extend_from_slice(&header.window.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(options);
}

/// Sums up the segment, or leaves that to the guest if it does not want it.
fn finish(frame: &mut Frame, key: Key, link: &Link) {
    let start = ETHERNET + IPV4;
    let segment = frame.bytes.get(start..).unwrap_or_default();
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let pseudo = pseudo_header(*key.remote.ip(), *key.guest.ip(), PROTOCOL_TCP, length);
    let checksum = if link.chosen.contains(Offloads::GUEST_CSUM) {
        frame.offload.checksum = Some(Checksum { start: start as u16, offset: CHECKSUM_AT as u16 });
        pseudo
    } else {
        !add(pseudo, sum(segment))
    };
    let at = start + CHECKSUM_AT;
    if let Some(field) = frame.bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Answers a segment that belongs to no connection (RFC 9293, 3.10.7.1).
pub(in crate::user) fn refuse(segment: &Segment<'_>, link: &mut Link) {
    if segment.rst {
        return;
    }
    let key = Key { guest: segment.from, remote: segment.to };
    let header = match segment.ack {
        Some(ack) => Header { seq: ack, ack: None, flags: RST, window: 0 },
        None => Header { seq: Seq(0), ack: Some(segment.seq + segment.length()), flags: RST, window: 0 },
    };
    push(key, &header, link);
}

/// Tells the guest that a connection is over.
pub(super) fn reset(flow: &Flow, link: &mut Link) {
    let ack = flow.acknowledges().then_some(flow.inbound.next);
    let header = Header { seq: flow.outbound.next, ack, flags: RST, window: 0 };
    push(flow.key, &header, link);
}

fn push(key: Key, header: &Header, link: &mut Link) {
    let mut frame = Frame::default();
    ipv4(&mut frame.bytes, route(key, link), TCP);
    write_header(&mut frame.bytes, key, header, &[]);
    finish(&mut frame, key, link);
    link.push(frame);
}
