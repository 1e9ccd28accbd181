//! The memory of one machine: its RAM and ROM regions.

use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use x86::{GuestPhysAddr, PAGE_SIZE};

use crate::code::CodeLog;
use crate::huge::prefer_huge_pages;
use crate::rendezvous::Rendezvous;
use crate::{CodeHit, CodePages, MAX_RAM, MIN_RAM, RamLayout};

/// Why guest memory could not be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is out of range or not a multiple of the page size.
    #[error("{0} bytes of guest memory are impossible: choose a multiple of 4 KiB from 2M to 1024G")]
    BadSize(u64),
    /// The host would not map it.
    #[error("the host cannot provide {size} bytes of guest memory: choose a smaller --memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The host's answer.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// An access outside RAM and ROM.
    #[error("guest-physical address {0} (and {1} bytes from it) is not memory")]
    NotMemory(GuestPhysAddr, u64),
    /// A ROM image that does not fit.
    #[error("a ROM image of {size} bytes does not fit at guest-physical address {at}")]
    BadRom {
        /// Where it should go.
        at: GuestPhysAddr,
        /// Its size in bytes.
        size: u64,
    },
}

/// A page of guest memory in this process.
#[derive(Clone, Copy, Debug)]
pub struct HostPage {
    /// Its first byte; 4 KiB are valid as long as the [`GuestMemory`] lives.
    pub start: NonNull<u8>,
    /// Whether the guest may write it; writes to ROM are dropped.
    pub writable: bool,
    /// Whether it holds code that an engine has decoded.
    pub holds_code: bool,
}

/// One contiguous piece of guest memory in this process.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRegion {
    /// Its first guest-physical address.
    pub start: GuestPhysAddr,
    /// Its length in bytes, a multiple of the page size.
    pub len: u64,
    /// Its first byte here, valid as long as the [`GuestMemory`] lives.
    pub host: NonNull<u8>,
    /// Whether the guest may write it: RAM, not ROM.
    pub writable: bool,
}

struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
    writable: bool,
    mapping: Arc<vm_memory::MmapRegion<CodePages>>,
}

// SAFETY: `host` points into `mapping`, which may be shared among threads;
// accesses through it follow the rules of guest memory (volatile or atomic).
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Drops whole pages inside the region.
    fn discard(&self, offset: u64, len: u64) {
        // SAFETY: the range lies inside the mapping, which is anonymous and
        // private, and whose pages nobody holds a reference to; reading zeroes
        // is as good as any other change by the guest.
        unsafe {
            let start = self.host.add(offset as usize).as_ptr();
            libc::madvise(start.cast(), len as usize, libc::MADV_DONTNEED);
        }
        self.code().written(offset, len);
    }

    fn code(&self) -> &CodePages {
        self.mapping.bitmap()
    }
}

/// The guest-physical memory of one machine. Clones share it.
#[derive(Clone)]
pub struct GuestMemory {
    ram: GuestMemoryMmap<CodePages>,
    /// RAM first, then ROM: at most a handful.
    regions: Arc<[Region]>,
    code_log: Arc<CodeLog>,
    size: u64,
}

impl GuestMemory {
    /// Maps `size` bytes of zeroed RAM, split around the hole below 4 GiB.
    ///
    /// # Errors
    /// If the size is impossible or the host refuses.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        Self::with_rom(size, &[])
    }

    /// The same, with ROM images at the given addresses (page-aligned, outside
    /// RAM); their contents are copied.
    ///
    /// # Errors
    /// If a size is impossible or the host refuses.
    pub fn with_rom(size: u64, roms: &[(GuestPhysAddr, &[u8])]) -> Result<Self, MemoryError> {
        if !(MIN_RAM..=MAX_RAM).contains(&size) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::BadSize(size));
        }
        let layout = RamLayout::new(size);
        let mut ram = Vec::new();
        let mut regions = Vec::new();
        let code_log = Arc::<CodeLog>::default();
        for (start, len) in layout.ranges() {
            let mapped = map(start, len, &code_log)?;
            regions.push(region(&mapped, true));
            ram.push(mapped);
        }
        for &(at, image) in roms {
            regions.push(rom_region(layout, at, image, &code_log)?);
        }
        let ram = GuestMemoryMmap::from_regions(ram)
            .map_err(|source| MemoryError::Map { size, source: Some(Box::new(source)) })?;
        Ok(Self { ram, regions: regions.into(), code_log, size })
    }

    /// RAM in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How RAM lies around the hole.
    pub fn layout(&self) -> RamLayout {
        RamLayout::new(self.size)
    }

    /// RAM as the virtio crates want it. Writes through it are noticed too.
    pub fn vm_memory(&self) -> &GuestMemoryMmap<CodePages> {
        &self.ram
    }

    /// All RAM and ROM, for engines that hand it to the hardware.
    pub fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
        self.regions.iter().map(|region| MemoryRegion {
            start: GuestPhysAddr(region.start),
            len: region.len,
            host: region.host,
            writable: region.writable,
        })
    }

    /// Whether `self` and `other` are clones of the same memory.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.regions, &other.regions)
    }

    fn region(&self, at: GuestPhysAddr) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = at.0.wrapping_sub(region.start);
            (offset < region.len).then_some((region, offset))
        })
    }

    /// The page that holds `at`, if it is memory.
    pub fn page(&self, at: GuestPhysAddr) -> Option<HostPage> {
        let (region, offset) = self.region(at.page())?;
        // SAFETY: `offset` is inside the region, whose mapping is `len` long.
        let start = unsafe { region.host.add(offset as usize) };
        Some(HostPage { start, writable: region.writable, holds_code: region.code().holds_code(offset) })
    }

    /// Copies `data.len()` bytes out of memory.
    ///
    /// # Errors
    /// If any byte lies outside memory.
    pub fn read(&self, at: GuestPhysAddr, data: &mut [u8]) -> Result<(), MemoryError> {
        let (region, offset) = self.checked(at, data.len() as u64)?;
        region.mapping.read_slice_at(data, offset).ok_or(MemoryError::NotMemory(at, data.len() as u64))
    }

    /// Copies `data` into RAM.
    ///
    /// # Errors
    /// If any byte lies outside RAM.
    pub fn write(&self, at: GuestPhysAddr, data: &[u8]) -> Result<(), MemoryError> {
        let outside = || MemoryError::NotMemory(at, data.len() as u64);
        self.ram.write_slice(data, GuestAddress(at.0)).map_err(|_| outside())
    }

    /// Gives whole pages of RAM between `at` and `at + len` back to the host:
    /// they read as zeroes from now on. Whatever else lies there is left alone.
    pub fn discard(&self, at: GuestPhysAddr, len: u64) {
        let ends = (at.0.checked_next_multiple_of(PAGE_SIZE), at.0.checked_add(len));
        let (Some(first), Some(end)) = ends else { return };
        let last = end & !(PAGE_SIZE - 1);
        for region in self.regions.iter().filter(|region| region.writable) {
            let (start, end) = (first.max(region.start), last.min(region.start + region.len));
            if start < end {
                region.discard(start - region.start, end - start);
            }
        }
    }

    /// Reads a little-endian 32-bit value.
    ///
    /// # Errors
    /// If it lies outside memory.
    pub fn read_u32(&self, at: GuestPhysAddr) -> Result<u32, MemoryError> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a little-endian 64-bit value.
    ///
    /// # Errors
    /// If it lies outside memory.
    pub fn read_u64(&self, at: GuestPhysAddr) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn checked(&self, at: GuestPhysAddr, len: u64) -> Result<(&Region, u64), MemoryError> {
        self.region(at)
            .filter(|(region, offset)| len <= region.len - offset)
            .ok_or(MemoryError::NotMemory(at, len))
    }

    /// Notes that `len` bytes at `at`, all in one page, hold decoded code.
    pub fn mark_code(&self, at: GuestPhysAddr, len: u64) {
        if let Some((region, offset)) = self.region(at) {
            region.code().mark(offset, len);
        }
    }

    /// The same; gives who may write the page without a look, a bit for each
    /// seat.
    pub(crate) fn mark_code_of(&self, at: GuestPhysAddr, len: u64) -> u32 {
        self.region(at).map_or(0, |(region, offset)| region.code().mark_and_ask(offset, len))
    }

    /// Lets the seats `who` write the page of `at` without a look; false if it
    /// holds code.
    pub(crate) fn claim(&self, at: GuestPhysAddr, who: u32) -> bool {
        self.region(at).is_some_and(|(region, offset)| region.code().claim(offset, who))
    }

    /// Takes that back.
    pub(crate) fn disclaim(&self, at: GuestPhysAddr, who: u32) {
        if let Some((region, offset)) = self.region(at) {
            region.code().disclaim(offset, who);
        }
    }

    /// What the vCPUs agree by.
    pub(crate) fn rendezvous(&self) -> &Rendezvous {
        &self.code_log.rendezvous
    }

    /// Advances with the version of any page: while it stands still, all of
    /// them do.
    #[inline]
    pub fn code_epoch(&self) -> u64 {
        self.code_log.epoch()
    }

    /// The writes that hit code since the epoch was `since`, and the epoch now;
    /// no list if they are no longer known.
    pub fn code_hits(&self, since: u64) -> (Option<Vec<CodeHit>>, u64) {
        self.code_log.since(since)
    }

    /// The version of the code in the page of `at`; it advances when a write
    /// hits code there.
    pub fn code_version(&self, at: GuestPhysAddr) -> u32 {
        self.region(at).map_or(0, |(region, offset)| region.code().version(offset))
    }

    /// Whether a write of `len` bytes, all in one page, would hit code.
    pub fn would_hit_code(&self, at: GuestPhysAddr, len: u64) -> bool {
        self.region(at).is_some_and(|(region, offset)| region.code().covers(offset, len))
    }

    /// Notes a write of `len` bytes that an engine has performed itself, all in
    /// one page; true if it hit code.
    pub fn note_write(&self, at: GuestPhysAddr, len: u64) -> bool {
        self.region(at).is_some_and(|(region, offset)| region.code().written(offset, len))
    }
}

fn map(
    start: GuestPhysAddr,
    len: u64,
    log: &Arc<CodeLog>,
) -> Result<GuestRegionMmap<CodePages>, MemoryError> {
    let refused =
        |source: Option<Box<dyn std::error::Error + Send + Sync>>| MemoryError::Map { size: len, source };
    let size = usize::try_from(len).map_err(|source| refused(Some(Box::new(source))))?;
    let mapping = MmapRegionBuilder::new_with_bitmap(size, CodePages::new(start, len, Arc::clone(log)))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(|source| refused(Some(Box::new(source))))?;
    // SAFETY: the mapping was made a moment ago and is nobody else's yet.
    prefer_huge_pages(unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), size) });
    GuestRegionMmap::new(mapping, GuestAddress(start.0)).ok_or_else(|| refused(None))
}

fn region(mapped: &GuestRegionMmap<CodePages>, writable: bool) -> Region {
    let mapping = mapped.get_mmap();
    let host = NonNull::new(mapping.as_ptr()).unwrap_or(NonNull::dangling());
    Region { start: mapped.start_addr().0, len: mapped.len(), host, writable, mapping }
}

fn rom_region(
    ram: RamLayout,
    at: GuestPhysAddr,
    image: &[u8],
    log: &Arc<CodeLog>,
) -> Result<Region, MemoryError> {
    let size = image.len() as u64;
    let bad = || MemoryError::BadRom { at, size };
    let end = at.0.checked_add(size).ok_or_else(bad)?;
    let overlaps = ram.ranges().any(|(start, len)| at.0 < start.0 + len && start.0 < end);
    if overlaps || size == 0 || at.page_offset() != 0 || !size.is_multiple_of(PAGE_SIZE) {
        return Err(bad());
    }
    let mapped = map(at, size, log)?;
    mapped.write_slice(image, vm_memory::MemoryRegionAddress(0)).map_err(|_| bad())?;
    Ok(region(&mapped, false))
}

/// Bounds-checked reads from a mapping.
trait ReadSliceAt {
    fn read_slice_at(&self, data: &mut [u8], offset: u64) -> Option<()>;
}

impl ReadSliceAt for vm_memory::MmapRegion<CodePages> {
    fn read_slice_at(&self, data: &mut [u8], offset: u64) -> Option<()> {
        use vm_memory::VolatileMemory;
        let offset = usize::try_from(offset).ok()?;
        self.get_slice(offset, data.len()).ok()?.copy_to(data);
        Some(())
    }
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestMemory").field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, 4096, (2 << 20) + 1, !0xfff] {
            assert!(matches!(GuestMemory::new(size), Err(MemoryError::BadSize(_))), "{size}");
        }
    }

    #[test]
    fn reads_and_writes_stay_inside() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let end = GuestPhysAddr(2 << 20);
        memory.write(GuestPhysAddr(end.0 - 4), &[1, 2, 3, 4]).unwrap();
        assert_eq!(memory.read_u32(GuestPhysAddr(end.0 - 4)).unwrap(), 0x0403_0201);
        assert!(memory.read_u32(GuestPhysAddr(end.0 - 3)).is_err());
        assert!(memory.write(GuestPhysAddr(end.0 - 3), &[0; 4]).is_err());
        assert!(memory.read_u64(GuestPhysAddr(u64::MAX - 3)).is_err());
        assert!(memory.page(end).is_none());
    }

    #[test]
    fn rom_is_readable_and_not_written() {
        let image = vec![0x5a; 0x1000];
        let at = GuestPhysAddr(0xffff_f000);
        let memory = GuestMemory::with_rom(2 << 20, &[(at, &image)]).unwrap();
        assert!(!memory.page(at).unwrap().writable);
        assert_eq!(memory.read_u32(GuestPhysAddr(0xffff_fffc)).unwrap(), 0x5a5a_5a5a);
        assert!(memory.write(at, &[0]).is_err());
        assert!(GuestMemory::with_rom(2 << 20, &[(GuestPhysAddr(0x1000), &image)]).is_err());
        let regions: Vec<_> = memory.regions().map(|r| (r.start, r.len, r.writable)).collect();
        assert_eq!(regions, [(GuestPhysAddr(0), 2 << 20, true), (at, 0x1000, false)]);
        assert!(memory.is_same(&memory.clone()) && !memory.is_same(&GuestMemory::new(2 << 20).unwrap()));
    }

    #[test]
    fn every_kind_of_write_is_noticed_in_code_pages() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = GuestPhysAddr(0x5000);
        for round in 0..3 {
            memory.mark_code(at, 16);
            assert!(memory.page(at).unwrap().holds_code);
            match round {
                0 => memory.write(GuestPhysAddr(0x4ff8), &[0; 16]).unwrap(),
                1 => memory.vm_memory().write_obj(0_u8, GuestAddress(0x5001)).unwrap(),
                _ => assert!(memory.note_write(GuestPhysAddr(0x5008), 8)),
            }
            assert_eq!(memory.code_version(at), round + 1);
        }
    }
}
