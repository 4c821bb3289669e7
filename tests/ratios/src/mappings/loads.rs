//! The limit that the machine's memory sets: loads from random places, each of which must wait for the one before.

use std::hint::black_box;
use std::time::Instant;

/// As much memory as the table of a million mappings takes, in cache lines.
const LINES: usize = 24 << 14;

/// A walk through memory in no order.
pub(super) struct Loads {
    /// On each line, where the next is.
    lines: Vec<[u32; 16]>,
    at: u32,
}

impl Loads {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let mut order: Vec<u32> = (0..).take(LINES).collect();
        rng.shuffle(&mut order);
        let mut lines = vec![[0; 16]; LINES];
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            lines[*from as usize][0] = *to;
        }
        Self { lines, at: 0 }
    }

    /// Seconds for so many loads.
    pub(super) fn walk(&mut self, count: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..count {
            self.at = black_box(&self.lines)[self.at as usize][0];
        }
        start.elapsed().as_secs_f64()
    }
}
