//! What is measured.

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its name here and in the workload.
    pub name: &'static str,
    /// What is timed.
    pub what: &'static str,
}

/// The row that is measured from outside: a process's start to the line that
/// the guest's first program prints.
pub(crate) const BOOT: &str = "boot";

/// The row for several processors.
pub(crate) const PARALLEL: &str = "parallel";

/// All rows, in the table's order.
pub(crate) const ALL: &[Row] = &[
    row("sieve", "primes below 2^20"),
    row("sort", "qsort of 20,000 numbers"),
    row("crc", "bitwise CRC-32 of 16 KiB"),
    row("calls", "recursive Fibonacci, 57,000 calls"),
    row("indirect", "indirect call, eight targets at random"),
    row("nbody", "scalar double: 500 steps of five bodies"),
    row("matrix", "vectorized double: 96 x 96 product"),
    row("x87", "long double: 5,000 roots and quotients"),
    row("chase", "pointer chase in 32 MiB, each hop"),
    row("memcpy", "copy within 16 MiB, each MiB"),
    row("fault", "anonymous page fault"),
    row("file", "read from the page cache, each MiB"),
    row("syscall", "getppid"),
    row("pipe", "write and read of one byte"),
    row("switch", "ping-pong between two processes"),
    row("fork", "fork, exit, wait"),
    row("exec", "fork, exec, exit, wait"),
    row("compress", "xz -3 of 192 KiB of text"),
    row("shell", "BusyBox script, 80 processes"),
    row(PARALLEL, "two processes, each half of 64 sieves"),
    row(BOOT, "start of the process to user space"),
];

const fn row(name: &'static str, what: &'static str) -> Row {
    Row { name, what }
}

/// The row of that name.
pub(crate) fn of_name(name: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row but the boot has its entry in a table of the C program.
    #[test]
    fn the_workload_has_every_row() {
        let sources: String = crate::stage::SOURCES.iter().map(|(_, text)| *text).collect();
        for row in ALL {
            let entry = format!("{{ \"{}\", ", row.name);
            assert_eq!(sources.matches(&entry).count(), usize::from(row.name != BOOT), "{}", row.name);
        }
    }
}
