//! Whether to look for work a little longer before going to sleep.
//!
//! A wake-up takes as long as a large blit, and a driver that keeps its GPU busy submits again within some microseconds. So an
//! engine looks for as long as a wake-up or two. Who looks in vain twice in a row leaves it out ever longer, so that an idle
//! engine costs nothing, and one whose processor others want next to nothing.

use std::time::{Duration, Instant};

/// How long an engine looks for work.
const LOOK: Duration = Duration::from_micros(50);
/// Looks between two offers of the processor to others, which take longer than a look does.
const LOOKS: u32 = 8;
/// Most times in a row that looking is left out after it did not pay, as a power of two.
const MAX_PAUSE: u32 = 14;

/// A thread's experience with looking.
#[derive(Debug)]
pub(super) struct Patience {
    /// How long to look.
    lasts: Duration,
    /// Times in a row that it was in vain.
    vain: u32,
    /// How often it will still be left out.
    skip: u32,
}

impl Default for Patience {
    /// An engine's.
    fn default() -> Self {
        Self::new(LOOK)
    }
}

impl Patience {
    /// It lasts so long each time.
    pub(super) const fn new(lasts: Duration) -> Self {
        Self { lasts, vain: 0, skip: 0 }
    }

    /// Looks until `came` says so or patience is over; not at all where that has not paid. Whether it came.
    pub(super) fn look(&mut self, mut came: impl FnMut() -> bool) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let start = Instant::now();
        let mut looks = 0u32;
        let found = loop {
            if came() {
                // What came while others had the processor would have been here as soon by a wake-up.
                break looks == 0 || start.elapsed() <= self.lasts;
            }
            if start.elapsed() > self.lasts {
                break false;
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        };
        self.vain = if found { 0 } else { (self.vain + 1).min(MAX_PAUSE + 1) };
        // The first in vain is free: it is the end of every burst.
        self.skip = (1 << self.vain.saturating_sub(1)) - 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_once_is_found_every_time() {
        let mut p = Patience::default();
        for _ in 0..100 {
            assert!(p.look(|| true));
        }
    }

    #[test]
    fn what_never_comes_is_looked_for_ever_more_rarely() {
        let mut p = Patience::default();
        let mut left_out = vec![];
        for _ in 0..19 {
            let mut looks = 0;
            assert!(!p.look(|| {
                looks += 1;
                false
            }));
            assert!(looks > 0);
            left_out.push(p.skip);
            for _ in 0..p.skip {
                assert!(!p.look(|| unreachable!("left out")));
            }
        }
        assert_eq!(left_out[..5], [0, 1, 3, 7, 15]);
        assert_eq!(left_out[18], (1 << MAX_PAUSE) - 1);
    }

    #[test]
    fn one_find_makes_up_for_all_that_was_in_vain() {
        let mut p = Patience { vain: 9, ..Patience::default() };
        assert!(p.look(|| true));
        assert!(!p.look(|| false));
        assert!(p.look(|| true), "the first in vain is free");
    }
}
