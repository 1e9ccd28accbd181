//! The fuzz target's body, run on pseudo-random bytes: what fuzzing would try
//! first is tried in every test run.

#[path = "../fuzz/fuzz_targets/harness.rs"]
mod harness;

/// xorshift64: the same bytes in every run.
fn bytes(mut seed: u64, count: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn short_inputs() {
    for length in 0..64 {
        harness::drive(&bytes(length as u64 + 1, length));
    }
}

#[test]
fn long_inputs() {
    for seed in 1..=64 {
        harness::drive(&bytes(seed << 20 | 1, 40_000));
    }
}
