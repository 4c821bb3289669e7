//! A region's registers, accessed as the bus wants it: whole, in order, and never by a reference.
#![expect(
    unsafe_code,
    reason = "a BAR is memory that a device answers for: volatile accesses through raw pointers"
)]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::error::os;
use super::{VfioDevice, VfioError};

/// A part of a region in this process's memory.
struct Window {
    range: Range<u64>,
    base: NonNull<u8>,
}

// SAFETY: a window is an address of device memory; every access to it is volatile and whole, from whichever thread.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(0)
    }

    /// The register at an offset, if all `size` bytes of it are in the window.
    fn at<T>(&self, offset: u64) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>() as u64)?;
        if offset < self.range.start || end > self.range.end {
            return None;
        }
        let inside = usize::try_from(offset - self.range.start).ok()?;
        // SAFETY: the mapping is as long as the range, of which `inside` is no more than its length.
        Some(unsafe { self.base.add(inside) }.cast())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: mapped by `MappedRegion::new` with this length, and nobody has a pointer into it any more.
        if let Err(e) = unsafe { munmap(self.base.as_ptr().cast(), self.len()) } {
            log::error!("munmap of a BAR: {e}");
        }
    }
}

/// A region of a device. What of it cannot be mapped is accessed through the kernel.
pub struct MappedRegion {
    device: Arc<VfioDevice>,
    index: u32,
    windows: Vec<Window>,
}

impl MappedRegion {
    /// Maps what can be mapped of a region.
    ///
    /// # Errors
    /// There is no such region, or the kernel refuses.
    pub fn new(device: &Arc<VfioDevice>, index: u32) -> Result<Self, VfioError> {
        let region = device.region(index).ok_or(VfioError::Range { index, offset: 0, len: 0 })?;
        let mut protection = ProtFlags::empty();
        protection.set(ProtFlags::READ, region.readable());
        protection.set(ProtFlags::WRITE, region.writable());
        let mut windows = Vec::new();
        for range in region.mappable() {
            let len = usize::try_from(range.end - range.start).unwrap_or(0);
            let Some(at) = region.position(range.start, len) else { continue };
            // SAFETY: a new mapping at an address of the kernel's choice.
            let base =
                unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, &device.fd, at) }
                    .map_err(os(format!("mmap {} bytes of region {index}", len)))?;
            if let Some(base) = NonNull::new(base.cast()) {
                windows.push(Window { range: range.clone(), base });
            }
        }
        Ok(Self { device: device.clone(), index, windows })
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.device.region(self.index).map_or(0, |r| r.size)
    }

    /// Bytes that are accessed without a system call.
    pub fn mapped(&self) -> u64 {
        self.windows.iter().map(|w| w.range.end - w.range.start).sum()
    }

    fn check<T>(&self, offset: u64) -> Result<(), VfioError> {
        let len = size_of::<T>();
        if offset.is_multiple_of(len as u64) {
            return Ok(());
        }
        Err(VfioError::Range { index: self.index, offset, len })
    }

    /// Reads the dword at a byte offset that is a multiple of 4.
    ///
    /// # Errors
    /// It is outside, or the kernel refuses.
    pub fn read32(&self, offset: u64) -> Result<u32, VfioError> {
        self.check::<u32>(offset)?;
        if let Some(register) = self.windows.iter().find_map(|w| w.at::<u32>(offset)) {
            // SAFETY: an aligned dword of the mapping, which lives as long as `self`.
            return Ok(u32::from_le(unsafe { register.read_volatile() }));
        }
        let mut bytes = [0; 4];
        self.device.read(self.index, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the dword at a byte offset that is a multiple of 4.
    ///
    /// # Errors
    /// It is outside, or the kernel refuses.
    pub fn write32(&self, offset: u64, value: u32) -> Result<(), VfioError> {
        self.check::<u32>(offset)?;
        if let Some(register) = self.windows.iter().find_map(|w| w.at::<u32>(offset)) {
            // SAFETY: as in `read32`.
            unsafe { register.write_volatile(value.to_le()) };
            return Ok(());
        }
        self.device.write(self.index, offset, &value.to_le_bytes())
    }

    /// Reads the quadword at a byte offset that is a multiple of 8.
    ///
    /// # Errors
    /// It is outside, or the kernel refuses.
    pub fn read64(&self, offset: u64) -> Result<u64, VfioError> {
        self.check::<u64>(offset)?;
        if let Some(register) = self.windows.iter().find_map(|w| w.at::<u64>(offset)) {
            // SAFETY: an aligned quadword of the mapping, which lives as long as `self`.
            return Ok(u64::from_le(unsafe { register.read_volatile() }));
        }
        let mut bytes = [0; 8];
        self.device.read(self.index, offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes the quadword at a byte offset that is a multiple of 8, in one access where it is mapped.
    ///
    /// # Errors
    /// It is outside, or the kernel refuses.
    pub fn write64(&self, offset: u64, value: u64) -> Result<(), VfioError> {
        self.check::<u64>(offset)?;
        if let Some(register) = self.windows.iter().find_map(|w| w.at::<u64>(offset)) {
            // SAFETY: as in `read64`.
            unsafe { register.write_volatile(value.to_le()) };
            return Ok(());
        }
        self.device.write(self.index, offset, &value.to_le_bytes())
    }
}

impl fmt::Debug for MappedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedRegion")
            .field("device", &self.device.address())
            .field("index", &self.index)
            .field("mapped", &self.mapped())
            .finish_non_exhaustive()
    }
}
