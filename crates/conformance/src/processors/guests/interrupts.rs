//! Starting processors, and what they send each other.

use crate::asm::code32;
use crate::processors::{End, Several};

pub(super) fn guests() -> Vec<Several> {
    let starts = [("two_start", 2), ("five_start", 5), ("thirty_two_start", 32)];
    let mut all: Vec<_> =
        starts.map(|(name, cpus)| Several::new(name, cpus, End::Pass, start_boot(), start_other())).into();
    all.extend([
        Several::new("interrupts_between_processors", 3, End::Pass, kinds_boot(), kinds_other()),
        Several::new("a_kick_ends_a_halt", 2, End::Pass, kick_boot(), kick_other()),
        Several::new("a_mapping_is_shot_down", 2, End::Pass, shootdown_boot(), shootdown_other()),
    ]);
    all
}

/// Each processor has an APIC id of its own, and the leaves of CPUID say so.
fn start_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        mov ebx, [0x1000f8]
        dec ebx
    2:  pause
        cmp [0x7010], ebx
        jne 2b
        // A bit for each of the others.
        mov ecx, [0x1000f8]
        xor eax, eax
    3:  dec ecx
        jz 4f
        bts eax, ecx
        jmp 3b
    4:  mov dl, 0x41
        cmp [0x7014], eax
        jne 9f
        mov dl, [0x7018]
        test dl, dl
        jnz 9f
        // As many as CPUID tells.
        mov eax, 0xb
        mov ecx, 1
        cpuid
        mov dl, 0x42
        cmp ebx, [0x1000f8]
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn start_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        lock bts [0x7014], esi
        mov eax, [0xfee00020]
        shr eax, 24
        cmp eax, esi
        je 1f
        mov byte ptr [0x7018], 0x43
    1:  mov eax, 0xb
        xor ecx, ecx
        cpuid
        cmp edx, esi
        je 2f
        mov byte ptr [0x7018], 0x44
        // Not the boot processor (IA32_APIC_BASE).
    2:  mov ecx, 0x1b
        rdmsr
        test eax, 0x100
        jz 3f
        mov byte ptr [0x7018], 0x45
    3:  lock inc dword ptr [0x7010]
    9:  hlt
        jmp 9b
    ")
}

/// Fixed interrupts by physical and logical destination, shorthands, lowest
/// priority, NMI. Handler N counts at 7100h + 4 N.
fn kinds_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        jmp 1f
        .skip 0x10 - (. - 99b)
        lock inc dword ptr [0x7100]
        jmp 8f
        .skip 0x20 - (. - 99b)
        lock inc dword ptr [0x7104]
        jmp 8f
        .skip 0x30 - (. - 99b)
        lock inc dword ptr [0x7108]
        jmp 8f
        .skip 0x40 - (. - 99b)
        lock inc dword ptr [0x710c]
        jmp 8f
        .skip 0x50 - (. - 99b)
        lock inc dword ptr [0x7110]
        jmp 8f
        .skip 0x60 - (. - 99b)
        lock inc dword ptr [0x7114]
    8:  mov dword ptr [0xfee000b0], 0
        iretd
        .skip 0x80 - (. - 99b)
        // The handler of NMIs.
        lock inc dword ptr [0x7118]
        iretd

    1:  mov ecx, 0
    2:  lea eax, [ecx + 0x40]
        mov ebx, ecx
        shl ebx, 4
        add ebx, 0x110010
        mov ebp, 0x100130
        call ebp
        inc ecx
        cmp ecx, 6
        jne 2b
        mov eax, 2
        mov ebx, 0x110080
        mov ebp, 0x100130
        call ebp
        mov dword ptr [0xfee000e0], 0xffffffff
        mov dword ptr [0xfee000d0], 0x01000000
        mov ebp, 0x100100
        call ebp
    3:  pause
        cmp dword ptr [0x7010], 2
        jne 3b
        sti
        mov edi, 1
    4:  // To processor 1.
        mov dword ptr [0xfee00310], 0x01000000
        mov dword ptr [0xfee00300], 0x4040
        mov ebx, 0x7100
        mov ecx, edi
        call 7f
        // To processors 1 and 2 by their logical ids.
        mov dword ptr [0xfee00310], 0x06000000
        mov dword ptr [0xfee00300], 0x4841
        mov ebx, 0x7104
        lea ecx, [edi * 2]
        call 7f
        // To itself.
        mov dword ptr [0xfee00300], 0x44042
        mov ebx, 0x7108
        mov ecx, edi
        call 7f
        // To all, to all others.
        mov dword ptr [0xfee00300], 0x84043
        mov ebx, 0x710c
        lea ecx, [edi * 2 + edi]
        call 7f
        mov dword ptr [0xfee00300], 0xc4044
        mov ebx, 0x7110
        lea ecx, [edi * 2]
        call 7f
        // To one of all.
        mov dword ptr [0xfee00310], 0x07000000
        mov dword ptr [0xfee00300], 0x4945
        mov ebx, 0x7114
        mov ecx, edi
        call 7f
        // NMI.
        mov dword ptr [0xfee00310], 0x02000000
        mov dword ptr [0xfee00300], 0x4400
        mov ebx, 0x7118
        mov ecx, edi
        call 7f
        inc edi
        cmp edi, 12
        jne 4b
        mov ebp, 0x100110
        jmp ebp
        // Waits until the count at EBX is ECX, and no more soon after.
    7:  pause
        cmp [ebx], ecx
        jb 7b
        mov edx, 200
    6:  pause
        dec edx
        jnz 6b
        mov dl, bl
        add dl, 0x41
        cmp [ebx], ecx
        jne 9f
        ret
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn kinds_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov dword ptr [0xfee000e0], 0xffffffff
        mov ecx, esi
        mov eax, 0x01000000
        shl eax, cl
        mov [0xfee000d0], eax
        lock inc dword ptr [0x7010]
    1:  sti
        hlt
        jmp 1b
    ")
}

/// KVM's hypercall 5 ends a halt with interrupts off, and one that comes after
/// it.
fn kick_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        xor edi, edi
    1:  inc edi
        mov eax, 5
        xor ebx, ebx
        mov ecx, 1
        vmcall
        mov dl, 0x41
        test eax, eax
        jnz 9f
    2:  pause
        cmp [0x7010], edi
        jne 2b
        cmp edi, 20
        jne 1b
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn kick_other() -> crate::asm::Code {
    code32!(at 0x118000; "
    1:  cli
        hlt
        inc dword ptr [0x7010]
        jmp 1b
    ")
}

/// One processor moves a page while another writes to it all the time: once
/// that one has said that it has forgotten the old place, nothing is written
/// there any more.
fn shootdown_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        jmp 1f
        .skip 0x10 - (. - 99b)
        // 110010h: the handler.
        invlpg [0x400000]
        lock inc dword ptr [0x7014]
        mov dword ptr [0xfee000b0], 0
        iretd
        .skip 0x40 - (. - 99b)
        // 110040h: paging on.
        mov eax, 0x300000
        mov cr3, eax
        mov eax, cr4
        or eax, 0x10
        mov cr4, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        ret
    1:  mov dword ptr [0x300000], 0x83
        mov dword ptr [0x300004], 0x301003
        mov dword ptr [0x300fec], 0xfec00093
        mov dword ptr [0x301000], 0x302003
        mov eax, 0x40
        mov ebx, 0x110010
        mov ebp, 0x100130
        call ebp
        mov eax, 0x110040
        call eax
        mov ebp, 0x100100
        call ebp
        mov edi, 0x302000
        mov ebx, 0x303000
        xor ecx, ecx
    2:  inc ecx
        // Wait for writes at the old place.
        mov eax, [edi]
    3:  pause
        cmp [edi], eax
        je 3b
        lea eax, [ebx + 3]
        mov [0x301000], eax
        mov dword ptr [0xfee00300], 0xc4040
    4:  pause
        cmp [0x7014], ecx
        jne 4b
        mov eax, [edi]
        mov ebp, [ebx]
    5:  pause
        cmp [ebx], ebp
        je 5b
        mov dl, 0x41
        cmp [edi], eax
        jne 9f
        xchg edi, ebx
        cmp ecx, 40
        jne 2b
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn shootdown_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov eax, 0x110040
        call eax
        sti
        xor eax, eax
    1:  inc eax
        mov [0x400000], eax
        jmp 1b
    ")
}
