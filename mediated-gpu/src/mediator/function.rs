//! A vGPU as a device on a guest's bus: BARs, MSI, notices, by `ioreq-server`'s traits.

use std::sync::Arc;

use ioreq_server::dm::Dm;
use ioreq_server::pci::{AttachError, Function, MsiLine, PciEndpoint};
use ioreq_server::{Access, Bus, Invalidation, IoError, Notices, Outcome};

use super::{Mediator, MediatorError, MsiSink, Vgpu};
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
    /// Makes a vGPU for a guest and puts it on the guest's bus; `dm` sends its interrupts.
    pub fn plug(
        &self,
        kind: VgpuType,
        frames: pviommu::Guest,
        bus: &Arc<Bus>,
        dm: Dm,
    ) -> Result<Plugged, PlugError> {
        let config = config::config(self.aperture()).map_err(AttachError::from)?;
        let line = config.msi().unwrap_or_default();
        let vgpu = self.create(kind, frames, Box::new(Msi { line, dm }))?;
        let function = Arc::new(VgpuFunction(vgpu.clone()));
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
struct VgpuFunction(Arc<Vgpu>);

impl Function for VgpuFunction {
    fn name(&self) -> &str {
        "vGPU"
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        let size = access.width.bytes();
        if access.region.0 == u32::from(BAR_MMIO) {
            let offset = u32::try_from(access.offset).unwrap_or(u32::MAX);
            Outcome::Ok(self.0.mmio_read(offset, size))
        } else if access.region.0 == u32::from(BAR_APERTURE) {
            Outcome::Ok(self.0.aperture_read(access.offset, size))
        } else {
            Outcome::Err(IoError::NoRegister)
        }
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let size = access.width.bytes();
        if access.region.0 == u32::from(BAR_MMIO) {
            let offset = u32::try_from(access.offset).unwrap_or(u32::MAX);
            self.0.mmio_write(offset, size, value);
            Outcome::Ok(())
        } else if access.region.0 == u32::from(BAR_APERTURE) {
            self.0.aperture_write(access.offset, size, value);
            Outcome::Ok(())
        } else {
            Outcome::Err(IoError::NoRegister)
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
