//! VFIO's requests, which `vfio-bindings` has the structs for but not the numbers: `_IO(';', 100 + n)`.
#![expect(unsafe_code, reason = "an ioctl is a promise about what the kernel does with its argument")]

use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_TYPE, vfio_device_info, vfio_group_status, vfio_irq_info, vfio_region_info,
};

/// `_IO(VFIO_TYPE, VFIO_BASE + n)`; the argument's size is not part of the number.
#[expect(clippy::cast_possible_truncation, reason = "the base is one byte: 100")]
const fn request(n: u8) -> Opcode {
    opcode::none(VFIO_TYPE, VFIO_BASE as u8 + n)
}

const GET_API_VERSION: Opcode = request(0);
const SET_IOMMU: Opcode = request(2);
const GROUP_GET_STATUS: Opcode = request(3);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_GET_DEVICE_FD: Opcode = request(6);
const DEVICE_GET_INFO: Opcode = request(7);
const DEVICE_GET_REGION_INFO: Opcode = request(8);
const DEVICE_GET_IRQ_INFO: Opcode = request(9);
const DEVICE_SET_IRQS: Opcode = request(10);
const DEVICE_RESET: Opcode = request(11);

/// One request: its number, its argument, and that the answer is the return value.
struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the functions below pair each number with the argument that the kernel's vfio.h asks for.
unsafe impl Ioctl for Request {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    // SAFETY: nothing is read from the pointer; the callers read their own structs.
    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

/// A request whose argument is a number.
fn with_value(fd: impl AsFd, opcode: Opcode, value: usize) -> Result<i32> {
    // SAFETY: the requests that come here take a number, not a pointer.
    unsafe { ioctl(fd, Request { opcode, argument: std::ptr::without_provenance_mut(value) }) }
}

/// A request whose argument is a struct, read and written in place.
fn with_struct<T>(fd: impl AsFd, opcode: Opcode, value: &mut T) -> Result<i32> {
    // SAFETY: `value` is the struct that the request takes and lives through the call; `argsz`, where there is one, says
    // its size.
    unsafe { ioctl(fd, Request { opcode, argument: std::ptr::from_mut(value).cast() }) }
}

/// Size of a struct as its `argsz`.
#[expect(clippy::cast_possible_truncation, reason = "a struct of a few bytes")]
pub(super) const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// `VFIO_GET_API_VERSION`.
pub(super) fn api_version(container: impl AsFd) -> Result<i32> {
    with_value(container, GET_API_VERSION, 0)
}

/// `VFIO_SET_IOMMU`.
pub(super) fn set_iommu(container: impl AsFd, kind: u32) -> Result<()> {
    with_value(container, SET_IOMMU, kind as usize).map(drop)
}

/// `VFIO_GROUP_GET_STATUS`: the flags.
pub(super) fn group_flags(group: impl AsFd) -> Result<u32> {
    let mut status = vfio_group_status { argsz: argsz::<vfio_group_status>(), flags: 0 };
    with_struct(group, GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(super) fn set_container(group: impl AsFd, container: &OwnedFd) -> Result<()> {
    use std::os::fd::AsRawFd;
    let mut raw = container.as_raw_fd();
    with_struct(group, GROUP_SET_CONTAINER, &mut raw).map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`.
pub(super) fn device_fd(group: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    // SAFETY: the request reads a C string.
    let raw = unsafe {
        ioctl(group, Request { opcode: GROUP_GET_DEVICE_FD, argument: name.as_ptr().cast_mut().cast() })
    }?;
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `VFIO_DEVICE_GET_INFO`.
pub(super) fn device_info(device: impl AsFd) -> Result<vfio_device_info> {
    let mut info = vfio_device_info { argsz: argsz::<vfio_device_info>(), ..Default::default() };
    with_struct(device, DEVICE_GET_INFO, &mut info)?;
    Ok(info)
}

/// `VFIO_DEVICE_GET_REGION_INFO`.
pub(super) fn region_info(device: impl AsFd, index: u32) -> Result<vfio_region_info> {
    let mut info = vfio_region_info { argsz: argsz::<vfio_region_info>(), index, ..Default::default() };
    with_struct(device, DEVICE_GET_REGION_INFO, &mut info)?;
    Ok(info)
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub(super) fn irq_info(device: impl AsFd, index: u32) -> Result<vfio_irq_info> {
    let mut info = vfio_irq_info { argsz: argsz::<vfio_irq_info>(), index, ..Default::default() };
    with_struct(device, DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info)
}

/// `struct vfio_irq_set` with one eventfd behind it.
#[repr(C)]
pub(super) struct IrqSet {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) count: u32,
    pub(super) eventfd: i32,
}

/// `VFIO_DEVICE_SET_IRQS`.
pub(super) fn set_irqs(device: impl AsFd, set: &mut IrqSet) -> Result<()> {
    with_struct(device, DEVICE_SET_IRQS, set).map(drop)
}

/// `VFIO_DEVICE_RESET`.
pub(super) fn reset(device: impl AsFd) -> Result<()> {
    with_value(device, DEVICE_RESET, 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_header() {
        // linux/vfio.h: _IO(';', 100 + n)
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_SET_IRQS, 0x3b6e);
        assert_eq!(DEVICE_RESET, 0x3b6f);
    }

    #[test]
    fn irq_set_begins_like_the_kernels() {
        use vfio_bindings::bindings::vfio::vfio_irq_set;
        assert_eq!(std::mem::offset_of!(IrqSet, eventfd), size_of::<vfio_irq_set>());
    }
}
