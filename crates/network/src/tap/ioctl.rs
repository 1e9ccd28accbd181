//! The requests that make a descriptor a tap device (linux/if_tun.h).

#![allow(unsafe_code, reason = "a tap device is only to be had by ioctl")]

use std::fs::File;
use std::io;

use rustix::ioctl::{Setter, Updater, ioctl, opcode};

use crate::Offloads;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 216);

/// `struct ifreq` as far as TUNSETIFF reads and writes it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Attaches `tun` to the tap device `name`.
pub(super) fn attach(tun: &File, name: &str) -> io::Result<()> {
    let mut request =
        InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    // The last byte stays zero: it ends the name.
    for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, 40 bytes on x86-64,
    // which is the size of `InterfaceRequest`.
    unsafe { ioctl(tun, Updater::<TUNSETIFF, _>::new(&mut request)) }?;
    Ok(())
}

/// Says how long the header before each frame is.
pub(super) fn set_header_length(tun: &File, length: usize) -> io::Result<()> {
    let length = i32::try_from(length).map_err(io::Error::other)?;
    // SAFETY: TUNSETVNETHDRSZ reads an `int`.
    unsafe { ioctl(tun, Setter::<TUNSETVNETHDRSZ, i32>::new(length)) }?;
    Ok(())
}

/// Says what may be left undone in frames that are read.
pub(super) fn set_offloads(tun: &File, offloads: Offloads) -> io::Result<()> {
    let flags = [
        (Offloads::GUEST_CSUM, TUN_F_CSUM),
        (Offloads::GUEST_TSO4, TUN_F_TSO4),
        (Offloads::GUEST_TSO6, TUN_F_TSO6),
    ];
    let chosen = flags.iter().filter(|(offload, _)| offloads.contains(*offload));
    let value = chosen.fold(0, |flags, (_, flag)| flags | flag);
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory.
    unsafe { ioctl(tun, rustix::ioctl::IntegerSetter::<TUNSETOFFLOAD>::new_usize(value as usize)) }?;
    Ok(())
}
