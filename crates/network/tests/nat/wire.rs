//! What the guest's card does with frames that are left to it, and what can
//! happen to frames on their way.

use network::{Frame, Offload, SegmentKind};
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, TcpPacket};

const HEADERS: usize = 54;

/// Does what has been left undone in a frame: the frames on the wire.
pub(crate) fn complete(frame: &Frame) -> Vec<Vec<u8>> {
    let Offload { checksum, segmentation, .. } = frame.offload;
    let Some(checksum) = checksum else {
        assert!(segmentation.is_none(), "segments without checksums");
        return vec![frame.bytes.clone()];
    };
    assert_eq!((checksum.start, checksum.offset), (34, 16), "only TCP is left undone");
    let Some(segmentation) = segmentation else {
        let mut bytes = frame.bytes.clone();
        verify_partial(&bytes);
        finish(&mut bytes);
        return vec![bytes];
    };
    assert_eq!((segmentation.kind, segmentation.headers), (SegmentKind::TcpV4, 54));
    verify_partial(&frame.bytes);
    let (headers, payload) = frame.bytes.split_at(HEADERS);
    let size = usize::from(segmentation.size);
    assert!(payload.len() > size, "nothing to cut");
    let last = payload.len().div_ceil(size) - 1;
    let cut = payload.chunks(size).enumerate();
    cut.map(|(n, part)| segment(headers, part, n * size, n == last)).collect()
}

/// The checksum field has the pseudo-header's sum.
fn verify_partial(bytes: &[u8]) {
    let ip = Ipv4Packet::new_checked(&bytes[14..]).unwrap();
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    assert!(tcp.verify_partial_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
}

fn segment(headers: &[u8], part: &[u8], offset: usize, last: bool) -> Vec<u8> {
    let mut bytes = headers.to_vec();
    bytes.extend_from_slice(part);
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[14..]);
    ip.set_total_len((40 + part.len()) as u16);
    ip.fill_checksum();
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_seq_number(tcp.seq_number() + offset);
    if !last {
        tcp.set_fin(false);
        tcp.set_psh(false);
    }
    finish(&mut bytes);
    bytes
}

fn finish(bytes: &mut [u8]) {
    let ip = Ipv4Packet::new_checked(&bytes[14..]).unwrap();
    let (source, destination): (IpAddress, IpAddress) = (ip.src_addr().into(), ip.dst_addr().into());
    let start = 14 + usize::from(ip.header_len());
    TcpPacket::new_unchecked(&mut bytes[start..]).fill_checksum(&source, &destination);
}

/// Whether everything in an IPv4 frame adds up.
pub(crate) fn is_intact(bytes: &[u8]) -> bool {
    let ethernet = EthernetFrame::new_checked(bytes).unwrap();
    let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return true };
    if ip.version() != 4 {
        return true;
    }
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    let tcp = TcpPacket::new_checked(ip.payload()).ok().filter(|_| u8::from(ip.next_header()) == 6);
    ip.verify_checksum() && tcp.is_none_or(|tcp| tcp.verify_checksum(&source, &destination))
}

/// A source of chance that is the same each time.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        n != 0 && self.next().is_multiple_of(n)
    }
}

/// What happens to frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// One in so many is lost; none if zero.
    pub(crate) loss: u64,
    /// One in so many comes after the next.
    pub(crate) reordering: u64,
    /// One in so many comes twice.
    pub(crate) duplication: u64,
}

/// A direction of the wire.
pub(crate) struct Wire {
    weather: Weather,
    chance: Chance,
    held: Option<Vec<u8>>,
}

impl Wire {
    pub(crate) fn new(weather: Weather, seed: u64) -> Self {
        Self { weather, chance: Chance::new(seed), held: None }
    }

    /// What comes out when `frame` goes in.
    pub(crate) fn pass(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        if self.chance.one_in(self.weather.loss) {
            return Vec::new();
        }
        if self.held.is_none() && self.chance.one_in(self.weather.reordering) {
            self.held = Some(frame);
            return Vec::new();
        }
        let mut out = vec![frame.clone()];
        if self.chance.one_in(self.weather.duplication) {
            out.push(frame);
        }
        out.extend(self.held.take());
        out
    }
}
