//! The header that says what has been left undone in a frame, as virtio-net
//! and tap devices carry it (virtio 1.2, 5.1.6).

/// Its length, with the number of buffers at the end.
pub const VNET_HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// A checksum that is still to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where the bytes begin that it covers; they reach to the frame's end.
    pub start: u16,
    /// Where it belongs, from `start` on. The pseudo-header's sum is there.
    pub offset: u16,
}

/// What a frame will be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
}

/// A segmentation that is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Into what.
    pub kind: SegmentKind,
    /// Bytes of payload in each.
    pub size: u16,
    /// Length of the headers that each is to have.
    pub headers: u16,
    /// The first segment reports congestion (ECN).
    pub ecn: bool,
}

/// What has been left undone in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum.
    pub checksum: Option<Checksum>,
    /// Segmentation.
    pub segmentation: Option<Segmentation>,
    /// The checksum need not be looked at.
    pub verified: bool,
}

impl Offload {
    /// Reads a header; nothing if it makes no sense.
    pub fn parse(header: &[u8; VNET_HEADER]) -> Option<Self> {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, ..] = *header;
        let checksum = (flags & NEEDS_CSUM != 0)
            .then(|| Checksum { start: u16::from_le_bytes([c0, c1]), offset: u16::from_le_bytes([o0, o1]) });
        let kind = match gso & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(SegmentKind::TcpV4),
            GSO_TCPV6 => Some(SegmentKind::TcpV6),
            _ => return None,
        };
        let segmentation = kind.map(|kind| Segmentation {
            kind,
            size: u16::from_le_bytes([s0, s1]),
            headers: u16::from_le_bytes([h0, h1]),
            ecn: gso & GSO_ECN != 0,
        });
        // The specification demands both together, and a size.
        if segmentation.is_some_and(|s| s.size == 0 || checksum.is_none()) {
            return None;
        }
        Some(Self { checksum, segmentation, verified: flags & DATA_VALID != 0 })
    }

    /// The header of a frame that takes one buffer.
    pub fn header(&self) -> [u8; VNET_HEADER] {
        let mut flags = 0;
        let mut gso = GSO_NONE;
        let (mut headers, mut size, mut start, mut offset) = (0, 0, 0, 0);
        if let Some(checksum) = self.checksum {
            flags |= NEEDS_CSUM;
            (start, offset) = (checksum.start, checksum.offset);
        } else if self.verified {
            flags |= DATA_VALID;
        }
        if let Some(segmentation) = self.segmentation {
            gso = match segmentation.kind {
                SegmentKind::TcpV4 => GSO_TCPV4,
                SegmentKind::TcpV6 => GSO_TCPV6,
            };
            gso |= if segmentation.ecn { GSO_ECN } else { 0 };
            (headers, size) = (segmentation.headers, segmentation.size);
        }
        let mut bytes = [0; VNET_HEADER];
        bytes[0] = flags;
        bytes[1] = gso;
        for (at, value) in (2..).step_by(2).zip([headers, size, start, offset, 1]) {
            bytes[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Offload {
        Offload {
            checksum: Some(Checksum { start: 34, offset: 16 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::TcpV4,
                size: 1460,
                headers: 54,
                ecn: false,
            }),
            verified: false,
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let whole = Offload::default();
        let verified = Offload { verified: true, ..whole };
        let checksum = Offload { segmentation: None, ..large() };
        for offload in [whole, verified, checksum, large()] {
            assert_eq!(Offload::parse(&offload.header()), Some(offload));
        }
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        assert_eq!(large().header(), [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 1, 0]);
    }

    #[test]
    fn impossible_headers_are_refused() {
        let unknown_kind = [0, 7, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let no_size = [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 1, 0];
        let no_checksum = [0, 1, 54, 0, 1, 0, 0, 0, 0, 0, 1, 0];
        for header in [unknown_kind, no_size, no_checksum] {
            assert_eq!(Offload::parse(&header), None);
        }
    }
}
