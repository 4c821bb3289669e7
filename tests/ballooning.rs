//! Frames that go, come back, or are swapped under a GPU that uses them, by whomever's hand.

use std::sync::Arc;
use std::time::Duration;

use guest::run::Config;
use integration::drawing::Switch;
use integration::faulty::{Call, Faulty, Trap};
use integration::world::{FRAMES, RAM, final_picture, shown};
use integration::{Drawing, PROFILES, Painter, Profile, World, until};
use mediated_gpu::mediator::{Config as MediatorConfig, Snapshot};
use mock_xen::{Fault, FaultPlan, Rule, Site, When};
use xen_ioreq::Gfn;

const COLOUR: u32 = 0x65_4321;
const PAGES: u64 = 16;
const PIXELS_A_PAGE: usize = 1024;
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn storms_of_notices_from_the_toolstack_disturb_no_picture() {
    for profile in PROFILES {
        let world = World::new(profile);
        let guests = [1, 2].map(|n| world.domain(n));
        let services = guests.map(|d| world.serve(d));
        // Frames of the guests' own balloons that are still held count, too.
        guests.iter().for_each(|d| world.machine.set_max_pages(*d, 2 * FRAMES).unwrap());
        let config = Config { frames: None, balloon: 4, ..Config::default() };
        let drawing = guests.map(|d| Drawing::start(&world, d, config));
        // Pages at the end of RAM, which the driver does not use.
        let spare: Vec<Gfn> = (FRAMES - 32..FRAMES).filter_map(|n| RAM.checked_add(n)).collect();
        let mut rounds = 0;
        while rounds < 100 || drawing.iter().any(|d| d.switch.frames() < 6) {
            assert!(rounds < 1_000_000, "the guests draw no frames");
            for domid in guests {
                assert_eq!(world.take_pages(domid, &spare), 32);
                assert_eq!(world.give_pages(domid, &spare), 32, "nobody holds them");
            }
            rounds += 1;
        }
        for (drawing, service) in drawing.into_iter().zip(&services) {
            let domid = drawing.domid;
            drawing.stop().flawless();
            assert!(shown(service) == final_picture(config.seed, domid.0));
            assert!(service.requests().invalidate > 0);
            service.vgpu().settle();
            let s = service.vgpu().statistics();
            // Released Xen says that something has changed: everything is mapped afresh.
            assert_eq!(profile == Profile::Stock, s.replaced > 0, "{s:?}");
        }
        drop(services);
        world.end();
    }
}

#[test]
fn frames_that_the_toolstack_takes_go_back_though_the_guest_does_nothing() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        let pages = painter.canvas_frames(PAGES);
        let free = world.machine.free_frames();
        assert_eq!(world.take_pages(domid, &pages), 16);
        // Released Xen tells when the vCPU comes by.
        painter.gpu.read32(&mut painter.cpu, 0x7_8000);
        until("the notice", || service.vgpu().statistics().notices > 0);
        until("the frames", || world.machine.free_frames() == free + PAGES);
        assert_eq!(world.frames_of(domid), FRAMES - PAGES);
        assert!(painter.fill(COLOUR + 1), "the GPU draws into scratch");
        assert_eq!(service.vgpu().surface().unwrap().missing_pages, 16);

        assert_eq!(world.give_pages(domid, &pages), 16);
        painter.map_canvas(PAGES);
        assert_eq!(painter.count(COLOUR + 1), guest::scene::PIXELS - 16 * PIXELS_A_PAGE, "none of scratch");
        assert!(painter.fill(COLOUR + 2));
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 2));
        drop(service);
        world.end();
    }
}

/// The guest populates numbers that have frames: Xen puts others there and tells nobody.
#[test]
fn frames_swapped_without_notice_stay_held_until_their_entries_are_written_again() {
    for profile in PROFILES {
        // Nobody looks by himself.
        let config = MediatorConfig { sweep_every: NEVER, ..MediatorConfig::default() };
        let world = World::configured(profile, config, None);
        let domid = world.domain(1);
        let service = world.serve(domid);
        world.machine.set_max_pages(domid, 2 * FRAMES).unwrap();
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        let pages = painter.canvas_frames(PAGES);
        assert_eq!(painter.balloon_in(&pages), pages.len());
        assert!(painter.fill(COLOUR + 1), "into the old frames, which are held");
        assert_eq!(painter.count(0), 16 * PIXELS_A_PAGE, "nothing has reached the new ones");
        world.machine.assert_clean();

        painter.map_canvas(PAGES);
        assert!(painter.fill(COLOUR + 2));
        assert_eq!(painter.count(COLOUR + 2), guest::scene::PIXELS, "all reaches the new ones");
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 2));
        drop(service);
        world.end();
    }
}

#[test]
fn frames_swapped_without_notice_are_found_though_the_guest_does_nothing() {
    for profile in PROFILES {
        let config = MediatorConfig { sweep_every: Duration::from_millis(5), ..MediatorConfig::default() };
        let world = World::configured(profile, config, None);
        let domid = world.domain(1);
        let service = world.serve(domid);
        world.machine.set_max_pages(domid, 2 * FRAMES).unwrap();
        // Nothing is asked while there is nothing to ask about.
        let calls = || {
            let count = |site| Rule { site, when: When::Always, fault: Fault::Delay(Duration::ZERO) };
            let rules = vec![count(Site::IommuCall), count(Site::ForeignMap)];
            world.machine.inject(FaultPlan { rules, seed: 0 });
            world.machine.faults_met()
        };
        let before = calls();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((world.machine.faults_met(), service.vgpu().statistics().sweeps), (before, 0));
        world.machine.inject(FaultPlan::default());

        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        let pages = painter.canvas_frames(PAGES);
        let s = service.vgpu().statistics();
        assert_eq!(painter.balloon_in(&pages), pages.len());
        // Each page once, and the old frames are let go; then what is drawn next goes to no old one.
        let swept = |now: &Snapshot| now.sweeps >= s.sweeps + 64;
        until("the sweeps", || swept(&service.vgpu().statistics()));
        service.vgpu().settle();
        let now = service.vgpu().statistics();
        assert!(painter.fill(COLOUR + 1));
        if profile == Profile::Stock {
            assert!(now.replaced >= s.replaced + PAGES);
            assert_eq!(painter.count(COLOUR + 1), guest::scene::PIXELS, "the new ones are reached");
        } else {
            assert_eq!(now.revoked, s.revoked + PAGES);
            assert!(now.released >= s.released + PAGES);
            assert_eq!(painter.count(0), 16 * PIXELS_A_PAGE, "the new ones are not");
            painter.map_canvas(PAGES);
            assert!(painter.fill(COLOUR + 1));
        }
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 1));
        assert_eq!(service.vgpu().statistics().notices, 0);
        drop(service);
        world.end();
    }
}

#[test]
fn a_guest_at_its_limit_balloons_in_again_once_the_mediator_has_let_go() {
    for profile in PROFILES {
        let trap = Arc::<Trap>::default();
        let world = World::with(profile, Some(Faulty::trapped(&trap)));
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        let pages = painter.canvas_frames(PAGES);
        trap.hold(Call::Flush);
        painter.balloon_out(&pages);
        trap.sprung();
        assert_eq!(painter.balloon_in(&pages), 0, "held frames count against the limit");
        trap.let_go();
        // What lies in the ring is read before an access is answered.
        painter.gpu.read32(&mut painter.cpu, 0x7_8000);
        service.vgpu().settle();
        assert_eq!(painter.balloon_in(&pages), pages.len());
        painter.map_canvas(PAGES);
        assert!(painter.fill(COLOUR + 1));
        assert!(shown(&service).iter().all(|p| *p == COLOUR + 1));
        drop(service);
        world.end();
    }
}

#[test]
fn a_driver_that_leaves_its_entries_behind_keeps_no_frame_from_the_host() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        for round in 0..4 {
            assert!(painter.fill(COLOUR + round));
            let pages = painter.canvas_frames(300);
            painter.balloon_out(&pages);
            service.vgpu().settle();
            until("every frame", || world.frames_of(domid) == FRAMES - 300);
            assert_eq!(painter.balloon_in(&pages), pages.len());
            painter.map_canvas(300);
        }
        assert!(painter.fill(COLOUR));
        assert!(shown(&service).iter().all(|p| *p == COLOUR));
        drop(service);
        world.end();
    }
}
