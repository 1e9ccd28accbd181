//! Four-level paging with the rights that each part needs, and a demand-paged window.
//!
//! ```text
//! 0000_0000 .. 0040_0000  4 KiB pages: code executes, data does not, .user.* is ring 3's
//! 0040_0000 .. 4000_0000  2 MiB pages, ring 0, not executable
//! 4000_0000 .. 4020_0000  nothing, until someone touches it
//! fee0_0000               the local APIC, uncached
//! ```

use core::ptr::{addr_of, read_volatile, write_volatile};

use crate::console::println;
use crate::cpu::{self, Shared};
use crate::probe::{Expect, Facts, Probe, fragments64, is};
use crate::report::Report;
use crate::run::Place;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Physical address in an entry.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// The demand-paged window.
pub const WINDOW: u64 = 0x4000_0000;
/// Pages of it that have memory behind them; a touch beyond stays a fault.
const WINDOW_PAGES: usize = 4;
/// A page in the window that is present and read-only.
const READ_ONLY: u64 = WINDOW + 0x10_0000;
/// Mapped by a 2 MiB entry with bit 13 set, which is reserved whatever MAXPHYADDR is.
const RESERVED: u64 = WINDOW + 0x20_0000;
/// A page in the window that never gets memory.
const ABSENT: u64 = WINDOW + 0x12_0000;

#[repr(align(4096))]
struct Table([u64; 512]);

impl Table {
    const fn empty() -> Shared<Table> {
        Shared::new(Table([0; 512]))
    }
}

static PML4: Shared<Table> = Table::empty();
static PDPT: Shared<Table> = Table::empty();
static LOW_PD: Shared<Table> = Table::empty();
static LOW_PT: [Shared<Table>; 2] = [Table::empty(), Table::empty()];
static WINDOW_PD: Shared<Table> = Table::empty();
static WINDOW_PT: Shared<Table> = Table::empty();
static HIGH_PD: Shared<Table> = Table::empty();
static FRAMES: [Shared<Table>; WINDOW_PAGES] = [const { Table::empty() }; WINDOW_PAGES];
/// Page faults served.
static SERVED: Shared<u64> = Shared::new(0);
/// Error code of the last one.
static LAST_ERROR: Shared<u64> = Shared::new(0);

unsafe extern "C" {
    static __image_start: u8;
    static __user_text_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __user_data_start: u8;
    static __user_data_end: u8;
}

/// Physical address of a table; the kernel is identity-mapped.
fn address<T>(table: &Shared<T>) -> u64 {
    table.get() as u64
}

fn set(table: &Shared<Table>, index: usize, entry: u64) {
    // SAFETY: an aligned word of a table that only this module writes; `index` is below
    // 512 at every call and checked by the array.
    unsafe { write_volatile(&mut (*table.get()).0[index & 511], entry) };
}

fn get(table: &Shared<Table>, index: usize) -> u64 {
    // SAFETY: as above; the processor sets A and D bits here, hence volatile.
    unsafe { read_volatile(&(*table.get()).0[index & 511]) }
}

/// Rights of the 4 KiB page at `page`, by the section it is in.
fn rights(page: u64) -> u64 {
    let [image, user_text, rodata, data, user_data, user_end] = [
        addr_of!(__image_start) as u64,
        addr_of!(__user_text_start) as u64,
        addr_of!(__rodata_start) as u64,
        addr_of!(__data_start) as u64,
        addr_of!(__user_data_start) as u64,
        addr_of!(__user_data_end) as u64,
    ];
    match page {
        p if p < image => WRITABLE | NO_EXECUTE,
        p if p < user_text => 0,
        p if p < rodata => USER,
        p if p < data => NO_EXECUTE,
        p if p < user_data => WRITABLE | NO_EXECUTE,
        p if p < user_end => WRITABLE | USER | NO_EXECUTE,
        _ => WRITABLE | NO_EXECUTE,
    }
}

/// Builds the tables and loads CR3.
pub fn init() {
    let branch = PRESENT | WRITABLE | USER;
    set(&PML4, 0, address(&PDPT) | branch);
    set(&PDPT, 0, address(&LOW_PD) | branch);
    set(&PDPT, 1, address(&WINDOW_PD) | branch);
    set(&PDPT, 3, address(&HIGH_PD) | PRESENT | WRITABLE);
    for (i, table) in LOW_PT.iter().enumerate() {
        set(&LOW_PD, i, address(table) | branch);
        for page in 0..512 {
            let address = ((i * 512 + page) * 4096) as u64;
            set(table, page, address | PRESENT | rights(address));
        }
    }
    for i in LOW_PT.len()..512 {
        set(&LOW_PD, i, (i as u64) << 21 | PRESENT | WRITABLE | LARGE | NO_EXECUTE);
    }
    set(&WINDOW_PD, 0, address(&WINDOW_PT) | branch);
    set(&WINDOW_PT, 0x100, address(&FRAMES[0]) | PRESENT | USER | NO_EXECUTE);
    set(&WINDOW_PD, 1, PRESENT | USER | LARGE | 1 << 13);
    let lapic = crate::pic::LAPIC & !0x1F_FFFF;
    set(&HIGH_PD, (lapic >> 21) as usize, lapic | PRESENT | WRITABLE | LARGE | UNCACHED | NO_EXECUTE);
    // SAFETY: code, stacks and data keep their addresses.
    unsafe { cpu::write_cr3(address(&PML4)) };
}

/// CR3 as loaded.
pub fn root() -> u64 {
    address(&PML4)
}

/// Maps the touched page of the window if it may have memory. False: not ours.
pub fn serve(fault: u64, error: u64) -> bool {
    let page = (fault.wrapping_sub(WINDOW) >> 12) as usize;
    if page >= WINDOW_PAGES || error & PRESENT != 0 {
        return false;
    }
    set(&WINDOW_PT, page, address(&FRAMES[page]) | PRESENT | WRITABLE | NO_EXECUTE);
    // SAFETY: handlers do not nest; read by the code that caused the fault.
    unsafe {
        write_volatile(SERVED.get(), read_volatile(SERVED.get()) + 1);
        write_volatile(LAST_ERROR.get(), error);
    }
    true
}

/// Number of served faults and the last error code.
fn served() -> (u64, u64) {
    // SAFETY: plain words; the handler is not running.
    unsafe { (read_volatile(SERVED.get()), read_volatile(LAST_ERROR.get())) }
}

/// Accessed and dirty bit of a page of the window.
fn accessed_dirty(page: usize) -> (u64, u64) {
    let entry = get(&WINDOW_PT, page);
    (u64::from(entry & ACCESSED != 0), u64::from(entry & DIRTY != 0))
}

/// Touches the window, watches faults and the bits the processor sets, and remaps a page.
pub fn demonstrate(report: &mut Report) {
    println!("Paging: 4 levels, W^X kernel pages, demand-paged window at {WINDOW:#x}.");
    let (read, write) = (WINDOW as *const u64, (WINDOW + 4096) as *mut u64);
    // SAFETY: the window is this module's own memory; the fault handler maps it.
    let value = unsafe { read_volatile(read) };
    let (count, error) = served();
    report.verify(
        "read fault, served",
        &[(is("faults", 1), count), (is("error", 0), error), (is("read", 0), value)],
    );
    let (a, d) = accessed_dirty(0);
    report.verify("its entry after the read", &[(is("A", 1), a), (is("D", 0), d)]);

    // SAFETY: as above.
    unsafe { write_volatile(write, 0x5EED) };
    let (count, error) = served();
    report.verify("write fault, served", &[(is("faults", 2), count), (is("error", 2), error)]);
    let (a, d) = accessed_dirty(1);
    report.verify("its entry after the write", &[(is("A", 1), a), (is("D", 1), d)]);

    let swapped = get(&WINDOW_PT, 0) & !ADDRESS | address(&FRAMES[1]);
    set(&WINDOW_PT, 0, swapped & !(ACCESSED | DIRTY));
    cpu::invlpg(WINDOW);
    // SAFETY: as above; the page now shows the frame that was written.
    let value = unsafe { read_volatile(read) };
    let (a, d) = accessed_dirty(0);
    report.verify("remapped, INVLPG", &[(is("read", 0x5EED), value), (is("A", 1), a), (is("D", 0), d)]);
}

/// Faults with their error codes (SDM 3A 5.7): P, W/R, U/S, RSVD, I/D.
pub const PROBES: [Probe; 6] = [
    Probe::both(0, "read absent page", read_absent, |_| fault(0, ABSENT), |_| fault(4, ABSENT)),
    Probe::both(0, "write absent page", write_absent, |_| fault(2, ABSENT), |_| fault(6, ABSENT)),
    Probe::both(0, "write read-only page", write_read_only, |_| fault(3, READ_ONLY), |_| fault(7, READ_ONLY)),
    Probe::both(0, "reserved bit in entry", read_reserved, |_| fault(9, RESERVED), |_| fault(13, RESERVED)),
    Probe::both(0, "execute NX page", execute_data, |_| fault(0x11, READ_ONLY), |_| fault(0x15, READ_ONLY)),
    Probe::ring3(0, "read kernel page", read_kernel, |_| fault(5, 0x8000)),
];

fn fault(error: u32, address: u64) -> Expect {
    Expect::PageFault(error, address)
}

fragments64! {
    read_absent: ["mov rax, {page}", "mov rax, [rax]"], page = const ABSENT;
    write_absent: ["mov rax, {page}", "mov [rax], rax"], page = const ABSENT;
    write_read_only: ["mov rax, {page}", "mov [rax], rax"], page = const READ_ONLY;
    read_reserved: ["mov rax, {page}", "mov rax, [rax]"], page = const RESERVED;
    execute_data: ["mov rax, {page}", "jmp rax"], page = const READ_ONLY;
    read_kernel: ["mov eax, 0x8000", "mov rax, [rax]"];
}

/// Runs the table at both rings.
pub fn faults(report: &mut Report, facts: &Facts) {
    for place in [Place::Ring0, Place::Ring3] {
        report.run(place, &PROBES, facts);
    }
}
