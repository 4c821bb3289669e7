//! What many guests draw together, against what one of them draws alone in the same time.
//!
//! All are served by one mediator with one software GPU on the model, throughout; a round is the same number of batches, by one
//! guest, or by so many at once. Each guest waits for a batch before it submits the next, so that one alone leaves the GPU idle
//! for a moment between two, which many do not: the figures can be above one.

use std::cell::RefCell;
use std::thread;

use integration::drawing::Switch;
use integration::{Painter, Profile, World};

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["scale-15", "scale-64"];

const MANY: [(&str, usize); 2] = [("scale-15", 15), ("scale-64", 64)];
const ROUNDS: usize = 5;
/// Batches of a round, so that each guest has as many.
const BATCHES: usize = 15 * 64;
/// Fills of the framebuffer in a batch.
const FILLS: u64 = 32;
/// Moments for which one is waited for.
const PATIENCE: u32 = 200_000;

/// So many batches by each of these guests at once, each on a thread; whether all of them drew.
fn draw(painters: &mut [Painter], batches: usize) -> bool {
    thread::scope(|s| {
        let threads: Vec<_> = painters
            .iter_mut()
            .map(|painter| {
                s.spawn(move || {
                    (0..batches).all(|n| {
                        painter.submit_fills(u32::try_from(n).unwrap_or(0), FILLS);
                        painter.gpu.wait(&mut painter.cpu, PATIENCE) == Ok(true)
                    })
                })
            })
            .collect();
        threads.into_iter().all(|t| t.join().unwrap_or(false))
    })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let guests = MANY.iter().map(|(_, n)| *n).max().unwrap_or(1);
    let world = World::for_guests(Profile::Draft, u16::try_from(guests).map_err(|e| e.to_string())?);
    let (mut painters, mut services) = (Vec::new(), Vec::new());
    for number in 1..=guests {
        let domid = world.domain(u16::try_from(number).map_err(|e| e.to_string())?);
        services.push(world.serve_small(domid));
        painters.push(Painter::new(world.cpu(domid, &Switch::default())));
    }
    let mut figures = Vec::new();
    for (name, many) in MANY {
        let painters = RefCell::new(&mut painters);
        let timed = |n: usize, drew: &mut bool| {
            let mut painters = painters.borrow_mut();
            seconds(|| *drew &= draw(&mut painters[..n], BATCHES / n))
        };
        let (mut drew, mut drew_alone) = (true, true);
        let (ratio, ours, peer) = interleave(ROUNDS, || timed(many, &mut drew), || timed(1, &mut drew_alone));
        if !(drew && drew_alone) {
            return Err("a guest's batch was not finished".into());
        }
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let rate = |s: f64| BATCHES as f64 / s;
        let detail =
            format!("{:.0} batches/s of {many} guests together, {:.0} of one", rate(ours), rate(peer));
        // interleave gives seconds; as a speed it is the other way round.
        figures.push(Figure { name, ratio: 1.0 / ratio, target: Target::AtLeast(0.95), detail });
    }
    drop((painters, services));
    world.end();
    Ok(figures)
}
