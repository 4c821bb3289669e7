//! The modelled machine, and what joins it to the mediator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ioreq_server::{Connection, OnError};
use mediated_gpu::bus::{BusMaster, DmaAccess, DmaFault, Pin};
use mediated_gpu::mediator::{Below, Mediator, TRACK_AFTER};
use mediated_gpu::service::{Options, Service};
use mediated_gpu::soft::{SoftGpu, SoftGpuConfig};
use mediated_gpu::vgpu::slice::{MIB, SliceSize, VgpuType};
use mock_xen::{BusAccess, BusPin, BusPort, Caller, Config, DomainConfig, Machine, Profile};
use pviommu::{Client, OwnFrame, OwnFrames, OwnMemory, Ports, ProcessMemory};
use xen_ioreq::{DomId, Errno, Gfn};

use crate::Error;
use crate::cli::{Demo, Hypervisor};

/// The device model's domain.
const DOM0: DomId = DomId(0);
/// RAM of a guest, in frames: 16 MiB.
pub(crate) const GUEST_FRAMES: u64 = 4096;
/// First frame of a guest's RAM: above the first MiB.
pub(crate) const RAM: Gfn = Gfn(0x100);
/// A slice for each of 15 guests within the aperture.
const SLICE: SliceSize = SliceSize { low: 16 * MIB, high: 16 * MIB, fences: 2 };
/// How guests are served.
pub(crate) const OPTIONS: Options = Options {
    kind: VgpuType::Custom(SLICE),
    pci_root: true,
    table: None,
    registers: false,
    console: None,
    track_tables: Some(TRACK_AFTER),
    on_error: OnError::CrashGuest,
};
/// RAM of dom0 and Xen.
const HOST_FRAMES: usize = 16384;

/// Everything that the guests share.
pub(crate) struct World {
    pub(crate) machine: Arc<Machine>,
    pub(crate) dom0: Arc<Caller>,
    pub(crate) client: Client,
    pub(crate) mediator: Arc<Mediator>,
    pins: Arc<AtomicU64>,
    /// Free host frames before there was anything of ours.
    free_before: u64,
}

impl World {
    pub(crate) fn new(args: &Demo) -> Result<Self, Error> {
        let profile = match args.hypervisor {
            Hypervisor::Draft => Profile::Draft,
            Hypervisor::Stock => Profile::Stock,
        };
        let guests = usize::from(args.guests) * usize::try_from(GUEST_FRAMES)?;
        let machine = Machine::new(Config { frames: HOST_FRAMES + guests, profile, ..Config::default() })?;
        let free_before = machine.free_frames();
        let dom0 = Arc::new(machine.caller(DOM0)?);
        Self::over(machine, dom0, free_before, args)
    }

    /// The same machine, with a client, a GPU and a mediator that know nothing of those before.
    #[cfg(test)]
    pub(crate) fn renewed(self, args: &Demo) -> Result<Self, Error> {
        let Self { machine, dom0, client, mediator, free_before, .. } = self;
        drop(Arc::into_inner(mediator).ok_or("the mediator is in use")?);
        drop(client);
        Self::over(machine, dom0, free_before, args)
    }

    fn over(machine: Arc<Machine>, dom0: Arc<Caller>, free_before: u64, args: &Demo) -> Result<Self, Error> {
        let ports = Ports { iommu: Some(dom0.clone()), foreign: Some(dom0.clone()) };
        let client = Client::start(ports, pviommu::Config::default())?;
        let pins = Arc::new(AtomicU64::new(0));
        let (bus, own): (Arc<dyn BusMaster>, Arc<dyn OwnFrames + Send + Sync>) = match client.soft() {
            Some(soft) => (soft.clone(), Arc::new(ProcessMemory)),
            None => {
                let port = machine.bus_port(DOM0, "GPU")?;
                (Arc::new(ModelBus { port, pins: pins.clone() }), Arc::new(ModelFrames(dom0.clone())))
            }
        };
        let gpu = Arc::new(SoftGpu::new(bus.clone(), SoftGpuConfig::default())?);
        let below = Below { gpu, client: client.clone(), own, bus };
        let mediator = Arc::new(Mediator::new(below, args.schedule.config())?);
        Ok(Self { machine, dom0, client, mediator, pins, free_before })
    }

    /// Builds a domain with RAM, and gives it a vGPU.
    pub(crate) fn serve(&self, domid: DomId) -> Result<Service, Error> {
        let config = DomainConfig { domid: Some(domid), max_pages: GUEST_FRAMES, ..DomainConfig::default() };
        self.machine.create_domain(&config)?;
        self.machine.populate(domid, RAM, GUEST_FRAMES)?;
        Ok(Service::start(&self.connection()?, &self.client, &self.mediator, domid, OPTIONS)?)
    }

    /// Gives a domain that is there the vGPU that it had.
    #[cfg(test)]
    pub(crate) fn restore(
        &self,
        domid: DomId,
        saved: &mediated_gpu::saved::SavedGuest,
    ) -> Result<Service, Error> {
        Ok(Service::restore(&self.connection()?, &self.client, &self.mediator, domid, OPTIONS, saved, None)?)
    }

    fn connection(&self) -> Result<Connection, Error> {
        let events = Arc::new(self.machine.open_evtchn(DOM0)?);
        Ok(Connection::new(self.dom0.clone(), events).with_pauses(self.dom0.clone()))
    }

    /// Translations that the oracle has looked at.
    pub(crate) fn pins(&self) -> u64 {
        self.pins.load(Ordering::Relaxed)
    }

    /// Takes the rest down, and says what should not be.
    pub(crate) fn judge(self, problems: &mut Vec<String>) {
        let Self { machine, client, mediator, free_before, .. } = self;
        if client.stats().mappings != 0 {
            problems.push(format!("{} mappings are left", client.stats().mappings));
        }
        drop(mediator);
        if machine.bus_faults() > 0 {
            problems.push(format!("{} accesses of the GPU's led nowhere", machine.bus_faults()));
        }
        let free = machine.free_frames();
        if free != free_before {
            problems.push(format!("{free_before} host frames were free before, {free} are at the end"));
        }
        problems.extend(machine.violations().iter().map(|v| format!("violation: {v}")));
        if machine.violation_count() > 0 {
            problems.push(format!("the oracle saw {} violations", machine.violation_count()));
        }
        if machine.bus_faults() > 0 {
            problems.push(format!("{} DMAs went nowhere", machine.bus_faults()));
        }
        problems.extend(machine.audit());
    }
}

/// The model's bus port, as the mediator knows buses.
struct ModelBus {
    port: BusPort,
    pins: Arc<AtomicU64>,
}

impl BusMaster for ModelBus {
    fn pin(&self, bfn: xen_ioreq::Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let how = match access {
            DmaAccess::Read => BusAccess::Read,
            DmaAccess::Write => BusAccess::Write,
        };
        let BusPin { ptr, bfn, token } = self.port.pin(bfn, how).map_err(|_| DmaFault { bfn, access })?;
        self.pins.fetch_add(1, Ordering::Relaxed);
        Ok(Pin { ptr, bfn, token })
    }

    fn unpin(&self, pin: Pin) {
        self.port.unpin_token(pin.bfn, pin.token);
    }
}

/// Frames of dom0's own on the model.
struct ModelFrames(Arc<Caller>);

impl OwnFrames for ModelFrames {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let (mapping, gfns) = self.0.alloc_frames(pages)?.into_mapping();
        Ok(OwnMemory::new(mapping, gfns.into_iter().map(OwnFrame::Frame).collect()))
    }
}
