//! The Internet's checksum (RFC 1071).

use std::net::Ipv4Addr;

/// The sum of `bytes`, folded to 16 bits, as big-endian words.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    // One's complement sums do not care for the byte order (RFC 1071 2B), so
    // that eight bytes go at once, in the host's order.
    let mut chunks = bytes.chunks_exact(8);
    let mut total: u128 = 0;
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        total += u128::from(u64::from_ne_bytes(word));
    }
    let mut word = [0; 8];
    let rest = chunks.remainder();
    word[..rest.len()].copy_from_slice(rest);
    total += u128::from(u64::from_ne_bytes(word));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// Adds two sums.
pub(crate) fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum of the pseudo-header of TCP and UDP.
pub(crate) fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u16 {
    let addresses = add(sum(&source.octets()), sum(&destination.octets()));
    add(addresses, add(u16::from(protocol), length))
}

/// Whether a TCP, UDP or ICMP message with a checksum in it is intact;
/// `initial` is the pseudo-header's sum.
pub(crate) fn is_intact(initial: u16, message: &[u8]) -> bool {
    add(initial, sum(message)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn any_length_sums_like_words() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1021).collect();
        for length in 0..bytes.len() {
            let words =
                bytes[..length].chunks(2).map(|w| u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
            assert_eq!(sum(&bytes[..length]), words.fold(0, add), "{length}");
        }
    }
}
