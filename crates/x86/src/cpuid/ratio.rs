//! The ratio of time-stamp counter and crystal in leaf 0x15.

/// Linux multiplies crystal kHz and numerator in 32 bits before it divides, so
/// the denominator must stay small; the best one below this bound errs by a few
/// parts in a million at most at usual frequencies.
const MAX_DENOMINATOR: u64 = 512;

/// Denominator and numerator, so that `crystal * numerator / denominator` is
/// the frequency of the time-stamp counter: exact if a small denominator
/// allows it, else the nearest. Zeros (not enumerated) for senseless input.
pub(super) fn tsc_ratio(tsc_hz: u64, crystal_hz: u64) -> (u32, u32) {
    if crystal_hz == 0 || tsc_hz == 0 {
        return (0, 0);
    }
    let (tsc, crystal) = (u128::from(tsc_hz), u128::from(crystal_hz));
    let mut best = (0, 0, u128::MAX);
    for denominator in 1..=u128::from(MAX_DENOMINATOR) {
        let numerator = (tsc * denominator + crystal / 2) / crystal;
        // The error relative to the denominator, brought to a common scale.
        let error = (numerator * crystal).abs_diff(tsc * denominator) * 1_000_000 / denominator;
        if error < best.2 {
            best = (denominator, numerator, error);
        }
    }
    match (u32::try_from(best.0), u32::try_from(best.1)) {
        (Ok(denominator), Ok(numerator)) => (denominator, numerator),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_ratios_are_reduced() {
        assert_eq!(tsc_ratio(2_400_000_000, 24_000_000), (1, 100));
        assert_eq!(tsc_ratio(2_112_000_000, 24_000_000), (1, 88));
        assert_eq!(tsc_ratio(2_300_000_000, 24_000_000), (6, 575));
    }

    #[test]
    fn odd_frequencies_come_within_parts_in_a_million() {
        for tsc in [2_299_998_123u64, 1_000_000_007, 4_999_999_937] {
            for crystal in [25_000_000u64, 24_000_000, 1_000_000_000] {
                let (denominator, numerator) = tsc_ratio(tsc, crystal);
                let back = crystal as f64 * f64::from(numerator) / f64::from(denominator);
                let error = (back / tsc as f64 - 1.0).abs();
                assert!(error < 3e-6, "{tsc} {crystal}: {error}");
                assert!(crystal / 1000 * u64::from(numerator) < 1 << 32, "{tsc} {crystal}");
            }
        }
    }

    #[test]
    fn senseless_input_is_not_enumerated() {
        assert_eq!(tsc_ratio(0, 1), (0, 0));
        assert_eq!(tsc_ratio(1, 0), (0, 0));
        assert_eq!(tsc_ratio(u64::MAX, 1), (0, 0));
    }
}
