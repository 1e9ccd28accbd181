//! Guest memory as instructions access it: segmentation, then paging, then RAM
//! or a device. The hit path is inline; everything else is here, once.

use std::arch::asm;

use engine::{Callout, TraceEvent};
use x86::paging::{Access, AccessKind, Translation};
use x86::{Exception, GuestPhysAddr, LinearAddr, SegmentName, Vector};

use crate::cpu::{Break, Cpu, Exec};
use crate::tlb::{Fill, View, WRITES, right};

/// Unsigned integers as instructions move them.
pub(crate) trait Value: Copy {
    const SIZE: u64;
    fn from_bytes(bytes: &[u8]) -> Self;
    fn put(self, bytes: &mut [u8]);
    fn to_u64(self) -> u64;
    fn truncate(value: u64) -> Self;

    /// Reads guest memory by one access, as atomic as the guest's own would be
    /// (SDM 3A 9.1.1), whatever other processors do.
    ///
    /// # Safety
    /// `at` must be valid for reads; it need not be aligned.
    unsafe fn load(at: *const u8) -> Self;

    /// Writes guest memory by one access.
    ///
    /// # Safety
    /// `at` must be valid for writes; it need not be aligned.
    unsafe fn store(self, at: *mut u8);

    /// LOCK CMPXCHG: gives the value that was there, `old` if it was replaced.
    ///
    /// # Safety
    /// `at` must be valid for reads and writes; it need not be aligned.
    unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self;
}

macro_rules! value {
    ($ty:ty, $class:ident, $accumulator:tt, $load:literal, $store:literal, $exchange:literal) => {
        impl Value for $ty {
            const SIZE: u64 = size_of::<$ty>() as u64;
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$ty>()];
                array.copy_from_slice(&bytes[..size_of::<$ty>()]);
                Self::from_le_bytes(array)
            }
            fn put(self, bytes: &mut [u8]) {
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_le_bytes());
            }
            #[allow(clippy::unnecessary_cast, reason = "one of the four casts is from u64")]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[allow(clippy::unnecessary_cast, reason = "one of the four casts is to u64")]
            fn truncate(value: u64) -> Self {
                value as $ty
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let value: $ty;
                // SAFETY: the caller answers for the address.
                unsafe {
                    asm!($load, value = lateout($class) value, at = in(reg) at,
                        options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[inline(always)]
            unsafe fn store(self, at: *mut u8) {
                // SAFETY: as above.
                unsafe {
                    asm!($store, value = in($class) self, at = in(reg) at, options(nostack, preserves_flags));
                }
            }
            unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self {
                let found: $ty;
                // SAFETY: as above.
                unsafe {
                    asm!($exchange, new = in($class) new, at = in(reg) at,
                        inlateout($accumulator) old => found, options(nostack));
                }
                found
            }
        }
    };
}
value!(u8, reg_byte, "al", "mov {value}, [{at}]", "mov [{at}], {value}", "lock cmpxchg [{at}], {new}");
value!(u16, reg, "ax", "mov {value:x}, [{at}]", "mov [{at}], {value:x}", "lock cmpxchg [{at}], {new:x}");
value!(u32, reg, "eax", "mov {value:e}, [{at}]", "mov [{at}], {value:e}", "lock cmpxchg [{at}], {new:e}");
value!(u64, reg, "rax", "mov {value}, [{at}]", "mov [{at}], {value}", "lock cmpxchg [{at}], {new}");

/// Reads guest memory, by one access where an integer has that size.
///
/// # Safety
/// `data.len()` bytes at `host` must be valid for reads.
unsafe fn read_host(host: *const u8, data: &mut [u8]) {
    // SAFETY: the caller answers for it.
    unsafe {
        match data.len() {
            1 => u8::load(host).put(data),
            2 => u16::load(host).put(data),
            4 => u32::load(host).put(data),
            8 => u64::load(host).put(data),
            len => std::ptr::copy_nonoverlapping(host, data.as_mut_ptr(), len),
        }
    }
}

/// Writes guest memory, by one access where an integer has that size.
///
/// # Safety
/// `data.len()` bytes at `host` must be valid for writes.
unsafe fn write_host(host: *mut u8, data: &[u8]) {
    // SAFETY: the caller answers for it.
    unsafe {
        match data.len() {
            1 => u8::from_bytes(data).store(host),
            2 => u16::from_bytes(data).store(host),
            4 => u32::from_bytes(data).store(host),
            8 => u64::from_bytes(data).store(host),
            len => std::ptr::copy_nonoverlapping(data.as_ptr(), host, len),
        }
    }
}

/// Replaces `bytes` bytes by what `change` makes of them, as one access; gives
/// what was there.
///
/// # Safety
/// They must be valid for reads and writes.
unsafe fn update_host(host: *mut u8, bytes: u8, change: impl Fn(u64) -> u64) -> u64 {
    unsafe fn update<T: Value + PartialEq>(host: *mut u8, change: impl Fn(u64) -> u64) -> u64 {
        // SAFETY: the caller of `update_host` answers for it.
        let mut old = unsafe { T::load(host) };
        loop {
            let new = T::truncate(change(old.to_u64()));
            // SAFETY: as above.
            let found = unsafe { T::compare_exchange(host, old, new) };
            if found == old {
                return old.to_u64();
            }
            old = found;
        }
    }
    // SAFETY: as above.
    unsafe {
        match bytes {
            1 => update::<u8>(host, change),
            2 => update::<u16>(host, change),
            4 => update::<u32>(host, change),
            _ => update::<u64>(host, change),
        }
    }
}

/// Where one page of an access leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// RAM (or readable ROM) in this process.
    Ram(*mut u8),
    /// RAM that holds decoded code: a write must be noted.
    Code(*mut u8, GuestPhysAddr),
    /// A device, a hole, or a write to ROM.
    Device(GuestPhysAddr),
}

impl Cpu {
    /// Reads through a segment register.
    #[inline]
    pub(crate) fn read<T: Value>(&mut self, segment: SegmentName, offset: u64) -> Exec<T> {
        let lin = self.linear(segment, offset, T::SIZE, false)?;
        self.read_linear(lin).map_err(|cause| self.as_stack_fault(cause, segment))
    }

    /// Writes through a segment register.
    #[inline]
    pub(crate) fn write<T: Value>(&mut self, segment: SegmentName, offset: u64, value: T) -> Exec {
        let lin = self.linear(segment, offset, T::SIZE, true)?;
        self.write_linear(lin, value).map_err(|cause| self.as_stack_fault(cause, segment))
    }

    /// Makes sure that `size` bytes can be written, without writing.
    pub(crate) fn probe_write(&mut self, segment: SegmentName, offset: u64, size: u64) -> Exec {
        let lin = self.linear(segment, offset, size, true)?;
        self.probe_linear(self.view, lin, size, true).map_err(|cause| self.as_stack_fault(cause, segment))
    }

    /// Reads at a linear address with the current privilege.
    #[inline]
    pub(crate) fn read_linear<T: Value>(&mut self, lin: u64) -> Exec<T> {
        self.read_as(self.view, lin)
    }

    /// Writes at a linear address with the current privilege.
    #[inline]
    pub(crate) fn write_linear<T: Value>(&mut self, lin: u64, value: T) -> Exec {
        self.write_as(self.view, lin, value)
    }

    /// Reads as the processor does for itself (descriptor tables, TSS):
    /// supervisor mode at any CPL (SDM 3A 4.6).
    pub(crate) fn read_system<T: Value>(&mut self, lin: u64) -> Exec<T> {
        self.read_as(View::Supervisor, lin & self.system_mask())
    }

    /// Writes as the processor does for itself.
    pub(crate) fn write_system<T: Value>(&mut self, lin: u64, value: T) -> Exec {
        self.write_as(View::Supervisor, lin & self.system_mask(), value)
    }

    /// Linear addresses have 64 bits in all of IA-32e mode for system tables.
    fn system_mask(&self) -> u64 {
        if self.state.long_mode() { u64::MAX } else { 0xffff_ffff }
    }

    /// Reads at a linear address as `view` sees it.
    #[inline(always)]
    pub(crate) fn read_as<T: Value>(&mut self, view: View, lin: u64) -> Exec<T> {
        if let Some(host) = self.tlb.lookup(view, false, lin, T::SIZE) {
            // SAFETY: the TLB holds only pages of guest RAM, and the access
            // lies in one page; guest memory tolerates any concurrent change.
            return Ok(unsafe { T::load(host) });
        }
        let mut bytes = [0; 8];
        self.read_slow(view, lin, &mut bytes[..T::SIZE as usize])?;
        Ok(T::from_bytes(&bytes))
    }

    /// Writes at a linear address as `view` sees it.
    #[inline(always)]
    pub(crate) fn write_as<T: Value>(&mut self, view: View, lin: u64, value: T) -> Exec {
        if let Some(host) = self.tlb.lookup(view, true, lin, T::SIZE) {
            // SAFETY: as in `read_as`.
            unsafe { value.store(host) };
            return Ok(());
        }
        let mut bytes = [0; 8];
        value.put(&mut bytes);
        self.write_slow(view, lin, &bytes[..T::SIZE as usize])
    }

    /// Reads any number of bytes; all of them or none, as far as faults go.
    #[cold]
    pub(crate) fn read_slow(&mut self, view: View, lin: u64, data: &mut [u8]) -> Exec {
        self.check_access(view, lin, data.len() as u64, false)?;
        let places = self.places(view, lin, data.len() as u64, false)?;
        for (place, range) in places.pieces(lin, data.len()) {
            let piece = &mut data[range];
            match place {
                Place::Ram(host) | Place::Code(host, _) => {
                    // SAFETY: the piece lies in one page of guest RAM.
                    unsafe { read_host(host, piece) }
                }
                Place::Device(at) => self.device_read(at, piece),
            }
        }
        Ok(())
    }

    /// Writes any number of bytes; all of them or none, as far as faults go.
    #[cold]
    pub(crate) fn write_slow(&mut self, view: View, lin: u64, data: &[u8]) -> Exec {
        self.check_access(view, lin, data.len() as u64, true)?;
        let places = self.places(view, lin, data.len() as u64, true)?;
        for (place, range) in places.pieces(lin, data.len()) {
            let piece = &data[range];
            match place {
                Place::Ram(host) | Place::Code(host, _) => {
                    // SAFETY: the piece lies in one page of guest RAM.
                    unsafe { write_host(host, piece) }
                }
                Place::Device(at) => self.device_write(at, piece),
            }
            if let Place::Code(_, at) = place {
                self.code_hit |= self.memory.note_write(at, piece.len() as u64);
            }
        }
        Ok(())
    }

    /// Replaces a value of `bytes` bytes by what `change` makes of it, without
    /// anybody coming between (SDM 3A 9.1.2); gives what was there.
    pub(crate) fn update_sized(
        &mut self,
        segment: SegmentName,
        offset: u64,
        bytes: u8,
        change: impl Fn(u64) -> u64,
    ) -> Exec<u64> {
        self.probe_write(segment, offset, bytes.into())?;
        let lin = self.linear(segment, offset, bytes.into(), true)?;
        if let Some(place) = self.whole(lin, bytes.into(), true)? {
            // SAFETY: the bytes lie in one page of guest RAM.
            let old = unsafe { update_host(place.host(), bytes, change) };
            self.note_write(place, bytes.into());
            return Ok(old);
        }
        let _alone = self.alone();
        let old = self.read_sized(segment, offset, bytes)?;
        self.write_sized(segment, offset, bytes, change(old) & crate::cpu::mask(bytes))?;
        Ok(old)
    }

    /// Where an access leads that has been checked, if that is one piece of RAM.
    pub(crate) fn whole(&mut self, lin: u64, size: u64, write: bool) -> Exec<Option<Whole>> {
        let places = self.places(self.view, lin, size, write)?;
        Ok(match (places.first, places.second) {
            (Place::Ram(host), None) => Some(Whole { host, code: None }),
            (Place::Code(host, at), None) => Some(Whole { host, code: Some(at) }),
            _ => None,
        })
    }

    /// Takes notice of `size` bytes that were written there.
    pub(crate) fn note_write(&mut self, whole: Whole, size: u64) {
        if let Some(at) = whole.code {
            self.code_hit |= self.memory.note_write(at, size);
        }
    }

    /// Makes sure that an access would not fault.
    pub(crate) fn probe_linear(&mut self, view: View, lin: u64, size: u64, write: bool) -> Exec {
        self.check_access(view, lin, size, write)?;
        self.places(view, lin, size, write).map(drop)
    }

    /// Whether `lin` is not canonical although it should be.
    fn off_limits(&self, lin: u64) -> bool {
        self.state.long_mode() && !self.canonical(lin)
    }

    /// Whether an access is #AC, if it takes place at all. A bad address comes
    /// first, an absent page does not.
    pub(crate) fn misaligned(&self, view: View, lin: u64, size: u64) -> bool {
        view.aligned() && !lin.is_multiple_of(self.alignment(size)) && !self.off_limits(lin)
    }

    /// The alignment that is checked for an operand of `size` bytes (SDM 3A
    /// table 6-7). Vectors of more than 8 bytes may be misaligned whatever
    /// EFLAGS.AC says, which is #GP (SDM 2A tables 2-18 to 2-21); of the others
    /// only some vendors want anything.
    fn alignment(&self, size: u64) -> u64 {
        match size {
            // Environment and state of the x87 with 16-bit and 32-bit fields.
            14 | 94 => 2,
            28 | 108 => 4,
            // A number of double extended precision, or of packed BCD.
            10 => 8,
            2 | 4 | 8 => size,
            16 | 32 | 64 if self.cpuid.vendor().checks_alignment_of_vectors() => 16,
            _ => 1,
        }
    }

    /// Does `access` without alignment checks.
    pub(crate) fn unaligned<T>(&mut self, access: impl FnOnce(&mut Self) -> Exec<T>) -> Exec<T> {
        let view = self.view;
        self.view = view.unaligned();
        let outcome = access(self);
        self.view = view;
        outcome
    }

    /// Alignment checks and data breakpoints, for the views that want them.
    fn check_access(&mut self, view: View, lin: u64, size: u64, write: bool) -> Exec {
        if self.misaligned(view, lin, size) {
            return Err(self.raise(Exception::with_code(Vector::AC, 0)));
        }
        if view.watches() {
            self.watch(lin, size, write);
        }
        Ok(())
    }

    /// The one or two pages of an access, both checked before either is
    /// touched.
    fn places(&mut self, view: View, lin: u64, size: u64, write: bool) -> Exec<Places> {
        let in_first = 0x1000 - (lin & 0xfff);
        let first = self.place(view, lin, write)?;
        if size <= in_first {
            return Ok(Places { first, second: None });
        }
        let next = self.next_page(lin.wrapping_add(in_first));
        let second = self.place(view, next, write)?;
        Ok(Places { first, second: Some(second) })
    }

    /// A page that an access goes on to. Outside 64-bit mode it wraps at 4 GiB,
    /// unless the processor itself reads a table in the upper half of IA-32e
    /// mode's address space.
    fn next_page(&self, lin: u64) -> u64 {
        let narrow = !self.state.long_mode() || !self.long && lin == 1 << 32;
        if narrow { lin & 0xffff_ffff } else { lin }
    }

    /// Translates one address and remembers the page if that is allowed.
    #[cold]
    pub(crate) fn place(&mut self, view: View, lin: u64, write: bool) -> Exec<Place> {
        if self.off_limits(lin) {
            return Err(self.gp0());
        }
        if self.tlb.refill(view, write, lin)
            && let Some(host) = self.tlb.lookup(view, write, lin, 1)
        {
            return Ok(Place::Ram(host));
        }
        self.stats.count(Callout::TlbMiss);
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        let access = Access { kind, user: view.user(), smap_override: view.smap_override() };
        let page = match self.paging.translate(&self.memory, LinearAddr(lin), access) {
            Ok(page) => page,
            Err(fault) => return Err(self.raise(fault)),
        };
        let Some(host) = self.memory.page(page.gpa) else { return Ok(Place::Device(page.gpa)) };
        let at = host.start.as_ptr().wrapping_add(page.gpa.page_offset() as usize);
        if write && !host.writable {
            return Ok(Place::Device(page.gpa));
        }
        let mut rights = self.rights(&page, host.writable && !host.holds_code);
        let mut holds_code = host.holds_code;
        if rights & WRITES != 0 && !self.seat.claim(page.gpa) {
            // Somebody has begun to make code of it.
            (rights, holds_code) = (rights & !WRITES, true);
        }
        let fill =
            Fill { lin, host: host.start.as_ptr(), rights, global: page.global, shift: page.page_shift };
        self.tlb.insert(view, write, fill);
        Ok(if write && holds_code { Place::Code(at, page.gpa) } else { Place::Ram(at) })
    }

    /// Who may read and write a page without a look, as the TLB numbers it.
    fn rights(&self, page: &Translation, writable: bool) -> u64 {
        let mut rights = 0;
        for view in View::CACHED {
            let may = |kind| {
                let access = Access { kind, user: view.user(), smap_override: view.smap_override() };
                self.paging.check_rights(page, access).is_ok()
            };
            if may(AccessKind::Read) {
                rights |= right(view, false);
            }
            if writable && page.dirty && may(AccessKind::Write) {
                rights |= right(view, true);
            }
        }
        rights
    }

    fn device_read(&mut self, at: GuestPhysAddr, data: &mut [u8]) {
        for (index, piece) in data.chunks_mut(8).enumerate() {
            let at = at.wrapping_add(index as u64 * 8);
            self.stats.count(Callout::Mmio);
            self.platform().mmio_read(self.id, at, piece);
            self.trace_mmio(at, piece, false);
        }
    }

    fn device_write(&mut self, at: GuestPhysAddr, data: &[u8]) {
        for (index, piece) in data.chunks(8).enumerate() {
            let at = at.wrapping_add(index as u64 * 8);
            self.stats.count(Callout::Mmio);
            self.platform().mmio_write(self.id, at, piece);
            // The device may have written code.
            self.code_hit = true;
            self.trace_mmio(at, piece, true);
        }
    }

    fn trace_mmio(&self, at: GuestPhysAddr, data: &[u8], write: bool) {
        if self.tracing.io {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            let value = u64::from_le_bytes(bytes);
            self.report(&TraceEvent::Mmio { at: at.0, size: data.len() as u8, value, write });
        }
    }

    /// A non-canonical stack reference is #SS, not #GP (SDM 1 3.3.7.1).
    #[cold]
    pub(crate) fn as_stack_fault(&mut self, cause: Break, segment: SegmentName) -> Break {
        if cause == Break::Fault && segment == SegmentName::Ss && self.fault == Exception::gp(0) {
            self.fault = Exception::ss(0);
        }
        cause
    }
}

/// One piece of RAM that an access leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    host: *mut u8,
    /// Its address, if its page holds decoded code.
    code: Option<GuestPhysAddr>,
}

impl Whole {
    /// Where it is in this process.
    pub(crate) const fn host(self) -> *mut u8 {
        self.host
    }
}

/// The pages of one access.
struct Places {
    first: Place,
    second: Option<Place>,
}

impl Places {
    /// Each page's place with the part of the data that goes there.
    fn pieces(self, lin: u64, len: usize) -> impl Iterator<Item = (Place, std::ops::Range<usize>)> {
        let in_first = (0x1000 - (lin & 0xfff)) as usize;
        let split = if self.second.is_some() { in_first.min(len) } else { len };
        let second = self.second.map(|place| (place, split..len));
        [Some((self.first, 0..split)), second].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, DATA};
    use x86::{Cr0, Gpr, Rflags, SegmentAttributes};

    #[test]
    fn alignment_is_checked_by_type() {
        let mut bench = Bench::long();
        bench.cpu.state.cr0.insert(Cr0::AM);
        bench.cpu.state.rflags.insert(Rflags::AC);
        bench.cpu.state.segment_mut(SegmentName::Ss).attributes = SegmentAttributes::from_bits(0xc0f3);
        bench.refresh();
        let table: [(&[u8], u64); 8] = [
            (&[0x8a, 0x00], 1),             // mov al, [rax]
            (&[0x8b, 0x00], 4),             // mov eax, [rax]
            (&[0xdb, 0x28], 8),             // fld tbyte [rax]
            (&[0xd9, 0x30], 4),             // fnstenv [rax]
            (&[0x66, 0xd9, 0x30], 2),       // fnstenv [rax], 14 bytes
            (&[0xdd, 0x30], 4),             // fnsave [rax]
            (&[0x0f, 0x10, 0x00], 1),       // movups xmm0, [rax]
            (&[0xc5, 0xfc, 0x10, 0x00], 1), // vmovups ymm0, [rax]
        ];
        for (code, alignment) in table {
            for offset in 0..16 {
                bench.cpu.state.set_reg(Gpr::Rax, DATA + offset);
                let expected = match offset % alignment {
                    0 => Ok(()),
                    _ => Err(Exception::with_code(Vector::AC, 0)),
                };
                assert_eq!(bench.run(code), expected, "{code:02x?} at {offset}");
            }
        }
    }
}
