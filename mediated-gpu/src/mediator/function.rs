//! A vGPU as a device on a guest's bus: BARs, MSI, notices, by `ioreq-server`'s traits.
//! Where the memory is that is behind a BAR is for [`place`](super::place).

use std::fmt;
use std::sync::Arc;

use ioreq_server::dm::Dm;
use ioreq_server::pci::{AttachError, ConfigSpace, Function, MsiLine, PciEndpoint};
use ioreq_server::traps::TrapError;
use ioreq_server::{Access, Bus, Invalidation, IoError, Notices, Outcome};

use xen_ioreq::Gfn;

use super::place::{Begins, Place};
use super::{Legacy, Mediator, MediatorError, MsiSink, SavedError, Vgpu};
use crate::saved::SavedGuest;
use crate::vgpu::config::{self, BAR_APERTURE, BAR_MMIO};
use crate::vgpu::slice::VgpuType;

/// A vGPU could not be put on a guest's bus.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// It could not be made.
    #[error(transparent)]
    Mediator(#[from] MediatorError),
    /// It could not be made anew.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Its PCI function.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// A vGPU on a guest's bus.
#[derive(Debug)]
pub struct Plugged {
    /// The vGPU. Give it to the guest's server as its [`Notices`].
    pub vgpu: Arc<Vgpu>,
    /// Its PCI function, 0000:00:02.0. Detach it before the vGPU is destroyed.
    pub endpoint: Arc<PciEndpoint>,
}

/// Hears what a successor would go by.
pub type Told = Box<dyn Fn(&Legacy) + Send + Sync>;

/// Claims the memory type whose writes become requests for the guest's server, if it has not been. An error says why it cannot be had.
pub type Claim = Box<dyn Fn() -> Result<(), TrapError> + Send + Sync>;

/// How a vGPU begins on a guest's bus.
#[derive(Default)]
pub struct Seat {
    /// The first of [`TABLE_FRAMES`](super::TABLE_FRAMES) frames of the guest's that become its translation table: they are moved to where the
    /// guest places the BAR, so that the guest writes entries without a trap. Without them each write traps.
    pub table: Option<Gfn>,
    /// With it the guest reads pages of registers in the table's last frames, without a trap, while the BAR is decoded. Without
    /// it, or a table, each read traps.
    pub claim: Option<Claim>,
    /// What another vGPU of the guest had in its [`ConfigSpace::bytes`]: this one begins where that one was.
    pub config: Option<[u8; 256]>,
    /// Hears what a successor would need, before it changes and after. On the thread that answers the guest.
    pub told: Option<Told>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("table", &self.table)
            .field("claim", &self.claim.is_some())
            .field("config", &self.config.is_some())
            .finish_non_exhaustive()
    }
}

impl Mediator {
    /// Makes a vGPU for a guest and puts it on the guest's bus; `dm` sends its interrupts.
    pub fn plug(
        &self,
        kind: VgpuType,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
        seat: Seat,
    ) -> Result<Plugged, PlugError> {
        let Seat { table, claim, config, told } = seat;
        self.plug_with(kind, frames, bus, dm, config.as_ref(), Place::new(table, told, claim))
    }

    /// The same, for a guest that may have had a vGPU before.
    pub(crate) fn plug_with(
        &self,
        kind: VgpuType,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
        image: Option<&[u8; 256]>,
        place: Arc<Place>,
    ) -> Result<Plugged, PlugError> {
        let mut config = config::config(self.aperture()).map_err(AttachError::from)?;
        if let Some(image) = image {
            config.restore(image);
        }
        let line = config.msi().unwrap_or_default();
        let vgpu = self.create(kind, frames, Box::new(Msi { line, dm: dm.clone() }))?;
        self.put_on(bus, vgpu, config, dm, place, Begins::Running)
    }

    /// Makes a saved vGPU anew, and puts it where it was on the guest's bus.
    pub(crate) fn plug_saved(
        &self,
        saved: &SavedGuest,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
        place: Arc<Place>,
    ) -> Result<Plugged, PlugError> {
        if saved.aperture() != self.aperture() {
            let (saved, here) = (saved.aperture(), self.aperture());
            return Err(SavedError::Aperture { saved, here }.into());
        }
        let mut config = config::config(self.aperture()).map_err(AttachError::from)?;
        saved.configure(&mut config);
        let line = config.msi().unwrap_or_default();
        let vgpu = self.restore(saved.vgpu(), frames, Box::new(Msi { line, dm: dm.clone() }))?;
        self.put_on(bus, vgpu, config, dm, place, Begins::Stopped(saved.vgpu().table()))
    }

    fn put_on(
        &self,
        bus: &Arc<Bus>,
        vgpu: Arc<Vgpu>,
        config: ConfigSpace,
        dm: Dm,
        place: Arc<Place>,
        begins: Begins,
    ) -> Result<Plugged, PlugError> {
        place.begin(&vgpu, &dm, &config, begins);
        let function = Arc::new(VgpuFunction { vgpu: vgpu.clone(), dm, place });
        if vgpu.has_lent_table() {
            // What another vGPU stood for.
            vgpu.compare_table();
        }
        match PciEndpoint::attach(bus, config::SBDF, config, function) {
            Ok(endpoint) => Ok(Plugged { vgpu, endpoint }),
            Err(e) => {
                self.destroy(vgpu.id())?;
                Err(e.into())
            }
        }
    }
}

/// The function's interrupt.
struct Msi {
    line: MsiLine,
    dm: Dm,
}

impl MsiSink for Msi {
    fn interrupt(&self) {
        if let Err(e) = self.line.raise(&self.dm) {
            log::warn!("an interrupt is lost: {e}");
        }
    }
}

/// What is behind the BARs.
struct VgpuFunction {
    vgpu: Arc<Vgpu>,
    dm: Dm,
    place: Arc<Place>,
}

impl Function for VgpuFunction {
    fn name(&self) -> &str {
        "vGPU"
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        let size = access.width.bytes();
        if access.region.0 == u32::from(BAR_MMIO) {
            let offset = u32::try_from(access.offset).unwrap_or(u32::MAX);
            Outcome::Ok(self.vgpu.mmio_read(offset, size))
        } else if access.region.0 == u32::from(BAR_APERTURE) {
            Outcome::Ok(self.vgpu.aperture_read(access.offset, size))
        } else {
            Outcome::Err(IoError::NoRegister)
        }
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let size = access.width.bytes();
        if access.region.0 == u32::from(BAR_MMIO) {
            let offset = u32::try_from(access.offset).unwrap_or(u32::MAX);
            self.vgpu.mmio_write(offset, size, value);
            Outcome::Ok(())
        } else if access.region.0 == u32::from(BAR_APERTURE) {
            self.vgpu.aperture_write(access.offset, size, value);
            Outcome::Ok(())
        } else {
            Outcome::Err(IoError::NoRegister)
        }
    }

    fn config_written(&self, _: &Access, config: &ConfigSpace) {
        self.place.follow(&self.vgpu, &self.dm, config);
    }
}

impl Notices for Vgpu {
    fn invalidate(&self, what: Invalidation) {
        Vgpu::invalidate(
            self,
            match what {
                Invalidation::All => pviommu::EVERYTHING,
                Invalidation::Frame(bfn) => bfn.0,
            },
        );
    }
}
