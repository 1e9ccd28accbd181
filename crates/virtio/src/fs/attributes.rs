//! Attributes of files, to the guest and from it.

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat, chownat,
    ftruncate, utimensat,
};
use rustix::io::Errno;

use super::message::{Fields, Reply};
use super::nodes::{Node, Nodes};

/// How long the guest may rely on names and attributes, in seconds.
const VALID: u64 = 1;

const SET_MODE: u32 = 1 << 0;
const SET_UID: u32 = 1 << 1;
const SET_GID: u32 = 1 << 2;
const SET_SIZE: u32 = 1 << 3;
const SET_ATIME: u32 = 1 << 4;
const SET_MTIME: u32 = 1 << 5;
const SET_ATIME_NOW: u32 = 1 << 7;
const SET_MTIME_NOW: u32 = 1 << 8;

fn attributes(reply: &mut Reply, stat: &Stat) {
    reply.qwords(&[stat.st_ino, stat.st_size as u64, stat.st_blocks as u64]);
    reply.qwords(&[stat.st_atime as u64, stat.st_mtime as u64, stat.st_ctime as u64]);
    reply.dwords(&[stat.st_atime_nsec as u32, stat.st_mtime_nsec as u32, stat.st_ctime_nsec as u32]);
    reply.dwords(&[stat.st_mode, stat.st_nlink as u32, stat.st_uid, stat.st_gid]);
    reply.dwords(&[stat.st_rdev as u32, stat.st_blksize as u32, 0]);
}

/// `fuse_attr_out`.
pub(super) fn attr_out(stat: &Stat) -> Reply {
    let mut reply = Reply::default();
    reply.qwords(&[VALID]).dwords(&[0, 0]);
    attributes(&mut reply, stat);
    reply
}

/// `fuse_entry_out`.
pub(super) fn entry_out(node: u64, stat: &Stat) -> Reply {
    let mut reply = Reply::default();
    reply.qwords(&[node, 0, VALID, VALID]).dwords(&[0, 0]);
    attributes(&mut reply, stat);
    reply
}

/// Does what a SETATTR asks for.
pub(super) fn set(nodes: &Nodes, node: &Node, fields: &mut Fields<'_>) -> Result<(), Errno> {
    let valid = fields.dword()?;
    fields.skip(12)?;
    let size = fields.qword()?;
    fields.skip(8)?;
    let (atime, mtime, _) = (fields.qword()?, fields.qword()?, fields.qword()?);
    let (atime_nsec, mtime_nsec, _) = (fields.dword()?, fields.dword()?, fields.dword()?);
    let mode = fields.dword()?;
    fields.skip(4)?;
    let (uid, gid) = (fields.dword()?, fields.dword()?);
    if valid & (SET_UID | SET_GID) != 0 {
        let uid = (valid & SET_UID != 0).then(|| Uid::from_raw(uid));
        let gid = (valid & SET_GID != 0).then(|| Gid::from_raw(gid));
        chownat(node.fd(), "", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let (folder, name) = nodes.by_number(node);
    if valid & SET_MODE != 0 {
        node.require_no_link()?;
        chmodat(folder, name.as_str(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    }
    if valid & SET_SIZE != 0 {
        ftruncate(nodes.open(node, OFlags::WRONLY)?, size)?;
    }
    if valid & (SET_ATIME | SET_MTIME) != 0 {
        node.require_no_link()?;
        let time = |set, now, seconds, nanos: u32| match () {
            () if valid & set == 0 => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            () if valid & now != 0 => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            () => Timespec { tv_sec: seconds as i64, tv_nsec: nanos.into() },
        };
        let times = Timestamps {
            last_access: time(SET_ATIME, SET_ATIME_NOW, atime, atime_nsec),
            last_modification: time(SET_MTIME, SET_MTIME_NOW, mtime, mtime_nsec),
        };
        utimensat(folder, name.as_str(), &times, AtFlags::empty())?;
    }
    Ok(())
}
