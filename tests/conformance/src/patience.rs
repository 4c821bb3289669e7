//! How long rows wait for a guest, or for dom0's kernel: as long as these get on, however slowly.

use std::time::{Duration, Instant};

/// How long one step may take, however busy the machine is.
const STEP: Duration = Duration::from_secs(120);

/// Patience with somebody who makes steps; each brings it back. `S` tells how far they have come.
#[derive(Debug)]
pub(crate) struct Patience<S> {
    at: S,
    until: Instant,
}

impl<S: PartialEq> Patience<S> {
    /// With somebody who is there now.
    pub(crate) fn new(at: S) -> Self {
        Self { at, until: Instant::now() + STEP }
    }

    /// Whether there is some left with somebody who is here now.
    pub(crate) fn lasts(&mut self, at: S) -> bool {
        if at != self.at {
            *self = Self::new(at);
        }
        Instant::now() < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_who_stands_still_and_comes_back_with_a_step() {
        let mut patience = Patience::new(0);
        assert!(patience.lasts(0));
        patience.until = Instant::now();
        assert!(!patience.lasts(0));
        assert!(patience.lasts(1));
        assert!(patience.lasts(1));
    }
}
