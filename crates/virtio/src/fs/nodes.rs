//! The files that the guest knows, and those that it has opened.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::lock;

/// The folder itself.
pub(super) const ROOT: u64 = 1;
/// The most files that the guest may know, and may have opened, if the host
/// allows so many.
const MOST: u64 = 1 << 16;

const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Node {
    fd: OwnedFd,
    is_link: bool,
}

impl Node {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        statat(&self.fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Paths by number lead through symbolic links, which must not happen.
    pub(super) fn require_no_link(&self) -> Result<(), Errno> {
        if self.is_link { Err(Errno::OPNOTSUPP) } else { Ok(()) }
    }
}

/// An open folder: its entries as they were when it was opened.
#[derive(Debug, Default)]
pub(super) struct Listing(pub(super) Vec<(u64, u32, Vec<u8>)>);

/// What the guest has opened.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    File(Arc<OwnedFd>),
    Folder(Arc<Listing>),
}

/// Device and inode number.
type Identity = (u64, u64);

/// A file, and how often the guest has looked it up.
#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
    identity: Identity,
}

#[derive(Debug, Default)]
struct Tables {
    nodes: BTreeMap<u64, Known>,
    numbers: HashMap<Identity, u64>,
    handles: BTreeMap<u64, Handle>,
    next: u64,
}

/// All files and handles.
#[derive(Debug)]
pub(super) struct Nodes {
    root: Arc<Node>,
    /// `/proc/self/fd`, by which a held file is opened for use.
    by_number: OwnedFd,
    tables: Mutex<Tables>,
    most: usize,
}

impl Nodes {
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, root, flags, Mode::empty())?;
        let by_number = openat(CWD, "/proc/self/fd", flags, Mode::empty())?;
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(MOST);
        let most = usize::try_from((allowed / 3).min(MOST)).unwrap_or(0);
        let tables = Mutex::new(Tables { next: ROOT + 1, ..Tables::default() });
        Ok(Self { root: Arc::new(Node { fd, is_link: false }), by_number, tables, most })
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<Node>, Errno> {
        if number == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        lock(&self.tables).nodes.get(&number).map(|known| Arc::clone(&known.node)).ok_or(Errno::NOENT)
    }

    /// Looks up `name` in a folder; the guest knows it from now on, once more.
    pub(super) fn look_up(&self, folder: &Node, name: &[u8]) -> Result<(u64, Stat), Errno> {
        let fd = openat(folder.fd(), name, HOLD, Mode::empty())?;
        let stat = fstat(&fd)?;
        let identity = (stat.st_dev, stat.st_ino);
        let mut tables = lock(&self.tables);
        if let Some(&number) = tables.numbers.get(&identity)
            && let Some(known) = tables.nodes.get_mut(&number)
        {
            known.lookups = known.lookups.saturating_add(1);
            return Ok((number, stat));
        }
        if tables.nodes.len() >= self.most {
            return Err(Errno::NFILE);
        }
        let number = tables.next;
        tables.next += 1;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let node = Arc::new(Node { fd, is_link });
        tables.nodes.insert(number, Known { node, lookups: 1, identity });
        tables.numbers.insert(identity, number);
        Ok((number, stat))
    }

    /// The guest forgets `count` look-ups.
    pub(super) fn forget(&self, number: u64, count: u64) {
        let mut tables = lock(&self.tables);
        let Some(known) = tables.nodes.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 {
            let identity = known.identity;
            tables.nodes.remove(&number);
            tables.numbers.remove(&identity);
        }
    }

    pub(super) fn forget_all(&self) {
        *lock(&self.tables) = Tables { next: ROOT + 1, ..Tables::default() };
    }

    /// A path to a held file: a folder, and the name in it.
    pub(super) fn by_number(&self, node: &Node) -> (BorrowedFd<'_>, String) {
        (self.by_number.as_fd(), node.fd.as_raw_fd().to_string())
    }

    /// Opens a held file for use. Pipes and devices of the host are none of the
    /// guest's business.
    pub(super) fn open(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Errno> {
        node.require_no_link().map_err(|_| Errno::LOOP)?;
        let kind = FileType::from_raw_mode(node.stat()?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::PERM);
        }
        let (folder, name) = self.by_number(node);
        openat(folder, name.as_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Keeps something open for the guest; its number.
    pub(super) fn keep(&self, handle: Handle) -> Result<u64, Errno> {
        let mut tables = lock(&self.tables);
        if tables.handles.len() >= self.most {
            return Err(Errno::NFILE);
        }
        let number = tables.next;
        tables.next += 1;
        tables.handles.insert(number, handle);
        Ok(number)
    }

    pub(super) fn file(&self, number: u64) -> Result<Arc<OwnedFd>, Errno> {
        match lock(&self.tables).handles.get(&number) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            _ => Err(Errno::BADF),
        }
    }

    pub(super) fn listing(&self, number: u64) -> Result<Arc<Listing>, Errno> {
        match lock(&self.tables).handles.get(&number) {
            Some(Handle::Folder(listing)) => Ok(Arc::clone(listing)),
            _ => Err(Errno::BADF),
        }
    }

    pub(super) fn close(&self, number: u64) {
        let closed = lock(&self.tables).handles.remove(&number);
        drop(closed);
    }
}
