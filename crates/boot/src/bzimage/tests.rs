use super::*;
use crate::testing::{bzimage, put, read_string};
use crate::{Module, load};

const MEMORY: u64 = 32 << 20;

fn try_load<'a>(
    kernel: &'a [u8],
    change: impl FnOnce(&mut BootRequest<'a>),
) -> Result<(GuestMemory, Entry), BootError> {
    let memory = GuestMemory::new(MEMORY).unwrap();
    let mut request = BootRequest { kernel, cmdline: "console=ttyS0", ..BootRequest::default() };
    change(&mut request);
    load(&memory, &request).map(|entry| (memory, entry))
}

#[test]
fn the_64_bit_entry_gets_what_the_protocol_says() {
    let kernel = bzimage();
    let (memory, entry) = try_load(&kernel, |r| r.acpi_rsdp = Some(GuestPhysAddr(0xe_0000))).unwrap();
    assert_eq!(entry.state.rip, 0x100_0200);
    assert!(entry.state.mode_64bit());
    let zero_page = entry.state.reg(Gpr::Rsi);
    let word = |offset| memory.read_u32(GuestPhysAddr(zero_page + offset)).unwrap();
    assert_eq!(word(0x202), u32::from_le_bytes(*b"HdrS"));
    assert_eq!(word(0x210) & 0xffff, 0x01ff);
    assert_eq!(word(0x214), 0x100_0000);
    assert_eq!(word(0x70), 0xe_0000);
    assert_eq!((word(0x218), word(0x21c)), (0, 0));
    assert_eq!(read_string(&memory, word(0x228).into()), "console=ttyS0");
    assert_eq!(word(0x1e8) & 0xff, 4);
    assert_eq!((word(0x2d0), word(0x2d8), word(0x2e0)), (0, 0x9_fc00, 1));
    // The code, with its mark behind the entry, is where the state says.
    assert_eq!(memory.read_u32(GuestPhysAddr(entry.state.rip)).unwrap(), 0x9090_9090);
    assert_eq!(entry.summary, "Linux 6.1.0-test, boot protocol 2.15, 64-bit entry at 0x1000200");
}

#[test]
fn the_32_bit_entry_is_flat_and_unpaged() {
    let kernel = bzimage();
    let (_, entry) = try_load(&kernel, |r| r.protocol = Protocol::Bits32).unwrap();
    let state = entry.state;
    assert_eq!((state.rip, state.reg(Gpr::Rsi)), (0x100_0000, INFO));
    assert!(!state.long_mode() && !state.cr0.contains(x86::Cr0::PG) && state.reg(Gpr::Rsp) != 0);

    let mut kernel = bzimage();
    put(&mut kernel, 0x236, &[0, 0]);
    assert_eq!(try_load(&kernel, |_| ()).unwrap().1.state.rip, 0x100_0000);
    let error = try_load(&kernel, |r| r.protocol = Protocol::Bits64).unwrap_err();
    assert!(matches!(error, BootError::No64BitEntry));
}

#[test]
fn initrds_stay_below_the_kernel_s_limit() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x22c, &0x17f_ffff_u32.to_le_bytes());
    let data = vec![7; 0x2345];
    let modules = [Module { data: &data, string: "" }];
    let memory = GuestMemory::new(MEMORY).unwrap();
    let request = BootRequest { kernel: &kernel, modules: &modules, ..BootRequest::default() };
    load(&memory, &request).unwrap();
    let at = memory.read_u32(GuestPhysAddr(INFO + 0x218)).unwrap();
    assert_eq!((at, memory.read_u32(GuestPhysAddr(INFO + 0x21c)).unwrap()), (0x17f_d000, 0x2345));
    assert_eq!(memory.read_u32(GuestPhysAddr(u64::from(at) + 0x2341)).unwrap(), 0x0707_0707);

    // Where the kernel allows it, the limit gives way to need.
    let large = vec![7; 0x10_0000];
    let modules = [Module { data: &large, string: "" }];
    put(&mut kernel, 0x22c, &0x10_0fff_u32.to_le_bytes());
    let request = BootRequest { kernel: &kernel, modules: &modules, ..BootRequest::default() };
    load(&memory, &request).unwrap();
    assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0x218)).unwrap(), 0x1f0_0000);
    let narrow = BootRequest { protocol: Protocol::Bits32, ..request };
    assert!(matches!(load(&memory, &narrow), Err(BootError::InitrdDoesNotFit { len: 0x10_0000, .. })));
}

#[test]
fn an_initrd_above_4_gib_uses_the_extended_fields() {
    let memory = GuestMemory::new(0x1_0010_0000).unwrap();
    let mut kernel = bzimage();
    put(&mut kernel, 0x22c, &0x10_0fff_u32.to_le_bytes());
    let data = vec![7; 0x2000];
    let modules = [Module { data: &data, string: "" }];
    load(&memory, &BootRequest { kernel: &kernel, modules: &modules, ..BootRequest::default() }).unwrap();
    assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0x218)).unwrap(), 0x400f_e000);
    assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0xc0)).unwrap(), 1);
    assert_eq!(memory.read_u32(GuestPhysAddr(INFO + 0xc4)).unwrap(), 0);
}

#[test]
fn kernels_that_do_not_fit_are_refused() {
    let cases: [(usize, &[u8], bool); 6] = [
        (0x260, &0x100_0000_u32.to_le_bytes(), true),
        (0x260, &0x100_0001_u32.to_le_bytes(), false),
        (0x260, &u32::MAX.to_le_bytes(), false),
        (0x258, &0x1000_u64.to_le_bytes(), false),
        (0x258, &u64::MAX.to_le_bytes(), false),
        (0x230, &3_u32.to_le_bytes(), false),
    ];
    for (offset, value, good) in cases {
        let mut kernel = bzimage();
        put(&mut kernel, offset, value);
        assert_eq!(try_load(&kernel, |_| ()).is_ok(), good, "{offset:#x} {value:x?}");
    }
    let small = GuestMemory::new(2 << 20).unwrap();
    let kernel = bzimage();
    let request = BootRequest { kernel: &kernel, ..BootRequest::default() };
    assert!(matches!(load(&small, &request), Err(BootError::KernelDoesNotFit { .. })));
}

#[test]
fn a_relocatable_kernel_moves_out_of_the_way() {
    let kernel = bzimage();
    let reserved = [E820Entry::reserved(GuestPhysAddr(0x100_0000), 0x1000)];
    let (_, entry) = try_load(&kernel, |r| r.reserved = &reserved).unwrap();
    assert_eq!(entry.state.rip, 0x120_0200);
    let mut fixed = bzimage();
    put(&mut fixed, 0x234, &[0]);
    let error = try_load(&fixed, |r| r.reserved = &reserved).unwrap_err();
    assert!(matches!(error, BootError::KernelDoesNotFit { .. }));
}

#[test]
fn old_protocols_load_at_one_mib() {
    let mut kernel = bzimage();
    put(&mut kernel, 0x206, &0x206_u16.to_le_bytes());
    put(&mut kernel, 0x234, &[0]);
    assert_eq!(try_load(&kernel, |_| ()).unwrap().1.state.rip, 0x10_0000);
}

#[test]
fn the_command_line_keeps_to_the_header_s_size() {
    let kernel = bzimage();
    let line = "x".repeat(2048);
    let error = try_load(&kernel, |r| r.cmdline = &line).unwrap_err();
    assert!(matches!(error, BootError::CmdlineTooLong { len: 2048, limit: 2047 }));
    assert!(try_load(&kernel, |r| r.cmdline = &line[1..]).is_ok());
}
