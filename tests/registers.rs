//! Guests whose GPU is driven through the registers of a device: the driver of silicon, with the software GPU in silicon's place.

use guest::run::Config;
use integration::drawing::{Harming, Switch};
use integration::world::{final_picture, shown};
use integration::{Drawing, PROFILES, Painter, World, until};

const COLOUR: u32 = 0x65_4321;

#[test]
fn guests_that_balloon_draw_the_same_pictures_through_registers() {
    for profile in PROFILES {
        let world = World::behind_registers(profile);
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
