//! The word that decides who may use a mapping: references, stands, releases.

use std::sync::Arc;

use crate::checker::{Checker, Frame, join, spawn};
use crate::table::{AtomicState, Status};

/// What the thread that releases does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Releases the stand that it has flushed the device after.
    ItsStand,
    /// Releases whatever stand there is.
    AnyStand,
}

/// A mapping.
struct Mapping {
    state: AtomicState,
    frame: Frame,
}

impl Mapping {
    /// With one reference.
    fn new() -> Arc<Self> {
        let mapping = Self { state: AtomicState::default(), frame: Frame::new() };
        mapping.state.occupy();
        Arc::new(mapping)
    }

    fn release(&self, epoch: u32) -> bool {
        let releases = self.state.begin_release(epoch).is_some();
        if releases {
            self.frame.end();
        }
        releases
    }

    /// Takes a reference if there is one to be had, uses the frame, gives it back, and releases the mapping if it came to a
    /// stand. The device is flushed in between; `alone`, nobody else does that, and it uses the frame until then.
    fn use_and_release(&self, alone: bool) {
        if self.state.take().is_err() && !self.state.revive() {
            return;
        }
        self.frame.touch();
        let state = self.state.put();
        if state.status == Status::Idle {
            if alone {
                self.frame.touch();
            }
            self.release(state.epoch);
        }
    }
}

/// A mapping that has come to a stand is released while `users` look it up, take it into use again and release it
/// themselves: its frame ends once, and after the last use.
pub fn release_beside_lookups(checker: Checker, users: usize, how: Release) -> usize {
    checker.run(move || {
        let mapping = Mapping::new();
        let stand = mapping.state.put();
        let threads: Vec<_> = (0..users)
            .map(|_| {
                let mapping = mapping.clone();
                spawn(move || mapping.use_and_release(users == 1))
            })
            .collect();
        mapping.release(match how {
            Release::ItsStand => stand.epoch,
            Release::AnyStand => mapping.state.get().epoch,
        });
        threads.into_iter().for_each(join);
        assert!(mapping.frame.has_ended(), "who came to a stand last releases");
        assert_eq!(mapping.state.get().status, Status::Releasing);
    })
}

/// A live mapping is made stale while `users` look it up and let go again; who made it stale releases it as soon as nobody
/// refers to it, the last of the users otherwise: it is not given to anybody after that, and ends once.
pub fn invalidation_beside_lookups(checker: Checker, users: usize) -> usize {
    checker.run(move || {
        let mapping = Mapping::new();
        let threads: Vec<_> = (0..users)
            .map(|_| {
                let mapping = mapping.clone();
                spawn(move || {
                    if mapping.state.take().is_ok() {
                        mapping.frame.touch();
                        mapping.state.put();
                    }
                })
            })
            .collect();
        let stand = mapping.state.make_stale().expect("live");
        assert!(mapping.state.take().is_err(), "no new references");
        assert_eq!(mapping.state.make_stale(), None, "only one is the first");
        let early = mapping.release(stand.epoch);
        assert!(!early, "the first reference is still held");
        mapping.frame.touch();
        mapping.state.put();
        let early = mapping.release(stand.epoch);
        threads.into_iter().for_each(join);
        assert_ne!(early, mapping.release(stand.epoch), "once");
    })
}
