//! From a guest's balloon-out of a page that its GPU is drawing into, to the frame being free, while other guests draw
//! and balloon: against a synchronous access of the same guest in the same rounds.
//!
//! The whole mediator with the software GPU, on the model. What a notice sets off takes more threads' turns than an access
//! does (the loop's, the vGPU's own, the engine's for a moment), on a machine whose processors are all busy.

use std::time::{Duration, Instant};

use guest::run::Config;
use integration::drawing::Switch;
use integration::world::FRAMES;
use integration::{Drawing, Painter, Profile, World};
use mediated_gpu::mediator::Config as MediatorConfig;
use xen_ioreq::{DomId, Gfn};

use crate::harness::{Figure, Target, median};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["balloon-free", "balloon-worst", "balloon-in"];

const ROUNDS: usize = 2000;
/// Accesses in a round.
const TRIPS: u32 = 8;
/// Fills of the whole framebuffer that the GPU is at when one of its pages goes.
const FILLS: u64 = 4;
/// Pages that are ballooned in turn.
const PAGES: u64 = 64;
/// Guests that draw beside.
const NEIGHBOURS: u16 = 2;
/// A register that the device answers.
const REGISTER: u32 = 0x7_8000;
/// What takes longer hangs.
const HANG: Duration = Duration::from_secs(30);

/// What the rounds gave.
#[derive(Default)]
struct Seen {
    /// Seconds to the free frame, of an access, and their ratio.
    free: Vec<f64>,
    trip: Vec<f64>,
    ratio: Vec<f64>,
    /// Refusals of a populate that was tried after the frame was seen to be free.
    refused: u64,
    /// Seconds from balloon-out to balloon-in of a guest that asks again at once, and how often it was refused.
    back: Vec<f64>,
    asked_again: u64,
}

/// Tries until `so`; the seconds since `start`.
fn wait(start: Instant, mut so: impl FnMut() -> bool) -> Result<f64, String> {
    while !so() {
        if start.elapsed() > HANG {
            return Err("a frame is never free".into());
        }
        std::thread::yield_now();
    }
    Ok(start.elapsed().as_secs_f64())
}

fn round(
    world: &World,
    domid: DomId,
    painter: &mut Painter,
    n: usize,
    seen: &mut Seen,
) -> Result<(), String> {
    let at = n as u64 % PAGES;
    let page = painter.canvas().first + at;
    let frame: [Gfn; 1] = [painter.canvas_frames(at + 1).pop().ok_or("no such page")?];
    let held = world.machine.references(domid, frame[0]).map_err(|e| e.to_string())?;
    if held < 2 {
        return Err(format!("nobody holds the page: {held} references"));
    }
    let colour = u32::try_from(n).unwrap_or(0);
    painter.submit_fills(colour, FILLS);
    let start = Instant::now();
    painter.balloon_out(&frame);
    if n.is_multiple_of(2) {
        let free = wait(start, || world.frames_of(domid) == FRAMES - 1)?;
        // At its limit: what is free is the guest's to have.
        wait(start, || {
            let came = painter.balloon_in(&frame) == 1;
            seen.refused += u64::from(!came);
            came
        })?;
        let start = Instant::now();
        (0..TRIPS).for_each(|_| {
            painter.gpu.read32(&mut painter.cpu, REGISTER);
        });
        let trip = start.elapsed().as_secs_f64() / f64::from(TRIPS);
        seen.free.push(free);
        seen.trip.push(trip);
        seen.ratio.push(free / trip);
    } else {
        let mut tries = 0;
        let back = wait(start, || {
            tries += 1;
            painter.balloon_in(&frame) == 1
        })?;
        seen.back.push(back);
        seen.asked_again += tries - 1;
    }
    painter.gpu.map_page(&mut painter.cpu, page);
    painter.gpu.flush_gtt(&mut painter.cpu);
    if painter.gpu.wait(&mut painter.cpu, 20_000) != Ok(true) {
        return Err("a fill was not finished".into());
    }
    Ok(())
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let world = World::new(Profile::Draft);
    let domid = world.domain(1);
    let service = world.serve(domid);
    let neighbours: Vec<_> = (2..2 + NEIGHBOURS)
        .map(|n| {
            let domid = world.domain(n);
            (domid, world.serve(domid))
        })
        .collect();
    let config = Config { frames: None, balloon: 4, ..Config::default() };
    let drawing: Vec<_> = neighbours.iter().map(|(d, _)| Drawing::start(&world, *d, config)).collect();
    drawing.iter().for_each(|d| d.reach(2));
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    if !painter.fill(0) {
        return Err("the GPU does not fill".into());
    }
    let mut seen = Seen::default();
    for n in 0..ROUNDS {
        round(&world, domid, &mut painter, n, &mut seen)?;
    }
    service.vgpu().settle();
    let revoked = service.vgpu().statistics().revoked;
    if revoked < ROUNDS as u64 {
        return Err(format!("{revoked} entries of {ROUNDS} were revoked"));
    }
    // The neighbours' pictures must be right, too; `flawless` panics otherwise.
    let reports: Vec<_> = drawing.into_iter().map(|d| d.stop().flawless()).collect();
    drop((painter, service, neighbours));
    world.end();

    let us = |s: f64| s * 1e6;
    let worst = seen.free.iter().chain(&seen.back).copied().fold(0.0, f64::max);
    let p99 = {
        seen.ratio.sort_by(f64::total_cmp);
        seen.ratio.get(seen.ratio.len() * 99 / 100).copied().unwrap_or(f64::NAN)
    };
    let (frames, drawn_out): (u32, u64) =
        reports.iter().fold((0, 0), |(f, b), r| (f + r.frames_drawn, b + r.ballooned_out));
    let starved: u32 = reports.iter().map(|r| r.starved).sum();
    let detail = format!(
        "balloon-out to free: median {:.0} us, an access {:.1} us, 99 % within {p99:.0} times that; neighbours drew {frames} frames",
        us(median(&mut seen.free)),
        us(median(&mut seen.trip)),
    );
    let free =
        Figure { name: "balloon-free", ratio: median(&mut seen.ratio), target: Target::AtMost(20.0), detail };
    let deadline = MediatorConfig::default().deadline.as_secs_f64();
    let detail = format!(
        "the worst of {ROUNDS}, {:.1} ms, of the deadline of work on the GPU, {deadline:.0} s",
        worst * 1e3
    );
    let worst =
        Figure { name: "balloon-worst", ratio: worst / deadline, target: Target::AtMost(1.0), detail };
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let refused = seen.refused as f64 / seen.free.len() as f64;
    let detail = format!(
        "refusals a page at max_mem once the frame is free; who asks at once is refused {} times in {} pages and has it back after {:.0} us (median); the neighbours {starved} times in {drawn_out}",
        seen.asked_again,
        seen.back.len(),
        us(median(&mut seen.back)),
    );
    let back = Figure { name: "balloon-in", ratio: refused, target: Target::AtMost(0.0), detail };
    Ok(vec![free, worst, back])
}
