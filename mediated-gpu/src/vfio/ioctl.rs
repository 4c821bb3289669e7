//! VFIO's and iommufd's requests, of which the bindings have the structs but not the numbers: `_IO(';', 100 + n)`, and
//! `_IO(';', 0x80 + n)`.
#![expect(unsafe_code, reason = "an ioctl is a promise about what the kernel does with its argument")]

use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use iommufd_bindings::iommufd::{
    IOMMUFD_CMD_IOAS_ALLOC, IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_CMD_IOAS_MAP, IOMMUFD_CMD_IOAS_UNMAP,
    IOMMUFD_TYPE, iommu_ioas_alloc, iommu_ioas_iova_ranges, iommu_ioas_map, iommu_ioas_unmap,
    iommu_iova_range,
};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_TYPE,
    vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd, vfio_device_info, vfio_group_status,
    vfio_iommu_type1_dma_map, vfio_iommu_type1_info, vfio_irq_info, vfio_irq_set, vfio_region_info,
};

/// `_IO(VFIO_TYPE, VFIO_BASE + n)`; the argument's size is not part of the number.
#[expect(clippy::cast_possible_truncation, reason = "the base is one byte: 100")]
const fn request(n: u8) -> Opcode {
    opcode::none(VFIO_TYPE, VFIO_BASE as u8 + n)
}

/// `_IO(IOMMUFD_TYPE, n)`.
#[expect(clippy::cast_possible_truncation, reason = "the numbers are one byte")]
const fn iommufd(n: u32) -> Opcode {
    opcode::none(IOMMUFD_TYPE, n as u8)
}

const GET_API_VERSION: Opcode = request(0);
const CHECK_EXTENSION: Opcode = request(1);
const SET_IOMMU: Opcode = request(2);
const GROUP_GET_STATUS: Opcode = request(3);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_GET_DEVICE_FD: Opcode = request(6);
const DEVICE_GET_INFO: Opcode = request(7);
const DEVICE_GET_REGION_INFO: Opcode = request(8);
const DEVICE_GET_IRQ_INFO: Opcode = request(9);
pub(super) const DEVICE_SET_IRQS: Opcode = request(10);
pub(super) const DEVICE_RESET: Opcode = request(11);
const IOMMU_GET_INFO: Opcode = request(12);
const IOMMU_MAP_DMA: Opcode = request(13);
const IOMMU_UNMAP_DMA: Opcode = request(14);
const DEVICE_BIND_IOMMUFD: Opcode = request(18);
const DEVICE_ATTACH_IOMMUFD_PT: Opcode = request(19);
const IOAS_ALLOC: Opcode = iommufd(IOMMUFD_CMD_IOAS_ALLOC);
const IOAS_IOVA_RANGES: Opcode = iommufd(IOMMUFD_CMD_IOAS_IOVA_RANGES);
const IOAS_MAP: Opcode = iommufd(IOMMUFD_CMD_IOAS_MAP);
const IOAS_UNMAP: Opcode = iommufd(IOMMUFD_CMD_IOAS_UNMAP);

/// An answer that is longer is none that we know.
const MOST_ANSWER: u32 = 1 << 20;

/// One request: its number, its argument, and that the answer is the return value.
struct Request {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the functions below pair each number with the argument that the kernel's headers ask for.
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
    // SAFETY: `value` is the struct that the request takes and lives through the call; its first field says its size.
    unsafe { ioctl(fd, Request { opcode, argument: std::ptr::from_mut(value).cast() }) }
}

/// A request whose answer may be longer than its struct, which then says so: asked again with the room that it needs. `dwords`
/// is the struct behind its `argsz`.
fn with_tail(fd: impl AsFd, opcode: Opcode, size: u32, dwords: &[u32]) -> Result<Vec<u8>> {
    let mut size = size;
    // The kernel's answer can have grown in between, but not for ever.
    for _ in 0..4 {
        let words = usize::try_from(size).map_or(0, |s| s.div_ceil(8));
        let mut buffer = vec![0u64; words.max(1 + dwords.len() / 2)];
        let bytes: Vec<u8> = [&[size][..], dwords].concat().iter().flat_map(|d| d.to_ne_bytes()).collect();
        for (word, chunk) in buffer.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(whole);
        }
        let argument = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer has the `argsz` bytes that its first dword names, and lives through the call.
        unsafe { ioctl(fd.as_fd(), Request { opcode, argument }) }?;
        let answer: Vec<u8> = buffer.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let needed = super::chain::dword(&answer, 0).unwrap_or(0);
        if needed <= size {
            return Ok(answer);
        }
        if needed > MOST_ANSWER {
            return Err(Errno::TOOBIG);
        }
        size = needed;
    }
    Err(Errno::AGAIN)
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

/// `VFIO_CHECK_EXTENSION`.
pub(super) fn has_extension(container: impl AsFd, extension: u32) -> Result<bool> {
    with_value(container, CHECK_EXTENSION, extension as usize).map(|r| r > 0)
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

/// `VFIO_DEVICE_GET_REGION_INFO`, with its capabilities.
pub(super) fn region_info(device: impl AsFd, index: u32) -> Result<Vec<u8>> {
    with_tail(device, DEVICE_GET_REGION_INFO, argsz::<vfio_region_info>(), &[0, index])
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub(super) fn irq_info(device: impl AsFd, index: u32) -> Result<vfio_irq_info> {
    let mut info = vfio_irq_info { argsz: argsz::<vfio_irq_info>(), index, ..Default::default() };
    with_struct(device, DEVICE_GET_IRQ_INFO, &mut info)?;
    Ok(info)
}

/// `VFIO_DEVICE_SET_IRQS` without data: `count` interrupts from 0 on; with none of them, all of the index.
pub(super) fn set_irqs(device: impl AsFd, index: u32, flags: u32, count: u32) -> Result<()> {
    let mut set = vfio_irq_set { argsz: argsz::<vfio_irq_set>(), flags, index, count, ..Default::default() };
    with_struct(device, DEVICE_SET_IRQS, &mut set).map(drop)
}

/// `VFIO_DEVICE_SET_IRQS`: interrupts of an index from 0 on are sent to these eventfds.
pub(super) fn send_irqs(device: impl AsFd, index: u32, eventfds: &[OwnedFd]) -> Result<()> {
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    let count = u32::try_from(eventfds.len()).map_err(|_| Errno::INVAL)?;
    let size = argsz::<vfio_irq_set>().saturating_add(count.saturating_mul(4));
    let fds = eventfds.iter().map(|fd| fd.as_raw_fd().cast_unsigned());
    let dwords: Vec<u32> = [size, flags, index, 0, count].into_iter().chain(fds).collect();
    let mut dwords = dwords.into_boxed_slice();
    let argument = dwords.as_mut_ptr().cast();
    // SAFETY: a vfio_irq_set of `argsz` bytes: five dwords and a descriptor for each of the `count` interrupts behind them.
    unsafe { ioctl(device, Request { opcode: DEVICE_SET_IRQS, argument }) }.map(drop)
}

/// `VFIO_DEVICE_RESET`.
pub(super) fn reset(device: impl AsFd) -> Result<()> {
    with_value(device, DEVICE_RESET, 0).map(drop)
}

/// `VFIO_IOMMU_GET_INFO`, with its capabilities.
pub(super) fn iommu_info(container: impl AsFd) -> Result<Vec<u8>> {
    with_tail(container, IOMMU_GET_INFO, argsz::<vfio_iommu_type1_info>(), &[])
}

/// What is mapped for a device: `size` bytes at `address` of this process, at bus address `iova`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) address: u64,
    pub(super) iova: u64,
    pub(super) size: u64,
}

/// `VFIO_IOMMU_MAP_DMA`.
///
/// # Safety
/// The stretch is memory of this process that the device may write to until it is unmapped.
pub(super) unsafe fn map_dma(container: impl AsFd, at: Stretch, flags: u32) -> Result<()> {
    let argsz = argsz::<vfio_iommu_type1_dma_map>();
    let Stretch { address: vaddr, iova, size } = at;
    let mut map = vfio_iommu_type1_dma_map { argsz, flags, vaddr, iova, size };
    with_struct(container, IOMMU_MAP_DMA, &mut map).map(drop)
}

/// `struct vfio_iommu_type1_dma_unmap` without data.
#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// `VFIO_IOMMU_UNMAP_DMA`: the bytes that were unmapped.
pub(super) fn unmap_dma(container: impl AsFd, iova: u64, size: u64) -> Result<u64> {
    let mut unmap = DmaUnmap { argsz: argsz::<DmaUnmap>(), flags: 0, iova, size };
    with_struct(container, IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}

/// `VFIO_DEVICE_BIND_IOMMUFD`.
pub(super) fn bind_iommufd(device: impl AsFd, iommufd: &OwnedFd) -> Result<()> {
    let argsz = argsz::<vfio_device_bind_iommufd>();
    let mut bind = vfio_device_bind_iommufd { argsz, iommufd: iommufd.as_raw_fd(), ..Default::default() };
    with_struct(device, DEVICE_BIND_IOMMUFD, &mut bind).map(drop)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`: the device reaches what this address space maps.
pub(super) fn attach_iommufd(device: impl AsFd, ioas: u32) -> Result<()> {
    let argsz = argsz::<vfio_device_attach_iommufd_pt>();
    let mut attach = vfio_device_attach_iommufd_pt { argsz, pt_id: ioas, ..Default::default() };
    with_struct(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach).map(drop)
}

/// `IOMMU_IOAS_ALLOC`: a new address space.
pub(super) fn ioas_alloc(iommufd: impl AsFd) -> Result<u32> {
    let mut alloc = iommu_ioas_alloc { size: argsz::<iommu_ioas_alloc>(), flags: 0, out_ioas_id: 0 };
    with_struct(iommufd, IOAS_ALLOC, &mut alloc)?;
    Ok(alloc.out_ioas_id)
}

/// `IOMMU_IOAS_IOVA_RANGES`: first and last usable byte of each, and the alignment that mappings need.
pub(super) fn ioas_ranges(iommufd: impl AsFd, ioas: u32) -> Result<(Vec<(u64, u64)>, u64)> {
    let mut room = 16u32;
    for _ in 0..4 {
        let mut ranges = vec![iommu_iova_range { start: 0, last: 0 }; room as usize];
        let mut ask = iommu_ioas_iova_ranges {
            size: argsz::<iommu_ioas_iova_ranges>(),
            ioas_id: ioas,
            num_iovas: room,
            __reserved: 0,
            allowed_iovas: ranges.as_mut_ptr().expose_provenance() as u64,
            out_iova_alignment: 0,
        };
        let answer = with_struct(iommufd.as_fd(), IOAS_IOVA_RANGES, &mut ask);
        match answer {
            // It says how many there are.
            Err(Errno::MSGSIZE) if ask.num_iovas > room && ask.num_iovas < MOST_ANSWER => {
                room = ask.num_iovas;
            }
            Err(e) => return Err(e),
            Ok(_) => {
                ranges.truncate(ask.num_iovas as usize);
                let found = ranges.iter().map(|r| (r.start, r.last)).collect();
                return Ok((found, ask.out_iova_alignment));
            }
        }
    }
    Err(Errno::AGAIN)
}

/// `IOMMU_IOAS_MAP`.
///
/// # Safety
/// The stretch is memory of this process that the device may write to until it is unmapped.
pub(super) unsafe fn ioas_map(iommufd: impl AsFd, ioas_id: u32, at: Stretch, flags: u32) -> Result<()> {
    let mut map = iommu_ioas_map {
        size: argsz::<iommu_ioas_map>(),
        flags,
        ioas_id,
        __reserved: 0,
        user_va: at.address,
        length: at.size,
        iova: at.iova,
    };
    with_struct(iommufd, IOAS_MAP, &mut map).map(drop)
}

/// `IOMMU_IOAS_UNMAP`: the bytes that were unmapped.
pub(super) fn ioas_unmap(iommufd: impl AsFd, ioas_id: u32, iova: u64, length: u64) -> Result<u64> {
    let mut unmap = iommu_ioas_unmap { size: argsz::<iommu_ioas_unmap>(), ioas_id, iova, length };
    with_struct(iommufd, IOAS_UNMAP, &mut unmap)?;
    Ok(unmap.length)
}

#[cfg(test)]
mod tests {
    use vfio_bindings::bindings::vfio::vfio_iommu_type1_dma_unmap;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_headers() {
        // linux/vfio.h: _IO(';', 100 + n); linux/iommufd.h: _IO(';', 0x80 + n)
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(DEVICE_SET_IRQS, 0x3b6e);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        assert_eq!(IOMMU_UNMAP_DMA, 0x3b72);
        assert_eq!(DEVICE_ATTACH_IOMMUFD_PT, 0x3b77);
        assert_eq!(IOAS_ALLOC, 0x3b81);
        assert_eq!(IOAS_UNMAP, 0x3b86);
    }

    #[test]
    fn structs_with_data_behind_them_begin_like_the_kernels() {
        assert_eq!(size_of::<vfio_irq_set>(), 20);
        assert_eq!(std::mem::offset_of!(vfio_irq_set, count), 16);
        assert_eq!(size_of::<DmaUnmap>(), size_of::<vfio_iommu_type1_dma_unmap>());
        assert_eq!(
            std::mem::offset_of!(DmaUnmap, size),
            std::mem::offset_of!(vfio_iommu_type1_dma_unmap, size)
        );
    }
}
