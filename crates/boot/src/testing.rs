//! Synthetic kernels for tests.

use memory::GuestMemory;
use x86::GuestPhysAddr;

/// Overwrites bytes of a file.
pub(crate) fn put(file: &mut [u8], offset: usize, value: &[u8]) {
    file[offset..offset + value.len()].copy_from_slice(value);
}

/// The zero-terminated string at `at`.
pub(crate) fn read_string(memory: &GuestMemory, at: u64) -> String {
    let byte = |i| {
        let mut byte = [0];
        memory.read(GuestPhysAddr(at + i), &mut byte).unwrap();
        byte[0]
    };
    (0..).map(byte).take_while(|&byte| byte != 0).map(char::from).collect()
}

/// A bzImage of protocol 2.15, relocatable, with both entries.
pub(crate) fn bzimage() -> Vec<u8> {
    bzimage_with_payload(&[0x90; 64])
}

/// The same around a payload.
pub(crate) fn bzimage_with_payload(payload: &[u8]) -> Vec<u8> {
    const PAYLOAD_OFFSET: usize = 0x300;
    let mut file = vec![0; 1024];
    let mut code = vec![0x90; PAYLOAD_OFFSET];
    code.extend_from_slice(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let fields: [(usize, &[u8]); 17] = [
        (0x1f1, &[1]),
        (0x1f4, &(code.len() as u32 / 16).to_le_bytes()),
        (0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]),
        (0x202, b"HdrS"),
        (0x206, &0x20f_u16.to_le_bytes()),
        (0x20e, &0x80_u16.to_le_bytes()),
        (0x211, &[0x81]),
        (0x214, &0x10_0000_u32.to_le_bytes()),
        (0x22c, &0x7fff_ffff_u32.to_le_bytes()),
        (0x230, &0x20_0000_u32.to_le_bytes()),
        (0x234, &[1, 21, 0x3f, 0]),
        (0x238, &2047_u32.to_le_bytes()),
        (0x248, &(PAYLOAD_OFFSET as u32).to_le_bytes()),
        (0x24c, &(payload.len() as u32).to_le_bytes()),
        (0x258, &0x100_0000_u64.to_le_bytes()),
        (0x260, &0x8_0000_u32.to_le_bytes()),
        (0x280, b"6.1.0-test (nobody) #1\0"),
    ];
    for (offset, value) in fields {
        put(&mut file, offset, value);
    }
    file.extend_from_slice(&code);
    file
}

/// What an ELF kernel for tests looks like.
pub(crate) struct ElfImage {
    pub(crate) wide: bool,
    pub(crate) entry: u64,
    pub(crate) vaddr: u64,
    pub(crate) paddr: u64,
    pub(crate) pvh: Option<u32>,
    pub(crate) filesz_extra: u64,
    pub(crate) multiboot: Option<u32>,
}

impl Default for ElfImage {
    fn default() -> Self {
        Self {
            wide: true,
            entry: 0x10_0000,
            vaddr: 0,
            paddr: 0x10_0000,
            pvh: Some(0x10_0010),
            filesz_extra: 0,
            multiboot: None,
        }
    }
}

impl ElfImage {
    const DATA: usize = 0x200;
    const FILE: usize = 0x1200;
    const NOTE: usize = 0x180;

    /// Header, two program headers (note and load), note, code.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; Self::DATA];
        let header = if self.wide { 64 } else { 52 };
        put(&mut file, 0, &[0x7f, b'E', b'L', b'F', 1 + u8::from(self.wide), 1, 1]);
        put(&mut file, 16, &[2, 0, if self.wide { 62 } else { 3 }, 0, 1]);
        self.words(&mut file, 24, &[self.entry, header, 0]);
        let after = if self.wide { 52 } else { 40 };
        put(&mut file, after, &[header as u8, 0, if self.wide { 56 } else { 32 }, 0, 2]);
        let note = self.note();
        let note_len = note.len() as u64;
        let filled = (Self::FILE - Self::DATA) as u64 + self.filesz_extra;
        self.program(&mut file, 0, 4, Self::NOTE, [0, 0, note_len, note_len]);
        self.program(
            &mut file,
            1,
            1,
            Self::DATA,
            [self.vaddr, self.paddr, filled, 0x3000 + self.filesz_extra],
        );
        put(&mut file, Self::NOTE, &note);
        file.resize(Self::FILE, 0x90);
        if let Some(flags) = self.multiboot {
            let magic = 0x1bad_b002_u32;
            let words = [magic, flags, 0_u32.wrapping_sub(magic + flags)];
            put(&mut file, Self::DATA + 0x40, &words.map(u32::to_le_bytes).concat());
        }
        file
    }

    /// Native words of the file's class.
    fn words(&self, file: &mut [u8], offset: usize, values: &[u64]) {
        for (i, value) in values.iter().enumerate() {
            if self.wide {
                put(file, offset + i * 8, &value.to_le_bytes());
            } else {
                put(file, offset + i * 4, &(*value as u32).to_le_bytes());
            }
        }
    }

    fn program(&self, file: &mut [u8], index: usize, kind: u8, offset: usize, fields: [u64; 4]) {
        let start = if self.wide { 64 + index * 56 } else { 52 + index * 32 };
        put(file, start, &[kind]);
        let [vaddr, paddr, filesz, memsz] = fields;
        let words = [offset as u64, vaddr, paddr, filesz, memsz];
        self.words(file, start + if self.wide { 8 } else { 4 }, &words);
        // Alignment is the last word.
        self.words(file, start + if self.wide { 48 } else { 28 }, &[4]);
    }

    /// A note of another kind, then the PVH entry.
    fn note(&self) -> Vec<u8> {
        let note = |kind: u32, desc: &[u8]| {
            [&4_u32.to_le_bytes(), &(desc.len() as u32).to_le_bytes(), &kind.to_le_bytes(), b"Xen\0", desc]
                .concat()
        };
        let mut notes = note(6, b"linux\0\0\0");
        if let Some(entry) = self.pvh {
            let desc = u64::from(entry).to_le_bytes();
            notes.extend(note(18, if self.wide { &desc } else { &desc[..4] }));
        }
        notes
    }
}

/// An ELF kernel with a PVH entry.
pub(crate) fn pvh_elf(wide: bool) -> Vec<u8> {
    ElfImage { wide, ..ElfImage::default() }.build()
}

/// A 32-bit ELF kernel with a multiboot header.
pub(crate) fn multiboot_elf(flags: u32) -> Vec<u8> {
    ElfImage { wide: false, pvh: None, multiboot: Some(flags), ..ElfImage::default() }.build()
}

/// A flat multiboot kernel of 0x400 bytes, its header at 0x20, with these
/// address fields.
pub(crate) fn multiboot_flat(fields: [u32; 5]) -> Vec<u8> {
    let mut file = vec![0x90; 0x400];
    let (magic, flags) = (0x1bad_b002_u32, 1_u32 << 16);
    let words = [[magic, flags, 0_u32.wrapping_sub(magic + flags)].as_slice(), &fields].concat();
    for (i, word) in words.iter().enumerate() {
        put(&mut file, 0x20 + i * 4, &word.to_le_bytes());
    }
    file
}
