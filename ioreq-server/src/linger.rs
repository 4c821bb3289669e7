//! Whether to look at the slots a little longer before going to sleep.
//!
//! A guest that programs a device makes many accesses in a row; who stays awake for the next one saves both sides a
//! wake-up. It costs nothing while a guest is idle, and stops by itself where it does not pay: where accesses are far apart,
//! or where somebody else wants the processor.

use std::time::{Duration, Instant};

/// Most times in a row that lingering is left out after it did not pay.
const MAX_PAUSE: u32 = 1 << 14;
/// A session ends after this, so that the loop's other descriptors get their turn.
const SESSION: Duration = Duration::from_micros(500);

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Nothing,
    Something,
}

/// One guest's experience with lingering.
#[derive(Debug)]
pub(crate) struct Linger {
    /// How long to wait for the next request; zero for not at all.
    patience: Duration,
    /// How often to leave it out.
    pause: u32,
    /// How often it will still be left out.
    skip: u32,
}

impl Linger {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, pause: 0, skip: 0 }
    }

    /// Whether the next session will look at all.
    pub(crate) fn is_due(&self) -> bool {
        !self.patience.is_zero() && self.skip == 0
    }

    /// Calls `look` until it has found nothing for as long as patience lasts.
    pub(crate) fn session(&mut self, mut look: impl FnMut() -> Look) {
        if self.patience.is_zero() {
            return;
        }
        if let Some(less) = self.skip.checked_sub(1) {
            self.skip = less;
            return;
        }
        let start = Instant::now();
        let mut found = false;
        let mut last = start;
        loop {
            match look() {
                Look::Something => {
                    found = true;
                    last = Instant::now();
                    if last.duration_since(start) > SESSION {
                        break;
                    }
                }
                Look::Nothing => {
                    // The guest's vCPU may want this very processor.
                    std::thread::yield_now();
                    if last.elapsed() > self.patience {
                        // Whatever there is now came too late for this to have paid.
                        self.judge(found && look() == Look::Nothing);
                        return;
                    }
                }
            }
        }
        self.judge(true);
    }

    fn judge(&mut self, paid: bool) {
        self.pause = if paid { 0 } else { (self.pause * 2 + 1).min(MAX_PAUSE) };
        self.skip = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough that a yield between two looks never exhausts it.
    const PATIENCE: Duration = Duration::from_secs(3600);
    /// So short that any yield does.
    const IMPATIENCE: Duration = Duration::from_nanos(1);

    fn looks(linger: &mut Linger, answers: &[Look]) -> usize {
        let mut n = 0;
        linger.session(|| {
            n += 1;
            answers.get(n - 1).copied().unwrap_or(Look::Nothing)
        });
        n
    }

    #[test]
    fn it_says_beforehand_whether_it_will_look() {
        assert!(!Linger::new(Duration::ZERO).is_due());
        let mut linger = Linger::new(IMPATIENCE);
        assert!(linger.is_due());
        looks(&mut linger, &[]);
        assert!(!linger.is_due());
        assert_eq!(looks(&mut linger, &[]), 0);
        assert!(linger.is_due());
    }

    #[test]
    fn without_patience_it_never_looks() {
        assert_eq!(looks(&mut Linger::new(Duration::ZERO), &[]), 0);
    }

    #[test]
    fn what_does_not_pay_is_left_out_ever_longer() {
        let mut l = Linger::new(IMPATIENCE);
        let pauses: Vec<u32> = (0..18)
            .map(|_| {
                assert!(looks(&mut l, &[]) > 0);
                let mut left_out = 0;
                while l.skip > 0 {
                    assert_eq!(looks(&mut l, &[]), 0);
                    left_out += 1;
                }
                left_out
            })
            .collect();
        assert_eq!(pauses[..4], [1, 3, 7, 15]);
        assert_eq!(pauses[17], MAX_PAUSE);
    }

    #[test]
    fn what_paid_is_done_again_at_once() {
        let mut l = Linger::new(IMPATIENCE);
        assert!(looks(&mut l, &[]) > 0);
        assert_eq!(l.skip, 1);
        l.skip = 0;
        assert!(looks(&mut l, &[Look::Something; 3]) > 3);
        assert_eq!(l.skip, 0);
    }

    #[test]
    fn what_came_after_patience_was_over_has_not_paid() {
        let mut l = Linger::new(IMPATIENCE);
        assert_eq!(looks(&mut l, &[Look::Something, Look::Nothing, Look::Something]), 3);
        assert_eq!(l.skip, 1);
    }

    #[test]
    fn session_ends_for_the_sake_of_others_although_there_is_ever_more() {
        let mut l = Linger::new(PATIENCE);
        l.session(|| Look::Something);
        assert_eq!(l.skip, 0);
    }
}
