//! Guests draw on the model hypervisor while their pages come and go: the whole way, with the oracle watching, frames
//! counted, and the pixels compared by the guests themselves. In the modes that the model can bring us into.
#![cfg(feature = "embedded")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use guest::model::ModelCpu;
use guest::run::{Config as Run, Report};
use guest::scene::PIXELS;
use guest::{RamRange, hostile};
use ioreq_server::pci::{Cf8Latch, host_bridge};
use ioreq_server::{BufferedMode, Bus, Connection, Guest, GuestLoop, LoopHandle, OnError, Server};
use mediated_gpu::bus::{BusMaster, DmaAccess, DmaFault, Pin};
use mediated_gpu::mediator::{Below, Config, Mediator, Seat, Snapshot, Vgpu};
use mediated_gpu::soft::{SoftGpu, SoftGpuConfig};
use mediated_gpu::vgpu::slice::{MIB, SliceSize, VgpuType};
use mock_xen::{
    BusAccess, BusPin, BusPort, Caller, Config as Machinery, DomainConfig, Iommu, Machine, Profile,
};
use pviommu::{Client, OwnFrame, OwnFrames, OwnMemory, Ports, ProcessMemory};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, VcpuId};

const DOM0: DomId = DomId(0);
/// Frames of a guest.
const FRAMES: u64 = 2048;
const SIZE: SliceSize = SliceSize { low: 16 * MIB, high: 16 * MIB, fences: 4 };

/// The model's port for devices, by our name.
struct Port(BusPort);

impl BusMaster for Port {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let kind = match access {
            DmaAccess::Read => BusAccess::Read,
            DmaAccess::Write => BusAccess::Write,
        };
        let BusPin { ptr, bfn, token } = self.0.pin(bfn, kind).map_err(|_| DmaFault { bfn, access })?;
        Ok(Pin { ptr, bfn, token })
    }

    fn unpin(&self, pin: Pin) {
        self.0.unpin_token(pin.bfn, pin.token);
    }
}

/// Own pages are frames of dom0.
struct Dom0Frames(Arc<Caller>);

impl OwnFrames for Dom0Frames {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let (mapping, gfns) = self.0.alloc_frames(pages)?.into_mapping();
        Ok(OwnMemory::new(mapping, gfns.into_iter().map(OwnFrame::Frame).collect()))
    }
}

struct World {
    machine: Arc<Machine>,
    client: Client,
    mediator: Option<Mediator>,
    free: u64,
}

struct Served {
    domid: DomId,
    vgpu: Arc<Vgpu>,
    handle: LoopHandle,
    thread: JoinHandle<()>,
}

impl World {
    fn new(profile: Profile) -> Self {
        // RUST_LOG tells what went on.
        let _ = env_logger::builder().is_test(true).try_init();
        let config = Machinery { frames: 32768, profile, iommu: Iommu::On, ..Machinery::default() };
        let machine = Machine::new(config).unwrap();
        let free = machine.free_frames();
        let caller = Arc::new(machine.caller(DOM0).unwrap());
        let ports = Ports { iommu: Some(caller.clone()), foreign: Some(caller.clone()) };
        let client = Client::start(ports, pviommu::Config::default()).unwrap();
        let bus: Arc<dyn BusMaster> = match client.soft() {
            Some(soft) => soft.clone(),
            None => Arc::new(Port(machine.bus_port(DOM0, "GPU").unwrap())),
        };
        let own: Arc<dyn OwnFrames + Send + Sync> = match client.soft() {
            Some(_) => Arc::new(ProcessMemory),
            None => Arc::new(Dom0Frames(caller)),
        };
        let gpu = Arc::new(SoftGpu::new(bus.clone(), SoftGpuConfig::default()).unwrap());
        let below = Below { gpu, client: client.clone(), own, bus };
        let mediator = Some(Mediator::new(below, Config::default()).unwrap());
        Self { machine, client, mediator, free }
    }

    fn serve(&self) -> Served {
        let config = DomainConfig { max_pages: FRAMES + 64, ..DomainConfig::default() };
        let domid = self.machine.create_domain(&config).unwrap();
        self.machine.populate(domid, Gfn(0), FRAMES).unwrap();
        let handle = Arc::new(self.machine.caller(DOM0).unwrap());
        let conn = Connection::new(handle.clone(), handle);
        let server =
            Server::create(&conn, domid, BufferedMode::Atomic).unwrap().map().unwrap().enable().unwrap();
        let frames = self.client.attach(domid, server.id()).unwrap();
        let bus = Bus::new(server.claims());
        Cf8Latch::attach(&bus).unwrap();
        host_bridge(&bus).unwrap();
        let mediator = self.mediator.as_ref().unwrap();
        let vgpu = mediator
            .plug(VgpuType::Custom(SIZE), frames, &bus, conn.dm(domid), Seat::default())
            .unwrap()
            .vgpu;
        let mut guests = GuestLoop::new().unwrap();
        guests.add(Guest::new(server, bus, vgpu.clone(), OnError::AllOnes)).unwrap();
        let handle = guests.handle();
        let thread = thread::spawn(move || guests.run().unwrap());
        Served { domid, vgpu, handle, thread }
    }

    fn cpu(&self, domid: DomId) -> ModelCpu {
        let vcpu = self.machine.vcpu(domid, VcpuId(0)).unwrap();
        let ram = vec![RamRange { first: Gfn(0), frames: FRAMES }];
        ModelCpu::new(vcpu, ram, Arc::new(AtomicBool::new(false)), Box::new(|_| {}))
    }

    fn stop(&self, served: Served) -> Snapshot {
        served.handle.stop();
        served.thread.join().unwrap();
        let snapshot = self.mediator.as_ref().unwrap().destroy(served.vgpu.id()).unwrap();
        self.machine.destroy_domain(served.domid).unwrap();
        snapshot
    }

    /// Nothing is left of anybody.
    fn end(mut self) {
        drop(self.mediator.take());
        drop(self.client);
        self.machine.assert_clean();
        assert_eq!(self.machine.free_frames(), self.free);
    }
}

fn draw(mut cpu: ModelCpu, run: Run) -> JoinHandle<Report> {
    thread::spawn(move || {
        let mut buffer = vec![0; PIXELS];
        guest::run::run(&mut cpu, &run, &mut buffer).unwrap()
    })
}

fn three_guests(profile: Profile) {
    let world = World::new(profile);
    let served: Vec<_> = (0..3).map(|_| world.serve()).collect();
    let run = Run { frames: Some(12), seed: 5, ..Run::default() };
    let drawing: Vec<_> = served.iter().map(|s| draw(world.cpu(s.domid), run)).collect();
    let reports: Vec<_> = drawing.into_iter().map(|d| d.join().unwrap()).collect();
    for (report, served) in reports.iter().zip(&served) {
        assert_eq!((report.frames_drawn, report.checks_failed), (12, 0), "{report:?}");
        assert!(report.ballooned_out > 0 && report.interrupts > 0, "{report:?}");
        served.vgpu.settle();
        let s = served.vgpu.statistics();
        assert!(s.notices > 0 && s.invalidations == s.notices && s.overruns == 0, "{s:?}");
        let surface = served.vgpu.surface().unwrap();
        assert_eq!(surface.missing_pages, 0);
        let pixels = surface
            .bgrx
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(pixels, report.picture, "what the host shows is what the guest drew");
    }
    for s in served {
        world.stop(s);
    }
    world.end();
}

#[test]
fn guests_draw_while_ballooning_where_frames_are_mapped_by_the_hypervisor() {
    three_guests(Profile::Draft);
}

#[test]
fn guests_draw_while_ballooning_where_only_a_soft_iommu_is_to_be_had() {
    three_guests(Profile::Stock);
}

#[test]
fn hostile_guest_harms_nobody_else() {
    for profile in [Profile::Draft, Profile::Stock] {
        let world = World::new(profile);
        let bad = world.serve();
        let good: Vec<_> = (0..2).map(|_| world.serve()).collect();
        let mut cpu = world.cpu(bad.domid);
        let stop = Arc::new(AtomicBool::new(false));
        let go_on = stop.clone();
        let harm = thread::spawn(move || {
            let mut seed = 1;
            while !go_on.load(Ordering::Acquire) {
                // It may have broken its own device so far that it does not find it again.
                let _ = hostile::run(&mut cpu, seed, 200);
                seed += 1;
            }
        });
        let run = Run { frames: Some(8), ..Run::default() };
        let drawing: Vec<_> = good.iter().map(|s| draw(world.cpu(s.domid), run)).collect();
        for d in drawing {
            let report = d.join().unwrap();
            assert_eq!((report.frames_drawn, report.checks_failed), (8, 0), "{report:?}");
        }
        stop.store(true, Ordering::Release);
        harm.join().unwrap();
        for s in good {
            assert_eq!(world.stop(s).overruns, 0);
        }
        world.stop(bad);
        world.end();
    }
}

#[test]
fn guest_destroyed_while_it_draws_leaves_nothing_behind() {
    for profile in [Profile::Draft, Profile::Stock] {
        let world = World::new(profile);
        let served = world.serve();
        let cpu = world.cpu(served.domid);
        let drawing = draw_until_lost(cpu);
        while served.vgpu.statistics().completions < 3 {
            thread::yield_now();
        }
        world.machine.destroy_domain(served.domid).unwrap();
        drawing.join().unwrap();
        served.handle.stop();
        served.thread.join().unwrap();
        world.mediator.as_ref().unwrap().destroy(served.vgpu.id()).unwrap();
        drop(served.vgpu);
        world.end();
    }
}

fn draw_until_lost(mut cpu: ModelCpu) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; PIXELS];
        let run = Run { frames: None, ..Run::default() };
        // It ends with an error: its domain is gone.
        let _ = guest::run::run(&mut cpu, &run, &mut buffer);
    })
}
