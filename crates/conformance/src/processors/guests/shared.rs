//! Memory that several processors use at once.

use crate::asm::code32;
use crate::processors::{End, Several};

pub(super) fn guests() -> Vec<Several> {
    vec![
        Several::new("locked_counters", 2, End::Pass, counters_boot(), counters_other()),
        Several::new("locks_across_pages", 2, End::Pass, across_boot(), across_other()),
        Several::new("locked_counter_beside_code", 2, End::Pass, beside_boot(), beside_other()),
        Several::new("sixteen_bytes_at_once", 2, End::Pass, sixteen_boot(), sixteen_other()),
        Several::new("messages_arrive_in_order", 2, End::Pass, message_boot(), message_other()),
        Several::new("barriers_order_stores_and_loads", 2, End::Pass, barrier_boot(), barrier_other()),
    ]
}

/// Both count in many ways, then the boot processor looks at the sums.
fn counters_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        mov eax, 0x118000
        call eax
    2:  pause
        cmp dword ptr [0x7010], 2
        jne 2b
        mov dl, 0x41
        cmp dword ptr [0x200000], 40000
        jne 9f
        inc dl
        cmp dword ptr [0x200004], 40000
        jne 9f
        inc dl
        cmp dword ptr [0x200008], 40000
        jne 9f
        inc dl
        cmp dword ptr [0x200010], 40000
        jne 9f
        inc dl
        cmp dword ptr [0x200018], 40000
        jne 9f
        inc dl
        cmp dword ptr [0x200024], 40000
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn counters_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        push esi
        mov ecx, 20000
    1:  lock inc dword ptr [0x200000]
        mov eax, 1
        lock xadd [0x200004], eax
        // A lock by XCHG around a plain counter.
    2:  mov eax, 1
        xchg [0x20000c], eax
        test eax, eax
        jz 3f
        pause
        jmp 2b
    3:  inc dword ptr [0x200008]
        mov dword ptr [0x20000c], 0
        // CMPXCHG.
    4:  mov eax, [0x200010]
        lea edx, [eax + 1]
        lock cmpxchg [0x200010], edx
        jnz 4b
        // CMPXCHG8B.
        push ecx
    5:  mov eax, [0x200018]
        mov edx, [0x20001c]
        mov ebx, eax
        mov ecx, edx
        add ebx, 1
        adc ecx, 0
        lock cmpxchg8b [0x200018]
        jnz 5b
        pop ecx
        // A lock by LOCK BTS with the number in a register.
        mov ebx, 37
    6:  lock bts [0x200020 - 4], ebx
        jnc 7f
        pause
        jmp 6b
    7:  inc dword ptr [0x200024]
        lock btr [0x200020 - 4], ebx
        dec ecx
        jnz 1b
        lock inc dword ptr [0x7010]
        pop esi
        test esi, esi
        jz 8f
        cli
    9:  hlt
        jmp 9b
    8:  ret
    ")
}

/// The same across the ends of pages, where the host has no atomic access.
fn across_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        mov eax, 0x118000
        call eax
    2:  pause
        cmp dword ptr [0x7010], 2
        jne 2b
        mov dl, 0x41
        cmp dword ptr [0x200ffe], 200
        jne 9f
        inc dl
        cmp dword ptr [0x200000], 200
        jne 9f
        inc dl
        cmp dword ptr [0x202ffc], 200
        jne 9f
        inc dl
        cmp dword ptr [0x200004], 200
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn across_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        push esi
        mov ecx, 100
    1:  lock add dword ptr [0x200ffe], 1
    2:  mov eax, 1
        xchg [0x201ffd], eax
        test eax, eax
        jz 3f
        pause
        jmp 2b
    3:  inc dword ptr [0x200000]
        mov dword ptr [0x201ffd], 0
        push ecx
    5:  mov eax, [0x202ffc]
        mov edx, [0x203000]
        mov ebx, eax
        mov ecx, edx
        add ebx, 1
        adc ecx, 0
        lock cmpxchg8b [0x202ffc]
        jnz 5b
        pop ecx
        mov ebx, 19
    6:  lock bts [0x204ffe], ebx
        jnc 7f
        pause
        jmp 6b
    7:  inc dword ptr [0x200004]
        lock btr [0x204ffe], ebx
        dec ecx
        jnz 1b
        lock inc dword ptr [0x7010]
        pop esi
        test esi, esi
        jz 8f
        cli
    9:  hlt
        jmp 9b
    8:  ret
    ")
}

/// A counter among code that runs.
fn beside_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        jmp 1f
        .skip 8 - (. - 99b)
        .long 0
    1:  mov ebp, 0x100100
        call ebp
        mov dword ptr [0x7014], 1
        mov ecx, 500
    3:  lock inc dword ptr [0x110008]
        dec ecx
        jnz 3b
    2:  pause
        cmp dword ptr [0x7010], 1
        jne 2b
        mov dl, 0x41
        cmp dword ptr [0x110008], 1000
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn beside_other() -> crate::asm::Code {
    code32!(at 0x118000; "
    1:  pause
        cmp dword ptr [0x7014], 1
        jne 1b
        mov ecx, 500
    2:  lock inc dword ptr [0x110008]
        dec ecx
        jnz 2b
        lock inc dword ptr [0x7010]
    9:  hlt
        jmp 9b
    ")
}

/// Both halves of a number of 16 bytes count alike in 64-bit mode, where the
/// routines that end a run mean the same.
fn sixteen_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov dword ptr [0x300000], 0x301003
        mov dword ptr [0x301000], 0x302003
        xor ecx, ecx
        mov eax, 0x83
    1:  mov [0x302000 + ecx * 8], eax
        add eax, 0x200000
        inc ecx
        cmp ecx, 8
        jne 1b
        mov ebp, 0x100100
        call ebp
        mov eax, 0x118000
        jmp eax
    ")
}

fn sixteen_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov eax, 0x300000
        mov cr3, eax
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        wrmsr
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        farjmp 24, 0x118040
        .skip 0x40 - (. - 99b)
        .code64
        mov edi, 0x200000
        mov r8d, 20000
    1:  mov rax, [rdi]
        mov rdx, [rdi + 8]
    2:  lea rbx, [rax + 1]
        lea rcx, [rdx + 1]
        lock cmpxchg16b [rdi]
        jnz 2b
        cmp rax, rdx
        jne 9f
        dec r8d
        jnz 1b
        mov edi, 0x7010
        lock inc dword ptr [rdi]
        test esi, esi
        jnz 4f
    3:  pause
        cmp dword ptr [rdi], 2
        jne 3b
        mov edi, 0x200000
        cmp qword ptr [rdi], 40000
        jne 9f
        cmp qword ptr [rdi + 8], 40000
        jne 9f
        mov ebp, 0x100110
        jmp rbp
    4:  hlt
        jmp 4b
    9:  mov dl, 0x41
        mov ebp, 0x100120
        jmp rbp
        .code32
    ")
}

/// Stores are seen in their order, and loads done in theirs (SDM 3A 9.2.2).
fn message_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        xor ecx, ecx
    1:  inc ecx
        mov [0x200000], ecx
        mov [0x201000], ecx
        cmp ecx, 300000
        jne 1b
    2:  pause
        mov eax, [0x7010]
        test eax, eax
        jz 2b
        mov dl, 0x41
        cmp eax, 1
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn message_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov edx, 1
    1:  mov eax, [0x201000]
        mov ebx, [0x200000]
        cmp ebx, eax
        jae 2f
        mov edx, 2
    2:  cmp eax, 300000
        jne 1b
        mov [0x7010], edx
    9:  hlt
        jmp 9b
    ")
}

/// With a barrier between its store and its load, one of two processors sees
/// the other's store (SDM 3A 9.2.3.4): by MFENCE in even rounds, by XCHG in odd
/// ones.
fn barrier_boot() -> crate::asm::Code {
    code32!(at 0x110000; "
        mov ebp, 0x100100
        call ebp
        mov edi, 0x200000
        mov ebx, 0x200100
        mov eax, 0x118040
        call eax
        mov dl, 0x41
        cmp dword ptr [0x7020], 0
        jne 9f
        mov ebp, 0x100110
        jmp ebp
    9:  mov ebp, 0x100120
        jmp ebp
    ")
}

fn barrier_other() -> crate::asm::Code {
    code32!(at 0x118000; "
        mov edi, 0x200100
        mov ebx, 0x200000
        mov eax, 0x118040
        call eax
    9:  hlt
        jmp 9b
        .skip 0x40 - (. - 99b)
        // The places to store to and to load from are in EDI and EBX.
        xor ecx, ecx
    1:  inc ecx
        // Both begin a round together.
        lock inc dword ptr [0x7030]
        lea edx, [ecx * 2]
    2:  cmp [0x7030], edx
        jae 3f
        pause
        jmp 2b
    3:  test ecx, 1
        jnz 4f
        mov [edi], ecx
        mfence
        jmp 5f
    4:  mov eax, ecx
        xchg [edi], eax
    5:  mov eax, [ebx]
        mov [edi + 0x40], eax
        lock inc dword ptr [0x7034]
    6:  cmp [0x7034], edx
        jae 7f
        pause
        jmp 6b
    7:  cmp [0x200040], ecx
        je 8f
        cmp [0x200140], ecx
        je 8f
        mov [0x7020], ecx
    8:  cmp ecx, 60
        jne 1b
        ret
    ")
}
