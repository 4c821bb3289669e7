//! The program interrupted: its parts go in any order, or panic, while guests draw. No frame stays behind, no device
//! reaches what it must not, nobody waits for ever.

use std::sync::Arc;

use guest::run::Config;
use integration::drawing::Switch;
use integration::faulty::{Call, Faulty, Trap};
use integration::world::{final_picture, judge, shown};
use integration::{Drawing, KEEPING, PROFILES, Painter, Profile, World, bounded, until};

const COLOUR: u32 = 0x31_4159;
const PAGES: u64 = 16;

/// Two guests draw; parts are dropped in the order given.
fn parts_go(profile: Profile, order: &[usize]) {
    let world = World::new(profile);
    let guests = [1, 2].map(|n| world.domain(n));
    let [first, second] = guests.map(|d| world.serve(d));
    // A fifth of a second: with a busy host a frame takes long, too, and what waits for nobody is to end.
    let config = Config { frames: None, patience: 100, balloon: 16, ..Config::default() };
    let drawing = guests.map(|d| Drawing::start(&world, d, config));
    drawing.iter().for_each(|d| d.reach(1));
    let World { machine, dom0, client, mediator, free_before } = world;
    let killer = machine.clone();
    let death = Death(Box::new(move || killer.destroy_domain(guests[0]).unwrap()));
    let mut parts: [Box<dyn Part>; 6] = [
        Box::new(Some(first)),
        Box::new(Some(second)),
        Box::new(mediator),
        Box::new(Some(client)),
        Box::new(Some(dom0)),
        Box::new(Some(death)),
    ];
    for part in order {
        bounded("a part's end", || parts[*part].go());
    }
    drop(parts);
    for drawing in drawing {
        // Ends in whatever error it meets.
        let _cpu = drawing.stop().cpu;
    }
    machine.destroy_domain(guests[1]).unwrap();
    judge(&machine, free_before);
}

trait Part: Send {
    fn go(&mut self);
}

impl<T: Send> Part for Option<T> {
    fn go(&mut self) {
        *self = None;
    }
}

/// A guest's end as a part that goes.
struct Death(Box<dyn FnMut() + Send>);

impl Drop for Death {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn parts_that_go_in_any_order_keep_no_frame() {
    for profile in KEEPING {
        for start in 0..6 {
            let forward: Vec<_> = (0..6).map(|i| (start + i) % 6).collect();
            parts_go(profile, &forward);
        }
        parts_go(profile, &[5, 4, 3, 2, 1, 0]);
        parts_go(profile, &[3, 2, 5, 1, 4, 0]);
    }
}

#[test]
fn a_vgpu_destroyed_under_its_guest_never_reaches_its_successor() {
    for profile in PROFILES {
        let world = World::new(profile);
        let (old, new) = (world.domain(1), world.domain(2));
        let service = world.serve(old);
        let mut painter = Painter::new(world.cpu(old, &Switch::default()));
        assert!(painter.fill(COLOUR));
        let slice = service.vgpu().slice();
        let mediator = world.mediator.as_ref().unwrap();
        bounded("the vGPU's end", || mediator.destroy(service.vgpu().id()).unwrap());
        assert_eq!(world.client.stats().mappings, 0);

        let successor = world.serve(new);
        assert_eq!(successor.vgpu().slice(), slice, "the slice is used again");
        let mut next = Painter::new(world.cpu(new, &Switch::default()));
        assert!(next.fill(COLOUR + 1));
        painter.map_canvas(PAGES);
        painter.submit_fills(COLOUR + 2, 1);
        let pages = painter.canvas_frames(PAGES);
        painter.balloon_out(&pages);
        assert_eq!(painter.balloon_in(&pages), pages.len(), "nobody holds them");
        assert!(shown(&successor).iter().all(|p| *p == COLOUR + 1));
        assert!(next.fill(COLOUR + 3));
        assert!(shown(&successor).iter().all(|p| *p == COLOUR + 3));
        assert_eq!(service.vgpu().statistics().completions, 1);
        drop((service, successor));
        world.end();
    }
}

/// A guest draws and balloons, the next such call panics; what then? Another guest draws, and in the end all is there.
fn panics_at(profile: Profile, call: Call, provoke: impl Fn(&mut Painter)) {
    let trap = Arc::<Trap>::default();
    let world = World::with(profile, Some(Faulty::trapped(&trap)));
    let (domid, other) = (world.domain(1), world.domain(2));
    let (service, others) = (world.serve(domid), world.serve(other));
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    assert!(painter.fill(COLOUR));
    let pages = painter.canvas_frames(PAGES);
    trap.panic(call);
    provoke(&mut painter);
    trap.sprung();
    // The guest's next notices are served.
    painter.balloon_out(&pages);
    painter.gpu.read32(&mut painter.cpu, 0x7_8000);
    bounded("the notices", || service.vgpu().settle());
    until("all frames", || {
        world.refill(domid);
        painter.canvas_frames(2 * PAGES).iter().all(|g| world.machine.references(domid, *g).is_ok())
    });
    painter.map_canvas(2 * PAGES);
    painter.reset();
    assert!(painter.fill(COLOUR + 1), "its vGPU works again");
    assert!(shown(&service).iter().all(|p| *p == COLOUR + 1));
    let config = Config { frames: Some(2), ..Config::default() };
    Drawing::start(&world, other, config).finish().flawless();
    assert!(shown(&others) == final_picture(config.seed, other.0));
    bounded("the services' end", || drop((service, others)));
    world.end();
}

#[test]
fn a_panic_in_an_access_is_all_that_there_is_of_it() {
    for profile in PROFILES {
        panics_at(profile, Call::Write, |p| {
            let page = p.canvas().first;
            p.gpu.unmap_page(&mut p.cpu, page);
        });
    }
}

#[test]
fn a_panic_of_an_engines_thread_costs_one_submission() {
    for profile in PROFILES {
        for call in [Call::Submit, Call::Csb] {
            panics_at(profile, call, |p| p.submit_fills(COLOUR, 1));
        }
    }
}

#[test]
fn a_panic_while_frames_are_let_go_loses_none() {
    for profile in PROFILES {
        panics_at(profile, Call::Flush, |p| {
            let pages = p.canvas_frames(2 * PAGES).split_off(16);
            p.balloon_out(&pages);
        });
    }
}
