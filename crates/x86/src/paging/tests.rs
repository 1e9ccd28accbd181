//! Tables of walks: what is mapped, who asks, what must come out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::AccessKind::{Execute, Read, Write};
use super::*;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;
const ALL: u64 = P | RW | US;

/// Memory in 4-byte words; `steal` entries change under the walker.
#[derive(Default)]
struct Fake {
    words: RefCell<BTreeMap<u64, u32>>,
    steal: Cell<u32>,
    updates: Cell<u32>,
}

impl Fake {
    fn put32(&self, at: u64, value: u32) {
        self.words.borrow_mut().insert(at, value);
    }

    fn put(&self, at: u64, value: u64) {
        self.put32(at, value as u32);
        self.put32(at + 4, (value >> 32) as u32);
    }

    fn get(&self, at: u64) -> u64 {
        self.read_entry64(GuestPhysAddr(at))
    }

    /// Whether an update goes through, or is lost to "another processor".
    fn may_update(&self) -> bool {
        self.updates.set(self.updates.get() + 1);
        match self.steal.get() {
            0 => true,
            n => {
                self.steal.set(n - 1);
                false
            }
        }
    }
}

impl PageTableMemory for Fake {
    fn read_entry32(&self, at: GuestPhysAddr) -> u32 {
        assert_eq!(at.0 % 4, 0);
        self.words.borrow().get(&at.0).copied().unwrap_or(0)
    }

    fn read_entry64(&self, at: GuestPhysAddr) -> u64 {
        assert_eq!(at.0 % 8, 0);
        let half = |at| u64::from(self.read_entry32(GuestPhysAddr(at)));
        half(at.0) | half(at.0 + 4) << 32
    }

    fn update_entry32(&self, at: GuestPhysAddr, old: u32, new: u32) -> bool {
        assert_eq!(self.read_entry32(at), old);
        let done = self.may_update();
        if done {
            self.put32(at.0, new);
        }
        done
    }

    fn update_entry64(&self, at: GuestPhysAddr, old: u64, new: u64) -> bool {
        assert_eq!(self.read_entry64(at), old);
        let done = self.may_update();
        if done {
            self.put(at.0, new);
        }
        done
    }
}

fn state(mode: PagingMode) -> CpuState {
    let mut state = CpuState::reset();
    state.cr3 = 0x1000;
    state.cr0 |= Cr0::PE | Cr0::PG | Cr0::WP;
    state.efer = Efer::NXE;
    match mode {
        PagingMode::None => state.cr0.remove(Cr0::PG),
        PagingMode::Bits32 => state.cr4 |= Cr4::PSE,
        PagingMode::Pae => state.cr4 |= Cr4::PAE,
        PagingMode::Level4 => state.cr4 |= Cr4::PAE,
        PagingMode::Level5 => state.cr4 |= Cr4::PAE | Cr4::LA57,
    }
    if matches!(mode, PagingMode::Level4 | PagingMode::Level5) {
        state.efer |= Efer::LMA | Efer::LME;
    }
    state
}

const LIN: u64 = 0x0000_7f12_3456_7abc;

/// Entry addresses of `LIN` (or its low 32 bits) with tables at 0x1000,
/// 0x2000, ... in walking order.
fn slot(level: u64, shift: u32) -> u64 {
    0x1000 * level + (LIN >> shift & 0x1ff) * 8
}

/// A 4-level mapping of `LIN` with the given four entries' flags.
fn map4(flags: [u64; 4]) -> Fake {
    let mem = Fake::default();
    for (level, shift) in (1..=4).zip([39, 30, 21, 12]) {
        let target = if level == 4 { 0xabcd_e000 } else { 0x1000 * (level + 1) };
        mem.put(slot(level, shift), target | flags[level as usize - 1]);
    }
    mem
}

fn code(result: Result<Translation, Exception>) -> u32 {
    let exception = result.unwrap_err();
    assert_eq!(exception.vector, crate::Vector::PF);
    exception.error_code.unwrap()
}

fn user(kind: AccessKind) -> Access {
    Access::user(kind)
}

fn supervisor(kind: AccessKind) -> Access {
    Access::supervisor(kind)
}

#[test]
fn without_paging_addresses_are_physical_and_32_bits_wide() {
    let paging = Paging::from_state(&state(PagingMode::None));
    let page = paging.translate(&Fake::default(), LinearAddr(0x1_2345_6789), user(Write)).unwrap();
    assert_eq!(page.gpa, GuestPhysAddr(0x2345_6789));
    assert!(page.user && page.writable && page.executable && page.dirty);
}

#[test]
fn four_levels_lead_to_the_exact_address() {
    let mem = map4([ALL; 4]);
    let paging = Paging::from_state(&state(PagingMode::Level4));
    let page = paging.translate(&mem, LinearAddr(LIN), user(Read)).unwrap();
    assert_eq!(page.gpa, GuestPhysAddr(0xabcd_eabc));
    assert_eq!(page.page_shift, 12);
    assert!(page.user && page.writable && page.executable && !page.dirty && !page.global);
}

#[test]
fn accessed_is_set_at_every_level_and_dirty_at_the_leaf_by_writes() {
    let mem = map4([ALL; 4]);
    let paging = Paging::from_state(&state(PagingMode::Level4));
    paging.translate(&mem, LinearAddr(LIN), user(Read)).unwrap();
    let flags = |level, shift| mem.get(slot(level, shift)) & (A | D);
    assert_eq!([flags(1, 39), flags(2, 30), flags(3, 21), flags(4, 12)], [A; 4]);
    assert_eq!(mem.updates.get(), 4);
    let page = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert!(page.dirty);
    assert_eq!([flags(1, 39), flags(3, 21), flags(4, 12)], [A, A, A | D]);
    assert_eq!(mem.updates.get(), 5);
    paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!(mem.updates.get(), 5, "nothing left to set");
}

#[test]
fn a_forbidden_access_sets_no_flag() {
    let mem = map4([ALL, ALL, ALL, P | US]);
    let paging = Paging::from_state(&state(PagingMode::Level4));
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Write))), 7);
    assert_eq!(mem.updates.get(), 0);
}

#[test]
fn probing_has_no_effect_and_no_rights() {
    let mem = map4([P, P, P, P | NX]);
    let paging = Paging::from_state(&state(PagingMode::Level4));
    let page = paging.probe(&mem, LinearAddr(LIN)).unwrap();
    assert_eq!(page.gpa, GuestPhysAddr(0xabcd_eabc));
    assert!(!page.user && !page.writable && !page.executable);
    assert_eq!(mem.updates.get(), 0);
    assert_eq!(paging.probe(&mem, LinearAddr(0)), None);
}

#[test]
fn a_changed_entry_restarts_the_walk() {
    let mem = map4([ALL; 4]);
    mem.steal.set(3);
    let paging = Paging::from_state(&state(PagingMode::Level4));
    let page = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert!(page.dirty);
    assert_eq!(mem.get(slot(4, 12)) & (A | D), A | D);
    mem.put(slot(4, 12), 0xabcd_e000 | ALL);
    mem.steal.set(u32::MAX);
    paging.translate(&mem, LinearAddr(LIN), user(Read)).expect("restarts are bounded");
}

#[test]
fn absence_at_any_level_is_a_fault_without_p() {
    let paging = Paging::from_state(&state(PagingMode::Level4));
    for absent in 0..4 {
        let mut flags = [ALL; 4];
        flags[absent] &= !P;
        // Reserved bits of an absent entry do not count.
        flags[absent] |= 1 << 51;
        let mem = map4(flags);
        let fault = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap_err();
        assert_eq!((fault.error_code, fault.cr2), (Some(6), Some(LIN)));
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), supervisor(Read))), 0);
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Execute))), 0x14);
    }
}

/// One row: control bits, flags of the four levels, access, expected error
/// code (0xff: permitted).
type Row = (Cr0, Cr4, [u64; 4], Access, u32);

const OK: u32 = 0xff;
const OVERRIDE: Access = Access { kind: Write, user: false, smap_override: true };

fn check_rows(rows: &[Row]) {
    for (row, &(cr0, cr4, flags, access, expected)) in rows.iter().enumerate() {
        let mut state = state(PagingMode::Level4);
        state.cr0 = state.cr0 & !Cr0::WP | cr0;
        state.cr4 |= cr4;
        let result = Paging::from_state(&state).translate(&map4(flags), LinearAddr(LIN), access);
        let found = result.err().map_or(OK, |e| e.error_code.unwrap());
        assert_eq!(found, expected, "row {row}: {access:?}");
    }
}

#[test]
fn rights_combine_over_the_levels() {
    let (none, wp) = (Cr0::empty(), Cr0::WP);
    let no = Cr4::empty();
    let sup = P | RW;
    let ro = P | US;
    check_rows(&[
        (none, no, [ALL; 4], user(Read), OK),
        (none, no, [ALL; 4], user(Write), OK),
        (none, no, [ALL; 4], user(Execute), OK),
        // A supervisor page at any level keeps users out.
        (none, no, [sup, ALL, ALL, ALL], user(Read), 5),
        (none, no, [ALL, sup, ALL, ALL], user(Write), 7),
        (none, no, [ALL, ALL, sup, ALL], user(Execute), 0x15),
        (none, no, [ALL, ALL, ALL, sup], user(Read), 5),
        (none, no, [ALL, ALL, ALL, sup], supervisor(Write), OK),
        // Read-only at any level stops users, and supervisors with WP.
        (none, no, [ro, ALL, ALL, ALL], user(Write), 7),
        (none, no, [ALL, ro, ALL, ALL], user(Read), OK),
        (none, no, [ALL, ro, ALL, ALL], supervisor(Write), OK),
        (wp, no, [ALL, ro, ALL, ALL], supervisor(Write), 3),
        (wp, no, [ALL, ALL, ALL, P], supervisor(Write), 3),
        (wp, no, [ALL, ALL, ALL, P], supervisor(Read), OK),
        (wp, no, [ALL, ALL, ALL, P], supervisor(Execute), OK),
        // Execute disable at any level.
        (wp, no, [ALL | NX, ALL, ALL, ALL], user(Execute), 0x15),
        (wp, no, [ALL, ALL, ALL, ALL | NX], supervisor(Execute), 0x11),
        (wp, no, [ALL, ALL, ALL, ALL | NX], supervisor(Write), OK),
    ]);
}

#[test]
fn smep_and_smap_guard_the_supervisor() {
    let (none, wp) = (Cr0::empty(), Cr0::WP);
    let both = Cr4::SMEP | Cr4::SMAP;
    let sup = P | RW;
    check_rows(&[
        (wp, Cr4::SMEP, [ALL; 4], supervisor(Execute), 0x11),
        (wp, Cr4::SMEP, [ALL; 4], supervisor(Read), OK),
        (wp, Cr4::SMEP, [ALL; 4], user(Execute), OK),
        (wp, Cr4::SMEP, [sup, ALL, ALL, ALL], supervisor(Execute), OK),
        (wp, Cr4::SMAP, [ALL; 4], supervisor(Execute), OK),
        (wp, Cr4::SMAP, [ALL; 4], supervisor(Read), 1),
        (wp, Cr4::SMAP, [ALL; 4], supervisor(Write), 3),
        (none, Cr4::SMAP, [ALL; 4], supervisor(Write), 3),
        (wp, Cr4::SMAP, [ALL; 4], OVERRIDE, OK),
        (wp, Cr4::SMAP, [P | US; 4], OVERRIDE, 3),
        (none, Cr4::SMAP, [P | US; 4], OVERRIDE, OK),
        (wp, Cr4::SMAP, [ALL, ALL, ALL, sup], supervisor(Write), OK),
        (wp, both, [ALL; 4], user(Write), OK),
        (wp, both, [ALL; 4], Access { kind: Execute, ..OVERRIDE }, 0x11),
    ]);
}

#[test]
fn reserved_bits_of_long_mode_fault() {
    let paging = Paging::from_state(&state(PagingMode::Level4));
    for (level, bits) in [(0, PS), (0, 1 << 46), (1, 1 << 51), (2, 1 << 46), (3, 1 << 50)] {
        let mut flags = [ALL; 4];
        flags[level] |= bits;
        let mem = map4(flags);
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), supervisor(Read))), 9, "{level} {bits:#x}");
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Write))), 0xf);
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Execute))), 0x1d);
    }
    // Ignored bits are ignored, and a wider machine has fewer reserved ones.
    let mem = map4([ALL | 0x7f << 52, ALL | 0xe00, ALL | 0x7f << 52, ALL | PS | 0xe00 | 0x7f << 52]);
    paging.translate(&mem, LinearAddr(LIN), supervisor(Read)).unwrap();
    let mem = map4([ALL, ALL, ALL, ALL | 1 << 46]);
    let page = paging.with_phys_bits(47).translate(&mem, LinearAddr(LIN), user(Read)).unwrap();
    assert_eq!(page.gpa, GuestPhysAddr(1 << 46 | 0xabcd_eabc));
}

#[test]
fn nx_is_reserved_without_nxe() {
    let mut state = state(PagingMode::Level4);
    state.efer.remove(Efer::NXE);
    let mem = map4([ALL, ALL, ALL, ALL | NX]);
    let paging = Paging::from_state(&state);
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Read))), 0xd);
    // Neither NXE nor SMEP: fetches are not told from reads.
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Execute))), 0xd);
    state.cr4 |= Cr4::SMEP;
    assert_eq!(code(Paging::from_state(&state).translate(&mem, LinearAddr(LIN), user(Execute))), 0x1d);
}

#[test]
fn large_pages_in_long_mode() {
    let paging = Paging::from_state(&state(PagingMode::Level4));
    let mem = map4([ALL, ALL, ALL, ALL]);
    mem.put(slot(3, 21), 0x8000_0000 | ALL | PS | G | 1 << 12 | 5 << 59);
    let page = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift, page.pkey), (0x8000_0000 | LIN & 0x1f_ffff, 21, 5));
    assert!(page.dirty && !page.global, "PGE is off");
    assert_eq!(mem.get(slot(3, 21)) & (A | D), A | D);
    mem.put(slot(3, 21), 0x8000_0000 | ALL | PS | 1 << 13);
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Read))), 0xd);
    mem.put(slot(3, 21), 0x8000_0000 | ALL | PS | 1 << 20);
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Read))), 0xd);

    mem.put(slot(2, 30), 0x1_4000_0000 | ALL | PS);
    let page = paging.translate(&mem, LinearAddr(LIN), user(Read)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift), (0x1_4000_0000 | LIN & 0x3fff_ffff, 30));
    let without = paging.with_gigabyte_pages(false);
    assert_eq!(code(without.translate(&mem, LinearAddr(LIN), user(Read))), 0xd);
    for bit in [13, 21, 29] {
        mem.put(slot(2, 30), 0x1_4000_0000 | ALL | PS | 1 << bit);
        assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Read))), 0xd, "bit {bit}");
    }
}

#[test]
fn global_pages_need_pge() {
    let mut state = state(PagingMode::Level4);
    state.cr4 |= Cr4::PGE;
    let mem = map4([ALL, ALL, ALL, ALL | G]);
    assert!(Paging::from_state(&state).probe(&mem, LinearAddr(LIN)).unwrap().global);
    let mem = map4([ALL, ALL, ALL | G, ALL]);
    assert!(!Paging::from_state(&state).probe(&mem, LinearAddr(LIN)).unwrap().global);
}

#[test]
fn five_levels_reach_the_upper_half() {
    let lin: u64 = 0xff12_3456_789a_b123;
    let mem = Fake::default();
    for (level, shift) in (1..=5u64).zip([48, 39, 30, 21, 12]) {
        let target = if level == 5 { 0x77_7000 } else { 0x1000 * (level + 1) };
        mem.put(0x1000 * level + (lin >> shift & 0x1ff) * 8, target | ALL);
    }
    let paging = Paging::from_state(&state(PagingMode::Level5));
    let page = paging.translate(&mem, LinearAddr(lin), user(Write)).unwrap();
    assert_eq!(page.gpa, GuestPhysAddr(0x77_7123));
    assert_eq!(mem.updates.get(), 5);
    let top = 0x1000 + (lin >> 48 & 0x1ff) * 8;
    mem.put(top, 0x2000 | ALL | PS);
    assert_eq!(code(paging.translate(&mem, LinearAddr(lin), user(Write))), 0xf);
    mem.put(top, 0);
    assert_eq!(code(paging.translate(&mem, LinearAddr(lin), user(Write))), 6);
}

#[test]
fn protection_keys_guard_data_of_user_pages() {
    let key = 3u64;
    let rows = [
        // PKRU rights, flags, WP, access, expected code
        (0b01, ALL, true, user(Read), 0x25),
        (0b01, ALL, true, supervisor(Read), 0x21),
        (0b01, ALL, true, user(Execute), OK),
        (0b10, ALL, true, user(Read), OK),
        (0b10, ALL, true, user(Write), 0x27),
        (0b10, ALL, true, supervisor(Write), 0x23),
        (0b10, ALL, false, supervisor(Write), OK),
        (0b01, P | RW, true, supervisor(Write), OK),
        (0b11, P | RW, true, user(Write), 7),
        (0b10, P | US, true, user(Write), 0x27),
    ];
    for (row, (rights, flags, wp, access, expected)) in rows.into_iter().enumerate() {
        let mut state = state(PagingMode::Level4);
        state.cr0.set(Cr0::WP, wp);
        state.cr4 |= Cr4::PKE;
        state.fpu.pkru = rights << (2 * key);
        let mem = map4([ALL, ALL, ALL, flags | key << 59]);
        let result = Paging::from_state(&state).translate(&mem, LinearAddr(LIN), access);
        assert_eq!(result.err().map_or(OK, |e| e.error_code.unwrap()), expected, "row {row}");
    }
}

/// PAE: the directory-pointer entries are registers, the rest two levels.
fn pae(pde: u64, pte: u64) -> (CpuState, Fake) {
    let mut state = state(PagingMode::Pae);
    state.pdpte[(LIN >> 30 & 3) as usize] = 0x2000 | P;
    let mem = Fake::default();
    mem.put(slot(2, 21), 0x3000 | pde);
    mem.put(slot(3, 12), 0x5_abcd_e000 | pte);
    (state, mem)
}

#[test]
fn pae_walks_from_the_loaded_pointers() {
    let (mut state, mem) = pae(ALL, ALL | NX);
    let page = Paging::from_state(&state).translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift, page.pkey), (0x5_abcd_eabc, 12, 0));
    assert!(!page.executable && page.user);
    let fault = Paging::from_state(&state).translate(&mem, LinearAddr(LIN), user(Execute)).unwrap_err();
    assert_eq!((fault.error_code, fault.cr2), (Some(0x15), Some(LIN & 0xffff_ffff)));
    state.pdpte = [0; 4];
    assert_eq!(code(Paging::from_state(&state).translate(&mem, LinearAddr(LIN), user(Read))), 4);
}

#[test]
fn pae_reserves_bits_up_to_62() {
    for bits in [1 << 46, 1 << 52, 1 << 59, 1 << 62] {
        for (pde, pte) in [(ALL | bits, ALL), (ALL, ALL | bits)] {
            let (state, mem) = pae(pde, pte);
            let paging = Paging::from_state(&state);
            assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Read))), 0xd, "{bits:#x}");
        }
    }
    let (mut state, mem) = pae(ALL | NX, ALL);
    state.efer = Efer::empty();
    assert_eq!(code(Paging::from_state(&state).translate(&mem, LinearAddr(LIN), supervisor(Read))), 9);
}

#[test]
fn pae_has_two_mebibyte_pages_without_pse() {
    let (state, mem) = pae(ALL, 0);
    mem.put(slot(2, 21), 0xc020_0000 | ALL | PS);
    let paging = Paging::from_state(&state);
    let page = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift), (0xc020_0000 | LIN & 0x1f_ffff, 21));
    mem.put(slot(2, 21), 0xc020_0000 | ALL | PS | 1 << 14);
    assert_eq!(code(paging.translate(&mem, LinearAddr(LIN), user(Write))), 0xf);
}

#[test]
fn loading_pointers_checks_reserved_bits() {
    let mem = Fake::default();
    for (i, entry) in [0x2000 | P | 0xe18, 0x1e6, 0, 0x3000 | P].into_iter().enumerate() {
        mem.put(0x1020 + 8 * i as u64, entry);
    }
    let loaded = load_pdptes(&mem, 0xffff_0000_0000_103f, 46).unwrap();
    assert_eq!(loaded, [0x2000 | P | 0xe18, 0x1e6, 0, 0x3000 | P]);
    for bit in [1, 2, 5, 6, 7, 8, 46, 52, 63] {
        mem.put(0x1038, 0x3000 | P | 1 << bit);
        assert_eq!(load_pdptes(&mem, 0x1020, 46), Err(Exception::gp(0)), "bit {bit}");
    }
}

/// 32-bit paging of `LIN`'s low half.
fn narrow(pde: u32, pte: u32) -> Fake {
    let mem = Fake::default();
    mem.put32(0x1000 + ((LIN >> 22 & 0x3ff) * 4) as u32 as u64, 0x2000 | pde);
    mem.put32(0x2000 + ((LIN >> 12 & 0x3ff) * 4) as u32 as u64, 0xfedc_b000 | pte);
    mem
}

#[test]
fn thirty_two_bit_paging() {
    let all = ALL as u32;
    let paging = Paging::from_state(&state(PagingMode::Bits32));
    let mem = narrow(all, all);
    let page = paging.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift), (0xfedc_babc, 12));
    assert!(page.executable && page.dirty);
    assert_eq!(mem.read_entry32(GuestPhysAddr(0x1000 + (LIN >> 22 & 0x3ff) * 4)) & 0x60, 0x20);
    assert_eq!(mem.read_entry32(GuestPhysAddr(0x2000 + (LIN >> 12 & 0x3ff) * 4)) & 0x60, 0x60);
    let rows = [
        (0, all, user(Read), 4),
        (all, 0, supervisor(Write), 2),
        (all & !4, all, user(Read), 5),
        (all, all & !2, user(Write), 7),
        (all, all & !2, supervisor(Write), 3),
        // NXE means nothing here, so a fetch is not marked.
        (all, 0, user(Execute), 4),
    ];
    for (pde, pte, access, expected) in rows {
        assert_eq!(code(paging.translate(&narrow(pde, pte), LinearAddr(LIN), access)), expected);
    }
}

#[test]
fn four_mebibyte_pages_reach_forty_bits() {
    let with = Paging::from_state(&state(PagingMode::Bits32));
    let at = 0x1000 + (LIN >> 22 & 0x3ff) * 4;
    let mem = Fake::default();
    mem.put32(at, 0xc040_0000 | (ALL | PS) as u32 | 0xa5 << 13 | 1 << 12);
    let page = with.translate(&mem, LinearAddr(LIN), user(Write)).unwrap();
    assert_eq!((page.gpa.0, page.page_shift), (0xa5_c040_0000 | LIN & 0x3f_ffff, 22));
    assert!(page.dirty);
    // A narrower machine reserves the address bits that it lacks.
    assert_eq!(code(with.with_phys_bits(36).translate(&mem, LinearAddr(LIN), user(Read))), 0xd);
    mem.put32(at, 0xc040_0000 | (ALL | PS) as u32 | 1 << 21);
    assert_eq!(code(with.translate(&mem, LinearAddr(LIN), user(Read))), 0xd);
    // Without PSE the bit is ignored and the entry is a table.
    let mut state = state(PagingMode::Bits32);
    state.cr4 = Cr4::empty();
    mem.put32(at, 0x2000 | (ALL | PS) as u32);
    mem.put32(0x2000 + (LIN >> 12 & 0x3ff) * 4, 0x9000 | ALL as u32);
    let page = Paging::from_state(&state).translate(&mem, LinearAddr(LIN), user(Read)).unwrap();
    assert_eq!(page.gpa.0, 0x9abc);
}

#[test]
fn tables_in_nowhere_are_not_present() {
    let mut state = state(PagingMode::Level4);
    state.cr3 = 0xffff_ffff_ffff_f000;
    let paging = Paging::from_state(&state);
    assert_eq!(code(paging.translate(&Fake::default(), LinearAddr(LIN), user(Read))), 4);
}
