//! 4-level and 5-level paging, canonical addresses, PCIDs (SDM 3A 4.5 to
//! 4.10).

use x86::cpuid::Feature;
use x86::{Cr4, Efer, Gpr::*, Vector};

use crate::asm::code64;
use crate::env::{long64, user64};
use crate::expect::FrameItem;
use crate::guest::{Guest, guests};
use crate::layout::*;

const PAGE: u64 = 0xe000;

fn read() -> Guest {
    long64(code64!(
        "
     7: mov eax, [0xe010]
        out 0xf4, al
    "
    ))
    .dword(0xe010, 0x1234_5678)
}

fn fetch() -> Guest {
    long64(code64!(
        "
        mov eax, 0xe000
        jmp rax
    "
    ))
    .code(code64!(at 0xe000; "out 0xf4, al"))
}

/// Reads from the address in RBX.
fn read_at(address: u64) -> Guest {
    long64(code64!(
        "
     7: mov eax, [rbx]
        out 0xf4, al
    "
    ))
    .with(Rbx, address)
}

/// A fault of the fetch at the tried page.
fn fetch_fault(guest: Guest, code: u32) -> Guest {
    guest.event_at(Vector::PF, Some(code), PAGE).item("CR2", |s| s.cr2, PAGE)
}

guests! { "long_paging";
    /// A page mapped elsewhere (SDM 3A 4.5).
    translation: read().page_to(PAGE, 0xf000, KERNEL_PAGE).dword(0xf010, 7).reg(Rax, 7);

    /// An absent page (SDM 3A 4.7).
    absent: read().page(PAGE, 0).page_fault(0, 0xe010);

    /// An absent level-4 entry; CR2 has all 64 bits (SDM 3A 4.7).
    absent_level_4: read_at(0xffff_8000_0000_1234).page_fault(0, 0xffff_8000_0000_1234);

    /// An absent directory pointer (SDM 3A 4.7).
    absent_level_3: read_at(0x40_0000_0000 - 8).page_fault(0, 0x40_0000_0000 - 8);

    /// User access to a supervisor page: P and U (SDM 3A 4.6).
    user_reads_supervisor_page: user64(code64!("7: mov eax, [0xe010]")).page(PAGE, KERNEL_PAGE)
        .page_fault(5, 0xe010);

    /// The U/S bit of every level counts (SDM 3A 4.6).
    supervisor_level_4: user64(code64!("7: nop")).qword(PML4, PDPT | 0x23).page_fault(0x15, MAIN);

    /// User write of a page that is read-only at a higher level (SDM 3A 4.6).
    read_only_level_2: user64(code64!("7: mov [0x20e010], eax")).qword(PD + 8, PT | 0x25)
        .page_fault(7, 0x20_e010);

    /// A 2 MiB page; the processor sets A and D in its directory entry (SDM
    /// 3A 4.5, 4.8).
    two_mebibytes: long64(code64!("
        mov eax, [0x20d000]
        mov [0x20d008], eax
        out 0xf4, al
    ")).qword(PD + 8, 0x83).data(0x77).reg(Rax, 0x77).mem32(DATA + 8, 0x77).mem64(PD + 8, 0xe3);

    /// A 1 GiB page (SDM 3A 4.5).
    one_gibibyte: read_at(0x4000_d000).needs(Feature::Page1Gb).qword(PDPT + 8, 0x83).data(0x77).reg(Rax, 0x77)
        .mem64(PDPT + 8, 0xa3);

    /// Reserved bits of a 2 MiB entry: P and RSVD (SDM 3A 4.7).
    two_mebibytes_reserved: read_at(0x20_d000).qword(PD + 8, 0x2083).page_fault(9, 0x20_d000);

    /// Reserved bits of a 1 GiB entry (SDM 3A 4.7).
    one_gibibyte_reserved: read_at(0x4000_d000).needs(Feature::Page1Gb).qword(PDPT + 8, 0x2083)
        .page_fault(9, 0x4000_d000);

    /// The page-size bit of a level-4 entry is reserved (SDM 3A 4.5).
    level_4_page_size: read_at(0x80_0000_0000).qword(PML4 + 8, PDPT | TABLE | 0x80)
        .page_fault(9, 0x80_0000_0000);

    /// Address bits beyond the physical width are reserved (SDM 3A 4.5).
    physical_width: read().page(PAGE, 1 << 51 | KERNEL_PAGE).page_fault(9, 0xe010);

    /// Without NXE bit 63 is reserved (SDM 3A 4.5).
    reserved_execute_disable: read().patch(|s| s.efer.remove(Efer::NXE)).page(PAGE, NX | KERNEL_PAGE)
        .page_fault(9, 0xe010);

    /// Fetching from an NX page: P and I (SDM 3A 4.6).
    execute_disable: fetch_fault(fetch().page(PAGE, NX | KERNEL_PAGE), 0x11);

    /// NX at a higher level; reading is fine (SDM 3A 4.6).
    execute_disable_level_2: long64(code64!("
        mov ebx, [0x20d000]
        mov eax, 0x20d000
        jmp rax
    ")).qword(PD + 8, NX | 0x83).data(0x77).event_at(Vector::PF, Some(0x11), 0x20_d000).reg(Rbx, 0x77);

    /// A user fetch from an NX page: P, U and I (SDM 3A 4.7).
    user_execute_disable: fetch_fault(user64(code64!("
        mov eax, 0xe000
        jmp rax
    ")).page(PAGE, NX | USER_PAGE), 0x15);

    /// SMEP: supervisor fetch from a user page (SDM 3A 4.6).
    smep: fetch_fault(fetch().needs(Feature::Smep).patch(|s| s.cr4 |= Cr4::SMEP).page(PAGE, USER_PAGE), 0x11);

    /// Without SMEP the supervisor may execute user pages (SDM 3A 4.6).
    no_smep: fetch().page(PAGE, USER_PAGE);

    /// SMAP and a supervisor write: P and W (SDM 3A 4.6).
    smap_write: long64(code64!("7: mov [0xe010], eax")).needs(Feature::Smap).patch(|s| s.cr4 |= Cr4::SMAP)
        .page(PAGE, USER_PAGE).page_fault(3, 0xe010);

    /// SMAP does not forbid user mode its own pages (SDM 3A 4.6).
    smap_user_access: user64(code64!("
        mov eax, [0xe010]
     7: ud2
    ")).needs(Feature::Smap).patch(|s| s.cr4 |= Cr4::SMAP).dword(0xe010, 5)
        .page(0, KERNEL_PAGE).page(0x1000, KERNEL_PAGE).page(0x2000, KERNEL_PAGE).page(0x3000, KERNEL_PAGE)
        .page(0x4000, KERNEL_PAGE).event(Vector::UD).reg(Rax, 5);

    /// A non-canonical address is #GP(0) (SDM 1 3.3.7.1).
    non_canonical: read_at(0x8000_0000_0000).fault(Vector::GP, 0);

    /// Through RSP or RBP it is #SS(0) (SDM 3A 6.15, interrupt 12).
    non_canonical_stack: long64(code64!("
        mov rbp, 0x800000000000
     7: mov eax, [rbp]
    ")).fault(Vector::SS, 0);

    /// PUSH to a non-canonical address is #SS(0); RSP stays.
    non_canonical_push: user64(code64!("
        mov rsp, 0x1000000000000
     7: push qword ptr [0xd000]
    ")).fault(Vector::SS, 0).pushed(FrameItem::Sp, u64::MAX, 0x1_0000_0000_0000);

    /// An access that runs from the last canonical byte over the edge faults
    /// (SDM 1 3.3.7.1).
    canonical_edge: read_at(0x7fff_ffff_fffe).qword(PML4 + 255 * 8, PDPT | TABLE)
        .qword(PDPT + 511 * 8, PD | TABLE).qword(PD + 511 * 8, 0x83).fault(Vector::GP, 0);

    /// A jump to a non-canonical address faults at the jump (SDM 2A, JMP).
    non_canonical_jump: long64(code64!("
        mov rax, 0x800000000000
     7: jmp rax
    ")).fault(Vector::GP, 0);

    /// RET to a non-canonical address faults at the RET (SDM 2B, RET).
    non_canonical_return: long64(code64!("
        mov rax, 0x800000000000
        push rax
     7: ret
    ")).fault(Vector::GP, 0);

    /// An address is not canonical although its lower 48 bits are those of code
    /// that has been called before, in a mode that differs (SDM 2A, JMP).
    non_canonical_alias: long64(code64!("
        mov eax, 0x9000
        call rax
        stac
        mov rcx, 0xffff000000009000
     7: jmp rcx
    ")).code(code64!(at 0x9000; "ret")).needs(Feature::Smap).patch(|s| s.cr4 |= Cr4::SMAP)
        .fault(Vector::GP, 0);

    /// FS bases count for canonicality, not limits (SDM 3A 3.4.4).
    fs_base: long64(code64!("
        mov ecx, 0xc0000100
        mov eax, 0xd000
        xor edx, edx
        wrmsr
        mov ebx, fs:[8]
        out 0xf4, al
    ")).qword(DATA + 8, 0x55).reg(Rbx, 0x55);

    /// 5-level paging translates (SDM 3A 4.5).
    la57: read().la57().reg(Rax, 0x1234_5678);

    /// With 57 bits, bit 47 alone is canonical: a page fault (SDM 3A 4.5).
    la57_canonical: read_at(0x8000_0000_0000).la57().page_fault(0, 0x8000_0000_0000);

    /// Bit 56 alone is not (SDM 3A 4.5).
    la57_non_canonical: read_at(1 << 56).la57().fault(Vector::GP, 0);

    /// Processors let registers take addresses of the width that they support,
    /// also while CR4.LA57 is clear.
    la57_registers: long64(code64!("
        lgdt [0xd000]
        lidt [0xd000]
        sgdt [0xd010]
        sidt [0xd020]
        mov rbx, [0xd012]
        mov rcx, [0xd022]
        out 0xf4, al
    ")).needs(Feature::La57).word(DATA, 0x7f).qword(DATA + 2, 0xaa_aaaa_aaaa_aaaa)
        .reg(Rbx, 0xaa_aaaa_aaaa_aaaa).reg(Rcx, 0xaa_aaaa_aaaa_aaaa);

    /// But no wider ones: #GP(0) (SDM 2A, LGDT).
    la57_registers_non_canonical: long64(code64!("7: lgdt [0xd000]")).needs(Feature::La57)
        .word(DATA, 0x7f).qword(DATA + 2, 0x1aa_aaaa_aaaa_aaaa).fault(Vector::GP, 0);

    /// CR4.LA57 cannot change in IA-32e mode: #GP(0) (SDM 2B, MOV to CR).
    la57_toggle: long64(code64!("
        mov rax, cr4
        or eax, 0x1000
     7: mov cr4, rax
    ")).needs(Feature::La57).fault(Vector::GP, 0);

    /// CR4.PAE cannot be cleared in IA-32e mode (SDM 2B, MOV to CR).
    pae_cannot_go: long64(code64!("
        mov rax, cr4
        and eax, 0xffffffdf
     7: mov cr4, rax
    ")).fault(Vector::GP, 0);

    /// CR4.PCIDE needs CR3[11:0] to be zero (SDM 3A 4.10.1).
    pcid_needs_clean_cr3: long64(code64!("
        mov rax, cr3
        or eax, 8
        mov cr3, rax
        mov rax, cr4
        or eax, 0x20000
     7: mov cr4, rax
    ")).needs(Feature::Pcid).fault(Vector::GP, 0);

    /// MOV to CR3 with bit 63 keeps that PCID's translations; the bit is not
    /// stored (SDM 3A 4.10.4.1).
    pcid_no_flush: long64(code64!("
        mov rax, cr4
        or eax, 0x20000
        mov cr4, rax
        mov rax, cr3
        or eax, 5
        bts rax, 63
        mov cr3, rax
        mov rbx, cr3
        mov ecx, [0xe000]
        out 0xf4, al
    ")).needs(Feature::Pcid).dword(PAGE, 4).reg(Rbx, PML4 | 5).reg(Rcx, 4);

    /// Without CR4.PCIDE bit 63 of CR3 is reserved (SDM 2B, MOV to CR).
    cr3_reserved: long64(code64!("
        mov rax, cr3
        bts rax, 63
     7: mov cr3, rax
    ")).fault(Vector::GP, 0);

    /// Different PCIDs translate differently (SDM 3A 4.10.1).
    pcid_switch: long64(code64!("
        mov rax, cr4
        or eax, 0x20000
        mov cr4, rax
        mov rbp, cr3
        mov ebx, [0xe000]
        mov eax, 0x16001
        mov cr3, rax
        mov ecx, [0xe000]
        mov cr3, rbp
        mov edx, [0xe000]
        out 0xf4, al
    ")).needs(Feature::Pcid)
        .qword(SPARE_TABLE, 0x1_7000 | TABLE).qword(0x1_7000, 0x83)
        .page_to(PAGE, 0xf000, KERNEL_PAGE).dword(PAGE, 1).dword(0xf000, 2)
        .needs(Feature::Page1Gb).reg(Rbx, 2).reg(Rcx, 1).reg(Rdx, 2);

    /// INVPCID of a type above 3 is #GP(0) (SDM 2A, INVPCID).
    invpcid_type: long64(code64!("
        mov eax, 4
     7: invpcid rax, [0xd000]
    ")).needs(Feature::Invpcid).fault(Vector::GP, 0);

    /// INVPCID with reserved descriptor bits is #GP(0) (SDM 2A, INVPCID).
    invpcid_reserved: long64(code64!("
        xor eax, eax
     7: invpcid rax, [0xd000]
    ")).needs(Feature::Invpcid).data(0x1000).fault(Vector::GP, 0);

    /// Whatever its type is (SDM 2A, INVPCID).
    invpcid_reserved_of_all: long64(code64!("
        mov eax, 2
     7: invpcid rax, [0xd000]
    ")).needs(Feature::Invpcid).data(0x1000).fault(Vector::GP, 0);

    /// INVPCID of one address makes a new entry count (SDM 2A, INVPCID).
    invpcid_address: long64(code64!("
        mov ebx, [0xe000]
        mov dword ptr [0x14070], 0xf063
        xor eax, eax
        invpcid rax, [0xd000]
        mov ecx, [0xe000]
        out 0xf4, al
    ")).needs(Feature::Invpcid).qword(DATA + 8, PAGE).dword(PAGE, 1).dword(0xf000, 2).reg(Rbx, 1).reg(Rcx, 2);

    /// Toggling CR4.PGE drops global translations (SDM 3A 4.10.4.1).
    global_pages: long64(code64!("
        mov ebx, [0xe000]
        mov dword ptr [0x14070], 0xf063
        mov rax, cr4
        and eax, 0xffffff7f
        mov cr4, rax
        mov ecx, [0xe000]
        out 0xf4, al
    ")).patch(|s| s.cr4 |= Cr4::PGE).page(PAGE, KERNEL_PAGE | 0x100).dword(PAGE, 1).dword(0xf000, 2)
        .reg(Rbx, 1).reg(Rcx, 2);

    /// A crossing access of 8 bytes is atomic against the fault (SDM 3A 4.7).
    crossing_write_is_atomic: long64(code64!("
        mov rax, -1
     7: mov [0xdffc], rax
    ")).page(PAGE, 0).page_fault(2, PAGE).mem32(0xdffc, 0);

    /// A crossing 16-byte store likewise.
    crossing_vector_store: long64(code64!("
        pcmpeqd xmm0, xmm0
     7: movups [0xdff8], xmm0
    ")).page(PAGE, 0x61).page_fault(3, PAGE).mem64(0xdff8, 0);

    /// XCHG with memory that may be read but not written is a write fault and
    /// changes nothing (SDM 2B, XCHG).
    exchange_read_only: long64(code64!("7: xchg [0xe000], rax")).with(Rax, 5).page(PAGE, 0x61)
        .page_fault(3, PAGE).reg(Rax, 5);

    /// CMPXCHG that does not match still writes: a write fault (SDM 2A,
    /// CMPXCHG).
    cmpxchg_read_only: long64(code64!("7: cmpxchg [0xe000], rbx")).with(Rax, 5).page(PAGE, 0x61)
        .page_fault(3, PAGE).reg(Rax, 5);

    /// Sixteen-byte instructions are #GP(0) (SDM 2A 2.3.11).
    instruction_too_long: long64(code64!("
        nop
     7: .byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90
    ")).fault(Vector::GP, 0);

    /// Fifteen bytes are fine (SDM 2A 2.3.11).
    instruction_of_fifteen_bytes: long64(code64!("
        .byte 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90
        out 0xf4, al
    "));

    /// Memory-mapped I/O: sizes and values reach the machine (SDM 1 19.3.1).
    mmio: long64(code64!("
        mov eax, [0xe004]
        movzx ebx, byte ptr [0xe001]
        mov [0xe008], rcx
        mov word ptr [0xe010], 0x1234
        out 0xf4, al
    ")).page_to(PAGE, MMIO, KERNEL_PAGE).with(Rcx, 0x1122_3344_5566_7788)
        .reg(Rax, 0x5d5c_5f5e).reg(Rbx, 0x5b)
        .io(&[
            crate::Io::Load { at: MMIO + 4, size: 4 },
            crate::Io::Load { at: MMIO + 1, size: 1 },
            crate::Io::Store { at: MMIO + 8, size: 8, value: 0x1122_3344_5566_7788 },
            crate::Io::Store { at: MMIO + 16, size: 2, value: 0x1234 },
        ]);

    /// Read-modify-write of memory-mapped I/O reads once and writes once.
    mmio_rmw: long64(code64!("
        or dword ptr [0xe004], 1
        out 0xf4, al
    ")).page_to(PAGE, MMIO, KERNEL_PAGE).io(&[
        crate::Io::Load { at: MMIO + 4, size: 4 },
        crate::Io::Store { at: MMIO + 4, size: 4, value: 0x5d5c_5f5f },
    ]);
}
