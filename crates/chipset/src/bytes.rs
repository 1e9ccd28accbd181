//! Byte-wide registers behind wider port accesses.
//!
//! The ISA bus splits a word or dword access to an 8-bit device into byte
//! accesses at consecutive ports.

/// Reads `size` bytes at consecutive ports from `port` on.
pub(crate) fn read_bytes(port: u16, size: u8, mut read: impl FnMut(u16) -> u8) -> u32 {
    let mut bytes = [0; 4];
    for (port, byte) in ports(port).zip(bytes.iter_mut().take(usize::from(size))) {
        *byte = read(port);
    }
    u32::from_le_bytes(bytes)
}

/// Writes `size` bytes at consecutive ports from `port` on.
pub(crate) fn write_bytes(port: u16, size: u8, value: u32, mut write: impl FnMut(u16, u8)) {
    let bytes = value.to_le_bytes();
    for (port, byte) in ports(port).zip(bytes.iter().take(usize::from(size))) {
        write(port, *byte);
    }
}

fn ports(first: u16) -> impl Iterator<Item = u16> {
    (0..4).map(move |offset| first.wrapping_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_accesses_become_bytes_in_order() {
        assert_eq!(read_bytes(0x60, 2, |port| port as u8), 0x6160);
        let mut seen = Vec::new();
        write_bytes(0xffff, 4, 0x4433_2211, |port, byte| seen.push((port, byte)));
        assert_eq!(seen, [(0xffff, 0x11), (0, 0x22), (1, 0x33), (2, 0x44)]);
    }
}
