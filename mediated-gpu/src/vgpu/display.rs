//! The picture that a guest shows: pipe A's size and primary plane A's format, stride and address.
//!
//! Read from the registers as an allegation and checked here; the mediator reads the pixels.

use super::registers::RegisterFile;
use super::slice::Slice;
use crate::gen8::regs::{self, display};

/// Largest picture, in pixels a side. What PIPESRC can say.
pub const MAX_SIDE: u32 = 4096;
/// Bytes of a pixel, BGRX 8:8:8:8.
pub const PIXEL_BYTES: u32 = 4;

/// Where a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanout {
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from one line to the next.
    pub stride: u32,
    /// GM address of the first pixel.
    pub address: u64,
}

/// A picture, copied out of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surface {
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Lines without gaps, each pixel blue, green, red, unused.
    pub bgrx: Vec<u8>,
    /// Pages of the picture that were not there to be read; their pixels are 0.
    pub missing_pages: u32,
}

/// There is no picture to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurfaceError {
    /// The guest has not switched its plane on.
    #[error("the guest shows nothing: its display plane is off")]
    Off,
    /// A pixel format or a tiling that is not read.
    #[error("the guest's display format is not supported: DSPACNTR {0:#010x}")]
    Format(u32),
    /// Lines that overlap, or a stride that is no multiple of 64 (PRM, PLANE_STRIDE).
    #[error("the guest's stride of {stride} bytes does not fit {width} pixels a line")]
    Stride {
        /// Bytes.
        stride: u32,
        /// Pixels.
        width: u32,
    },
    /// The picture is not in the guest's own graphics memory.
    #[error("the guest's picture at {address:#x} ({bytes} bytes) leaves its slice")]
    OutOfSlice {
        /// GM address.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
}

/// Reads the display registers.
pub(crate) fn scanout(file: &RegisterFile, slice: &Slice) -> Result<Scanout, SurfaceError> {
    let control = file.get(display::DSPACNTR);
    if control & regs::DISP_ENABLE == 0 {
        return Err(SurfaceError::Off);
    }
    if control & regs::DISP_FORMAT_MASK != regs::DISP_FORMAT_BGRX888 || control & regs::DISP_TILED != 0 {
        return Err(SurfaceError::Format(control));
    }
    let size = file.get(display::PIPEASRC);
    let (width, height) = ((size >> 16 & 0xfff) + 1, (size & 0xfff) + 1);
    let stride = file.get(display::DSPASTRIDE);
    let line = width * PIXEL_BYTES;
    if stride < line || !stride.is_multiple_of(64) || stride > MAX_SIDE * PIXEL_BYTES * 2 {
        return Err(SurfaceError::Stride { stride, width });
    }
    let address = u64::from(file.get(display::DSPASURFLIVE));
    let bytes = u64::from(stride) * u64::from(height - 1) + u64::from(line);
    if !slice.contains(address, bytes) {
        return Err(SurfaceError::OutOfSlice { address, bytes });
    }
    Ok(Scanout { width, height, stride, address })
}

/// The write to DSPASURF that takes the plane's settings into use.
pub(crate) fn flip(file: &mut RegisterFile) {
    let address = file.get(display::DSPASURF) & 0xffff_f000;
    file.set(display::DSPASURFLIVE, address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vgpu::VgpuId;
    use crate::vgpu::slice::GmRange;

    fn shown(control: u32, src: u32, stride: u32, surf: u32) -> Result<Scanout, SurfaceError> {
        let slice = Slice {
            low: GmRange { base: 0x10_0000, size: 0x10_0000 },
            high: GmRange { base: 0x1000_0000, size: 4096 },
            fences: 0,
        };
        let mut f = RegisterFile::new(VgpuId(1), &slice);
        for (offset, value) in
            [(display::DSPACNTR, control), (display::PIPEASRC, src), (display::DSPASTRIDE, stride)]
        {
            f.guest_write(offset, value);
        }
        f.guest_write(display::DSPASURF, surf);
        flip(&mut f);
        scanout(&f, &slice)
    }

    const ON: u32 = 1 << 31 | 6 << 26;

    #[test]
    fn picture_that_fits_is_described() {
        let s = shown(ON, 255 << 16 | 127, 1024, 0x10_0000);
        assert_eq!(s, Ok(Scanout { width: 256, height: 128, stride: 1024, address: 0x10_0000 }));
    }

    #[test]
    fn picture_that_cannot_be_read_is_refused_with_its_reason() {
        assert_eq!(shown(6 << 26, 0, 64, 0x10_0000), Err(SurfaceError::Off));
        assert!(matches!(shown(ON | 1 << 10, 0, 64, 0x10_0000), Err(SurfaceError::Format(_))));
        assert!(matches!(shown(1 << 31 | 5 << 26, 0, 64, 0x10_0000), Err(SurfaceError::Format(_))));
        assert!(matches!(shown(ON, 255 << 16, 512, 0x10_0000), Err(SurfaceError::Stride { .. })));
        assert!(matches!(shown(ON, 0, 65, 0x10_0000), Err(SurfaceError::Stride { .. })));
        assert!(matches!(shown(ON, 0, u32::MAX - 63, 0x10_0000), Err(SurfaceError::Stride { .. })));
        assert!(matches!(
            shown(ON, 255 << 16 | 0xfff, 1024, 0x10_0000),
            Err(SurfaceError::OutOfSlice { .. })
        ));
        assert!(matches!(shown(ON, 0, 64, 0), Err(SurfaceError::OutOfSlice { .. })));
    }
}
