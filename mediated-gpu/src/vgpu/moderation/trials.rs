//! Whether it pays to hold something: the driver gathers more meanwhile, or waits for nothing.

/// After a time that was waited for nothing nothing is held for two submissions, after the next one for four, and so on: for two
/// to the power of this at most.
const DOUBTS: u32 = 5;
/// For so many of those a submission of a driver that streams counts: what it does has changed.
const STREAMING: u32 = 4;

/// What came of those before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trials {
    /// Something was held for all of its time: what is submitted next says what for.
    tried: bool,
    /// How often in a row it was for nothing.
    doubts: u32,
    /// Submissions for which nothing is held.
    free: u32,
}

impl Trials {
    /// The time has come, and something was held or not.
    pub(super) fn tried(&mut self, held: bool) {
        self.tried |= held;
    }

    /// A submission, with so many requests in it, of a driver that streams or may wait for each.
    pub(super) fn gathered(&mut self, requests: u32, streams: bool) {
        let tried = std::mem::take(&mut self.tried);
        match requests {
            2.. => *self = Self::default(),
            _ if tried => self.was_useless(),
            _ => self.passed(streams),
        }
    }

    /// A submission, however many requests are in it.
    pub(super) fn passed(&mut self, streams: bool) {
        self.free = self.free.saturating_sub(if streams { STREAMING } else { 1 });
    }

    /// The guest has waited for what was held.
    pub(super) fn was_useless(&mut self) {
        self.tried = false;
        self.doubts = (self.doubts + 1).min(DOUBTS);
        self.free = 1 << self.doubts;
    }

    /// Whether to hold something.
    pub(super) fn pays(&self) -> bool {
        self.free == 0
    }
}
