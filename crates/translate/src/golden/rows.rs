//! The guest code that is translated: bytes in hexadecimal, each row a block.

/// A block of guest code.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Where in its page it begins.
    pub(super) offset: u64,
    code: &'static str,
}

impl Row {
    const fn at(offset: u64, name: &'static str, code: &'static str) -> Self {
        Self { name, offset, code }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let digits: Vec<u32> = self.code.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }
}

const fn row(name: &'static str, code: &'static str) -> Row {
    Row::at(0x20, name, code)
}

/// Ring 3 of 64-bit mode. Code is position-independent there.
pub(super) const USER_64: &[Row] = &[
    row("registers that stay where they are", "4801d8"),
    row("registers that live elsewhere: RCX, RSP, R8 to R11", "4801c8 4829e1 4d31d0 4d89fb"),
    row("load", "488b4310"),
    row("load with an index", "8b449804"),
    row("store", "48895308"),
    row("store of a constant", "c6032a"),
    row("read, modify, write", "014310"),
    row("locked read, modify, write", "f0480fb10b"),
    row("exchange", "8703"),
    row("loads from one base", "488b03 488b4b08 488b5310"),
    row("high-byte registers", "88e3 00fc 8a6301"),
    row("shift by CL", "d3e0 d34308"),
    row("multiply and divide", "f7e1 f7f1"),
    row("flags survive a load", "4839d8 488b0b 7502 90"),
    row("address computed only", "488d44910c 4c8d1c24"),
    row("RIP-relative", "488b0500100000 488d3d10000000"),
    row("absolute", "488b042500100000"),
    row("FS and GS", "64488b042528000000 658b4708"),
    row("push and pop", "50 4150 5b 4159"),
    row("push of a constant and of memory", "6a01 ff7308"),
    row("a function's start and end", "55 4889fd 53 4883ec08 5b 5d c3"),
    row("a loop through memory", "48031406 4883c008 483d00030000 75f0"),
    row("prologue and epilogue of a function", "55 4889e5 4883ec20 c9 c3"),
    row("call", "e8fb0f0000"),
    row("call in the page", "e810000000"),
    row("return", "c3"),
    row("return that drops arguments", "c21000"),
    row("jump by register", "ffe0"),
    row("jump through a table", "ff24c500104000"),
    row("call by register", "41ffd3"),
    row("conditional jumps", "7402 4889c3 75f9"),
    row("jump backwards", "ebfe"),
    row("LOOP", "e2fe"),
    row("conditional move and set", "0f44c3 0f94c1"),
    row("string instructions", "f3a4 f348ab a4 ae"),
    row("bit tests", "0fa3c3 0fab0b"),
    row("SSE", "0f58c1 0f280b f20f100d00000000"),
    row("SSE with a general register", "660f6ec1 f20f2ac8"),
    row("AVX", "c5f458c2 c5fc100b c5fd7f0b"),
    row("AVX-512", "62f17c4858c1"),
    row("x87", "dd03 d8c1 dd1b"),
    row("MMX", "0ffcc1 0f77"),
    row("flags to the stack and back", "9c 9d"),
    row("time-stamp counter", "0f31"),
    row("SYSCALL", "0f05"),
    row("nothing", "90 660f1f440000 f30f1efa"),
    row("privileged", "f4"),
    row("no instruction", "0f0b"),
    Row::at(0xffd, "instruction that crosses the page", "488b8310000000"),
    Row::at(0xffd, "instruction before one that crosses the page", "4889c348"),
];

/// Ring 0 of 64-bit mode.
pub(super) const SUPERVISOR_64: &[Row] = &[
    row("load and store", "488b4310 48895308"),
    row("RIP-relative", "488b0500100000 488d3d10000000"),
    row("call", "e8fb0f0000"),
    row("return", "c3"),
    row("conditional jumps", "7402 4889c3 75f9"),
    row("interrupts off and on", "fa 90 fb 90 90"),
    row("flags to the stack and back", "9c 9d 90"),
    row("per-processor data", "65488b042528000000 65ff0c2510000000"),
    row("SWAPGS and SYSRET", "0f01f8 480f07"),
    row("control registers", "0f20d8 0f22d8"),
    row("model-specific registers", "0f32 0f30"),
    row("ports", "ec ee"),
    row("HLT", "f4"),
    row("INVLPG", "0f0138"),
    row("IRET", "48cf"),
];

/// Ring 0 of 32-bit protected mode, in flat segments.
pub(super) const ALL_32: &[Row] = &[
    row("registers", "01d8 89e1 40 4b"),
    row("load and store", "8b4310 895308"),
    row("address that wraps", "8b449804"),
    row("absolute", "a100104000 8b0d00104000"),
    row("read, modify, write", "014310"),
    row("push and pop", "50 6a01 ff7308 5b"),
    row("prologue and epilogue of a function", "55 89e5 83ec20 c9 c3"),
    row("call and return", "e8fb0f0000"),
    row("indirect jump", "ff248500104000"),
    row("indirect call", "ffd1"),
    row("string instructions", "f3a4 f3ab"),
    row("high-byte registers", "88e3 8a6301"),
    row("decimal adjustment", "27"),
    row("all registers", "60 61"),
    row("SSE and x87", "0f280b dd03"),
    row("16-bit operands", "6601d8 668b03 6650"),
    row("segment prefix", "648b0500000000"),
    Row::at(0xffd, "instruction that crosses the page", "8b8310000000"),
];
