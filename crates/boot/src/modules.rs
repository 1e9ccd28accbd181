//! Initrds and multiboot modules.

use std::ops::Range;

use memory::GuestMemory;
use x86::{GuestPhysAddr, PAGE_SIZE};

use crate::places::Places;
use crate::{BootError, Module};

/// What the kernel's unpacker wants between two archives (Linux
/// `init/initramfs.c`: the next header is looked for at a multiple of 4).
const INITRD_ALIGN: u64 = 4;

/// All initrds as one, each at a multiple of 4 bytes with zeros between.
#[derive(Debug)]
pub(crate) struct Initrd {
    start: u64,
    len: u64,
}

impl Initrd {
    /// Finds the highest place inside one of `windows` (tried in order), or
    /// nothing if there is no initrd.
    pub(crate) fn place(
        modules: &[Module<'_>],
        places: &mut Places,
        windows: &[Range<u64>],
    ) -> Result<Option<Self>, BootError> {
        let len = total_len(modules);
        if len == 0 {
            return Ok(None);
        }
        let found = windows.iter().find_map(|window| places.highest(len, PAGE_SIZE, window.clone()));
        let below = windows.iter().map(|window| window.end).max().unwrap_or(0).min(places.end());
        let start = found.ok_or(BootError::InitrdDoesNotFit { len, below: GuestPhysAddr(below) })?;
        Ok(Some(Self { start, len }))
    }

    /// Copies the initrds to their place.
    pub(crate) fn write(&self, memory: &GuestMemory, modules: &[Module<'_>]) -> Result<(), BootError> {
        let mut at = self.start;
        for module in modules {
            memory.write(GuestPhysAddr(at), module.data)?;
            let end = at.saturating_add(module.data.len() as u64);
            at = end.next_multiple_of(INITRD_ALIGN);
            let padding = [0; INITRD_ALIGN as usize];
            let gap = at.min(self.end()).saturating_sub(end) as usize;
            memory.write(GuestPhysAddr(end), padding.get(..gap).unwrap_or_default())?;
        }
        Ok(())
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// The place and length that the protocols' fields give; zeros for none.
pub(crate) fn extent(initrd: Option<&Initrd>) -> (u64, u64) {
    initrd.map_or((0, 0), |initrd| (initrd.start(), initrd.len()))
}

/// The last initrd is not padded.
fn total_len(modules: &[Module<'_>]) -> u64 {
    modules.iter().fold(0_u64, |len, module| {
        len.next_multiple_of(INITRD_ALIGN).saturating_add(module.data.len() as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::RamLayout;

    fn module(data: &[u8]) -> Module<'_> {
        Module { data, string: "" }
    }

    #[test]
    fn initrds_follow_each_other_at_multiples_of_four() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let mut places = Places::new(&crate::e820(RamLayout::new(2 << 20), &[]));
        let at = (2 << 20) - 0x1000;
        memory.write(GuestPhysAddr(at), &[0xff; 16]).unwrap();
        let modules = [module(b"abcde"), module(b""), module(b"fgh")];
        let window = 0..u64::MAX;
        let initrd = Initrd::place(&modules, &mut places, &[window]).unwrap().unwrap();
        assert_eq!(extent(Some(&initrd)), (at, 11));
        initrd.write(&memory, &modules).unwrap();
        let mut found = [0; 12];
        memory.read(GuestPhysAddr(at), &mut found).unwrap();
        assert_eq!(&found, b"abcde\0\0\0fgh\xff");
    }

    #[test]
    fn windows_are_tried_in_order() {
        let mut places = Places::new(&crate::e820(RamLayout::new(8 << 20), &[]));
        let data = vec![1; 0x10_0000];
        let windows = [0x10_0000..0x28_0000, 0x10_0000..u64::MAX];
        let mut at = || Initrd::place(&[module(&data)], &mut places, &windows).map(|i| extent(i.as_ref()).0);
        assert_eq!(at().unwrap(), 0x18_0000);
        assert_eq!(at().unwrap(), 0x70_0000);
        for _ in 0..4 {
            at().unwrap();
        }
        assert!(matches!(at(), Err(BootError::InitrdDoesNotFit { len: 0x10_0000, .. })));
    }
}
