//! A TCP segment from the guest.

use std::net::SocketAddrV4;

use smoltcp::wire::{TcpOption, TcpPacket};

use super::seq::Seq;

/// What a segment says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) seq: Seq,
    /// The acknowledgement, if it has one.
    pub(crate) ack: Option<Seq>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) scale: Option<u8>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads a segment between two addresses; nothing if it is malformed.
    pub(crate) fn parse(bytes: &'a [u8], addresses: super::Addresses) -> Option<Self> {
        let packet = TcpPacket::new_checked(bytes).ok()?;
        if packet.header_len() < 20 || packet.src_port() == 0 || packet.dst_port() == 0 {
            return None;
        }
        let mut segment = Self {
            from: SocketAddrV4::new(addresses.source, packet.src_port()),
            to: SocketAddrV4::new(addresses.destination, packet.dst_port()),
            seq: Seq(packet.seq_number().0 as u32),
            ack: packet.ack().then(|| Seq(packet.ack_number().0 as u32)),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            window: packet.window_len(),
            mss: None,
            scale: None,
            payload: &[],
        };
        if segment.syn {
            segment.read_options(packet.options());
        }
        segment.payload = bytes.get(usize::from(packet.header_len())..)?;
        Some(segment)
    }

    fn read_options(&mut self, mut options: &[u8]) {
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::EndOfList => return,
                TcpOption::MaxSegmentSize(mss) => self.mss = Some(mss),
                // RFC 7323, 2.3: more than 14 means 14.
                TcpOption::WindowScale(scale) => self.scale = Some(scale.min(14)),
                _ => {}
            }
            if rest.is_empty() || rest.len() == options.len() {
                return;
            }
            options = rest;
        }
    }

    /// How much of the sequence space it takes.
    pub(crate) fn length(&self) -> usize {
        self.payload.len() + usize::from(self.syn) + usize::from(self.fin)
    }
}
