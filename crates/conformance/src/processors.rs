//! Guests for machines with several processors: kernels that start the others
//! by INIT and start-up IPIs, work together, say how it went, and power off.
//!
//! They are data: a multiboot kernel each, to be run by a whole machine. What
//! passes prints `pass` on the debug console; what does not prints a letter for
//! the check that failed.

mod guests;

use crate::asm::{Code, code16, code32};

/// Where the kernel is loaded, and where its parts lie.
const BASE: u32 = 0x10_0000;
const VERDICTS: u32 = 0x10_0800;
const BOOT: u32 = 0x11_0000;
const OTHERS: u32 = 0x11_8000;
const TRAMPOLINE: u32 = 0x11_c000;
const END: u32 = 0x11_d000;
/// The number of processors, for the kernel to read.
const CPUS: u32 = 0x10_00f8;

/// How a run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest says that all is well, and powers off.
    Pass,
    /// A processor shuts down.
    TripleFault,
    /// Nothing ends it but the host.
    Never,
}

/// A guest for several processors.
#[derive(Clone, Debug)]
pub struct Several {
    /// Its name.
    pub name: &'static str,
    /// How many processors it wants.
    pub cpus: u32,
    /// How it ends.
    pub end: End,
    /// The kernel file.
    pub image: Vec<u8>,
}

impl Several {
    fn new(name: &'static str, cpus: u32, end: End, boot: Code, others: Code) -> Self {
        let mut image = vec![0xf4; (END - BASE) as usize];
        let mut put = |at: u32, bytes: &[u8]| {
            let start = (at - BASE) as usize;
            image[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(BASE, prelude().bytes);
        put(VERDICTS, verdicts().bytes);
        put(BOOT, boot.bytes);
        put(OTHERS, others.bytes);
        put(TRAMPOLINE, trampoline().bytes);
        put(CPUS, &cpus.to_le_bytes());
        Self { name, cpus, end, image }
    }
}

/// All of them.
pub fn several() -> Vec<Several> {
    guests::all()
}

/// What all kernels share. Routines for the rest, called by address; they
/// change EAX, EDX and EBP:
///
/// - 100100h: starts the others and waits until all have come
/// - 100110h: says that all is well and powers off
/// - 100120h: says that check DL failed and powers off
/// - 100130h: makes EBX the handler of vector EAX
///
/// The others come to [`OTHERS`], each with a stack of its own and its APIC id
/// in ESI; the boot processor comes to [`BOOT`] with 0 there. Interrupts are
/// off, the local APICs on. The table of interrupts is at 6000h, the number of
/// those that have come at 7000h; what follows there is free.
fn prelude() -> Code {
    code32!(at 0x100000; "
        .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long 0x100000, 0x100000, 0x11d000, 0, 0x100040
        .skip 0x40 - (. - 99b)
        // 100040h: the entry.
        cli
        mov esp, 0x80000
        mov esi, 0x11c000
        mov edi, 0x8000
        mov ecx, 0x100
        cld
        rep movsd
        mov eax, 0x8040
        lgdt [eax]
        farjmp 8, 0x100080
        .skip 0x80 - (. - 99b)
        // 100080h
        xor esi, esi
        jmp 2f
        .skip 0x100 - (. - 99b)
        jmp 10f
        .skip 0x110 - (. - 99b)
        mov eax, 0x100800
        jmp eax
        .skip 0x120 - (. - 99b)
        mov eax, 0x100810
        jmp eax
        .skip 0x130 - (. - 99b)
        jmp 13f
        .skip 0x180 - (. - 99b)
        // 100180h: the others, from the trampoline.
        mov eax, 1
        cpuid
        shr ebx, 24
        mov esi, ebx

    2:  mov eax, 16
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov gs, ax
        mov esp, 0x80000
        mov eax, esi
        shl eax, 12
        sub esp, eax
        test esi, esi
        jnz 3f
        // Whatever is not expected fails as check X.
        mov ebx, 0x100820
        xor ecx, ecx
    4:  mov eax, ecx
        call 13f
        inc ecx
        cmp ecx, 256
        jne 4b
        mov word ptr [0x6ff0], 0x7ff
        mov dword ptr [0x6ff2], 0x6000
        mov al, 0xff
        out 0x21, al
        out 0xa1, al
    3:  mov eax, 0x6ff0
        lidt [eax]
        or dword ptr [0xfee000f0], 0x100
        test esi, esi
        jnz 5f
        mov eax, 0x110000
        jmp eax
    5:  lock inc dword ptr [0x7000]
        mov eax, 0x118000
        jmp eax

    // Start the others: INIT, then two start-up IPIs, to all but this one.
    10: mov dword ptr [0xfee00300], 0xc4500
        mov edx, 1000
    6:  pause
        dec edx
        jnz 6b
        mov dword ptr [0xfee00300], 0xc4608
        mov edx, 1000
    7:  pause
        dec edx
        jnz 7b
        mov dword ptr [0xfee00300], 0xc4608
    8:  pause
        mov eax, [0x1000f8]
        dec eax
        cmp eax, [0x7000]
        jne 8b
        ret

    // A gate.
    13: shl eax, 3
        mov edx, ebx
        mov [eax + 0x6000], dx
        mov word ptr [eax + 0x6002], 8
        mov word ptr [eax + 0x6004], 0x8e00
        shr edx, 16
        mov [eax + 0x6006], dx
        ret
    ")
}

/// How a run ends.
fn verdicts() -> Code {
    code32!(at 0x100800; "
        jmp 11f
        .skip 0x10 - (. - 99b)
        // 100810h: check DL has failed.
        jmp 12f
        .skip 0x20 - (. - 99b)
        // 100820h: something has come that nobody expects.
        mov dl, 0x58
    12: mov al, dl
        out 0xe9, al
        jmp 15f

    // pass
    11: mov al, 0x70
        out 0xe9, al
        mov al, 0x61
        out 0xe9, al
        mov al, 0x73
        out 0xe9, al
        out 0xe9, al
    15: mov dx, 0x604
        mov ax, 0x2000
        out dx, ax
    16: hlt
        jmp 16b
    ")
}

/// Where start-up IPIs lead: from real mode to [`prelude`].
fn trampoline() -> Code {
    code16!(
        "
        cli
        xor ax, ax
        mov ds, ax
        .byte 0x0f, 0x01, 0x16, 0x40, 0x80   // lgdt [8040h]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        .byte 0x66, 0xea
        .long 0x100180
        .word 8
        .skip 0x40 - (. - 99b)
        .word 31
        .long 0x8048
        .word 0
        .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
    "
    )
}
