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
        seed.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(count).collect()
}

#[test]
fn nothing_that_a_guest_or_the_world_sends_breaks_the_network() {
    for seed in 1..1000 {
        harness::drive(&bytes(seed, 20_000));
    }
}
