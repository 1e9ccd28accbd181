use super::*;
use crate::payload::tests::all_packed;
use crate::testing::{ElfImage, bzimage_with_payload, put};
use crate::{E820Entry, Entry, Protocol, load};

const AT: u64 = 0x100_0000;
const MEMORY: u64 = 32 << 20;

fn inner(wide: bool) -> Vec<u8> {
    let (entry, paddr) = (AT + 0x10, AT);
    ElfImage { wide, entry, vaddr: 0xc100_0000, paddr, pvh: Some(0x100_0020), ..ElfImage::default() }.build()
}

/// A bzImage around `elf`, for each way to pack it.
fn kernels(elf: &[u8], wide: bool) -> Vec<Vec<u8>> {
    let packed = all_packed(elf).into_iter().map(|payload| bzimage_with_payload(&payload));
    packed
        .map(|mut kernel| {
            put(&mut kernel, 0x236, &[u8::from(wide), 0]);
            kernel
        })
        .collect()
}

fn boot<'a>(kernel: &'a [u8], change: impl FnOnce(&mut BootRequest<'a>)) -> (GuestMemory, Entry) {
    let memory = GuestMemory::new(MEMORY).unwrap();
    let mut request = BootRequest { kernel, cmdline: "console=ttyS0", ..BootRequest::default() };
    change(&mut request);
    let entry = load(&memory, &request).unwrap();
    (memory, entry)
}

fn loadflags(memory: &GuestMemory) -> u32 {
    memory.read_u32(GuestPhysAddr(INFO + 0x210)).unwrap() >> 8 & 0xff
}

#[test]
fn every_packing_and_both_classes_are_entered_directly() {
    for wide in [true, false] {
        for kernel in kernels(&inner(wide), wide) {
            let (memory, entry) = boot(&kernel, |_| ());
            let Entry { state, summary, .. } = entry;
            assert_eq!((state.rip, state.reg(Gpr::Rsi)), (AT + 0x10, INFO), "{summary}");
            assert_eq!(state.mode_64bit(), wide);
            assert!(summary.contains("payload unpacked"), "{summary}");
            assert_eq!(memory.read_u32(GuestPhysAddr(AT)).unwrap(), 0x9090_9090);
            assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0x202)).unwrap(), u32::from_le_bytes(*b"HdrS"));
            assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0x214)).unwrap(), AT as u32);
        }
    }
}

#[test]
fn random_layout_is_asked_for_unless_the_user_refuses() {
    let kernel = kernels(&inner(true), true).remove(0);
    assert_eq!(loadflags(&boot(&kernel, |_| ()).0), 0x03);
    assert_eq!(loadflags(&boot(&kernel, |r| r.cmdline = "quiet nokaslr").0), 0x01);
    assert_eq!(loadflags(&boot(&kernel, |r| r.protocol = Protocol::Bits64).0), 0x01);
}

#[test]
fn what_memory_held_is_overwritten_unless_it_was_zero() {
    let mut elf = inner(true);
    let zeros = 0x200..0x1200;
    elf[zeros].fill(0);
    let kernel = kernels(&elf, true).remove(0);
    for (memory_is_zero, expected) in [(false, 0), (true, 0x77)] {
        let memory = GuestMemory::new(MEMORY).unwrap();
        memory.write(GuestPhysAddr(AT), &[0x77; 0x3001]).unwrap();
        let request = BootRequest { kernel: &kernel, memory_is_zero, ..BootRequest::default() };
        load(&memory, &request).unwrap();
        let mut found = vec![0; 0x3001];
        memory.read(GuestPhysAddr(AT), &mut found).unwrap();
        assert!(found[..0x3000].iter().all(|&byte| byte == expected), "{memory_is_zero}");
        assert_eq!(found[0x3000], 0x77);
    }
}

#[test]
fn runs_between_zero_pages_are_written_whole() {
    let mut data = vec![0; 6 * PAGE + 100];
    data[PAGE] = 1;
    data[3 * PAGE - 1] = 2;
    data[5 * PAGE + 63] = 3;
    data[6 * PAGE + 99] = 4;
    let memory = GuestMemory::new(MEMORY).unwrap();
    write_unless_zero(&memory, Segment { start: AT, data: &data, len: 0 }).unwrap();
    let mut found = vec![9; data.len()];
    memory.read(GuestPhysAddr(AT), &mut found).unwrap();
    assert_eq!(found, data);
}

#[test]
fn what_is_not_equivalent_is_left_to_the_kernel_s_own_unpacker() {
    let packed = |entry: &Entry| entry.summary.contains("boot protocol 2.15");
    let kernel = kernels(&inner(true), true).remove(0);
    let reserved = [E820Entry::reserved(GuestPhysAddr(AT), 0x1000)];
    assert!(packed(&boot(&kernel, |r| r.reserved = &reserved).1), "its place is taken");
    let elsewhere = ElfImage { paddr: AT + 0x1000, entry: AT + 0x1000, ..ElfImage::default() }.build();
    assert!(packed(&boot(&kernels(&elsewhere, true)[0], |_| ()).1), "linked for another place");
    let outside = ElfImage { paddr: AT, entry: AT + 0x3000, ..ElfImage::default() }.build();
    assert!(packed(&boot(&kernels(&outside, true)[0], |_| ()).1), "entry outside");
    assert!(packed(&boot(&kernels(&inner(false), true)[0], |_| ()).1), "another class");
    let mut old = kernel.clone();
    put(&mut old, 0x206, &0x209_u16.to_le_bytes());
    assert!(boot(&old, |_| ()).1.summary.contains("boot protocol 2.09"));
    let mut small = kernel.clone();
    put(&mut small, 0x260, &0x2000_u32.to_le_bytes());
    assert!(packed(&boot(&small, |_| ()).1), "larger than the header says");

    let memory = GuestMemory::new(MEMORY).unwrap();
    let request = BootRequest { kernel: &small, protocol: Protocol::Direct, ..BootRequest::default() };
    assert!(matches!(load(&memory, &request), Err(BootError::NotDirect)));
}

#[test]
fn damaged_payloads_are_told_of() {
    for mut kernel in kernels(&inner(true), true) {
        let payload = crate::payload::find(&kernel).unwrap();
        if payload.unpacked_len.is_none() {
            continue;
        }
        // The length that the build appends, or the checksum before it.
        let len = u32::from_le_bytes(kernel[0x24c..0x250].try_into().unwrap()) as usize;
        put(&mut kernel, 1024 + 0x300 + len - 4, &[1, 2]);
        let memory = GuestMemory::new(MEMORY).unwrap();
        let result = load(&memory, &BootRequest { kernel: &kernel, ..BootRequest::default() });
        assert!(matches!(result, Err(BootError::Payload(_))), "{result:?}");
    }
}

#[test]
fn the_pvh_entry_can_be_asked_for() {
    for wide in [true, false] {
        let kernel = kernels(&inner(wide), wide).remove(0);
        let (_, entry) = boot(&kernel, |r| r.protocol = Protocol::Pvh);
        assert_eq!(entry.state.rip, 0x100_0020);
        assert!(!entry.state.long_mode());
        assert!(entry.summary.contains("PVH entry"), "{}", entry.summary);
    }
    let without = ElfImage { paddr: AT, entry: AT, pvh: None, ..ElfImage::default() }.build();
    let kernel = kernels(&without, true).remove(0);
    let memory = GuestMemory::new(MEMORY).unwrap();
    let request = BootRequest { kernel: &kernel, protocol: Protocol::Pvh, ..BootRequest::default() };
    assert!(matches!(load(&memory, &request), Err(BootError::NoPvhEntry)));
}
