//! A vGPU as a device on a guest's bus: BARs, MSI, notices, by `ioreq-server`'s traits.

use std::sync::Arc;

use ioreq_server::dm::Dm;
use ioreq_server::pci::{AttachError, ConfigSpace, Function, MsiLine, PciEndpoint};
use ioreq_server::{Access, Bus, Invalidation, IoError, Notices, Outcome};

use parking_lot::Mutex;
use xen_ioreq::{Gfn, PAGE_SHIFT};

use super::{Mediator, MediatorError, MsiSink, Vgpu};
use crate::gen8::gtt::{GGTT_ENTRIES, GTT_OFFSET, PTE_SIZE};
use crate::vgpu::config::{self, BAR_APERTURE, BAR_MMIO};
use crate::vgpu::slice::VgpuType;

/// A vGPU could not be put on a guest's bus.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// It could not be made.
    #[error(transparent)]
    Mediator(#[from] MediatorError),
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

impl Mediator {
    /// Makes a vGPU for a guest and puts it on the guest's bus; `dm` sends its interrupts. `table` is the first of
    /// [`TABLE_FRAMES`] frames of the guest's that become its translation table: they are moved to where the guest places the
    /// BAR, so that the guest writes entries without a trap. Without them each write traps.
    pub fn plug(
        &self,
        kind: VgpuType,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
        table: Option<Gfn>,
    ) -> Result<Plugged, PlugError> {
        self.plug_with(kind, frames, bus, dm, Arc::new(Mutex::new(table)))
    }

    /// The same, for a guest that may have had a vGPU before: `table` is where the frames are, now and later.
    pub(crate) fn plug_with(
        &self,
        kind: VgpuType,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
        table: Arc<Mutex<Option<Gfn>>>,
    ) -> Result<Plugged, PlugError> {
        let config = config::config(self.aperture()).map_err(AttachError::from)?;
        let line = config.msi().unwrap_or_default();
        let vgpu = self.create(kind, frames, Box::new(Msi { line, dm: dm.clone() }))?;
        let function = Arc::new(VgpuFunction { vgpu: vgpu.clone(), dm, table });
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

/// Frames of a table that is memory of the guest's: 8 MiB.
pub const TABLE_FRAMES: u32 = (GGTT_ENTRIES * PTE_SIZE) >> PAGE_SHIFT;

/// What is behind the BARs.
struct VgpuFunction {
    vgpu: Arc<Vgpu>,
    dm: Dm,
    /// Where the frames are that are the table.
    table: Arc<Mutex<Option<Gfn>>>,
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
        let mut table = self.table.lock();
        let Some(at) = *table else { return };
        // While decoding is off, as it is whenever a guest sizes BARs, the table stays where it was.
        let Some(bar) = config.placements().find(|p| p.index == BAR_MMIO) else { return };
        let to = Gfn((bar.start + u64::from(GTT_OFFSET)) >> PAGE_SHIFT);
        if at == to {
            return;
        }
        match self.dm.relocate_memory(at, to, TABLE_FRAMES) {
            Ok(()) => {
                *table = Some(to);
                self.vgpu.lend_table(to);
            }
            // It goes on being written by traps.
            Err(e) => log::warn!("{}: the table stays at {at}: {e}", self.vgpu.id()),
        }
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
