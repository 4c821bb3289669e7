//! The driver of silicon, with something else in silicon's place: the software GPU behind registers, for the mediator and its guests;
//! and a vGPU, which a stock i915 takes for a device, with the driver inside the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use guest::model::ModelCpu;
use guest::regs::pvinfo;
use guest::run::Config;
use guest::{Gpu, Platform, Width};
use integration::drawing::{Harming, Switch};
use integration::world::{RAM, final_picture, shown};
use integration::{Drawing, PROFILES, Painter, Profile, World, until};
use mediated_gpu::hard::trial::{self, Ground, GroundMemory};
use mediated_gpu::hard::{HardGpu, Mmio, StatusPages};
use mediated_gpu::physical::Engine;
use parking_lot::Mutex;
use xen_ioreq::{Bfn, PAGE_SIZE};

const COLOUR: u32 = 0x65_4321;

#[test]
fn guests_that_balloon_draw_the_same_pictures_through_registers() {
    for profile in PROFILES {
        let world = World::behind_registers(profile);
        // Where it cannot be the GPU's bus, the mediator has a view of its own.
        assert_eq!(world.client.view().is_some(), profile != Profile::Stock);
        let guests = [1, 2, 3].map(|n| world.domain(n));
        let services = guests.map(|d| world.serve(d));
        let config = Config { frames: Some(6), balloon: 8, ..Config::default() };
        let drawing = guests.map(|d| Drawing::start(&world, d, config));
        for (drawing, service) in drawing.into_iter().zip(&services) {
            let domid = drawing.domid;
            drawing.finish().flawless();
            assert!(shown(service) == final_picture(config.seed, domid.0));
            service.vgpu().settle();
            let s = service.vgpu().statistics();
            // An interrupt that did not come would be an overrun.
            assert!(s.completions > 0 && (s.gpu_errors, s.overruns) == (0, 0), "{s:?}");
        }
        drop(services);
        world.end();
    }
}

#[test]
fn a_guest_that_does_harm_is_stopped_through_registers_and_its_neighbour_draws() {
    for profile in PROFILES {
        let world = World::behind_registers(profile);
        let [good, bad] = [1, 2].map(|n| world.domain(n));
        let (drawn, harmed) = (world.serve(good), world.serve(bad));
        let harming = Harming::start(&world, bad, 11, 40);
        let config = Config { frames: Some(6), balloon: 4, ..Config::default() };
        let drawing = Drawing::start(&world, good, config);
        drawing.finish().flawless();
        assert!(shown(&drawn) == final_picture(config.seed, good.0));
        let (report, _) = harming.stop();
        assert!(report.rounds > 0, "{report:?}");
        drop((drawn, harmed));
        world.end();
    }
}

#[test]
fn a_context_without_end_is_reset_through_registers_and_the_engine_goes_on() {
    for profile in PROFILES {
        let world = World::behind_registers(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        // A long one, which is stopped by its owner's reset while it runs.
        painter.submit_fills(COLOUR + 1, 500);
        until("the fills are on the engine", || service.vgpu().statistics().submissions > 1);
        painter.reset();
        assert!(painter.fill(COLOUR + 2), "after the reset");
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 2));
        drop(service);
        world.end();
    }
}

/// BAR0 of the GPU that a guest's vCPU finds.
struct Inside {
    cpu: Arc<Mutex<ModelCpu>>,
    bar0: u64,
    cut: AtomicBool,
}

impl Inside {
    fn load(&self, offset: u32, width: Width) -> u64 {
        self.cpu.lock().mmio_read(self.bar0 + u64::from(offset), width)
    }

    fn store(&self, offset: u32, width: Width, value: u64) {
        self.cpu.lock().mmio_write(self.bar0 + u64::from(offset), width, value);
    }
}

impl Mmio for Inside {
    fn read32(&self, offset: u32) -> u32 {
        u32::try_from(self.load(offset, Width::B4)).expect("a dword")
    }
    fn write32(&self, offset: u32, value: u32) {
        self.store(offset, Width::B4, value.into());
    }
    fn read64(&self, offset: u32) -> u64 {
        self.load(offset, Width::B8)
    }
    fn write64(&self, offset: u32, value: u64) {
        self.store(offset, Width::B8, value);
    }
    fn cut_off(&self) {
        self.cut.store(true, Ordering::Release);
    }
}

/// The guest's RAM from a byte address on, as its vCPU reaches it.
struct Ram(Arc<Mutex<ModelCpu>>, u64);

impl GroundMemory for Ram {
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.0.lock().ram_read(self.1 + offset as u64, bytes).expect("RAM");
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.lock().ram_write(self.1 + offset as u64, bytes).expect("RAM");
    }
}

/// A thread that looks for interrupts all the time.
struct Looking(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Looking {
    fn start(interrupt: Box<dyn Fn() + Send>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let look = move || {
            while !told.load(Ordering::Acquire) {
                interrupt();
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        };
        Self(stop, Some(std::thread::spawn(look)))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.take().into_iter().for_each(|t| integration::join("who looks for interrupts", t));
    }
}

#[test]
fn the_driver_of_silicon_takes_a_vgpu_for_silicon() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut cpu = world.cpu(domid, &Switch::default());
        // Its BARs are placed; all else is done anew.
        let gpu = Gpu::bring_up(&mut cpu, 0).expect("a GPU");
        let page = u32::try_from(PAGE_SIZE).unwrap();
        let [base, size] =
            [pvinfo::MAPPABLE_BASE, pvinfo::MAPPABLE_SIZE].map(|reg| gpu.read32(&mut cpu, reg) / page);
        let cpu = Arc::new(Mutex::new(cpu));
        let bar = Arc::new(Inside { cpu: cpu.clone(), bar0: gpu.bar0.base, cut: AtomicBool::new(false) });
        let behind = |n: u64| Bfn(RAM.0 + Ground::PAGES as u64 + n);
        let status = StatusPages::new([0, 1, 2, 3].map(behind), ());
        let table = base..base + size;
        let gpu = HardGpu::new(bar.clone(), table, status, |interrupt| Ok(Looking::start(interrupt)));
        let gpu = gpu.expect("silicon");
        let memory = Arc::new(Ram(cpu, RAM.addr()));
        let findings = trial::run(&gpu, Ground { memory, first: Bfn(RAM.0), entry: base });
        let wrong: Vec<_> = findings.iter().filter(|f| f.wrong.is_some()).map(ToString::to_string).collect();
        assert_eq!((findings.len(), wrong), (3 * Engine::ALL.len() + 2, vec![]), "{profile:?}");
        assert!(service.vgpu().statistics().completions > 0);
        drop(gpu);
        assert!(bar.cut.load(Ordering::Acquire));
        drop(service);
        world.end();
    }
}
