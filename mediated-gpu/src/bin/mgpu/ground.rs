//! What a guest is served on: the software GPU over the soft IOMMU, or a GPU behind VFIO at the bus addresses of PV-IOMMU.
//!
//! What needs rights is taken while the process has them, and the GPU is started when it has given up the rest.

use std::sync::Arc;

use ioreq_server::Record;
use mediated_gpu::bus::BusMaster;
use mediated_gpu::hard::{StatusPages, attach};
use mediated_gpu::mediator::Below;
use mediated_gpu::physical::PhysicalGpu;
use mediated_gpu::soft::{SoftGpu, SoftGpuConfig};
use mediated_gpu::vfio::{Address, Facts, Hypervisor, Inspection, Use, VfioDevice, keep_memory};
use pviommu::{Client, Config, Device, DeviceFlush, Mode, OwnPool, Ports, ProcessMemory, SoftIommu, View};
use xen_ioreq::PAGE_SHIFT;
use xen_ioreq::linux::{OwnRam, Privcmd};

use crate::{Error, cli};

/// Pages in a MiB.
const MIB_PAGES: u32 = 1 << (20 - PAGE_SHIFT);

/// What there is, and is not started yet.
pub(crate) enum Ground {
    /// Nothing of the host's.
    Soft(Arc<SoftIommu>),
    /// A device of the host's.
    Hard {
        device: Arc<VfioDevice>,
        /// What it reaches, as this process sees it.
        view: Arc<View>,
        /// What of dom0's own it may reach.
        own: OwnPool,
    },
}

impl Ground {
    /// Takes what `--gpu` names. To be called before there are threads.
    pub(crate) fn take(args: &cli::Serve, ports: Ports, raw: &Arc<Privcmd>) -> Result<(Client, Self), Error> {
        let device = match args.gpu {
            cli::Gpu::Soft => Device::Software,
            cli::Gpu::Vfio(_) => Device::Physical,
        };
        let client = Client::start(ports, Config { device, ..Config::default() })?;
        let ground = match (&args.gpu, client.soft(), client.view()) {
            (cli::Gpu::Soft, Some(soft), _) => Self::Soft(soft.clone()),
            (cli::Gpu::Soft, None, _) => return Err(format!(
                "this hypervisor has PV-IOMMU ({}), and the software GPU has no bus to reach such addresses by: use --gpu vfio:ADDRESS",
                client.mode()
            )
            .into()),
            (cli::Gpu::Vfio(address), _, Some(view)) => {
                let pages = args.own_memory.saturating_mul(MIB_PAGES);
                Self::hard(*address, usize::try_from(pages)?, view.clone(), client.mode(), raw)?
            }
            (cli::Gpu::Vfio(address), _, None) => {
                return Err(format!("{address} cannot serve guests: their frames cannot be mapped").into());
            }
        };
        Ok((client, ground))
    }

    /// Memory first: its keeper must not have the device.
    fn hard(
        address: Address,
        pages: usize,
        view: Arc<View>,
        mode: &Mode,
        raw: &Privcmd,
    ) -> Result<Self, Error> {
        let found = Inspection::of(address)?;
        let ram = OwnRam::take(raw, pages);
        if ram.is_ok() {
            keep_memory().map_err(|e| format!("a process that keeps memory from the device: {e}"))?;
        }
        let device = VfioDevice::open(address);
        let known = ram.as_ref().map(drop).map_err(ToString::to_string);
        let reasons = Facts::new(&found, device.as_ref(), Hypervisor::PvIommu, known).against(Use::Serve);
        match (ram, device) {
            (Ok(ram), Ok(device)) if reasons.is_empty() => {
                let (mapping, frames) = ram.into_mapping();
                let own = OwnPool::new(mapping, &frames, mode);
                Ok(Self::Hard { device: Arc::new(device), view, own })
            }
            _ => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                Err(format!("{address} cannot serve guests: {}", reasons.join("; ")).into())
            }
        }
    }

    /// The device, if it is one of the host's.
    pub(crate) fn device(&self) -> Option<&VfioDevice> {
        match self {
            Self::Soft(_) => None,
            Self::Hard { device, .. } => Some(device),
        }
    }

    /// Starts the GPU. A predecessor that was killed has left nothing in its reach: it was reset, and what was mapped is unmapped.
    pub(crate) fn below(self, client: &Client, record: Option<&Record>) -> Result<Below, Error> {
        let client = client.clone();
        match self {
            Self::Soft(soft) => {
                let bus: Arc<dyn BusMaster> = soft;
                let gpu = Arc::new(SoftGpu::new(bus.clone(), SoftGpuConfig::default())?);
                Ok(Below { gpu, client, own: Arc::new(ProcessMemory), bus })
            }
            Self::Hard { device, view, own } => {
                let gpu = Arc::new(attach(&device, StatusPages::own(&client, &own)?)?);
                for server in record.map_or_else(Vec::new, Record::left) {
                    let reclaimed = client.reclaim(server, &Flush(&*gpu))?;
                    log::warn!("of a predecessor that was killed: {reclaimed}");
                }
                Ok(Below { gpu, client, own: Arc::new(own), bus: view })
            }
        }
    }
}

/// A GPU's translations are what a device must forget.
struct Flush<'a>(&'a dyn PhysicalGpu);

impl DeviceFlush for Flush<'_> {
    fn flush(&self) {
        self.0.ggtt_flush();
    }
}
