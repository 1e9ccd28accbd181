//! Memory for host code, never writable and executable in one mapping.

use std::collections::HashMap;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::call::Thunk;

/// Room for the thunks of one vCPU; when it is full they are all made anew.
const CAPACITY: usize = 32 << 20;

/// Instruction bytes (at most 15), their number, and the code size.
pub(crate) type Key = ([u8; 15], u8, u8);

/// A code cache: one file of memory, mapped twice.
pub(crate) struct Arena {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    used: usize,
    /// Thunks by the instruction that they execute.
    known: HashMap<Key, Thunk>,
    /// Where the signal handler continues after a fault.
    pub(super) fault_exit: usize,
}

// SAFETY: the mappings belong to this value alone.
unsafe impl Send for Arena {}

impl Arena {
    /// # Errors
    /// If the host has no memory files or forbids executable mappings.
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let file = memfd_create("ringmaster-code", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, CAPACITY as u64)?;
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice.
            let at = unsafe { mmap(std::ptr::null_mut(), CAPACITY, prot, MapFlags::SHARED, &file, 0) }?;
            Ok(NonNull::new(at.cast::<u8>()).unwrap_or(NonNull::dangling()))
        };
        let writable = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = map(ProtFlags::READ | ProtFlags::EXEC)?;
        let mut arena = Self { writable, executable, used: 0, known: HashMap::new(), fault_exit: 0 };
        arena.reset();
        Ok(arena)
    }

    /// Forgets all thunks.
    pub(crate) fn reset(&mut self) {
        self.used = 0;
        self.known.clear();
        if let Some(at) = self.place(&super::emit::fault_exit()) {
            self.fault_exit = at;
        }
    }

    /// Whether little room is left.
    pub(crate) fn nearly_full(&self) -> bool {
        self.used > CAPACITY - CAPACITY / 8
    }

    /// The addresses that hold code.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let start = self.executable.as_ptr() as usize;
        start..start + CAPACITY
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Thunk> {
        self.known.get(key).copied()
    }

    /// Copies `code` into the cache; `None` if it is full.
    pub(crate) fn insert(&mut self, key: Key, code: &[u8]) -> Option<Thunk> {
        let thunk = Thunk::at(self.place(code)?);
        self.known.insert(key, thunk);
        Some(thunk)
    }

    fn place(&mut self, code: &[u8]) -> Option<usize> {
        let at = self.used.next_multiple_of(16);
        let end = at.checked_add(code.len()).filter(|&end| end <= CAPACITY)?;
        // SAFETY: `at..end` lies inside the writable mapping, and no code that
        // is being executed is overwritten: the space was free.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(at), code.len()) };
        self.used = end;
        Some(self.executable.as_ptr() as usize + at)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: mapped in `new` with this length, and nobody runs thunks
            // of an arena that is gone.
            let _ = unsafe { munmap(mapping.as_ptr().cast(), CAPACITY) };
        }
    }
}
