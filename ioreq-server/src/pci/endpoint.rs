//! A PCI function on a bus: its configuration space is answered here, its BARs by the device.
//!
//! A write to the command register or a BAR maps and unmaps ranges. Where a guest places a BAR over something else, or Xen
//! refuses the range, the BAR reads back as written but is not decoded; the next such write tries again.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::bar::Placement;
use super::config::{ConfigError, ConfigSpace};
use super::intx::IntxLine;
use super::msix::{MsixPart, MsixTable, PlacedMsix};
use super::power::PowerState;
use super::{MsiLine, Sbdf};
use crate::bus::{Bus, BusError, DeviceId, Window};
use crate::device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region, Space};
use crate::outcome::{IoError, Outcome};

/// What a device does behind its BARs. [`Access::region`] is the BAR's index.
pub trait Function: Send + Sync {
    /// For messages.
    fn name(&self) -> &str;
    /// A read inside a BAR.
    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        let _ = access;
        Outcome::Err(IoError::NoRegister)
    }
    /// A write inside a BAR.
    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let _ = (access, value);
        Outcome::Err(IoError::NoRegister)
    }
    /// The guest has written to configuration space; `config` is what it looks like now. Called under the endpoint's
    /// lock: do not call the endpoint from here.
    fn config_written(&self, access: &Access, config: &ConfigSpace) {
        let _ = (access, config);
    }
    /// The function is in another power state; outside of D0 no access to a BAR comes. Under the endpoint's lock.
    fn power_changed(&self, from: PowerState, to: PowerState) {
        let _ = (from, to);
    }
    /// The function was reset: whatever it keeps is to be as when it was made. Its configuration space is already. Under
    /// the endpoint's lock.
    fn reset(&self) {}
}

/// A function that could not be put on a bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Its configuration space.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its number.
    #[error("{sbdf}: {source}")]
    Bus {
        /// The number that it was to have.
        sbdf: Sbdf,
        /// Why not.
        source: BusError,
    },
}

struct State {
    config: ConfigSpace,
    /// What is on the bus now.
    mapped: Vec<Placement>,
    /// How often a range was refused.
    refusals: u32,
}

/// Refused ranges of which an operator is told: a guest can ask for as many as it likes.
const TOLD: u32 = 8;

/// How loud the `nth` refusal is told.
fn level(nth: u32) -> log::Level {
    if nth <= TOLD { log::Level::Warn } else { log::Level::Debug }
}

/// A function on a bus.
pub struct PciEndpoint {
    sbdf: Sbdf,
    function: Arc<dyn Function>,
    msix: Option<PlacedMsix>,
    intx: Option<IntxLine>,
    /// Locked before the bus. Config accesses of a guest come one after another here, as on a real bus.
    state: Mutex<State>,
    bus: Weak<Bus>,
    id: OnceLock<DeviceId>,
}

impl PciEndpoint {
    /// Puts a function on `bus` under the number `sbdf`. It stays there until [`detach`](Self::detach).
    pub fn attach(
        bus: &Arc<Bus>,
        sbdf: Sbdf,
        config: ConfigSpace,
        function: Arc<dyn Function>,
    ) -> Result<Arc<Self>, AttachError> {
        let (msix, intx) = (config.placed_msix(), config.intx());
        let endpoint = Arc::new(Self {
            sbdf,
            function,
            msix,
            intx,
            state: Mutex::new(State { config, mapped: Vec::new(), refusals: 0 }),
            bus: Arc::downgrade(bus),
            id: OnceLock::new(),
        });
        let id = bus.attach(endpoint.clone());
        endpoint.id.get_or_init(|| id);
        let number = u64::from(sbdf.0);
        let window = Window { space: Space::Pci, start: number, last: number, region: Region(0) };
        bus.map(id, window).map_err(|source| {
            // It has no range yet, so this cannot fail.
            let _ = bus.detach(id);
            AttachError::Bus { sbdf, source }
        })?;
        // A configuration that was built, or restored, with decoding on.
        endpoint.follow(&mut endpoint.state.lock());
        if let Some(pin) = &endpoint.intx {
            pin.wire(Some(sbdf));
        }
        Ok(endpoint)
    }

    /// Takes the function off its bus; for the guest it has been unplugged, and its pin is down.
    pub fn detach(&self) -> Result<(), BusError> {
        if let Some(pin) = &self.intx {
            pin.wire(None);
        }
        match (self.bus.upgrade(), self.id.get()) {
            (Some(bus), Some(id)) => bus.detach(*id),
            _ => Err(BusError::NoDevice),
        }
    }

    /// Its number.
    pub fn sbdf(&self) -> Sbdf {
        self.sbdf
    }

    /// Its MSI, if it has one.
    pub fn msi(&self) -> Option<MsiLine> {
        self.state.lock().config.msi()
    }

    /// Its MSI-X, if it has one.
    pub fn msix(&self) -> Option<MsixTable> {
        self.msix.as_ref().map(|m| m.table.clone())
    }

    /// Its interrupt pin, if it drives one.
    pub fn intx(&self) -> Option<IntxLine> {
        self.intx.clone()
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        match self.msix.as_ref().and_then(|m| Some((&m.table, m.at(access.region.0, access.offset)?))) {
            Some((table, MsixPart::Table(offset))) => table.read(offset, access.width).into(),
            Some((table, MsixPart::Pending(offset))) => table.read_pending(offset, access.width).into(),
            None => self.function.bar_read(access),
        }
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        match self.msix.as_ref().and_then(|m| Some((&m.table, m.at(access.region.0, access.offset)?))) {
            Some((table, MsixPart::Table(offset))) => table.write(offset, access.width, value).into(),
            Some((_, MsixPart::Pending(_))) => Outcome::Ok(()),
            None => self.function.bar_write(access, value),
        }
    }

    /// Looks at the configuration space.
    pub fn with_config<T>(&self, look: impl FnOnce(&ConfigSpace) -> T) -> T {
        look(&self.state.lock().config)
    }

    /// Changes the configuration space from the device's side, then follows with the ranges.
    pub fn change_config<T>(&self, change: impl FnOnce(&mut ConfigSpace) -> T) -> T {
        let mut state = self.state.lock();
        let out = change(&mut state.config);
        self.follow(&mut state);
        out
    }

    /// BARs that are decoded now.
    pub fn decoded(&self) -> Vec<Placement> {
        self.state.lock().mapped.clone()
    }

    /// Makes the ranges on the bus those that the configuration space asks for.
    fn follow(&self, state: &mut State) {
        let (Some(bus), Some(&id)) = (self.bus.upgrade(), self.id.get()) else { return };
        let wanted: Vec<_> = state.config.placements().collect();
        if wanted == state.mapped {
            return;
        }
        // First all that goes, since what comes may want its place.
        state.mapped.retain(|old| {
            wanted.contains(old)
                || match bus.unmap(id, old.space, old.start) {
                    Ok(()) => false,
                    Err(BusError::NoDevice) => false,
                    Err(e) => {
                        log::warn!("{}: BAR {}: {e}", self.sbdf, old.index);
                        true
                    }
                }
        });
        for new in wanted {
            if state.mapped.contains(&new) {
                continue;
            }
            let region = Region(new.index.into());
            let window = Window { space: new.space, start: new.start, last: new.last, region };
            match bus.map(id, window) {
                Ok(()) => state.mapped.push(new),
                Err(e) => {
                    state.refusals = state.refusals.saturating_add(1);
                    log::log!(level(state.refusals), "{}: BAR {} is not decoded: {e}", self.sbdf, new.index);
                    if state.refusals == TOLD {
                        log::warn!(
                            "{}: what else is refused of its BARs is told only when debugging",
                            self.sbdf
                        );
                    }
                }
            }
        }
    }
}

impl Device for PciEndpoint {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }

    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }

    fn supports_pci(&self) -> Option<&dyn PciConfigDevice> {
        Some(self)
    }
}

impl PioDevice for PciEndpoint {
    fn pio_read(&self, access: &Access) -> Outcome<u64> {
        self.bar_read(access)
    }

    fn pio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        self.bar_write(access, value)
    }
}

impl MmioDevice for PciEndpoint {
    fn mmio_read(&self, access: &Access) -> Outcome<u64> {
        self.bar_read(access)
    }

    fn mmio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        self.bar_write(access, value)
    }
}

impl PciConfigDevice for PciEndpoint {
    fn config_read(&self, access: &Access) -> Outcome<u64> {
        self.state.lock().config.read(access.offset, access.width).map(u64::from).into()
    }

    #[expect(clippy::cast_possible_truncation, reason = "configuration accesses are 4 bytes wide at most")]
    fn config_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let mut state = self.state.lock();
        let effect = match state.config.write(access.offset, access.width, value as u32) {
            Ok(effect) => effect,
            Err(e) => return Outcome::Err(e),
        };
        self.follow(&mut state);
        if effect.reset {
            self.function.reset();
        }
        if let Some((from, to)) = effect.power {
            self.function.power_changed(from, to);
        }
        self.function.config_written(access, &state.config);
        Outcome::Ok(())
    }
}

impl fmt::Debug for PciEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciEndpoint")
            .field("sbdf", &self.sbdf)
            .field("name", &self.function.name())
            .field("decoded", &self.decoded())
            .finish_non_exhaustive()
    }
}
