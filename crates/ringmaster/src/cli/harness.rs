//! What the fuzz target and the tests do with bytes: take them as a command
//! line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Parses `bytes` as words between zero bytes.
///
/// # Panics
/// If what is refused is not refused in one line, with status 2.
pub fn command_line(bytes: &[u8]) {
    let words = bytes.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let args = std::iter::once(OsString::from("ringmaster")).chain(words);
    if let Err(failure) = super::parse(args) {
        assert_eq!(failure.status().code(), 2, "{failure:?}");
        let report = failure.report();
        assert!(!report.is_empty() && !report.contains('\n'), "{report:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator with a fixed start (Marsaglia's xorshift).
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    const WORDS: [&[u8]; 28] = [
        b"run",
        b"demo",
        b"check",
        b"inspect",
        b"man",
        b"completions",
        b"bash",
        b"--kernel",
        b"--initrd",
        b"--firmware",
        b"--memory",
        b"--memory=1G",
        b"--cpus",
        b"--net",
        b"user,forward=tcp:1:2",
        b"tap=",
        b"--disk",
        b"x,format=raw",
        b"--console",
        b"file=",
        b"socket=/s",
        b"--timeout",
        b"1e999",
        b"--stats=json",
        b"--trace",
        b"io,msr",
        b"--engine",
        b"kvm",
    ];

    #[test]
    fn every_command_line_parses_or_is_one_sentence() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..5_000 {
            let mut line = Vec::new();
            for _ in 0..random(&mut state) % 7 {
                let choice = random(&mut state) as usize;
                line.extend_from_slice(WORDS[choice % WORDS.len()]);
                if choice & 0x1_0000 != 0 {
                    line.push((choice >> 20) as u8);
                }
                line.push(0);
            }
            command_line(&line);
        }
    }
}
