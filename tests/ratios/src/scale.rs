//! What many guests draw together, against what one of them draws alone in the same time.
//!
//! All are served by one mediator with one software GPU on the model, throughout; a round is the same number of batches, by one
//! guest, or by so many at once. Each guest waits for a batch before it submits the next, so that one alone leaves the GPU idle
//! for a moment between two, which many do not: the figures can be above one.
//!
//! What is drawn is a strip of each framebuffer, over and over, so that those of 64 guests lie in the processor's caches as that of
//! one does: a GPU's memory is in no cache of its host's, and what misses cost the software GPU is nothing that a mediator does. With
//! whole framebuffers, as many pixels a batch, that is in the figure, too: `scale-64-whole`.

use std::cell::RefCell;
use std::thread;

use guest::scene::HEIGHT;
use integration::drawing::Switch;
use integration::{Painter, Profile, World};

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["scale-15", "scale-64", "scale-64-whole"];

/// Guests, what each fills, and what is asked of the figure.
const MANY: [(usize, Fills, Target); 3] = [
    (15, Fills::STRIP, Target::AtLeast(0.95)),
    (64, Fills::STRIP, Target::AtLeast(0.95)),
    (64, Fills::WHOLE, Target::Told),
];
const ROUNDS: usize = 9;
/// Batches of a round, so that each guest has as many.
const BATCHES: usize = 15 * 64;
/// Pixels of a batch, in framebuffers.
const FRAMES: u64 = 32;
/// Moments for which one is waited for.
const PATIENCE: u32 = 200_000;

/// The fills of a batch.
#[derive(Clone, Copy)]
struct Fills {
    /// Lines of the framebuffer that each fills.
    lines: u16,
    count: u64,
}

impl Fills {
    const WHOLE: Self = Self { lines: HEIGHT, count: FRAMES };
    /// An eighth of the framebuffer: 150 KiB.
    const STRIP: Self = Self { lines: HEIGHT / 8, count: 8 * FRAMES };
}

/// So many batches by each of these guests at once, each on a thread; whether all of them drew.
fn draw(painters: &mut [Painter], batches: usize, fills: Fills) -> bool {
    thread::scope(|s| {
        let threads: Vec<_> = painters
            .iter_mut()
            .map(|painter| {
                s.spawn(move || {
                    (0..batches).all(|n| {
                        painter.submit_fills_of(fills.lines, u32::try_from(n).unwrap_or(0), fills.count);
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
    let guests = MANY.iter().map(|(n, ..)| *n).max().unwrap_or(1);
    let world = World::for_guests(Profile::Draft, u16::try_from(guests).map_err(|e| e.to_string())?);
    let (mut painters, mut services) = (Vec::new(), Vec::new());
    for number in 1..=guests {
        let domid = world.domain(u16::try_from(number).map_err(|e| e.to_string())?);
        services.push(world.serve_small(domid));
        painters.push(Painter::new(world.cpu(domid, &Switch::default())));
    }
    let mut figures = Vec::new();
    for (name, (many, fills, target)) in NAMES.iter().zip(MANY) {
        let painters = RefCell::new(&mut painters);
        let timed = |n: usize, drew: &mut bool| {
            let mut painters = painters.borrow_mut();
            seconds(|| *drew &= draw(&mut painters[..n], BATCHES / n, fills))
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
        figures.push(Figure { name, ratio: 1.0 / ratio, target, detail });
    }
    drop((painters, services));
    world.end();
    Ok(figures)
}
