//! Boots a kernel or firmware on the reference interpreter:
//! `boot --firmware FILE` or `boot KERNEL CMDLINE [INITRD]...`. The guest's
//! serial port (and the debug consoles, on standard error) is all that one
//! sees; BOOT_SECONDS ends the run after that time.
#![allow(clippy::print_stderr, reason = "an example prints")]

use std::error::Error;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use chipset::SerialSink;
use interpret::Interpreter;
use machine::{BootSource, Consoles, Machine, MachineConfig, MachineHandle, OwnedModule, Protocol};

fn sink(mut to: impl Write + Send + 'static) -> Box<dyn SerialSink> {
    Box::new(move |byte: u8| {
        let _ = to.write_all(&[byte]).and_then(|()| to.flush());
    })
}

fn type_standard_input(handle: &MachineHandle) {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer)
        && handle.input(buffer.get(..count).unwrap_or_default())
    {}
}

fn source(mut args: std::env::Args) -> Result<BootSource, Box<dyn Error>> {
    let first = args.next().ok_or("give a kernel, or --firmware and a file")?;
    let second = args.next().unwrap_or_default();
    if first == "--firmware" {
        return Ok(BootSource::Firmware(std::fs::read(second)?));
    }
    let modules = args.map(|path| Ok(OwnedModule { data: std::fs::read(path)?, string: String::new() }));
    Ok(BootSource::Kernel {
        image: std::fs::read(first)?,
        modules: modules.collect::<Result<_, std::io::Error>>()?,
        cmdline: second,
        protocol: Protocol::Auto,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args();
    args.next();
    let mut config = MachineConfig::new(&Interpreter, 512 << 20, source(args)?);
    config.consoles = Consoles {
        serial: sink(std::io::stdout()),
        debug: sink(std::io::stderr()),
        firmware: sink(std::io::stderr()),
    };
    let mut machine = Machine::build(config)?;
    let handle = machine.handle();
    std::thread::spawn(move || type_standard_input(&handle));
    if let Some(seconds) = std::env::var("BOOT_SECONDS").ok().and_then(|text| text.parse().ok()) {
        let handle = machine.handle();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            handle.stop();
        });
    }
    let start = Instant::now();
    let outcome = machine.run();
    eprintln!("\n{outcome:?} after {:?}", start.elapsed());
    for stats in machine.stats() {
        eprintln!("{:.1} MIPS; {stats:?}", stats.mips());
    }
    Ok(())
}
