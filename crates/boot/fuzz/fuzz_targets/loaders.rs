//! Every kernel and firmware loader on one hostile file.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use memory::GuestMemory;

static MEMORY: OnceLock<GuestMemory> = OnceLock::new();

fuzz_target!(|file: &[u8]| {
    let memory = MEMORY.get_or_init(|| {
        GuestMemory::new(boot::harness::MEMORY_SIZE).expect("the fuzzer's guest memory can be mapped")
    });
    boot::harness::loaders(memory, file);
});
