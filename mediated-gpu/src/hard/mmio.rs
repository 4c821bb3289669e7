//! BAR0 of a GPU, and the last means against it.

use std::process;
use std::sync::Arc;

use crate::vfio::{MappedRegion, VfioDevice};

/// BAR0: registers below [`GTT_OFFSET`](crate::gen8::gtt::GTT_OFFSET), the table from there on. Offsets are bytes.
pub trait Mmio: Send + Sync {
    /// Reads the dword at a multiple of 4. A device that is gone reads as all-ones.
    fn read32(&self, offset: u32) -> u32;
    /// Writes the dword at a multiple of 4.
    fn write32(&self, offset: u32, value: u32);
    /// Reads the quadword at a multiple of 8.
    fn read64(&self, offset: u32) -> u64;
    /// Writes the quadword at a multiple of 8, in one access.
    fn write64(&self, offset: u32, value: u64);
    /// Ends the device's DMA, whatever it is doing. Comes back only when that is so.
    fn cut_off(&self);
}

/// BAR0 of a device that VFIO has opened.
pub(super) struct DeviceBar {
    pub(super) device: Arc<VfioDevice>,
    pub(super) bar: MappedRegion,
}

/// Nothing can be done about an access that fails but to take the device for gone.
fn failed(e: &crate::vfio::VfioError) {
    log::error!("BAR0: {e}");
}

impl Mmio for DeviceBar {
    fn read32(&self, offset: u32) -> u32 {
        self.bar.read32(offset.into()).inspect_err(failed).unwrap_or(u32::MAX)
    }

    fn write32(&self, offset: u32, value: u32) {
        let _ = self.bar.write32(offset.into(), value).inspect_err(failed);
    }

    fn read64(&self, offset: u32) -> u64 {
        self.bar.read64(offset.into()).inspect_err(failed).unwrap_or(u64::MAX)
    }

    fn write64(&self, offset: u32, value: u64) {
        let _ = self.bar.write64(offset.into(), value).inspect_err(failed);
    }

    fn cut_off(&self) {
        let cut = self.device.set_bus_master(false).inspect_err(failed);
        if cut.is_ok() || matches!(self.device.reset(), Ok(true)) {
            return;
        }
        // The kernel takes the right away when the device's descriptor is closed, and frames stay held until then.
        log::error!("{}: its DMA cannot be ended but with this process", self.device.address());
        process::abort();
    }
}
