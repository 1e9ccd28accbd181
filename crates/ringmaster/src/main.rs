//! The `ringmaster` command. Everything it does lives in the library, so that
//! tests and fuzz targets reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringmaster::main().into()
}
