//! FUSE's messages, field by field (Linux's include/uapi/linux/fuse.h).

use rustix::io::Errno;

/// Bytes of the header of a request, and of a reply.
pub(super) const REQUEST_HEADER: usize = 40;
pub(super) const REPLY_HEADER: usize = 16;

/// A request's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Reads fields one after the other; a request that is too short is invalid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn dword(&mut self) -> Result<u32, Errno> {
        Ok(self.bytes(4)?.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    pub(super) fn qword(&mut self) -> Result<u64, Errno> {
        Ok(self.bytes(8)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn skip(&mut self, len: usize) -> Result<(), Errno> {
        self.bytes(len).map(drop)
    }

    /// A string up to its zero byte.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let text = self.bytes(end)?;
        self.skip(1)?;
        Ok(text)
    }

    /// One component of a path: nothing that leads elsewhere.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        match name {
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if name.contains(&b'/') => Err(Errno::INVAL),
            _ if name.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    pub(super) fn header(&mut self) -> Result<Header, Errno> {
        self.skip(4)?;
        let opcode = self.dword()?;
        let (unique, node) = (self.qword()?, self.qword()?);
        let (uid, gid) = (self.dword()?, self.dword()?);
        self.skip(8)?;
        Ok(Header { opcode, unique, node, uid, gid })
    }
}

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(super) struct Reply(pub(super) Vec<u8>);

impl Reply {
    pub(super) fn dwords(&mut self, values: &[u32]) -> &mut Self {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    pub(super) fn qwords(&mut self, values: &[u64]) -> &mut Self {
        values.iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }
}
