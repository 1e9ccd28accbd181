//! The server: one function for each kind of request.

use std::io;
use std::path::Path;
use std::sync::Arc;

use memory::GuestMemory;
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Uid, chownat,
    fallocate, fdatasync, fstatvfs, fsync, linkat, mkdirat, mknodat, openat, readlinkat, renameat_with, seek,
    symlinkat, unlinkat,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::geteuid;

use super::attributes::{self, attr_out, entry_out};
use super::message::{Fields, Header, REPLY_HEADER, REQUEST_HEADER, Reply};
use super::nodes::{Handle, Listing, Node, Nodes};
use crate::Chain;

/// The version of FUSE that is spoken.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// Asynchronous reads, truncation on open, large writes, parallel look-ups,
/// requests of many pages.
const FLAGS: u32 = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 18 | 1 << 22;
/// The most data in one request.
const MAX_DATA: usize = 256 << 10;
const MAX_PAGES: u16 = 64;

/// Flags of `open` that a guest may choose.
const OPEN_FLAGS: OFlags = OFlags::ACCMODE.union(OFlags::TRUNC).union(OFlags::APPEND).union(OFlags::EXCL);

/// What a request is answered with; None: not at all.
type Answer = Result<Option<Vec<u8>>, Errno>;

fn done() -> Answer {
    Ok(Some(Vec::new()))
}

/// Serves a folder.
pub(super) struct Server {
    nodes: Nodes,
    read_only: bool,
    /// Files that the guest makes are to belong to its users.
    as_root: bool,
}

impl Server {
    pub(super) fn new(path: &Path, read_only: bool) -> io::Result<Self> {
        Ok(Self { nodes: Nodes::new(path)?, read_only, as_root: geteuid().is_root() })
    }

    pub(super) fn forget_all(&self) {
        self.nodes.forget_all();
    }

    /// Serves one request; how much was written, None if it is none.
    pub(super) fn serve(&self, memory: &GuestMemory, chain: &Chain) -> Option<u64> {
        let len = chain.readable_len();
        if len < REQUEST_HEADER as u64 {
            return None;
        }
        let mut bytes = vec![0; len.min((MAX_DATA + 4096) as u64) as usize];
        let read = chain.read(memory, 0, &mut bytes);
        let mut fields = Fields(bytes.get(..read)?);
        let header = fields.header().ok()?;
        let room = chain.writable_len().saturating_sub(REPLY_HEADER as u64) as usize;
        let (error, data) = match self.perform(&header, &mut fields, room) {
            Ok(None) => return Some(0),
            Ok(Some(data)) if data.len() <= room => (0, data),
            Ok(Some(_)) => (Errno::INVAL.raw_os_error(), Vec::new()),
            Err(error) => (error.raw_os_error(), Vec::new()),
        };
        let mut reply = Reply::default();
        let total = u32::try_from(REPLY_HEADER + data.len()).ok()?;
        reply.dwords(&[total, error.wrapping_neg() as u32]).qwords(&[header.unique]).bytes(&data);
        Some(chain.write(memory, 0, &reply.0) as u64)
    }

    fn perform(&self, header: &Header, fields: &mut Fields<'_>, room: usize) -> Answer {
        match header.opcode {
            1 => self.entry(&*self.nodes.get(header.node)?, fields.name()?),
            2 => self.forget(header, fields, 1),
            42 => {
                let count = fields.dword()?;
                fields.skip(4)?;
                self.forget_several(fields, count)
            }
            3 => Ok(Some(attr_out(&self.nodes.get(header.node)?.stat()?).0)),
            5 => self.read_link(header),
            14 => self.open(header, fields),
            15 => self.read(fields, room),
            17 => self.statistics(header),
            18 | 29 => {
                self.nodes.close(fields.qword()?);
                done()
            }
            20 => self.synchronize(fields),
            25 | 30 | 38 => done(),
            26 => Self::initialize(fields),
            27 => self.open_folder(header),
            28 => self.read_folder(fields, room),
            46 => self.seek(fields),
            4 | 6 | 8..=13 | 16 | 35 | 43 | 45 if self.read_only => Err(Errno::ROFS),
            4 => self.set_attributes(header, fields),
            _ => self.change(header, fields),
        }
    }

    /// What changes folders and contents.
    fn change(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        match header.opcode {
            6 => self.symbolic_link(header, fields),
            8 => self.make_node(header, fields),
            9 => self.make_folder(header, fields),
            10 => self.remove(header, fields, AtFlags::empty()),
            11 => self.remove(header, fields, AtFlags::REMOVEDIR),
            12 => {
                let folder = fields.qword()?;
                self.rename(header, folder, RenameFlags::empty(), fields)
            }
            45 => {
                let (folder, flags) = (fields.qword()?, fields.dword()?);
                fields.skip(4)?;
                let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
                self.rename(header, folder, flags, fields)
            }
            13 => self.link(header, fields),
            16 => self.write(fields),
            35 => self.create(header, fields),
            43 => self.allocate(fields),
            _ => Err(Errno::NOSYS),
        }
    }

    fn initialize(fields: &mut Fields<'_>) -> Answer {
        let (major, _, readahead, flags) =
            (fields.dword()?, fields.dword()?, fields.dword()?, fields.dword()?);
        if major < MAJOR {
            return Err(Errno::PROTO);
        }
        let mut reply = Reply::default();
        reply.dwords(&[MAJOR, MINOR, readahead, flags & FLAGS]);
        // The most requests in the background, and when they are too many.
        reply.dwords(&[12 << 16 | 16, MAX_DATA as u32, 1, u32::from(MAX_PAGES)]);
        reply.dwords(&[0; 8]);
        Ok(Some(reply.0))
    }

    fn entry(&self, folder: &Node, name: &[u8]) -> Answer {
        let (node, stat) = self.nodes.look_up(folder, name)?;
        Ok(Some(entry_out(node, &stat).0))
    }

    fn forget(&self, header: &Header, fields: &mut Fields<'_>, _times: u64) -> Answer {
        self.nodes.forget(header.node, fields.qword()?);
        Ok(None)
    }

    fn forget_several(&self, fields: &mut Fields<'_>, count: u32) -> Answer {
        for _ in 0..count {
            let Ok(node) = fields.qword() else { break };
            let Ok(lookups) = fields.qword() else { break };
            self.nodes.forget(node, lookups);
        }
        Ok(None)
    }

    fn set_attributes(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let node = self.nodes.get(header.node)?;
        attributes::set(&self.nodes, &node, fields)?;
        Ok(Some(attr_out(&node.stat()?).0))
    }

    fn read_link(&self, header: &Header) -> Answer {
        let node = self.nodes.get(header.node)?;
        Ok(Some(readlinkat(node.fd(), "", Vec::new())?.into_bytes()))
    }

    fn statistics(&self, header: &Header) -> Answer {
        let stat = fstatvfs(self.nodes.get(header.node)?.fd())?;
        let mut reply = Reply::default();
        reply.qwords(&[stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree]);
        reply.dwords(&[stat.f_bsize as u32, stat.f_namemax as u32, stat.f_frsize as u32, 0]);
        reply.dwords(&[0; 6]);
        Ok(Some(reply.0))
    }

    fn opened(&self, file: rustix::fd::OwnedFd) -> Result<Vec<u8>, Errno> {
        let number = self.nodes.keep(Handle::File(Arc::new(file)))?;
        let mut reply = Reply::default();
        reply.qwords(&[number]).dwords(&[0, 0]);
        Ok(reply.0)
    }

    fn open(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let flags = self.allowed(fields.dword()?)? & !OFlags::EXCL;
        let node = self.nodes.get(header.node)?;
        Ok(Some(self.opened(self.nodes.open(&node, flags)?)?))
    }

    /// The flags of an open by the guest, as far as they matter here. Appending
    /// is the guest's business: it says where each write goes.
    fn allowed(&self, flags: u32) -> Result<OFlags, Errno> {
        let flags = OFlags::from_bits_truncate(flags) & OPEN_FLAGS & !OFlags::APPEND;
        let writes = flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if self.read_only && writes { Err(Errno::ROFS) } else { Ok(flags) }
    }

    fn create(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let (flags, mode, umask) = (fields.dword()?, fields.dword()?, fields.dword()?);
        fields.skip(4)?;
        let (folder, name) = (self.nodes.get(header.node)?, fields.name()?);
        let flags = self.allowed(flags)?;
        // Only what is new is made by its name; what is there already may be a
        // pipe or a device, which only `Nodes::open` can tell.
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(folder.fd(), name, flags | new, permissions(mode, umask));
        if made.is_ok() {
            self.give(header, &folder, name);
        } else if flags.contains(OFlags::EXCL) || made.as_ref().err() != Some(&Errno::EXIST) {
            made.as_ref().map_err(|error| *error)?;
        }
        let (node, stat) = self.nodes.look_up(&folder, name)?;
        let file = match made {
            Ok(file) => Ok(file),
            Err(_) => self.nodes.get(node).and_then(|node| self.nodes.open(&node, flags & !OFlags::EXCL)),
        };
        let opened = file.and_then(|file| self.opened(file));
        if opened.is_err() {
            self.nodes.forget(node, 1);
        }
        let mut reply = entry_out(node, &stat);
        reply.bytes(&opened?);
        Ok(Some(reply.0))
    }

    /// A new file belongs to the user in the guest who has made it.
    fn give(&self, header: &Header, folder: &Node, name: &[u8]) {
        if self.as_root {
            let (uid, gid) = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
            let _ = chownat(folder.fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    fn made(&self, header: &Header, folder: &Node, name: &[u8]) -> Answer {
        self.give(header, folder, name);
        self.entry(folder, name)
    }

    fn symbolic_link(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let (folder, name, target) = (self.nodes.get(header.node)?, fields.name()?, fields.text()?);
        symlinkat(target, folder.fd(), name)?;
        self.made(header, &folder, name)
    }

    fn make_node(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let (mode, _, umask) = (fields.dword()?, fields.dword()?, fields.dword()?);
        fields.skip(4)?;
        let kind = FileType::from_raw_mode(mode);
        // Devices would be the host's.
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        let (folder, name) = (self.nodes.get(header.node)?, fields.name()?);
        mknodat(folder.fd(), name, kind, permissions(mode, umask), 0)?;
        self.made(header, &folder, name)
    }

    fn make_folder(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let (mode, umask) = (fields.dword()?, fields.dword()?);
        let (folder, name) = (self.nodes.get(header.node)?, fields.name()?);
        mkdirat(folder.fd(), name, permissions(mode, umask))?;
        self.made(header, &folder, name)
    }

    fn remove(&self, header: &Header, fields: &mut Fields<'_>, flags: AtFlags) -> Answer {
        unlinkat(self.nodes.get(header.node)?.fd(), fields.name()?, flags)?;
        done()
    }

    fn rename(&self, header: &Header, to: u64, flags: RenameFlags, fields: &mut Fields<'_>) -> Answer {
        let (from, to) = (self.nodes.get(header.node)?, self.nodes.get(to)?);
        let (old, new) = (fields.name()?, fields.name()?);
        renameat_with(from.fd(), old, to.fd(), new, flags)?;
        done()
    }

    fn link(&self, header: &Header, fields: &mut Fields<'_>) -> Answer {
        let node = self.nodes.get(fields.qword()?)?;
        let (folder, name) = (self.nodes.get(header.node)?, fields.name()?);
        node.require_no_link()?;
        let (numbers, number) = self.nodes.by_number(&node);
        linkat(numbers, number.as_str(), folder.fd(), name, AtFlags::SYMLINK_FOLLOW)?;
        self.entry(&folder, name)
    }

    fn read(&self, fields: &mut Fields<'_>, room: usize) -> Answer {
        let (number, offset, size) = (fields.qword()?, fields.qword()?, fields.dword()?);
        let file = self.nodes.file(number)?;
        let mut data = vec![0; (size as usize).min(room).min(MAX_DATA)];
        let mut read = 0;
        while let Some(rest) = data.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match pread(&*file, rest, offset.saturating_add(read as u64))? {
                0 => break,
                count => read += count,
            }
        }
        data.truncate(read);
        Ok(Some(data))
    }

    fn write(&self, fields: &mut Fields<'_>) -> Answer {
        let (number, offset, size) = (fields.qword()?, fields.qword()?, fields.dword()?);
        fields.skip(20)?;
        let data = fields.bytes(size as usize)?;
        let file = self.nodes.file(number)?;
        let mut written = 0;
        while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
            match pwrite(&*file, rest, offset.saturating_add(written as u64)) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        let mut reply = Reply::default();
        reply.dwords(&[written as u32, 0]);
        Ok(Some(reply.0))
    }

    fn synchronize(&self, fields: &mut Fields<'_>) -> Answer {
        let (number, flags) = (fields.qword()?, fields.dword()?);
        let file = self.nodes.file(number)?;
        if flags & 1 != 0 {
            fdatasync(&*file)?
        } else {
            fsync(&*file)?
        }
        done()
    }

    fn allocate(&self, fields: &mut Fields<'_>) -> Answer {
        let (number, offset, len, mode) =
            (fields.qword()?, fields.qword()?, fields.qword()?, fields.dword()?);
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::INVAL)?;
        fallocate(&*self.nodes.file(number)?, mode, offset, len)?;
        done()
    }

    fn seek(&self, fields: &mut Fields<'_>) -> Answer {
        let (number, offset, whence) = (fields.qword()?, fields.qword()?, fields.dword()?);
        let from = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let mut reply = Reply::default();
        reply.qwords(&[seek(&*self.nodes.file(number)?, from)?]);
        Ok(Some(reply.0))
    }

    fn open_folder(&self, header: &Header) -> Answer {
        let node = self.nodes.get(header.node)?;
        let folder = self.nodes.open(&node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut listing = Listing::default();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let kind = entry.file_type().as_raw_mode() >> 12;
            listing.0.push((entry.ino(), kind, entry.file_name().to_bytes().to_vec()));
        }
        let number = self.nodes.keep(Handle::Folder(Arc::new(listing)))?;
        let mut reply = Reply::default();
        reply.qwords(&[number]).dwords(&[0, 0]);
        Ok(Some(reply.0))
    }

    fn read_folder(&self, fields: &mut Fields<'_>, room: usize) -> Answer {
        let (number, offset, size) = (fields.qword()?, fields.qword()?, fields.dword()?);
        let listing = self.nodes.listing(number)?;
        let room = (size as usize).min(room);
        let mut reply = Reply::default();
        let entries = listing.0.iter().zip(1_u64..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((inode, kind, name), next) in entries {
            let len = (24 + name.len()).next_multiple_of(8);
            if reply.0.len() + len > room {
                break;
            }
            let end = reply.0.len() + len;
            reply.qwords(&[*inode, next]).dwords(&[name.len() as u32, *kind]).bytes(name);
            reply.0.resize(end, 0);
        }
        Ok(Some(reply.0))
    }
}

fn permissions(mode: u32, umask: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777 & !umask)
}
