//! The one word that decides who may use a mapping: its status, how many references it has, and its epoch.
//!
//! The epoch counts how often the mapping came to a stand (idle or stale), so that a token of an earlier stand cannot release a
//! mapping that has been used again since.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Most references to one mapping.
pub(crate) const MAX_REFS: u64 = (1 << 28) - 1;
const STATUS_SHIFT: u32 = 28;
const EPOCH_SHIFT: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The slot holds no mapping.
    Free = 0,
    /// In use: references can be taken.
    Live = 1,
    /// The last reference is gone. Can be used again until it is released.
    Idle = 2,
    /// Not to be used again. References may remain; they only go.
    Stale = 3,
    /// The hypervisor is being told.
    Releasing = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) status: Status,
    pub(crate) refs: u64,
    pub(crate) epoch: u32,
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.epoch) << EPOCH_SHIFT | (self.status as u64) << STATUS_SHIFT | self.refs
    }

    fn unpack(word: u64) -> Self {
        let status = match word >> STATUS_SHIFT & 0xf {
            1 => Status::Live,
            2 => Status::Idle,
            3 => Status::Stale,
            4 => Status::Releasing,
            _ => Status::Free,
        };
        let epoch = u32::try_from(word >> EPOCH_SHIFT).unwrap_or(u32::MAX);
        Self { status, refs: word & MAX_REFS, epoch }
    }
}

/// Why a reference was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRef {
    /// The mapping is not live.
    NotLive(Status),
    /// It has [`MAX_REFS`] already.
    TooMany,
}

#[derive(Debug, Default)]
pub(crate) struct AtomicState(AtomicU64);

impl AtomicState {
    pub(crate) fn get(&self) -> State {
        State::unpack(self.0.load(Ordering::Acquire))
    }

    /// Changes the word by `f` until it holds; `f` says no with an error.
    fn change<E>(&self, mut f: impl FnMut(State) -> Result<State, E>) -> Result<State, E> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let next = f(State::unpack(word))?;
            match self.0.compare_exchange_weak(word, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(next),
                Err(now) => word = now,
            }
        }
    }

    /// A reference to a live mapping.
    pub(crate) fn take(&self) -> Result<(), NoRef> {
        self.change(|s| match s.status {
            Status::Live if s.refs < MAX_REFS => Ok(State { refs: s.refs + 1, ..s }),
            Status::Live => Err(NoRef::TooMany),
            other => Err(NoRef::NotLive(other)),
        })
        .map(|_| ())
    }

    /// Gives a reference back. The state after it: idle if it was the last of a live mapping.
    pub(crate) fn put(&self) -> State {
        let out = self.change(|s| match s {
            State { status: Status::Live, refs: 1, epoch } => {
                Ok(State { status: Status::Idle, refs: 0, epoch: epoch.wrapping_add(1) })
            }
            // A reference is a value that is given back once, so there is one to give back.
            State { refs: 1.., .. } => Ok(State { refs: s.refs - 1, ..s }),
            s => Err(s),
        });
        match out {
            Ok(s) | Err(s) => s,
        }
    }

    /// Makes an idle mapping live again, with one reference.
    pub(crate) fn revive(&self) -> bool {
        let idle = |s: State| {
            if s.status == Status::Idle { Ok(State { status: Status::Live, refs: 1, ..s }) } else { Err(()) }
        };
        self.change(idle).is_ok()
    }

    /// No new references from now on. The state after it, or `None` if it was so already.
    pub(crate) fn make_stale(&self) -> Option<State> {
        self.change(|s| match s.status {
            Status::Live | Status::Idle => {
                Ok(State { status: Status::Stale, epoch: s.epoch.wrapping_add(1), ..s })
            }
            Status::Stale | Status::Releasing | Status::Free => Err(()),
        })
        .ok()
    }

    /// Begins the release of what came to a stand in `epoch` and has no references. The status before it.
    pub(crate) fn begin_release(&self, epoch: u32) -> Option<Status> {
        let mut before = Status::Free;
        self.change(|s| {
            before = s.status;
            let rests = matches!(s.status, Status::Idle | Status::Stale) && s.refs == 0 && s.epoch == epoch;
            if rests { Ok(State { status: Status::Releasing, ..s }) } else { Err(()) }
        })
        .ok()
        .map(|_| before)
    }

    /// Fills a free slot: live, with one reference. The epoch goes on, so that tokens of the slot's last mapping stay void.
    pub(crate) fn occupy(&self) {
        let _ = self.change(|s| Ok::<_, ()>(State { status: Status::Live, refs: 1, ..s }));
    }

    /// Fills a free slot again with what was in it: stale, without references. Its epoch.
    pub(crate) fn occupy_stale(&self) -> u32 {
        let next = |s: State| State { status: Status::Stale, refs: 0, epoch: s.epoch.wrapping_add(1) };
        self.change(|s| Ok::<_, ()>(next(s))).map_or(0, |s| s.epoch)
    }

    /// Empties the slot.
    pub(crate) fn vacate(&self) {
        let next = |s: State| State { status: Status::Free, refs: 0, epoch: s.epoch.wrapping_add(1) };
        let _ = self.change(|s| Ok::<_, ()>(next(s)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_its_parts_apart() {
        for status in [Status::Free, Status::Live, Status::Idle, Status::Stale, Status::Releasing] {
            for (refs, epoch) in [(0, 0), (MAX_REFS, u32::MAX), (1, 7)] {
                let s = State { status, refs, epoch };
                assert_eq!(State::unpack(s.pack()), s);
            }
        }
    }

    #[test]
    fn the_last_put_of_a_live_mapping_makes_it_idle_and_only_that_one() {
        let s = AtomicState::default();
        s.occupy();
        s.take().unwrap();
        assert_eq!(s.put().status, Status::Live);
        assert_eq!(s.put().status, Status::Idle);
        assert_eq!(s.put().refs, 0);
        assert_eq!(s.take(), Err(NoRef::NotLive(Status::Idle)));
    }

    #[test]
    fn a_stale_mapping_gives_no_references_and_keeps_those_it_has() {
        let s = AtomicState::default();
        s.occupy();
        let stand = s.make_stale().unwrap();
        assert_eq!(s.take(), Err(NoRef::NotLive(Status::Stale)));
        assert_eq!(s.make_stale(), None);
        assert_eq!(s.begin_release(stand.epoch), None);
        assert_eq!(s.put(), State { status: Status::Stale, refs: 0, epoch: stand.epoch });
        assert_eq!(s.begin_release(stand.epoch), Some(Status::Stale));
    }

    #[test]
    fn a_revived_mapping_is_not_released_by_the_token_of_its_earlier_stand() {
        let s = AtomicState::default();
        s.occupy();
        let first = s.put();
        assert!(s.revive());
        assert_eq!(s.begin_release(first.epoch), None);
        let second = s.put();
        assert_ne!(first.epoch, second.epoch);
        assert_eq!(s.begin_release(first.epoch), None);
        assert_eq!(s.begin_release(second.epoch), Some(Status::Idle));
    }

    #[test]
    fn references_do_not_overflow() {
        let s = AtomicState::default();
        s.0.store(State { status: Status::Live, refs: MAX_REFS, epoch: 3 }.pack(), Ordering::Relaxed);
        assert_eq!(s.take(), Err(NoRef::TooMany));
        assert_eq!(s.get().epoch, 3);
    }
}
