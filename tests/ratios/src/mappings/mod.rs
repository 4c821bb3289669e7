//! The table of live mappings and invalidations: what a million mappings cost more than a thousand.
//!
//! Victims and guest frames are picked at random over all that is live, before the clock runs: on both sides the harness
//! reads short lists in order, and what misses the caches is the library's. What these misses must cost at least is
//! measured beside: random loads from as much memory.

mod hypervisor;
mod loads;
mod population;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pviommu::{DeviceFlush, EVERYTHING, Mapped};
use xen_ioreq::Gfn;

use self::loads::Loads;
use self::population::Population;
use crate::harness::{Figure, Target, interleave, median};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &[
    "table-hit",
    "table-hit-misses",
    "table-hit-16",
    "table-batch",
    "invalidate-one",
    "invalidate-misses",
    "invalidate-16",
    "invalidate-all",
];

const FEW: usize = 1_000;
const MANY: usize = 1_000_000;
const ROUNDS: usize = 41;
/// What is done between two looks at the clock.
const STEP: usize = 128;
/// Steps in a round. The median of them counts, so that one in which the machine had other things to do counts as one.
const STEPS: usize = 15;
/// Hits, and invalidations, that come together where they do.
const AT_ONCE: usize = 16;
/// Frames that are mapped in one call.
const BATCH: usize = 512;

/// No device: a flush costs nothing.
struct NoDevice;

impl DeviceFlush for NoDevice {
    fn flush(&self) {}
}

fn ns(seconds: f64, times: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let times = times as f64;
    seconds / times * 1e9
}

/// Maps what is mapped, and puts it, `at_once` in a call; the frames are picked from `among`. Seconds a step.
fn hits(p: &mut Population, among: &[Gfn], at_once: usize) -> f64 {
    let mut took = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let gfns: Vec<Gfn> = (0..STEP).filter_map(|_| p.rng.choice(among).copied()).collect();
        let start = Instant::now();
        for gfns in gfns.chunks(at_once) {
            match gfns {
                [gfn] => drop(black_box(p.guest.map_one(*gfn)).ok().and_then(Mapped::put)),
                gfns => p.guest.map(gfns).into_iter().flatten().for_each(|m| drop(black_box(m).put())),
            }
        }
        took.push(start.elapsed().as_secs_f64());
    }
    median(&mut took)
}

/// Frames leave the guest, `at_once` at a time: notices, what is draining, quiesce, release. Seconds a step.
fn invalidations(p: &mut Population, at_once: usize, on_model: bool) -> Result<f64, String> {
    p.xen.on_model.store(on_model, Ordering::Relaxed);
    let mut took = Vec::with_capacity(STEPS);
    let mut victims = Vec::with_capacity(STEP);
    for _ in 0..STEPS {
        p.take(STEP, &mut victims);
        let gfns: Vec<Gfn> = victims.iter().map(|(gfn, _)| *gfn).collect();
        let free = if on_model { p.xen.hold_gone_frames(STEP)? } else { 0 };
        p.xen.gone.store(true, Ordering::Relaxed);
        let mut released = 0;
        let start = Instant::now();
        let mut leaving = victims.drain(..).map(|(_, mapped)| mapped).peekable();
        let mut now: Vec<Mapped> = Vec::with_capacity(at_once);
        while leaving.peek().is_some() {
            now.extend(leaving.by_ref().take(at_once));
            now.iter().for_each(|mapped| p.guest.notice(mapped.bfn().0));
            let draining = p.guest.take_draining().map_err(|e| e.to_string())?;
            now.drain(..).for_each(|mapped| drop(mapped.put()));
            let (quiesced, _) = p.client.quiesce(draining, &NoDevice);
            released += p.client.release(quiesced).mappings;
        }
        took.push(start.elapsed().as_secs_f64());
        drop(leaving);
        p.xen.gone.store(false, Ordering::Relaxed);
        if released != STEP || (on_model && p.xen.free_frames() != free + STEP as u64) {
            return Err(format!("{released} of {STEP} frames were released"));
        }
        p.map(&gfns)?;
    }
    Ok(median(&mut took))
}

/// What many cost more than few: (in random loads, ns of many, ns of few, ns of a load), each a median of rounds.
fn added(
    loads: &mut Loads,
    mut many: impl FnMut() -> Result<f64, String>,
    mut few: impl FnMut() -> Result<f64, String>,
) -> Result<[f64; 4], String> {
    let mut all = [const { Vec::new() }; 4];
    many()?;
    few()?;
    for _ in 0..ROUNDS {
        let (m, f) = (many()?, few()?);
        let l = median(&mut (0..STEPS).map(|_| loads.walk(STEP)).collect::<Vec<_>>());
        for (all, value) in all.iter_mut().zip([(m - f) / l, ns(m, STEP), ns(f, STEP), ns(l, STEP)]) {
            all.push(value);
        }
    }
    Ok(all.map(|mut values| median(&mut values)))
}

/// Hits within a working set of a thousand frames, and over all that is live.
fn table_hit(few: &mut Population, many: &mut Population, loads: &mut Loads) -> Result<Vec<Figure>, String> {
    let all = |p: &Population| p.held.iter().map(|(gfn, _)| *gfn).collect::<Vec<Gfn>>();
    let (of_few, of_many) = (all(few), all(many));
    // `held` is in random order, so these lie anywhere in the million.
    let (ratio, m, f) = interleave(ROUNDS, || hits(many, &of_many[..FEW], 1), || hits(few, &of_few, 1));
    let detail = format!(
        "map and put of one of 10^3 frames: {:.0} ns with 10^6 live, {:.0} ns with 10^3",
        ns(m, STEP),
        ns(f, STEP)
    );
    let flat = Figure { name: "table-hit", ratio, target: Target::AtMost(2.0), detail };
    let [ratio, m, f, l] = added(loads, || Ok(hits(many, &of_many, 1)), || Ok(hits(few, &of_few, 1)))?;
    let detail = format!(
        "map and put of any frame: {m:.0} ns with 10^6 live, {f:.0} ns with 10^3; more by so many random loads of {l:.0} ns"
    );
    let misses = Figure { name: "table-hit-misses", ratio, target: Target::AtMost(2.0), detail };
    let (ratio, m, f) = interleave(ROUNDS, || hits(many, &of_many, AT_ONCE), || hits(few, &of_few, AT_ONCE));
    let detail = format!(
        "map and put of any {AT_ONCE} frames in one call, a frame: {:.0} ns with 10^6 live, {:.0} ns with 10^3",
        ns(m, STEP),
        ns(f, STEP)
    );
    Ok(vec![flat, misses, Figure { name: "table-hit-16", ratio, target: Target::AtMost(2.0), detail }])
}

/// Frames that are not mapped, in one call and one by one.
fn table_batch(p: &mut Population) -> Result<Figure, String> {
    p.xen.on_model.store(false, Ordering::Relaxed);
    let gfns: Vec<Gfn> = (0..BATCH as u64).map(|i| Gfn(MANY as u64 + i)).collect();
    let (guest, client, xen) = (p.guest.clone(), p.client.clone(), p.xen.clone());
    let calls = || xen.calls.load(Ordering::Relaxed);
    let mut wrong = None;
    let mut round = |at_once: bool| {
        let before = calls();
        let start = Instant::now();
        let mapped: Vec<_> =
            if at_once { guest.map(&gfns) } else { gfns.iter().map(|gfn| guest.map_one(*gfn)).collect() };
        let took = start.elapsed().as_secs_f64();
        let (called, wanted) = (calls() - before, if at_once { 1 } else { BATCH as u64 });
        let draining = mapped.into_iter().flatten().filter_map(Mapped::put);
        let released = client.release(client.quiesce(draining, &NoDevice).0).mappings;
        if called != wanted || released != BATCH {
            wrong = Some(format!("{called} hypercalls for {released} of {BATCH} frames"));
        }
        took
    };
    let round = RefCell::new(&mut round);
    let (ratio, o, p) = interleave(ROUNDS, || round.borrow_mut()(true), || round.borrow_mut()(false));
    if let Some(why) = wrong {
        return Err(why);
    }
    let detail = format!(
        "{BATCH} misses in one hypercall, counted: {:.0} ns a frame, one by one {:.0} ns (hypercalls cost nothing here)",
        ns(o, BATCH),
        ns(p, BATCH)
    );
    Ok(Figure { name: "table-batch", ratio, target: Target::AtMost(1.0), detail })
}

fn invalidate(few: &mut Population, many: &mut Population, loads: &mut Loads) -> Result<Vec<Figure>, String> {
    let mut failed = None;
    let mut on_model = |p: &mut Population, at_once: usize| {
        invalidations(p, at_once, true).unwrap_or_else(|e| {
            failed = Some(e);
            f64::NAN
        })
    };
    let run = RefCell::new(&mut on_model);
    let mut compare = |at_once: usize| {
        interleave(ROUNDS, || run.borrow_mut()(many, at_once), || run.borrow_mut()(few, at_once))
    };
    let (one, together) = (compare(1), compare(AT_ONCE));
    if let Some(why) = failed {
        return Err(why);
    }
    let (ratio, m, f) = together;
    let detail = format!(
        "{AT_ONCE} notices worked off at once, a frame: {:.0} ns with 10^6 live, {:.0} ns with 10^3",
        ns(m, STEP),
        ns(f, STEP)
    );
    let together = Figure { name: "invalidate-16", ratio, target: Target::AtMost(1.2), detail };
    let (ratio, m, f) = one;
    let detail = format!(
        "notice to release, the model answers the two hypercalls: {:.0} ns with 10^6 live, {:.0} ns with 10^3",
        ns(m, STEP),
        ns(f, STEP)
    );
    let whole = Figure { name: "invalidate-one", ratio, target: Target::AtMost(1.2), detail };
    let [ratio, m, f, l] = added(loads, || invalidations(many, 1, false), || invalidations(few, 1, false))?;
    let detail = format!(
        "the same with hypercalls that cost nothing: {m:.0} ns with 10^6 live, {f:.0} ns with 10^3; more by so many random loads of {l:.0} ns"
    );
    let misses = Figure { name: "invalidate-misses", ratio, target: Target::AtMost(2.0), detail };
    Ok(vec![whole, misses, together])
}

/// 'Something changed', to a guest with a thousand mappings, with and without a million of another guest's.
fn invalidate_all() -> Result<Figure, String> {
    let (mut among, mut alone) = (Population::new(FEW, MANY)?, Population::new(FEW, 0)?);
    let mut failed = None;
    let mut all = |p: &mut Population| {
        let mut took: Vec<f64> = (0..STEPS)
            .map(|_| {
                let start = Instant::now();
                p.guest.notice(EVERYTHING);
                if !p.guest.take_draining().is_ok_and(|d| d.is_empty()) {
                    failed = Some("a mapping that is right was not left alone".to_string());
                }
                start.elapsed().as_secs_f64()
            })
            .collect();
        median(&mut took)
    };
    let all = RefCell::new(&mut all);
    let (ratio, m, f) = interleave(ROUNDS, || all.borrow_mut()(&mut among), || all.borrow_mut()(&mut alone));
    if let Some(why) = failed {
        return Err(why);
    }
    let detail = format!(
        "10^3 mappings asked about: {:.1} us among 10^6 of another guest's, {:.1} us alone",
        m * 1e6,
        f * 1e6
    );
    Ok(Figure { name: "invalidate-all", ratio, target: Target::AtMost(1.2), detail })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let (mut few, mut many) = (Population::new(FEW, 0)?, Population::new(MANY, 0)?);
    let mut loads = Loads::new(&mut fastrand::Rng::with_seed(5));
    let mut figures = table_hit(&mut few, &mut many, &mut loads)?;
    figures.push(table_batch(&mut many)?);
    figures.extend(invalidate(&mut few, &mut many, &mut loads)?);
    drop((few, many));
    figures.push(invalidate_all()?);
    Ok(figures)
}
