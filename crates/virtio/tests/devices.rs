//! Every device under random drivers: nothing panics, nothing hangs.

#[path = "../fuzz/fuzz_targets/harness.rs"]
mod harness;

/// A small generator with a fixed start (Marsaglia's xorshift).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn devices_survive_random_drivers() {
    for kind in harness::ALL {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..60 {
            let len = random(&mut state) as usize % 3000;
            let bytes: Vec<u8> = (0..len).map(|_| random(&mut state) as u8).collect();
            harness::drive(kind, &bytes);
        }
    }
}
