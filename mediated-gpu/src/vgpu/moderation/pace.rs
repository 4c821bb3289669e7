//! How fast requests come for an engine, how fast it is done with them, and whether anybody waits for each.

use std::time::{Duration, Instant};

/// An engine that has been given nothing for this long is given something anew, and not one request after the other.
const PAUSE: Duration = Duration::from_millis(500);

/// An engine's first submissions are its driver's probe, with some to spare: that has an engine which was reset save what a context
/// looks like, and go to sleep again, and waits no longer than it thinks that all engines can take. (A stock i915 has three for each,
/// waits 200 ms, and does without its GPU then.)
const PROBE: u32 = 8;

/// One engine's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// From one to the next, as the last few came. `None`: there was a pause.
    each: Option<Duration>,
    /// Since when it works, and on how many.
    works: Option<(Instant, u32)>,
    /// Since when it works on the one that it works on.
    current: Option<Instant>,
    /// How long one of the last few took.
    takes: Option<Duration>,
    /// Somebody has waited for what was submitted last.
    awaited: bool,
    /// Submissions before it that nobody has waited for, one after the other.
    unawaited: u32,
    /// Submissions since it was reset.
    given: u32,
}

/// The last few times; a shorter one counts at once.
fn smooth(before: Option<Duration>, now: Duration) -> Option<Duration> {
    Some(before.map_or(now, |before| ((before + now) / 2).min(2 * now)))
}

impl Pace {
    /// A submission, with so many requests in it.
    pub(super) fn came(&mut self, now: Instant, requests: u32) {
        let since = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        self.each = since.filter(|time| *time <= PAUSE).and_then(|time| smooth(self.each, time / requests));
        self.given = self.given.saturating_add(1);
        self.current.get_or_insert(now);
        let (since, before) = self.works.unwrap_or((now, 0));
        self.works = Some((since, before.saturating_add(requests)));
        let awaited = std::mem::take(&mut self.awaited) || self.each.is_none();
        self.unawaited = if awaited { 0 } else { self.unawaited.saturating_add(1) };
    }

    /// Somebody waits for what the engine has done.
    pub(super) fn awaited(&mut self) {
        self.awaited = true;
    }

    /// It is done with one, and goes on to the next if there is one.
    pub(super) fn goes_on(&mut self, now: Instant) {
        self.current = self.works.map(|_| now);
    }

    /// It has nothing more to do.
    pub(super) fn done(&mut self, now: Instant) {
        self.current = None;
        if let Some((since, requests)) = self.works.take() {
            self.takes = smooth(self.takes, now.saturating_duration_since(since) / requests);
        }
    }

    /// Its driver has been through its probe since it was reset.
    pub(super) fn is_probed(&self) -> bool {
        self.given >= PROBE
    }

    /// From one request to the next, if it is done with each in this part of the time.
    pub(super) fn waits(&self, part: u32) -> Option<Duration> {
        self.each.filter(|each| self.takes.is_some_and(|takes| takes <= *each / part))
    }

    /// The same, if it works on one for as long as so many take to come, and so for as long again if anybody can say.
    pub(super) fn works(&self, now: Instant, requests: u32) -> Option<Duration> {
        let long = |each: &Duration| {
            self.current.is_some_and(|since| now.saturating_duration_since(since) >= *each * requests)
        };
        self.each.filter(long)
    }

    /// Nobody has waited for the last two before what was submitted last. (A driver that waits for each request lets its engine sleep
    /// after it, with a submission that nobody waits for.)
    pub(super) fn streams(&self) -> bool {
        self.unawaited >= 2
    }
}

#[cfg(test)]
impl Pace {
    /// Of an engine that has been probed, and was given nothing since.
    pub(super) fn probed() -> Self {
        Self { given: PROBE, ..Self::default() }
    }

    /// Of an engine that works on one since now while others come, all at once, for so long.
    pub(super) fn without_pause(now: Instant, time: Duration) -> Self {
        let (each, works) = (Some(Duration::ZERO), Some((now, 1)));
        Self { last: Some(now + time), each, works, current: Some(now), ..Self::probed() }
    }
}
