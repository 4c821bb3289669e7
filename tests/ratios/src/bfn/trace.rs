//! One recorded life of allocations, played by every allocator alike.
//!
//! First a fill, then steps at that size. A step frees ranges picked at random and allocates as many of the same orders:
//! in turn, in any order, or all frees before all allocs. So the mix stays what it was, and all players hold the same.

use std::time::Instant;

use super::peers::Allocator;

/// Frees and allocs in a step.
pub(super) const STEP: usize = 256;
/// One in so many ranges is of order 9, the others of order 0.
const LARGE_EVERY: u32 = 10;
/// Frames of address space for each live range; 52 of them are in use.
const SPACE_EACH: u64 = 80;

/// What is done between two looks at the clock.
struct Step {
    /// Which of the live ranges are freed, each taken out with `swap_remove`.
    victims: Vec<usize>,
    ops: Vec<Op>,
}

#[derive(Clone, Copy)]
enum Op {
    /// Of the next victim.
    Free,
    /// Of 2^order frames.
    Alloc(u32),
}

/// The life, made as it is needed, the same for the same `live`.
pub(super) struct Trace {
    live: usize,
    rng: fastrand::Rng,
    /// Orders of the live ranges, as the players hold them.
    orders: Vec<u32>,
    steps: Vec<Step>,
}

impl Trace {
    pub(super) fn new(live: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(live as u64);
        let mut orders: Vec<u32> =
            (0..).map(|i| if i % LARGE_EVERY == 0 { 9 } else { 0 }).take(live).collect();
        rng.shuffle(&mut orders);
        Self { live, rng, orders, steps: Vec::new() }
    }

    /// Frames of the address space.
    pub(super) fn space(live: usize) -> u64 {
        live as u64 * SPACE_EACH
    }

    /// Orders of the fill.
    pub(super) fn fill(live: usize) -> Vec<u32> {
        Self::new(live).orders
    }

    /// Records steps up to number `n`, that one included.
    pub(super) fn record(&mut self, n: usize) {
        while self.steps.len() <= n {
            let victims: Vec<usize> = (0..STEP).map(|i| self.rng.usize(0..self.live - i)).collect();
            let mut orders: Vec<u32> = victims.iter().map(|v| self.orders.swap_remove(*v)).collect();
            self.rng.shuffle(&mut orders);
            self.orders.extend(&orders);
            let allocs = orders.into_iter().map(Op::Alloc);
            let mut ops: Vec<Op> = match self.steps.len() % 3 {
                0 => allocs.flat_map(|alloc| [Op::Free, alloc]).collect(),
                _ => std::iter::repeat_n(Op::Free, STEP).chain(allocs).collect(),
            };
            if self.steps.len() % 3 == 1 {
                self.rng.shuffle(&mut ops);
            }
            self.steps.push(Step { victims, ops });
        }
    }
}

/// An allocator that lives a trace.
pub(super) struct Player<A: Allocator> {
    allocator: A,
    live: Vec<A::Range>,
    next: usize,
    freed: Vec<A::Range>,
    got: Vec<A::Range>,
    /// Allocations that failed: there must be none.
    pub(super) failures: usize,
}

impl<A: Allocator> Player<A> {
    /// With what it has allocated already, in the order of [`Trace::fill`].
    pub(super) fn new(allocator: A, live: Vec<A::Range>) -> Self {
        let (freed, got) = (Vec::with_capacity(STEP), Vec::with_capacity(STEP));
        Self { allocator, live, next: 0, freed, got, failures: 0 }
    }

    /// One that fills itself.
    pub(super) fn filled(mut allocator: A, live: usize) -> Result<Self, String> {
        let fill = Trace::fill(live);
        let held: Option<Vec<_>> = fill.iter().map(|order| allocator.alloc(*order)).collect();
        held.map(|held| Self::new(allocator, held)).ok_or(format!("{live} ranges do not fit"))
    }

    /// What it holds.
    pub(super) fn live(&self) -> &[A::Range] {
        &self.live
    }

    /// Plays the next `steps` steps; the seconds that frees and allocs took. What the harness does to find a range to
    /// free is not among them, so no cache miss of its own is.
    pub(super) fn play(&mut self, trace: &mut Trace, steps: usize) -> f64 {
        trace.record(self.next + steps);
        let mut took = 0.0;
        for step in &trace.steps[self.next..self.next + steps] {
            self.freed.extend(step.victims.iter().map(|v| self.live.swap_remove(*v)));
            let start = Instant::now();
            let mut freed = self.freed.drain(..);
            for op in &step.ops {
                match op {
                    Op::Free => freed.next().into_iter().for_each(|range| self.allocator.free(range)),
                    Op::Alloc(order) => self.got.extend(self.allocator.alloc(*order)),
                }
            }
            took += start.elapsed().as_secs_f64();
            drop(freed);
            self.failures += STEP - self.got.len();
            self.live.append(&mut self.got);
        }
        self.next += steps;
        took
    }
}
