//! The few requests of the KVM API that kvm-ioctls does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings::{
    KVM_IRQFD_FLAG_DEASSIGN, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_enable_cap,
    kvm_interrupt, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign, kvm_irqfd,
    kvm_sregs2,
};
use kvm_ioctls::{VcpuFd, VmFd};

const KVMIO: u64 = 0xae;
const WRITE: u64 = 1;
const READ: u64 = 2;

/// The number of a request, as the kernel's `_IOC` makes it.
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | KVMIO << 8 | number
}

const KVM_IRQFD: u64 = request::<kvm_irqfd>(WRITE, 0x76);
const KVM_IOEVENTFD: u64 = request::<kvm_ioeventfd>(WRITE, 0x79);
const KVM_ENABLE_CAP: u64 = request::<kvm_enable_cap>(WRITE, 0xa3);
const KVM_INTERRUPT: u64 = request::<kvm_interrupt>(WRITE, 0x86);
const KVM_GET_SREGS2: u64 = request::<kvm_sregs2>(READ, 0xcc);
const KVM_SET_SREGS2: u64 = request::<kvm_sregs2>(WRITE, 0xcd);
const KVM_SET_DEVICE_ATTR: u64 = request::<kvm_device_attr>(WRITE, 0xe1);
const KVM_GET_DEVICE_ATTR: u64 = request::<kvm_device_attr>(WRITE, 0xe2);

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// KVM_INTERRUPT: queues a maskable interrupt with `vector`.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = kvm_interrupt { irq: vector.into() };
    // SAFETY: the request reads the structure, which lives across the call.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const argument) })
}

/// KVM_ENABLE_CAP of a vCPU.
pub(crate) fn enable_cap(vcpu: &VcpuFd, cap: u32, argument: u64) -> io::Result<()> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = argument;
    // SAFETY: the request reads the structure, which lives across the call.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_ENABLE_CAP, &raw const request) })
}

/// KVM_IOEVENTFD: rings `bell` on writes to `at`, or no longer. Without a value
/// writes of any width ring it.
pub(crate) fn ioeventfd(
    vm: &VmFd,
    at: u64,
    value: Option<u32>,
    bell: BorrowedFd<'_>,
    on: bool,
) -> io::Result<()> {
    let flag = |set: bool, number: u32| if set { 1 << number } else { 0 };
    let argument = kvm_ioeventfd {
        datamatch: value.unwrap_or(0).into(),
        addr: at,
        len: if value.is_some() { 4 } else { 0 },
        fd: bell.as_raw_fd(),
        flags: flag(value.is_some(), kvm_ioeventfd_flag_nr_datamatch)
            | flag(!on, kvm_ioeventfd_flag_nr_deassign),
        ..Default::default()
    };
    // SAFETY: the request reads the structure, which lives across the call.
    checked(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_IOEVENTFD, &raw const argument) })
}

/// KVM_IRQFD: `event` is interrupt `gsi` of the routing table, or no longer.
pub(crate) fn irqfd(vm: &VmFd, gsi: u32, event: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on { 0 } else { KVM_IRQFD_FLAG_DEASSIGN };
    let argument = kvm_irqfd { fd: event.as_raw_fd() as u32, gsi, flags, ..Default::default() };
    // SAFETY: the request reads the structure, which lives across the call.
    checked(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_IRQFD, &raw const argument) })
}

/// KVM_GET_SREGS2.
pub(crate) fn sregs2(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the request writes the structure, whose size is in its number.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_SREGS2, &raw mut sregs) })?;
    Ok(sregs)
}

/// KVM_SET_SREGS2.
pub(crate) fn set_sregs2(vcpu: &VcpuFd, sregs: &kvm_sregs2) -> io::Result<()> {
    // SAFETY: the request reads the structure, whose size is in its number.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SREGS2, std::ptr::from_ref(sregs)) })
}

fn tsc_attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
        flags: 0,
    }
}

/// What the guest's time-stamp counter is ahead of the host's.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut value = 0;
    let attribute = tsc_attribute(&mut value);
    // SAFETY: the request reads the attribute and writes 8 bytes at its
    // address, which is that of `value`; both live across the call.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR, &raw const attribute) })?;
    Ok(value)
}

/// Sets what the guest's time-stamp counter is ahead of the host's.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let mut value = offset;
    let attribute = tsc_attribute(&mut value);
    // SAFETY: the request reads the attribute and 8 bytes at its address, which
    // is that of `value`; both live across the call.
    checked(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_have_the_kernels_numbers() {
        assert_eq!(KVM_IRQFD, 0x4020_ae76);
        assert_eq!(KVM_IOEVENTFD, 0x4040_ae79);
        assert_eq!(KVM_ENABLE_CAP, 0x4068_aea3);
        assert_eq!(KVM_INTERRUPT, 0x4004_ae86);
        assert_eq!(KVM_GET_SREGS2, 0x8140_aecc);
        assert_eq!(KVM_GET_DEVICE_ATTR, 0x4018_aee2);
    }
}
