//! The modelled machine with everything on it, and the judgement at the end.

use std::sync::Arc;

use guest::RamRange;
use guest::model::ModelCpu;
use guest::scene;
use ioreq_server::{Connection, OnError};
use mediated_gpu::bus::{BusMaster, DmaAccess, DmaFault, Pin};
use mediated_gpu::hard::{SoftBar, StatusPages};
use mediated_gpu::mediator::{Below, Config as MediatorConfig, Mediator, TRACK_AFTER};
use mediated_gpu::physical::PhysicalGpu;
use mediated_gpu::saved::SavedGuest;
use mediated_gpu::service::{Options, Service, ServiceError};
use mediated_gpu::soft::{SoftGpu, SoftGpuConfig};
use mediated_gpu::vgpu::slice::{MIB, SliceSize, VgpuType};
use mock_xen::{BusAccess, BusPin, BusPort, Caller, Config, DomainConfig, Iommu, Machine, Profile};
use pviommu::{Client, Device, Mode, OwnFrame, OwnFrames, OwnMemory, OwnPool, Ports, ProcessMemory};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::seam::MemoryOp;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, VcpuId};
use zerocopy::IntoBytes;

use crate::drawing::Switch;
pub use crate::native::Native;

/// The device model's domain.
pub const DOM0: DomId = DomId(0);
/// First frame of a guest's RAM: above the first MiB.
pub const RAM: Gfn = Gfn(0x100);
/// RAM of a guest, in frames.
pub const FRAMES: u64 = 2048;
/// RAM of the machine: dom0, Xen, and some guests.
const HOST_FRAMES: usize = 24 << 10;
/// RAM of the machine beside its guests', where they are counted.
const HOST_BESIDE: usize = 8 << 10;
const SLICE: SliceSize = SliceSize { low: 16 * MIB, high: 16 * MIB, fences: 2 };

/// Puts something between the mediator and the GPU below it.
pub type Between = Option<Around<dyn PhysicalGpu>>;

/// Takes the real thing, gives what stands for it.
pub type Around<T> = Box<dyn FnOnce(Arc<T>) -> Arc<T>>;

/// Frames of dom0's own that it has for a physical device: those of the engines' areas, and some.
const OWN_FRAMES: usize = 6144;

/// What puts something there, and may take pages of the device model's own for it.
trait Put: FnOnce(Arc<dyn PhysicalGpu>, &Client, &dyn OwnFrames) -> Arc<dyn PhysicalGpu> {}

impl<F: FnOnce(Arc<dyn PhysicalGpu>, &Client, &dyn OwnFrames) -> Arc<dyn PhysicalGpu>> Put for F {}

fn put(between: Between) -> impl Put {
    |gpu, _: &Client, _: &dyn OwnFrames| match between {
        Some(around) => around(gpu),
        None => gpu,
    }
}

/// Everything that guests share.
#[derive(Debug)]
pub struct World {
    /// The hypervisor and its oracle.
    pub machine: Arc<Machine>,
    /// dom0's hand on it.
    pub dom0: Arc<Caller>,
    /// The PV-IOMMU client.
    pub client: Client,
    /// The mediator, as long as nobody has taken it away.
    pub mediator: Option<Arc<Mediator>>,
    /// Frames that were free before there was anything of ours.
    pub free_before: u64,
}

impl World {
    /// A machine with the mediator on it.
    pub fn new(profile: Profile) -> Self {
        Self::with(profile, None)
    }

    /// The same, with something in between.
    pub fn with(profile: Profile, between: Between) -> Self {
        Self::configured(profile, MediatorConfig::default(), between)
    }

    /// The same, with room for so many guests.
    pub fn for_guests(profile: Profile, guests: u16) -> Self {
        let theirs = usize::try_from(u64::from(guests) * FRAMES).expect("frames");
        let frames = theirs + HOST_BESIDE;
        Self::of_size(frames, profile, MediatorConfig::default(), put(None))
    }

    /// The same, with the GPU behind the registers of a device, and the driver of such a device between. Where there is PV-IOMMU the
    /// mediator sees the bus by mappings of its own, as beside a physical device.
    pub fn behind_registers(profile: Profile) -> Self {
        let device = if profile == Profile::Stock { Device::Software } else { Device::Physical };
        let (machine, free_before) = machine(HOST_FRAMES, profile);
        Self::on(machine, free_before, MediatorConfig::default(), device, |gpu, client, own| {
            let status = StatusPages::own(client, own).expect("status pages");
            Arc::new(SoftBar::drive(gpu, status).expect("a GPU behind registers"))
        })
    }

    /// The same, with a mediator that is told how to be.
    pub fn configured(profile: Profile, mediator: MediatorConfig, between: Between) -> Self {
        Self::made(profile, mediator, put(between))
    }

    fn made(profile: Profile, mediator: MediatorConfig, between: impl Put) -> Self {
        Self::of_size(HOST_FRAMES, profile, mediator, between)
    }

    fn of_size(frames: usize, profile: Profile, mediator: MediatorConfig, between: impl Put) -> Self {
        let (machine, free_before) = machine(frames, profile);
        Self::on(machine, free_before, mediator, Device::Software, between)
    }

    /// Another process of dom0's on the same machine, with a mediator of its own.
    pub fn another(&self) -> Self {
        let (machine, config) = (self.machine.clone(), MediatorConfig::default());
        Self::on(machine, self.free_before, config, Device::Software, put(None))
    }

    fn on(
        machine: Arc<Machine>,
        free_before: u64,
        mediator: MediatorConfig,
        device: Device,
        between: impl Put,
    ) -> Self {
        let dom0 = Arc::new(machine.caller(DOM0).expect("dom0"));
        let ports = Ports { iommu: Some(dom0.clone()), foreign: Some(dom0.clone()) };
        let config = pviommu::Config { device, ..pviommu::Config::default() };
        let client = Client::start(ports, config).expect("a client");
        let (bus, own) = below(&machine, &dom0, &client);
        let gpu: Arc<dyn PhysicalGpu> =
            Arc::new(SoftGpu::new(bus.clone(), SoftGpuConfig::default()).expect("a GPU"));
        let gpu = between(gpu, &client, &*own);
        let bus = client.view().map_or(bus, |view| view.clone());
        let below = Below { gpu, client: client.clone(), own, bus };
        let mediator = Mediator::new(below, mediator).expect("a mediator");
        Self { machine, dom0, client, mediator: Some(Arc::new(mediator)), free_before }
    }

    /// A GPU that a process of dom0's has to itself, on the same bus, and so many pages within its reach.
    pub fn native(&self, pages: usize) -> Native {
        let (bus, own) = below(&self.machine, &self.dom0, &self.client);
        let gpu = Arc::new(SoftGpu::new(bus, SoftGpuConfig::default()).expect("a GPU"));
        let pages = self.client.own(pages, &*own).expect("pages of dom0's own");
        Native { gpu, client: self.client.clone(), pages }
    }

    /// A domain with RAM, not served yet.
    pub fn domain(&self, number: u16) -> DomId {
        self.domain_of(number, FRAMES)
    }

    /// The same, with so many frames.
    pub fn domain_of(&self, number: u16, frames: u64) -> DomId {
        let domid = DomId(number);
        let config = DomainConfig { domid: Some(domid), max_pages: frames, ..DomainConfig::default() };
        self.machine.create_domain(&config).expect("a domain");
        self.machine.populate(domid, RAM, frames).expect("frames for it");
        domid
    }

    /// Gives a domain its vGPU.
    pub fn serve(&self, domid: DomId) -> Service {
        self.serve_with(domid, Self::options(None))
    }

    /// Gives a domain a vGPU of the smallest kind that the driver can draw with, of which there can be many.
    pub fn serve_small(&self, domid: DomId) -> Service {
        let kind = VgpuType::Custom(SliceSize { low: 4 * MIB, fences: 0, ..SLICE });
        self.serve_with(domid, Options { kind, ..Self::options(None) })
    }

    /// Gives a domain a vGPU in this way.
    pub fn serve_with(&self, domid: DomId, options: Options) -> Service {
        let (conn, mediator) = self.parts();
        Service::start(&conn, &self.client, mediator, domid, options).expect("a service")
    }

    /// Gives a domain the vGPU that was saved, if it can have it.
    pub fn restore(&self, domid: DomId, saved: &SavedGuest) -> Result<Service, ServiceError> {
        let (conn, mediator) = self.parts();
        Service::restore(&conn, &self.client, mediator, domid, Self::options(None), saved, None)
    }

    fn parts(&self) -> (Connection, &Arc<Mediator>) {
        let events = Arc::new(self.machine.open_evtchn(DOM0).expect("event channels"));
        let conn = Connection::new(self.dom0.clone(), events).with_pauses(self.dom0.clone());
        (conn, self.mediator.as_ref().expect("the mediator is still there"))
    }

    /// How guests are served, with these frames as their table.
    pub fn options(table: Option<Gfn>) -> Options {
        let kind = VgpuType::Custom(SLICE);
        let on_error = OnError::AllOnes;
        let track_tables = Some(TRACK_AFTER);
        Options { kind, pci_root: true, table, registers: true, console: None, track_tables, on_error }
    }

    /// A domain's vCPU, as the driver knows it.
    pub fn cpu(&self, domid: DomId, switch: &Switch) -> ModelCpu {
        self.cpu_of(domid, FRAMES, switch)
    }

    /// The same, of one with so many frames.
    pub fn cpu_of(&self, domid: DomId, frames: u64, switch: &Switch) -> ModelCpu {
        let vcpu = self.machine.vcpu(domid, VcpuId(0)).expect("the vCPU");
        let ram = vec![RamRange { first: RAM, frames }];
        ModelCpu::new(vcpu, ram, switch.stop.clone(), switch.progress())
    }

    /// The toolstack takes pages of a guest: how many.
    pub fn take_pages(&self, domid: DomId, gfns: &[Gfn]) -> i64 {
        self.reservation(XENMEM_decrease_reservation, domid, gfns)
    }

    /// The toolstack gives a guest pages: how many.
    pub fn give_pages(&self, domid: DomId, gfns: &[Gfn]) -> i64 {
        self.reservation(XENMEM_populate_physmap, domid, gfns)
    }

    /// The toolstack gives a guest RAM wherever it has none: how many pages.
    pub fn refill(&self, domid: DomId) -> u64 {
        let all = (0..FRAMES).filter_map(|n| RAM.checked_add(n));
        let holes: Vec<Gfn> = all.filter(|g| self.machine.references(domid, *g).is_err()).collect();
        u64::try_from(self.give_pages(domid, &holes)).expect("a number of pages")
    }

    fn reservation(&self, cmd: u32, domid: DomId, gfns: &[Gfn]) -> i64 {
        let mut list: Vec<u64> = gfns.iter().map(|g| g.0).collect();
        let mut arg = xen_memory_reservation {
            nr_extents: list.len() as u64,
            domid: domid.0,
            ..xen_memory_reservation::default()
        };
        self.dom0.memory_op(cmd, arg.as_mut_bytes(), &mut list).expect("memory_op")
    }

    /// A domain's frames, those that only others still hold included. 0: there is no such domain any more.
    pub fn frames_of(&self, domid: DomId) -> u64 {
        self.machine.domain_info(domid).map_or(0, |d| d.tot_pages)
    }

    /// Takes down what is left, and [judges](judge).
    pub fn end(self) {
        let Self { machine, client, mediator, free_before, dom0 } = self;
        for domain in machine.domains() {
            if domain.domid != DOM0 && !domain.dying {
                machine.destroy_domain(domain.domid).expect("a domain's end");
            }
        }
        assert_eq!(client.stats().mappings, 0, "mappings are left");
        if let Some(mediator) = mediator {
            let mediator = Arc::into_inner(mediator).expect("somebody still has the mediator");
            crate::bounded("the mediator's end", || drop(mediator));
        }
        drop((client, dom0));
        judge(&machine, free_before);
    }
}

/// What must hold at the end of every run, whatever happened in it: no domain but dom0, every frame back, nothing in the
/// oracle's book, no DMA into nowhere.
pub fn judge(machine: &Machine, free_before: u64) {
    let left: Vec<_> = machine.domains().into_iter().filter(|d| d.domid != DOM0).collect();
    assert!(left.is_empty(), "zombies: {left:?}");
    machine.assert_clean();
    assert_eq!(machine.bus_faults(), 0, "DMAs went nowhere");
    assert_eq!(machine.free_frames(), free_before, "frames are missing");
}

/// What a guest of this number shows at the end.
pub fn final_picture(seed: u64, number: u16) -> Vec<u32> {
    let mut wanted = vec![0; scene::PIXELS];
    scene::reference(seed, number, scene::FINAL, &mut wanted);
    wanted
}

/// What the host sees of a guest, without the unused byte. Panics if there is nothing or pages are missing.
pub fn shown(service: &Service) -> Vec<u32> {
    let surface = service.vgpu().surface().expect("a picture");
    assert_eq!(surface.missing_pages, 0, "pages of the picture are missing");
    let pixels = surface.bgrx.as_chunks::<4>().0;
    pixels.iter().map(|p| u32::from_le_bytes(*p) & 0xff_ffff).collect()
}

/// A machine, and how many of its frames are free.
fn machine(frames: usize, profile: Profile) -> (Arc<Machine>, u64) {
    // What was shipped has a 1:1 map, and nothing else to reach guests by.
    let iommu = if profile == Profile::Xs { Iommu::OneToOne } else { Iommu::On };
    let machine = Machine::new(Config { frames, profile, iommu, ..Config::default() }).expect("a machine");
    let free = machine.free_frames();
    (machine, free)
}

/// How a GPU of dom0's reaches memory, and where memory of dom0's own comes from.
fn below(
    machine: &Arc<Machine>,
    dom0: &Arc<Caller>,
    client: &Client,
) -> (Arc<dyn BusMaster>, Arc<dyn OwnFrames + Send + Sync>) {
    match client.soft() {
        Some(soft) => (soft.clone(), Arc::new(ProcessMemory)),
        None => {
            let port = machine.bus_port(DOM0, "GPU").expect("a port");
            let mode = client.mode().clone();
            let own: Arc<dyn OwnFrames + Send + Sync> = match client.view() {
                // Beside a physical device all that there will be is taken before anything else.
                Some(_) => {
                    let frames = dom0.alloc_frames(OWN_FRAMES).expect("frames of dom0's own");
                    let (mapping, gfns) = frames.into_mapping();
                    Arc::new(OwnPool::new(mapping, &gfns, &mode))
                }
                None => Arc::new(ModelFrames { dom0: dom0.clone(), mode }),
            };
            (Arc::new(ModelBus(port)), own)
        }
    }
}

/// The model's bus port, as the mediator knows buses.
struct ModelBus(BusPort);

impl BusMaster for ModelBus {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let how = match access {
            DmaAccess::Read => BusAccess::Read,
            DmaAccess::Write => BusAccess::Write,
        };
        let BusPin { ptr, bfn, token } = self.0.pin(bfn, how).map_err(|_| DmaFault { bfn, access })?;
        Ok(Pin { ptr, bfn, token })
    }

    fn unpin(&self, pin: Pin) {
        self.0.unpin_token(pin.bfn, pin.token);
    }
}

/// Frames of dom0's own on the model.
struct ModelFrames {
    dom0: Arc<Caller>,
    mode: Mode,
}

impl OwnFrames for ModelFrames {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let (mapping, gfns) = self.dom0.alloc_frames(pages)?.into_mapping();
        Ok(OwnMemory::new(mapping, gfns.into_iter().map(|gfn| OwnFrame::of(gfn, &self.mode)).collect()))
    }
}
