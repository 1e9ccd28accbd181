//! Real guests, each to a stated marker, by the program that users run.
//!
//! All but the built-in guest come out of Debian's packages, through the cache
//! that `ringmaster demo` uses. Where they cannot be had, the tests that need
//! them are left out, with the reason in their names.

mod console;
mod debian;
mod devices;
mod disks;
mod drivers;
mod full;
mod guests;
mod kills;
mod life;
mod lspci;
mod network;
mod process;
mod processors;
mod systems;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut tests = systems::tests();
    tests.extend(processors::tests());
    tests.extend(life::tests());
    tests.extend(network::tests());
    tests.extend(disks::tests());
    tests.extend(full::tests());
    tests.extend(kills::tests());
    tests.extend(devices::tests());
    tests.extend(lspci::tests());
    tests.extend(console::tests());
    tests.extend(debian::tests());
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
