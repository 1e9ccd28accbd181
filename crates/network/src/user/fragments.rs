//! Putting together what the guest had to cut (RFC 791, 3.2).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use smoltcp::wire::Ipv4Packet;

/// How many packets may be incomplete at a time.
const MOST: usize = 16;
/// For how long one may be.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most pieces of one packet: more cannot come from any real network.
const MOST_PIECES: usize = 128;

type Key = (Ipv4Addr, Ipv4Addr, u8, u16);

struct Incomplete {
    key: Key,
    /// An IPv4 header of its, for error messages.
    data: Vec<u8>,
    /// What has come: from, to.
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    since: Instant,
}

impl Incomplete {
    /// Adds a piece; false if it contradicts the others.
    fn add(&mut self, packet: &Ipv4Packet<&[u8]>) -> bool {
        let piece = packet.payload();
        let from = usize::from(packet.frag_offset());
        let to = from + piece.len();
        let ragged = packet.more_frags() && !piece.len().is_multiple_of(8);
        let overlaps = self.pieces.iter().any(|&(a, b)| from < b && a < to);
        if to > 65535 - 20 || piece.is_empty() || ragged || overlaps || self.pieces.len() >= MOST_PIECES {
            return false;
        }
        if !packet.more_frags() && self.total.replace(to).is_some() {
            return false;
        }
        if self.data.len() < to {
            self.data.resize(to, 0);
        }
        self.data[from..to].copy_from_slice(piece);
        self.pieces.push((from, to));
        self.total.is_none_or(|total| self.data.len() <= total)
    }

    fn is_complete(&self) -> bool {
        let come: usize = self.pieces.iter().map(|(from, to)| to - from).sum();
        self.total == Some(come)
    }
}

/// Packets of which pieces are missing.
#[derive(Default)]
pub(super) struct Fragments {
    incomplete: Vec<Incomplete>,
}

impl Fragments {
    /// Adds a piece; the payload of the packet if it was the last one missing.
    pub(super) fn add(&mut self, packet: &Ipv4Packet<&[u8]>, now: Instant) -> Option<Vec<u8>> {
        let key = (packet.src_addr(), packet.dst_addr(), packet.next_header().into(), packet.ident());
        let at = match self.incomplete.iter().position(|i| i.key == key) {
            Some(at) => at,
            None => self.begin(key, now),
        };
        let entry = self.incomplete.get_mut(at)?;
        if !entry.add(packet) {
            self.incomplete.swap_remove(at);
            return None;
        }
        entry.is_complete().then(|| self.incomplete.swap_remove(at).data)
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.incomplete.len() >= MOST
            && let Some(oldest) = (0..self.incomplete.len()).min_by_key(|&at| self.incomplete[at].since)
        {
            self.incomplete.swap_remove(oldest);
        }
        self.incomplete.push(Incomplete {
            key,
            data: Vec::new(),
            pieces: Vec::new(),
            total: None,
            since: now,
        });
        self.incomplete.len() - 1
    }

    /// Forgets what has been incomplete for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.incomplete.retain(|i| now.saturating_duration_since(i.since) < PATIENCE);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(ident: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes.extend_from_slice(payload);
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        packet.set_version(4);
        packet.set_header_len(20);
        packet.set_total_len(20 + payload.len() as u16);
        packet.set_ident(ident);
        packet.set_frag_offset(offset);
        packet.set_more_frags(more);
        bytes
    }

    fn add(fragments: &mut Fragments, bytes: &[u8]) -> Option<Vec<u8>> {
        fragments.add(&Ipv4Packet::new_checked(bytes).unwrap(), Instant::now())
    }

    #[test]
    fn pieces_in_any_order_make_a_whole() {
        let mut fragments = Fragments::default();
        assert_eq!(add(&mut fragments, &piece(1, 8, true, b"89abcdef")), None);
        assert_eq!(add(&mut fragments, &piece(2, 0, true, b"xxxxxxxx")), None);
        assert_eq!(add(&mut fragments, &piece(1, 16, false, b"end")), None);
        assert_eq!(add(&mut fragments, &piece(1, 0, true, b"01234567")).unwrap(), b"0123456789abcdefend");
        assert!(!fragments.is_empty());
    }

    #[test]
    fn contradictions_end_a_packet() {
        let bad = [
            piece(1, 8, true, b"overlaps"),
            piece(1, 16, true, b"ragged"),
            piece(1, 65528, false, b"too far"),
            piece(1, 0, false, b"all"),
        ];
        for bad in bad {
            let mut fragments = Fragments::default();
            add(&mut fragments, &piece(1, 8, true, b"89abcdef"));
            add(&mut fragments, &piece(1, 24, false, b"end"));
            assert_eq!(add(&mut fragments, &bad), None);
            assert!(fragments.is_empty());
        }
    }

    #[test]
    fn they_are_bounded() {
        let mut fragments = Fragments::default();
        (0..1000).for_each(|n| assert_eq!(add(&mut fragments, &piece(n, 8, true, b"89abcdef")), None));
        assert_eq!(fragments.incomplete.len(), MOST);
        fragments.sweep(Instant::now() + PATIENCE);
        assert!(fragments.is_empty());
    }
}
