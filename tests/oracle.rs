//! The oracle can fail: a GPU, or a mediator, that leaves out a step that the promise needs is caught.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use integration::drawing::Switch;
use integration::faulty::{Faulty, Omission};
use integration::{Painter, Profile, World};
use mock_xen::ViolationKind;

const PAGES: u64 = 16;

/// Draws, balloons out pages that the GPU has just used, draws again: violations, faults, and how often the step was
/// left out.
fn draw_with(omission: Omission) -> (Vec<ViolationKind>, u64, u64) {
    let omitted = Arc::default();
    let world = World::with(Profile::Draft, Some(Faulty::omitting(omission, &omitted)));
    let domid = world.domain(1);
    let service = world.serve(domid);
    let mut guest = Painter::new(world.cpu(domid, &Switch::default()));
    assert!(guest.fill(0x11_2233));
    let before = AtomicU64::load(&omitted, Ordering::Relaxed);
    let pages = guest.canvas_frames(PAGES);
    guest.balloon_out(&pages);
    // What lies in the ring is read before an access is answered.
    guest.gpu.read32(&mut guest.cpu, 0x7_8000);
    service.vgpu().settle();
    guest.submit_fills(0x44_5566, 1);
    integration::until("the second fill's end", || {
        let s = service.vgpu().statistics();
        s.completions + s.gpu_errors >= 2
    });
    service.vgpu().settle();
    let left_out = omitted.load(Ordering::Relaxed) - before;
    let violations = world.machine.violations().iter().map(|v| v.kind).collect();
    let faults = world.machine.bus_faults();
    if omission == Omission::Nothing {
        drop((service, guest));
        world.end();
    }
    (violations, faults, left_out)
}

#[test]
fn nothing_left_out_is_nothing_found() {
    assert_eq!(draw_with(Omission::Nothing), (Vec::new(), 0, 0));
}

#[test]
fn a_flush_left_out_is_a_violation() {
    let (violations, _, left_out) = draw_with(Omission::Flushes);
    assert!(left_out > 0, "there was nothing to leave out");
    let early = |v: &ViolationKind| matches!(v, ViolationKind::UnmappedWhilePinned { .. });
    assert!(violations.iter().any(early), "{violations:?}");
}

#[test]
fn an_entry_that_still_leads_to_a_frame_that_went_is_a_fault() {
    let (_, faults, left_out) = draw_with(Omission::Removals);
    assert!(left_out >= PAGES, "there was nothing to leave out");
    assert!(faults > 0);
}
