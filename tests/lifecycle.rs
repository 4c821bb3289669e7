//! Guests and servers come and go while all are at work: every frame comes back, nobody hangs, nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::run::Config;
use guest::{Platform, Width};
use integration::drawing::Switch;
use integration::faulty::{Call, Faulty, Trap};
use integration::world::{final_picture, shown};
use integration::{Drawing, KEEPING, PROFILES, Painter, Profile, World, bounded, join};
use mediated_gpu::service::Service;
use mock_xen::VcpuError;
use xen_ioreq::DomId;

const COLOUR: u32 = 0x12_3456;
/// Fills of the whole picture, one after another: far more than the GPU does before it is stopped.
const MANY: u64 = 2000;
const PAGES: u64 = 16;

/// A world with a trap in its GPU, a guest that will die, and another.
struct Scene {
    world: World,
    trap: Arc<Trap>,
    victim: DomId,
    service: Service,
    other: DomId,
    others: Service,
}

impl Scene {
    fn new(profile: Profile) -> Self {
        let trap = Arc::<Trap>::default();
        let world = World::with(profile, Some(Faulty::trapped(&trap)));
        let (victim, other) = (world.domain(1), world.domain(2));
        let (service, others) = (world.serve(victim), world.serve(other));
        Self { world, trap, victim, service, other, others }
    }

    fn painter(&self) -> Painter {
        Painter::new(self.world.cpu(self.victim, &Switch::default()))
    }

    fn is_there(&self) -> bool {
        self.world.machine.domains().iter().any(|d| d.domid == self.victim)
    }

    /// Stops the victim's service: it is gone with all its frames. The other draws; then all is judged.
    fn end(self) {
        let Self { world, victim, service, other, others, .. } = self;
        bounded("the service's end", || service.stop());
        assert_eq!(world.frames_of(victim), 0);
        let config = Config { frames: Some(3), ..Config::default() };
        Drawing::start(&world, other, config).finish().flawless();
        assert!(shown(&others) == final_picture(config.seed, other.0));
        drop(others);
        world.end();
    }
}

#[test]
fn a_guest_destroyed_while_it_waits_for_an_access_does_not_wait_any_more() {
    for profile in KEEPING {
        let scene = Scene::new(profile);
        let mut painter = scene.painter();
        assert!(painter.fill(COLOUR));
        scene.trap.hold(Call::Write);
        let vcpu = std::thread::spawn(move || {
            let page = painter.canvas().first;
            painter.gpu.unmap_page(&mut painter.cpu, page);
            // The one after meets the end for certain.
            painter.cpu.pio_read(0xcfc, Width::B4);
            painter
        });
        scene.trap.sprung();
        scene.world.machine.destroy_domain(scene.victim).unwrap();
        let painter = join("the vCPU", vcpu);
        assert_eq!(painter.cpu.lost(), Some(&VcpuError::Destroyed));
        assert!(scene.is_there(), "its frames are still mapped");
        scene.trap.let_go();
        scene.end();
    }
}

#[test]
fn a_guest_destroyed_while_the_gpu_runs_for_it_keeps_no_frame() {
    for profile in KEEPING {
        let scene = Scene::new(profile);
        let mut painter = scene.painter();
        scene.trap.hold(Call::Submit);
        painter.submit_fills(COLOUR, MANY);
        scene.trap.sprung();
        scene.world.machine.destroy_domain(scene.victim).unwrap();
        assert!(scene.is_there(), "the GPU still reaches its frames");
        scene.trap.let_go();
        scene.end();
    }
}

#[test]
fn a_guest_destroyed_while_its_ballooned_pages_wait_for_a_flush_keeps_no_frame() {
    for profile in KEEPING {
        let scene = Scene::new(profile);
        let mut painter = scene.painter();
        assert!(painter.fill(COLOUR));
        let pages = painter.canvas_frames(PAGES);
        scene.trap.hold(Call::Flush);
        painter.balloon_out(&pages);
        scene.trap.sprung();
        assert_eq!(scene.world.frames_of(scene.victim), integration::world::FRAMES, "they are still held");
        scene.world.machine.destroy_domain(scene.victim).unwrap();
        assert!(scene.is_there());
        scene.trap.let_go();
        scene.end();
    }
}

#[test]
fn guests_destroyed_in_the_middle_of_drawing_are_gone_and_others_draw_on() {
    for profile in KEEPING {
        let world = World::new(profile);
        let survivor = world.domain(100);
        let service = world.serve(survivor);
        let forever = Config { frames: None, balloon: 16, ..Config::default() };
        let drawing = Drawing::start(&world, survivor, forever);
        for number in 1..=4 {
            let victim = world.domain(number);
            let doomed = world.serve(victim);
            let dying = Drawing::start(&world, victim, Config { seed: number.into(), ..forever });
            dying.reach(number.into());
            world.machine.destroy_domain(victim).unwrap();
            let drawn = dying.finish();
            assert_eq!(drawn.cpu.lost(), Some(&VcpuError::Destroyed));
            bounded("the service's end", || doomed.stop());
            assert!(world.machine.domain_info(victim).is_none(), "a zombie");
        }
        drawing.stop().flawless();
        assert!(shown(&service) == final_picture(forever.seed, survivor.0));
        drop(service);
        world.end();
    }
}

#[test]
fn a_guest_whose_server_has_gone_reads_all_ones_and_draws_again_with_the_next() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        bounded("the service's end", || service.stop());
        assert_eq!(world.client.stats().mappings, 0);
        let register = painter.gpu.bar0.base + 0x7_8000;
        assert_eq!(painter.cpu.mmio_read(register, Width::B4), 0xffff_ffff);
        painter.map_canvas(PAGES);
        let pages = painter.canvas_frames(PAGES);
        painter.balloon_out(&pages);
        assert_eq!(painter.balloon_in(&pages), pages.len(), "nobody holds them");

        let service = world.serve(domid);
        let mut painter = Painter::new(painter.cpu);
        assert!(painter.fill(COLOUR + 1));
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 1));
        drop(service);
        world.end();
    }
}

#[test]
fn a_server_restarted_under_a_guest_that_draws_loses_no_frame_and_the_guest_comes_back() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let mut service = world.serve(domid);
        let mut cpu = world.cpu(domid, &Switch::default());
        for _ in 0..2 {
            let switch = Switch::default();
            let impatient = Config { frames: None, patience: 100, balloon: 16, ..Config::default() };
            drop(cpu);
            let drawing = Drawing::on(world.cpu(domid, &switch), domid, switch, impatient);
            drawing.reach(2);
            bounded("the service's end", || service.stop());
            assert_eq!(world.client.stats().mappings, 0);
            service = world.serve(domid);
            // The new device knows nothing of the old one's state: the run ends, the vCPU lives.
            let drawn = drawing.stop();
            assert!(drawn.cpu.lost().is_none());
            cpu = drawn.cpu;
        }
        // What was ballooned out when a run ended comes back to the guest here.
        let lost = integration::world::FRAMES - world.frames_of(domid);
        assert!(world.refill(domid) == lost, "every frame that went can come back");
        let config = Config { frames: Some(2), ..Config::default() };
        Drawing::on(cpu, domid, Switch::default(), config).finish().flawless();
        assert!(shown(&service) == final_picture(config.seed, domid.0));
        drop(service);
        world.end();
    }
}

#[test]
fn servers_that_come_and_go_under_a_busy_vcpu_never_leave_it_waiting() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let mut cpu = world.cpu(domid, &Switch::default());
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let vcpu = std::thread::spawn(move || {
            let mut accesses = 0u64;
            while !ended.load(Ordering::Acquire) {
                cpu.pio_write(0xcf8, Width::B4, 0x8000_1000);
                cpu.pio_read(0xcfc, Width::B4);
                cpu.mmio_read(0xc000_0000, Width::B8);
                accesses += 3;
            }
            (cpu, accesses)
        });
        for _ in 0..30 {
            let service = world.serve(domid);
            integration::until("an access", || service.requests().pio > 0);
            bounded("the service's end", || service.stop());
        }
        stop.store(true, Ordering::Release);
        let (cpu, accesses) = join("the vCPU", vcpu);
        assert!(accesses > 0 && cpu.lost().is_none());
        drop(cpu);
        world.end();
    }
}
