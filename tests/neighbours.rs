//! One guest of three means harm; the others must not notice, and it must get out of it whenever it wants.

use guest::run::Config;
use integration::drawing::{Drawing, Harming, Switch};
use integration::world::{final_picture, shown};
use integration::{PROFILES, Profile, World};

const FRAMES: u32 = 6;

fn one_hostile_among_three(profile: Profile, seed: u64) {
    let world = World::new(profile);
    let guests = [1, 2, 3].map(|n| world.domain(n));
    let services = guests.map(|d| world.serve(d));
    let [bad, good @ ..] = guests;
    let harming = Harming::start(&world, bad, seed, 60);
    let config = Config { seed, frames: Some(FRAMES), ..Config::default() };
    let drawing = good.map(|d| Drawing::start(&world, d, config));
    for (drawing, service) in drawing.into_iter().zip(services.iter().skip(1)) {
        let domid = drawing.domid;
        let drawn = drawing.finish();
        let report = drawn.flawless();
        assert_eq!((report.frames_drawn, report.checks), (FRAMES, FRAMES));
        assert!(report.ballooned_out > 0);
        assert!(shown(service) == final_picture(seed, domid.0), "{domid}: the host sees another picture");
        assert_eq!(service.vgpu().statistics().foreign_accesses, 0);
    }
    let (harm, cpu) = harming.stop();
    assert!(harm.rounds > 0 && harm.submissions > 0 && harm.lost == 0, "{harm:?}");
    assert!(cpu.lost().is_none(), "{:?}", cpu.lost());

    // Whatever it did to its vGPU: a driver that starts anew finds one that works.
    let repentant = Drawing::on(cpu, bad, Switch::default(), Config { frames: Some(1), ..config });
    repentant.finish().flawless();
    assert!(shown(&services[0]) == final_picture(seed, bad.0));
    services.into_iter().for_each(|s| assert!(s.lost().is_none()));
    world.end();
}

#[test]
fn a_hostile_guest_among_three_harms_only_itself_where_the_hypervisor_maps() {
    (1..=3).for_each(|seed| one_hostile_among_three(Profile::Draft, seed));
}

#[test]
fn a_hostile_guest_among_three_harms_only_itself_on_stock_xen() {
    (1..=3).for_each(|seed| one_hostile_among_three(Profile::Stock, seed));
}

#[test]
fn three_hostile_guests_leave_nothing_behind() {
    for profile in PROFILES {
        let world = World::new(profile);
        let guests = [1, 2, 3].map(|n| world.domain(n));
        let services = guests.map(|d| world.serve(d));
        let harming = guests.map(|d| Harming::start(&world, d, 40 + u64::from(d.0), 60));
        for harm in harming {
            let (report, cpu) = harm.stop();
            assert!(report.rounds > 0 && cpu.lost().is_none(), "{report:?}");
        }
        drop(services);
        world.end();
    }
}
