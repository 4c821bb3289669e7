//! Which device answers an access.
//!
//! Lookups read a table that is replaced as a whole, so an access takes no lock, and a device may map, move or unmap its
//! ranges from inside an access. Each range is claimed in Xen as well: it is here before requests for it can come, and
//! stays until they no longer can; a refusal leaves both sides as they were.

mod index;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use parking_lot::Mutex;
use xen_ioreq::VcpuId;

pub use self::table::Hint;
use self::table::{Entry, Table};
use crate::claims::{ClaimError, RangeClaims};
use crate::device::{Device, Region, Space, Width};
use crate::outcome::Outcome;

/// A device on a bus. Numbers are not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(u64);

/// A range of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Where.
    pub space: Space,
    /// First port, byte address or SBDF.
    pub start: u64,
    /// Last one, inclusive.
    pub last: u64,
    /// What the device calls it.
    pub region: Region,
}

/// A change to the bus that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// Not attached, or no longer.
    #[error("no such device on the bus")]
    NoDevice,
    /// The device does not offer accesses of that kind.
    #[error("{device} has no {space}")]
    NotOffered {
        /// The device's name.
        device: String,
        /// What it was mapped into.
        space: Space,
    },
    /// The device has no range that starts there.
    #[error("{device} has no {space} range at {start:#x}")]
    NotMapped {
        /// The device's name.
        device: String,
        /// Space.
        space: Space,
        /// The start that was given.
        start: u64,
    },
    /// The range is taken, or not a range, or Xen refused it.
    #[error("{device}: {source}")]
    Claim {
        /// The device's name.
        device: String,
        /// Why.
        source: ClaimError,
    },
}

/// Where an access goes, before the device is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Space.
    pub space: Space,
    /// Port, byte address or SBDF.
    pub addr: u64,
    /// Register, for [`Space::Pci`].
    pub register: u32,
    /// Width.
    pub width: Width,
    /// Who waits, if anybody.
    pub vcpu: Option<VcpuId>,
}

#[derive(Default)]
struct Devices {
    next: u64,
    all: BTreeMap<DeviceId, Arc<dyn Device>>,
}

/// The devices of one guest and their ranges.
pub struct Bus {
    table: ArcSwap<Table>,
    /// Held while the table is being replaced and Xen is being told; never while a device is called. A device may
    /// hold its own locks when it comes here: device before bus.
    devices: Mutex<Devices>,
    claims: Arc<dyn RangeClaims>,
}

impl Bus {
    /// An empty bus whose ranges are claimed through `claims`.
    pub fn new(claims: Arc<dyn RangeClaims>) -> Arc<Self> {
        Arc::new(Self { table: ArcSwap::default(), devices: Mutex::default(), claims })
    }

    /// Adds a device, which has no ranges yet.
    pub fn attach(&self, device: Arc<dyn Device>) -> DeviceId {
        let mut devices = self.devices.lock();
        let id = DeviceId(devices.next);
        devices.next += 1;
        devices.all.insert(id, device);
        id
    }

    /// Removes a device and all its ranges. Accesses that have found it already run to their end. The device is gone
    /// even if Xen would not give a range back, which is the error then; such a range reads as all-ones.
    pub fn detach(&self, id: DeviceId) -> Result<(), BusError> {
        let mut devices = self.devices.lock();
        let device = devices.all.remove(&id).ok_or(BusError::NoDevice)?;
        let mut table = Table::clone(&self.table.load());
        let mut result = Ok(());
        for space in [Space::Pio, Space::Mmio, Space::Pci] {
            table.retain(space, |e| {
                if e.owner != id {
                    return true;
                }
                match self.claims.release(space, e.start, e.last) {
                    Ok(()) | Err(ClaimError::Gone) => {}
                    Err(source) => {
                        result = Err(BusError::Claim { device: device.name().to_owned(), source });
                    }
                }
                false
            });
        }
        self.table.store(Arc::new(table));
        result
    }

    /// Gives a device a range. After an error nothing has changed.
    pub fn map(&self, id: DeviceId, window: Window) -> Result<(), BusError> {
        let devices = self.devices.lock();
        let device = devices.all.get(&id).ok_or(BusError::NoDevice)?;
        let Window { space, start, last, region } = window;
        let offered = match space {
            Space::Pio => device.supports_pio().is_some(),
            Space::Mmio => device.supports_mmio().is_some(),
            Space::Pci => device.supports_pci().is_some(),
        };
        let name = || device.name().to_owned();
        if !offered {
            return Err(BusError::NotOffered { device: name(), space });
        }
        let refused = |source| BusError::Claim { device: name(), source };
        let old = self.table.load_full();
        let mut table = Table::clone(&old);
        let entry = Entry { start, last, region, owner: id, device: device.clone() };
        table.insert(space, entry).map_err(refused)?;
        self.table.store(Arc::new(table));
        self.claims.claim(space, start, last).map_err(|e| {
            self.table.store(old);
            refused(e)
        })
    }

    /// Takes a range from a device, by its start. After an error nothing has changed.
    pub fn unmap(&self, id: DeviceId, space: Space, start: u64) -> Result<(), BusError> {
        let devices = self.devices.lock();
        let device = devices.all.get(&id).ok_or(BusError::NoDevice)?;
        let mut table = Table::clone(&self.table.load());
        let entry = table
            .remove(space, |e| e.owner == id && e.start == start)
            .ok_or_else(|| BusError::NotMapped { device: device.name().to_owned(), space, start })?;
        match self.claims.release(space, start, entry.last) {
            Ok(()) | Err(ClaimError::Gone) => {}
            Err(source) => return Err(BusError::Claim { device: device.name().to_owned(), source }),
        }
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// The ranges of a device, in no particular order.
    pub fn windows(&self, id: DeviceId) -> Vec<Window> {
        let table = self.table.load();
        let mut out = Vec::new();
        for space in [Space::Pio, Space::Mmio, Space::Pci] {
            out.extend(table.entries(space).iter().filter(|e| e.owner == id).map(|e| Window {
                space,
                start: e.start,
                last: e.last,
                region: e.region,
            }));
        }
        out
    }

    /// A read by the guest. The value has no bits beyond the width.
    pub fn read(&self, target: &Target, hint: &Hint) -> Outcome<u64> {
        self.table.load().read(target, hint)
    }

    /// A write by the guest.
    pub fn write(&self, target: &Target, value: u64, hint: &Hint) -> Outcome<()> {
        self.table.load().write(target, value, hint)
    }

    /// For accesses that come in a row.
    pub fn session(&self) -> Session<'_> {
        Session(Cache::new(&self.table))
    }
}

/// A run of accesses that keeps the table it last used, which saves each the synchronisation with those who replace it. A
/// change is seen by the next access. Drop it before anything waits: until then a device that was detached may live on.
pub struct Session<'a>(Cache<&'a ArcSwap<Table>, Arc<Table>>);

impl Session<'_> {
    /// See [`Bus::read`].
    #[inline(always)]
    pub fn read(&mut self, target: &Target, hint: &Hint) -> Outcome<u64> {
        self.0.load().read(target, hint)
    }

    /// See [`Bus::write`].
    #[inline(always)]
    pub fn write(&mut self, target: &Target, value: u64, hint: &Hint) -> Outcome<()> {
        self.0.load().write(target, value, hint)
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.load();
        let mut map = f.debug_map();
        for space in [Space::Pio, Space::Mmio, Space::Pci] {
            for e in table.entries(space) {
                map.entry(&format_args!("{space} {:#x}-{:#x}", e.start, e.last), &e.device.name());
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests;
