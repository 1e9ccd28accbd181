//! Loads a kernel file and says how it would start: `load KERNEL [INITRD]...`.
//! For a bzImage the payload is unpacked and loaded too.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Instant;

use boot::{BootRequest, KernelKind, Module, load, payload};
use memory::GuestMemory;

/// More than any kernel unpacks to.
const PAYLOAD_LIMIT: usize = 512 << 20;

fn show(kernel: &[u8], modules: &[Module<'_>]) -> Result<KernelKind, Box<dyn std::error::Error>> {
    let memory = GuestMemory::new(1 << 30)?;
    let started = Instant::now();
    let request = BootRequest { kernel, modules, cmdline: "console=ttyS0", ..BootRequest::default() };
    let entry = load(&memory, &request)?;
    println!("{} ({:?}, loaded in {:?})", entry.summary, entry.kind, started.elapsed());
    Ok(entry.kind)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = std::env::args_os().skip(1).map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let (kernel, initrds) = files.split_first().ok_or("give a kernel file")?;
    let modules: Vec<_> = initrds.iter().map(|data| Module { data, string: "" }).collect();
    if show(kernel, &modules)? == KernelKind::BzImage {
        let started = Instant::now();
        let packed = payload::find(kernel)?;
        let elf = packed.unpack(PAYLOAD_LIMIT)?;
        println!(
            "payload: {} of {} bytes, {} unpacked in {:?}",
            packed.format,
            packed.data.len(),
            elf.len(),
            started.elapsed()
        );
        show(&elf, &modules)?;
    }
    Ok(())
}
