//! The memory-mapped configuration mechanism (ECAM, MMCONFIG), for a guest in which no other device model has it: a window of
//! memory in which every function has 4096 bytes.

use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

use super::Sbdf;
use crate::bus::{Bus, BusError, DeviceId, Hint, Target, Window};
use crate::device::{Access, Device, MmioDevice, Region, Space, Width};
use crate::outcome::{IoError, Outcome};

/// Bytes of a bus in the window.
const BUS: u64 = 1 << 20;

/// A window that could not be put on a bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EcamError {
    /// It does not begin where buses can.
    #[error(
        "ECAM at {base:#x}: the window must begin at a multiple of 1 MiB and end inside the address space"
    )]
    Base {
        /// First byte.
        base: u64,
    },
    /// There is no bus in it.
    #[error("ECAM of buses {first} to {last}: no bus at all")]
    NoBus {
        /// First bus.
        first: u8,
        /// Last bus.
        last: u8,
    },
    /// The bus has refused it.
    #[error("ECAM at {base:#x}: {source}")]
    Bus {
        /// First byte.
        base: u64,
        /// Why.
        source: BusError,
    },
}

/// The window: accesses in it are configuration accesses of the functions on the same [`Bus`].
#[derive(Debug)]
pub struct Ecam {
    bus: Weak<Bus>,
    segment: u16,
    first: u8,
    /// Where the last access went, whichever vCPU's it was.
    hint: Hint,
}

impl Ecam {
    /// Maps the window of some buses of a segment. `base` is where the first of *these* is, 1 MiB a bus.
    pub fn attach(
        bus: &Arc<Bus>,
        base: u64,
        segment: u16,
        buses: RangeInclusive<u8>,
    ) -> Result<DeviceId, EcamError> {
        let (first, last) = (*buses.start(), *buses.end());
        let count = last.checked_sub(first).ok_or(EcamError::NoBus { first, last })?;
        let end = base.checked_add((u64::from(count) + 1) * BUS - 1);
        let end = end.filter(|_| base.is_multiple_of(BUS)).ok_or(EcamError::Base { base })?;
        let device = Self { bus: Arc::downgrade(bus), segment, first, hint: Hint::default() };
        let id = bus.attach(Arc::new(device));
        let window = Window { space: Space::Mmio, start: base, last: end, region: Region(0) };
        bus.map(id, window).map_err(|source| {
            // It has no range, so this cannot fail.
            let _ = bus.detach(id);
            EcamError::Bus { base, source }
        })?;
        Ok(id)
    }

    /// The function and the register at a byte offset of a window whose first bus is `first`; `None` beyond bus 255.
    pub fn decode(segment: u16, first: u8, offset: u64) -> Option<(Sbdf, u32)> {
        let bus = u8::try_from(offset / BUS).ok()?.checked_add(first)?;
        let (device, function) = ((offset >> 15 & 0x1f) as u8, (offset >> 12 & 7) as u8);
        Some((Sbdf::new(segment, bus, device, function), (offset & 0xfff) as u32))
    }

    fn target(&self, access: &Access) -> Result<(Arc<Bus>, Target), IoError> {
        // As by the ports: 1, 2 or 4 bytes, not across a dword.
        let in_dword = access.offset % 4 + u64::from(access.width.bytes()) <= 4;
        if access.width == Width::Qword || !in_dword {
            return Err(IoError::BadAccess);
        }
        let (sbdf, register) =
            Self::decode(self.segment, self.first, access.offset).ok_or(IoError::NoDevice)?;
        let bus = self.bus.upgrade().ok_or(IoError::NoDevice)?;
        let target = Target {
            space: Space::Pci,
            addr: sbdf.0.into(),
            register,
            width: access.width,
            vcpu: access.vcpu,
        };
        Ok((bus, target))
    }
}

impl Device for Ecam {
    fn name(&self) -> &str {
        "ECAM"
    }

    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Ecam {
    fn mmio_read(&self, access: &Access) -> Outcome<u64> {
        match self.target(access) {
            Ok((bus, target)) => bus.read(&target, &self.hint),
            Err(e) => Outcome::Err(e),
        }
    }

    fn mmio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        match self.target(access) {
            Ok((bus, target)) => bus.write(&target, value, &self.hint),
            Err(e) => Outcome::Err(e),
        }
    }
}
