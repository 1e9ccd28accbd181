//! Ringmaster's embedded guest: a bare-metal tour of the x86 that looks at itself.
//!
//! The way through the modes, and through the files:
//!
//! ```text
//! entry      PVH/multiboot, 32-bit, no paging     headers, own GDT, copy below 1 MiB
//! real       16-bit real mode                     IVT, runs real_probes
//! protected  32-bit protected mode, rings 0, 3    IDT, TSS, LDT, gate, runs protected_probes
//! long       64-bit                               page tables to get there, SSE
//! main       64-bit Rust                          judges the above, then:
//!   descriptors, interrupts, pic, timer, paging   the machine of a small kernel
//!   run        rings 0 and 3, compatibility mode  runs sensitive, privileged, faults
//!   user       a ring-3 task                      SYSCALL, INT 80h, a tick
//! power      ACPI
//! ```
//!
//! What a probe is, and how it is judged, is in [`probe`] and [`report`].
#![no_std]
#![no_main]

mod console;
mod cpu;
mod descriptors;
mod entry;
mod faults;
mod interrupts;
mod long;
mod memory;
mod paging;
mod pic;
mod power;
mod privileged;
mod probe;
mod protected;
mod protected_probes;
mod real;
mod real_probes;
mod report;
mod run;
mod selectors;
mod sensitive;
mod timer;
mod user;

use console::{print, println};
use probe::Facts;
use report::Report;
use run::Place;

/// CPUID leaf 7, ECX bit 2: UMIP.
const CPUID_UMIP: u32 = 1 << 2;
/// CR4.UMIP.
const CR4_UMIP: u64 = 1 << 11;
/// The first word of `hvm_start_info`.
const PVH_MAGIC: u32 = 0x336E_C578;
/// EAX as a multiboot loader leaves it.
const MULTIBOOT_EAX: u32 = 0x2BAD_B002;

/// The first Rust function; long mode, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_main() -> ! {
    console::init();
    banner();
    let mut report = Report::new();
    earlier_modes(&mut report);

    paging::init();
    descriptors::init();
    user::init();
    pic::init();
    timer::init();
    let facts = facts();
    println!();
    report.context("64-bit ring 0");
    paging::demonstrate(&mut report);
    println!();
    timer::demonstrate(&mut report);
    println!();
    user::demonstrate(&mut report);

    instructions(&mut report, &facts);
    println!();
    let failures = report.finish();
    if failures == 0 {
        println!("Nothing here tells this guest that it is not on hardware.");
    }
    power::off(failures != 0)
}

/// Who starts, and on what.
fn banner() {
    // SAFETY: words that the entry code wrote once.
    let (magic, eax) = unsafe { (entry::BOOT_MAGIC, entry::BOOT_EAX) };
    let way = match (magic, eax) {
        (PVH_MAGIC, _) => "PVH",
        (_, MULTIBOOT_EAX) => "multiboot",
        _ => "an unknown loader",
    };
    println!("Ringmaster embedded guest, started by {way} in 32-bit protected mode");
    let vendor = cpu::cpuid(0, 0);
    print!("CPUID vendor ");
    for register in [vendor.ebx, vendor.edx, vendor.ecx] {
        for byte in register.to_le_bytes() {
            print!("{}", if byte.is_ascii_graphic() { byte as char } else { '?' });
        }
    }
    let version = cpu::cpuid(1, 0);
    println!(", signature {:x}, hypervisor bit {}", version.eax, version.ecx >> 31);
    println!();
    println!("Numbers 1 to 18 are the sensitive instructions in the order of Robin and Irvine, who");
    println!("count seventeen and name eighteen: 1-6 read or change registers, 7-18 consult the");
    println!("protection system. -- is privileged or other. Expected is what this guest itself set up.");
    println!(
        "Mode and ring          No Instruction               What it saw                                  Verdict"
    );
}

/// What real and protected mode left for us to judge.
fn earlier_modes(report: &mut Report) {
    let facts = protected::facts();
    println!();
    println!("Real mode: entered from protected mode by clearing CR0.PE; own interrupt vector table.");
    report.context("16-bit real mode");
    report.recorded(0, &real::PROBES, real::results(), &facts);
    println!();
    println!("Protected mode: entered from real mode; own GDT, LDT, IDT, TSS and call gate, no paging.");
    for ((ring, context), outcomes) in
        [(0, "32-bit ring 0"), (3, "32-bit ring 3")].into_iter().zip(protected::results())
    {
        report.context(context);
        report.recorded(ring, &protected::PROBES, outcomes, &facts);
    }
}

/// What was loaded in long mode.
fn facts() -> Facts {
    Facts {
        gdt: descriptors::gdt(),
        idt: descriptors::idt(),
        cr0: long::CR0_LONG.into(),
        cr3: paging::root(),
        cr4: long::CR4_LONG.into(),
        efer: u64::from(long::EFER_LONG) | long::EFER_LMA,
        pic_mask: pic::MASK,
        tss_limit: descriptors::TSS_LIMIT.into(),
        kernel_code: selectors::KERNEL_CODE,
        user_code: selectors::USER_CODE64,
        kernel_rights: 0x00A0_9B00,
        // A call or interrupt to an inner ring loads a null SS (SDM 3A 6.8.5.1, 7.14.2).
        gate_ss: 0,
    }
}

/// The tables of long mode and of compatibility mode.
fn instructions(report: &mut Report, facts: &Facts) {
    for (title, place) in [
        ("Long mode, ring 0: they do their work.", Place::Ring0),
        ("Long mode, ring 3: the sensitive answer, the privileged fault.", Place::Ring3),
    ] {
        println!();
        println!("{title}");
        report.run(place, &sensitive::PROBES, facts);
        report.run(place, &privileged::PROBES, facts);
        report.run(place, &faults::PROBES, facts);
    }
    println!();
    println!("Long mode, ring 3 with IOPL 3: the interrupt flag and the ports are given away.");
    report.run(Place::Ring3Iopl3, &sensitive::WITH_IOPL3, facts);
    println!();
    println!("Page faults, by error code.");
    paging::faults(report, facts);
    println!();
    println!("Compatibility mode, ring 3: the 32-bit table once more, under long mode's tables.");
    let compatibility = Facts { user_code: selectors::USER_CODE32, ..*facts };
    report.run(Place::Compatibility, &protected::PROBES, &compatibility);
    println!();
    umip(report, facts);
}

/// The five that CR4.UMIP turns from sensitive to privileged, where the processor has it.
fn umip(report: &mut Report, facts: &Facts) {
    if cpu::cpuid(0, 0).eax < 7 || cpu::cpuid(7, 0).ecx & CPUID_UMIP == 0 {
        println!("UMIP: this processor does not offer it.");
        return;
    }
    println!("UMIP: with CR4.UMIP set, what reads the system registers faults at ring 3.");
    let cr4 = cpu::read_cr4();
    // SAFETY: one more feature; nothing at ring 0 changes.
    unsafe { cpu::write_cr4(cr4 | CR4_UMIP) };
    for place in [Place::Ring0, Place::Ring3] {
        report.run(place, &sensitive::WITH_UMIP, facts);
    }
    // SAFETY: as it was.
    unsafe { cpu::write_cr4(cr4) };
}

/// A bug of this guest, or a fault that no probe asked for.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!();
    println!("FAIL: {}", info.message());
    power::off(true)
}
