//! Headers of packets (5.10.6).

/// Bytes of a header.
pub(super) const LENGTH: usize = 44;
/// A stream socket.
pub(super) const STREAM: u16 = 1;

pub(super) const REQUEST: u16 = 1;
pub(super) const RESPONSE: u16 = 2;
pub(super) const RST: u16 = 3;
pub(super) const SHUTDOWN: u16 = 4;
pub(super) const RW: u16 = 5;
pub(super) const CREDIT_UPDATE: u16 = 6;
pub(super) const CREDIT_REQUEST: u16 = 7;

/// The sender of a shutdown will not receive any more.
pub(super) const NO_RECEIVE: u32 = 1;
/// The sender of a shutdown will not send any more.
pub(super) const NO_SEND: u32 = 2;

/// A packet without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

fn number(bytes: &[u8; LENGTH], at: usize, len: usize) -> u64 {
    bytes.iter().skip(at).take(len).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Header {
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Self {
        let dword = |at| number(bytes, at, 4) as u32;
        let word = |at| number(bytes, at, 2) as u16;
        Self {
            src_cid: number(bytes, 0, 8),
            dst_cid: number(bytes, 8, 8),
            src_port: dword(16),
            dst_port: dword(20),
            len: dword(24),
            kind: word(28),
            op: word(30),
            flags: dword(32),
            buf_alloc: dword(36),
            fwd_cnt: dword(40),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        for field in [self.src_port, self.dst_port, self.len] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        for field in [self.flags, self.buf_alloc, self.fwd_cnt] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }
}
