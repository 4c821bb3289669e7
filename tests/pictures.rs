//! The same seed gives the same picture: on either hypervisor, in every run, however much is ballooned, and it is the
//! one that a naive drawing on the CPU gives.

use guest::run::Config;
use guest::scene::digest;
use integration::world::{final_picture, shown};
use integration::{Drawing, PROFILES, Profile, World};
use xen_ioreq::DomId;

const NUMBERS: [u16; 2] = [1, 7];

/// What two guests show at the end.
fn pictures(profile: Profile, seed: u64, balloon: usize) -> Vec<Vec<u32>> {
    let world = World::new(profile);
    let guests = NUMBERS.map(|n| world.domain(n));
    let services = guests.map(|d| world.serve(d));
    let config = Config { seed, balloon, frames: Some(4), ..Config::default() };
    let drawing = guests.map(|d: DomId| Drawing::start(&world, d, config));
    let pictures = drawing
        .into_iter()
        .zip(&services)
        .map(|(drawing, service)| {
            let report = drawing.finish().flawless();
            assert_eq!(report.ballooned_out > 0, balloon > 0);
            let picture = shown(service);
            assert_eq!(report.picture, digest(&picture), "the guest sees what the host sees");
            picture
        })
        .collect();
    drop(services);
    world.end();
    pictures
}

#[test]
fn the_same_seed_gives_the_same_pictures_everywhere_and_they_are_the_reference() {
    let wanted = NUMBERS.map(|n| final_picture(9, n));
    assert!(wanted[0] != wanted[1]);
    for profile in PROFILES {
        for balloon in [0, 8, 32] {
            assert!(pictures(profile, 9, balloon) == wanted, "{profile:?}, {balloon} pages a frame");
        }
    }
}

#[test]
fn another_seed_gives_another_picture() {
    assert!(pictures(Profile::Draft, 10, 8)[0] == final_picture(10, NUMBERS[0]));
    assert!(final_picture(9, NUMBERS[0]) != final_picture(10, NUMBERS[0]));
}
