//! 32-bit and PAE paging: rights, error codes, accessed and dirty bits (SDM 3A
//! 4.3, 4.4, 4.6 to 4.8).

use x86::{Cr0, Cr4, Efer, Gpr::*, Vector};

use crate::asm::{code16, code32};
use crate::env::{protected32, user32};
use crate::guest::{Guest, guests};
use crate::layout::*;

/// The page that the guests of this topic try.
const PAGE: u64 = 0xe000;

fn read() -> Guest {
    protected32(code32!(
        "
     7: mov eax, [0xe010]
        out 0xf4, al
    "
    ))
    .dword(0xe010, 0x1234_5678)
}

fn write() -> Guest {
    protected32(code32!(
        "
     7: mov [0xe010], eax
        out 0xf4, al
    "
    ))
    .with(Rax, 0x99)
}

fn user_read() -> Guest {
    user32(code32!(
        "
     7: mov eax, [0xe010]
        ud2
    "
    ))
    .dword(0xe010, 0x1234_5678)
}

fn user_write() -> Guest {
    user32(code32!(
        "
     7: mov [0xe010], eax
        ud2
    "
    ))
    .with(Rax, 0x99)
}

/// The end of a user guest whose access succeeded.
fn went_on(guest: Guest) -> Guest {
    guest.event_at(Vector::UD, None, MAIN + 5)
}

fn without_wp(guest: Guest) -> Guest {
    guest.patch(|s| s.cr0.remove(Cr0::WP))
}

/// Maps 4 MiB more in the page-directory entry behind the first.
fn second_pde(guest: Guest, entry: u32) -> Guest {
    guest.dword(PD + 4, entry)
}

guests! { "paging";
    /// A mapped page goes where its entry says (SDM 3A 4.3).
    translation: read().paged().page_to(PAGE, 0xf000, KERNEL_PAGE).dword(0xf010, 0xabcd).reg(Rax, 0xabcd);

    /// Supervisor read of an absent page: code 0 (SDM 3A 4.7).
    absent_read: read().paged().page(PAGE, 0).page_fault(0, 0xe010);

    /// Supervisor write of an absent page: W (SDM 3A 4.7).
    absent_write: write().paged().page(PAGE, 0).page_fault(2, 0xe010);

    /// User read of an absent page: U (SDM 3A 4.7).
    absent_user_read: user_read().paged().page(PAGE, 0).page_fault(4, 0xe010);

    /// User write of an absent page: U and W (SDM 3A 4.7).
    absent_user_write: user_write().paged().page(PAGE, 0).page_fault(6, 0xe010);

    /// An absent page directory entry (SDM 3A 4.3).
    absent_table: protected32(code32!("7: mov eax, [0x401234]")).paged().page_fault(0, 0x40_1234);

    /// User read of a supervisor page: P and U (SDM 3A 4.6).
    user_reads_supervisor_page: user_read().paged().page(PAGE, KERNEL_PAGE).page_fault(5, 0xe010);

    /// User write of a read-only page: P, W and U (SDM 3A 4.6).
    user_writes_read_only_page: user_write().paged().page(PAGE, 0x65).page_fault(7, 0xe010).mem32(0xe010, 0);

    /// User read of a read-only page is fine (SDM 3A 4.6).
    user_reads_read_only_page: went_on(user_read().paged().page(PAGE, 0x65)).reg(Rax, 0x1234_5678);

    /// The directory's U/S bit counts as well (SDM 3A 4.6).
    supervisor_directory: went_on(user_read().paged()).dword(PD, (PT | 0x23) as u32)
        .event_at(Vector::PF, Some(5), MAIN).item("CR2", |s| s.cr2, MAIN);

    /// A supervisor write of a read-only page with CR0.WP: P and W (SDM 3A
    /// 4.6).
    write_protect: write().paged().page(PAGE, 0x61).page_fault(3, 0xe010);

    /// Without CR0.WP the supervisor may (SDM 3A 4.6).
    no_write_protect: without_wp(write()).paged().patch(|s| s.cr0.remove(Cr0::WP)).page(PAGE, 0x61)
        .mem32(0xe010, 0x99);

    /// A read sets A in directory and table, and not D (SDM 3A 4.8).
    accessed_bits: read().paged().dword(PD, (PT | 3) as u32).page(PAGE, 3)
        .mem32(PT + 14 * 4, 0xe023).mem32(PD, (PT | 0x23) as u32);

    /// A write sets A and D (SDM 3A 4.8).
    dirty_bit: write().paged().page(PAGE, 3).mem32(PT + 14 * 4, 0xe063);

    /// A write after a read sets D as well (SDM 3A 4.8).
    dirty_after_read: protected32(code32!("
        mov eax, [0xe000]
        mov [0xe000], eax
        out 0xf4, al
    ")).paged().page(PAGE, 3).mem32(PT + 14 * 4, 0xe063);

    /// Fetching sets A (SDM 3A 4.8).
    accessed_by_fetch: protected32(code32!("
        mov eax, 0xe000
        jmp eax
    ")).code(code32!(at 0xe000; "out 0xf4, al")).paged().page(PAGE, 3).mem32(PT + 14 * 4, 0xe023);

    /// A 4 MiB page with CR4.PSE (SDM 3A 4.3).
    four_mebibytes: second_pde(protected32(code32!("
        mov eax, [0x40d000]
        mov [0x40d004], eax
        out 0xf4, al
    ")).paged(), 0x83).data(0x77).reg(Rax, 0x77).mem32(DATA + 4, 0x77).mem32(PD + 4, 0xe3);

    /// Without CR4.PSE the page-size bit is ignored (SDM 3A 4.3).
    page_size_bit_ignored: second_pde(protected32(code32!("
        mov eax, [0x40d000]
        out 0xf4, al
    ")).paged(), (PT | 0xa3) as u32).patch(|s| s.cr4.remove(Cr4::PSE)).data(0x77).reg(Rax, 0x77);

    /// A reserved bit in a 4 MiB entry: P and RSVD (SDM 3A 4.7).
    four_mebibytes_reserved: second_pde(protected32(code32!("7: mov eax, [0x40d000]")).paged(), 0x20_0083)
        .page_fault(9, 0x40_d000);

    /// A write that crosses into an absent page writes nothing; CR2 is in the
    /// absent page (SDM 3A 4.7).
    crossing_write_is_atomic: protected32(code32!("7: mov [0xdffe], eax")).with(Rax, 0xffff_ffff).paged()
        .page(PAGE, 0).page_fault(2, 0xe000).memory(0xdffe, &[0, 0]);

    /// A read-modify-write that crosses likewise: a write fault (SDM 3A 4.7).
    crossing_rmw_is_atomic: protected32(code32!("7: add dword ptr [0xdffd], 0x01010101")).paged()
        .page(PAGE, 0x61).page_fault(3, 0xe000).memory(0xdffd, &[0, 0, 0]);

    /// A read that crosses two pages mapped apart (SDM 3A 4.3).
    crossing_read: protected32(code32!("
        mov eax, [0xdffe]
        out 0xf4, al
    ")).paged().page_to(PAGE, 0xf000, KERNEL_PAGE).word(0xdffe, 0x2211).word(0xf000, 0x4433).reg(Rax, 0x4433_2211);

    /// A write that crosses two pages mapped apart.
    crossing_write: protected32(code32!("
        mov [0xdffd], eax
        out 0xf4, al
    ")).with(Rax, 0x4433_2211).paged().page_to(PAGE, 0xf000, KERNEL_PAGE)
        .memory(0xdffd, &[0x11, 0x22, 0x33]).memory(0xf000, &[0x44]).memory(0xe000, &[0]);

    /// An instruction that crosses into an absent page: the fault is at the
    /// instruction, CR2 in the second page; without NXE and SMEP the I bit
    /// stays clear (SDM 3A 4.7).
    crossing_fetch: protected32(code32!("
        mov eax, 0xdffe
        jmp eax
    ")).bytes(0xdffe, &[0xb8, 0x01]).paged().page(PAGE, 0).event_at(Vector::PF, Some(0), 0xdffe)
        .item("CR2", |s| s.cr2, 0xe000);

    /// An instruction whose bytes come from two pages mapped apart.
    crossing_code: protected32(code32!("
        mov eax, 0xdffe
        jmp eax
    ")).bytes(0xdffe, &[0xb8, 0x78]).bytes(0xf000, &[0x56, 0x34, 0x12, 0xe6, 0xf4]).paged()
        .page_to(PAGE, 0xf000, KERNEL_PAGE).reg(Rax, 0x1234_5678);

    /// PUSH onto an absent page leaves ESP as it was (SDM 3A 6.5).
    push_fault: user32(code32!("
        mov esp, 0xf000
     7: push eax
    ")).paged().page(PAGE, 0).page_fault(6, 0xeffc).pushed(crate::expect::FrameItem::Sp, u64::MAX, 0xf000);

    /// PUSH from an absent page leaves ESP as it was.
    push_memory_fault: user32(code32!("7: push dword ptr [0xe000]")).paged().page(PAGE, 0)
        .page_fault(4, 0xe000).pushed(crate::expect::FrameItem::Sp, u64::MAX, USER_STACK);

    /// INVLPG makes a new entry count (SDM 3A 4.10.4.1).
    invlpg: protected32(code32!("
        mov ebx, [0xe000]
        mov dword ptr [0x14038], 0xf063
        invlpg [0xe000]
        mov ecx, [0xe000]
        out 0xf4, al
    ")).paged().dword(0xe000, 1).dword(0xf000, 2).reg(Rbx, 1).reg(Rcx, 2);

    /// Loading CR3 makes new entries count (SDM 3A 4.10.4.1).
    reload_cr3: protected32(code32!("
        mov ebx, [0xe000]
        mov dword ptr [0x14038], 0xf063
        mov eax, cr3
        mov cr3, eax
        mov ecx, [0xe000]
        out 0xf4, al
    ")).paged().dword(0xe000, 1).dword(0xf000, 2).reg(Rbx, 1).reg(Rcx, 2);

    /// An entry made present needs no invalidation (SDM 3A 4.10.4.3).
    fault_then_map: protected32(code32!("
        mov ecx, [0xe000]
        out 0xf4, al
    ")).handler(14, code32!(at 0xa000; "
        mov dword ptr [0x14038], 0xf063
        add esp, 4
        iretd
    ")).paged().page(PAGE, 0).dword(0xf000, 2).reg(Rcx, 2).reg(Rsp, STACK);

    /// CR0.PG switched on and off (SDM 3A 4.1.1).
    toggle_paging: protected32(code32!("
        mov eax, 0x13000
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov ebx, [0xe000]
        and eax, 0x7fffffff
        mov cr0, eax
        mov ecx, [0xe000]
        out 0xf4, al
    ")).paged().page_to(PAGE, 0xf000, KERNEL_PAGE).patch(|s| s.cr0.remove(Cr0::PG))
        .dword(0xe000, 1).dword(0xf000, 2).reg(Rbx, 2).reg(Rcx, 1);

    /// Segment bases add before paging (SDM 3A 3.1).
    segment_base_before_paging: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
        mov eax, fs:[0x10]
        out 0xf4, al
    ")).gdt(FREE, descriptor(0xe000, 0xffff, WRITABLE, SMALL32)).paged().page_to(PAGE, 0xf000, KERNEL_PAGE)
        .dword(0xf010, 5).reg(Rax, 5);

    /// Linear addresses wrap at 4 GiB outside 64-bit mode (SDM 1 3.3).
    linear_address_wraps: protected32(code32!("
        mov eax, 0x70
        mov fs, eax
        mov eax, fs:[0xe100]
        out 0xf4, al
    ")).gdt(FREE, descriptor(0xffff_ff00, 0xf_ffff, WRITABLE, FLAT32)).dword(PAGE, 5).reg(Rax, 5);

    /// PAE: a page mapped elsewhere (SDM 3A 4.4).
    pae_translation: read().pae().page_to(PAGE, 0xf000, KERNEL_PAGE).dword(0xf010, 0xabcd).reg(Rax, 0xabcd);

    /// PAE: a 2 MiB page (SDM 3A 4.4).
    pae_two_mebibytes: protected32(code32!("
        mov eax, [0x20d000]
        out 0xf4, al
    ")).pae().qword(PD + 8, 0x83).data(0x77).reg(Rax, 0x77).mem64(PD + 8, 0xa3);

    /// PAE: fetching from an NX page: P and I (SDM 3A 4.7).
    pae_execute_disable: protected32(code32!("
        mov eax, 0xe000
        jmp eax
    ")).pae().page(PAGE, KERNEL_PAGE | NX).event_at(Vector::PF, Some(0x11), PAGE).item("CR2", |s| s.cr2, PAGE);

    /// With NXE, a fetch from an absent page has the I bit as well.
    pae_absent_fetch: protected32(code32!("
        mov eax, 0xe000
        jmp eax
    ")).pae().page(PAGE, 0).event_at(Vector::PF, Some(0x10), PAGE).item("CR2", |s| s.cr2, PAGE);

    /// PAE: without EFER.NXE bit 63 is reserved (SDM 3A 4.4).
    pae_reserved_execute_disable: read().pae().patch(|s| s.efer = Efer::empty()).page(PAGE, KERNEL_PAGE | NX)
        .page_fault(9, 0xe010);

    /// PAE: the four directory pointers are loaded with CR3; changing them in
    /// memory does nothing before that (SDM 3A 4.4.1).
    pae_pdptes_are_cached: protected32(code32!("
        mov dword ptr [0x12000], 0
        mov dword ptr [0x14070], 0xf063
        invlpg [0xe000]
        mov eax, [0xe000]
        out 0xf4, al
    ")).pae().dword(0xf000, 9).reg(Rax, 9);

    /// PAE: a change of CR0.CD loads them too (SDM 3A 4.4.1).
    pae_pdptes_loaded_with_cr0: protected32(code32!("
        mov dword ptr [0x12008], 0x13001
        mov eax, cr0
        or eax, 0x40000000
        mov cr0, eax
        mov eax, [0x4000e000]
        out 0xf4, al
    ")).pae().dword(PAGE, 9).reg(Rax, 9);

    /// An instruction that runs over the segment's end into an absent page is
    /// #GP(0): the limit is checked first (SDM 3A 5.3).
    fetch_beyond_limit_and_page: protected32(code32!("
        mov eax, 0xdffe
        jmp eax
    ")).marked_code(code32!(at 0xdffe; "7: .byte 0xb8, 0")).paged().page(PAGE, 0)
        .patch(|s| s.segment_mut(x86::SegmentName::Cs).limit = 0xdfff).fault(Vector::GP, 0);

    /// PAE: reserved bits in a present directory pointer make MOV to CR3
    /// #GP(0) (SDM 3A 4.4.1).
    pae_reserved_pdpte: protected32(code32!("
        mov dword ptr [0x12008], 3
        mov eax, cr3
     7: mov cr3, eax
    ")).pae().fault(Vector::GP, 0);

    /// PAE: an absent directory pointer is an absent page (SDM 3A 4.7).
    pae_absent_pdpte: protected32(code32!("7: mov eax, [0x40000000]")).pae().page_fault(0, 0x4000_0000);

    /// PAE: directory pointers at an address that is only 32-byte aligned (SDM
    /// 3A 4.4.1).
    pae_pdpt_alignment: protected32(code32!("
        mov eax, 0x12020
        mov cr3, eax
        mov eax, [0xe000]
        out 0xf4, al
    ")).pae().qword(PDPT + 0x20, PD | 1).dword(PAGE, 9).reg(Rax, 9);

    /// A 16-bit stack of a 16-bit handler in a paged environment still obeys
    /// the page's rights: far return to 16-bit code on an absent page.
    sixteen_bit_code_absent: protected32(code32!("farjmp 0x38, 0xe000")).code(code16!(at 0xe000; "nop"))
        .paged().page(PAGE, 0).event_at(Vector::PF, Some(0), PAGE).pushed_cs(KCODE16);

    /// SMEP: supervisor fetch from a user page: P and I (SDM 3A 4.6).
    smep: protected32(code32!("
        mov eax, 0xe000
        jmp eax
    ")).needs(x86::cpuid::Feature::Smep).paged().patch(|s| s.cr4 |= Cr4::SMEP).page(PAGE, USER_PAGE)
        .event_at(Vector::PF, Some(0x11), PAGE);

    /// SMAP: supervisor read of a user page: P (SDM 3A 4.6).
    smap: read().needs(x86::cpuid::Feature::Smap).paged().patch(|s| s.cr4 |= Cr4::SMAP).page(PAGE, USER_PAGE)
        .page_fault(1, 0xe010);

    /// SMAP: STAC permits, CLAC forbids (SDM 2B, STAC).
    smap_stac_clac: protected32(code32!("
        stac
        mov ebx, [0xe000]
        clac
     7: mov ecx, [0xe000]
    ")).needs(x86::cpuid::Feature::Smap).paged().patch(|s| s.cr4 |= Cr4::SMAP).page(PAGE, USER_PAGE)
        .dword(PAGE, 5).page_fault(1, 0xe000).reg(Rbx, 5);

    /// SMAP: implicit supervisor accesses fault whatever EFLAGS.AC says (SDM
    /// 3A 4.6.1).
    smap_implicit_access: user32(code32!("
        mov eax, 0x0f
     7: mov ds, eax
    ")).needs(x86::cpuid::Feature::Smap).paged().patch(|s| {
        s.cr4 |= Cr4::SMAP;
        s.rflags |= x86::Rflags::AC;
        s.ldtr.base = PAGE;
    }).page(0, KERNEL_PAGE).page(0x1000, KERNEL_PAGE).page(0x3000, KERNEL_PAGE).page(0x4000, KERNEL_PAGE)
        .page(0x2000, KERNEL_PAGE).page_fault(1, 0xe008);
}
