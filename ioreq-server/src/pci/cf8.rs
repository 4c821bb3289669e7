//! The configuration address port in a guest where no other device model answers it.
//!
//! Xen keeps the latch that decodes CFC for itself, but lets the access through, and leaves reads of CF8 to whoever claims
//! it. A guest probes for PCI by reading back what it wrote, so exactly one server must claim the port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bus::{Bus, BusError, DeviceId, Window};
use crate::device::{Access, Device, PioDevice, Region, Space, Width};
use crate::outcome::{IoError, Outcome};

const FIRST: u64 = 0xcf8;
const LAST: u64 = 0xcfb;

/// Ports 0xcf8 to 0xcfb.
#[derive(Debug, Default)]
pub struct Cf8Latch(AtomicU32);

impl Cf8Latch {
    /// Claims the ports on `bus`.
    pub fn attach(bus: &Bus) -> Result<DeviceId, BusError> {
        let id = bus.attach(Arc::new(Self::default()));
        let window = Window { space: Space::Pio, start: FIRST, last: LAST, region: Region(0) };
        bus.map(id, window).inspect_err(|_| {
            // It has no range, so this cannot fail.
            let _ = bus.detach(id);
        })?;
        Ok(id)
    }
}

impl Device for Cf8Latch {
    fn name(&self) -> &str {
        "CF8"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for Cf8Latch {
    fn pio_read(&self, access: &Access) -> Outcome<u64> {
        match access.width {
            Width::Dword => Outcome::Ok(self.0.load(Ordering::Relaxed).into()),
            _ => Outcome::Err(IoError::BadAccess),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "4 bytes wide")]
    fn pio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        // Only a whole dword is an address; a guest probes for an older mechanism with a byte to 0xcfb.
        if access.width == Width::Dword {
            self.0.store(value as u32, Ordering::Relaxed);
        }
        Outcome::Ok(())
    }
}
