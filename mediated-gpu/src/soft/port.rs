//! An engine's execlist port: what was submitted, what came of it, and where the engine's thread sleeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::patience::Patience;
use crate::gen8::context::Descriptor;
use crate::physical::CsbEntry;

/// The two elements of a submission.
pub(super) type Elements = [Option<Descriptor>; 2];

#[derive(Default)]
struct State {
    queue: VecDeque<Elements>,
    /// The engine has taken a submission that is not done.
    active: bool,
    csb: Vec<CsbEntry>,
    /// Dwords written to ELSP so far.
    elsp: Vec<u32>,
    /// Something other than a submission may let the engine go on.
    kick: bool,
    shutdown: bool,
}

/// What an engine may do that has looked at its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Sleep until there is a submission.
    ForWork,
    /// Sleep until somebody changes what blocks the engine.
    ForKick,
    /// Sleep a little: memory may change without notice.
    Briefly,
}

/// How long an engine sleeps that waits for memory to change.
const A_WHILE: Duration = Duration::from_micros(100);

impl State {
    /// Whether an engine that waits so has to wait on.
    fn blocks(&self, what: Wait) -> bool {
        !self.shutdown && !self.kick && (what != Wait::ForWork || self.queue.is_empty())
    }
}

#[derive(Default)]
pub(super) struct Port {
    state: Mutex<State>,
    wake: Condvar,
    /// Changes with whatever may end a wait, so that it can be looked for without the lock.
    news: AtomicU32,
    /// Whether there is anything to do or being done, so that whoever asks again and again holds nobody up.
    busy: AtomicBool,
}

impl Port {
    pub(super) fn submit(&self, elements: Elements) {
        let mut s = self.state.lock();
        s.queue.push_back(elements);
        self.note(&s);
        drop(s);
        self.tell();
    }

    /// After a change of what there is to do.
    fn note(&self, s: &State) {
        self.busy.store(s.active || !s.queue.is_empty(), Ordering::Release);
    }

    fn tell(&self) {
        self.news.fetch_add(1, Ordering::Release);
        self.wake.notify_all();
    }

    /// A dword for ELSP; with the fourth the submission is whole: element 1 high, low, element 0 high, low.
    pub(super) fn elsp(&self, dword: u32) {
        let mut s = self.state.lock();
        s.elsp.push(dword);
        if let [hi1, lo1, hi0, lo0] = s.elsp[..] {
            let element = |hi: u32, lo: u32| Descriptor((u64::from(hi) << 32) | u64::from(lo));
            let (first, second) = (element(hi0, lo0), element(hi1, lo1));
            s.elsp.clear();
            s.queue.push_back([Some(first), second.valid().then_some(second)]);
            self.note(&s);
            drop(s);
            self.tell();
        }
    }

    /// Takes the oldest submission.
    pub(super) fn take(&self) -> Option<Elements> {
        self.take_if(|_| true)
    }

    /// Takes the oldest submission if it is such a one.
    pub(super) fn take_if(&self, wanted: impl FnOnce(&Elements) -> bool) -> Option<Elements> {
        let mut s = self.state.lock();
        s.queue.front().filter(|oldest| wanted(oldest))?;
        s.active = true;
        s.queue.pop_front()
    }

    /// Tells what became of a context; `last`: and that the engine has nothing of the submission left.
    pub(super) fn report(&self, entry: CsbEntry, last: bool) {
        let mut s = self.state.lock();
        s.csb.push(entry);
        if last {
            s.active = false;
            self.note(&s);
        }
    }

    pub(super) fn take_csb(&self) -> Vec<CsbEntry> {
        std::mem::take(&mut self.state.lock().csb)
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Forgets what was submitted. What has been reported stays to be taken.
    pub(super) fn reset(&self) {
        let mut s = self.state.lock();
        s.queue.clear();
        s.elsp.clear();
        s.active = false;
        s.kick = true;
        self.note(&s);
        drop(s);
        self.tell();
    }

    pub(super) fn kick(&self) {
        self.state.lock().kick = true;
        self.tell();
    }

    pub(super) fn shutdown(&self) {
        self.state.lock().shutdown = true;
        self.tell();
    }

    /// Sleeps until what is waited for happens, or the GPU goes. For work it is looked before, if that pays.
    pub(super) fn wait(&self, what: Wait, patience: &mut Patience) {
        // Read first: what comes after it is seen by looking, what came before it in the state.
        let seen = self.news.load(Ordering::Acquire);
        let mut s = self.state.lock();
        if what == Wait::Briefly && s.blocks(what) {
            self.wake.wait_for(&mut s, A_WHILE);
        }
        if what == Wait::ForWork && s.blocks(what) {
            MutexGuard::unlocked(&mut s, || patience.look(|| self.news.load(Ordering::Acquire) != seen));
        }
        while what != Wait::Briefly && s.blocks(what) {
            self.wake.wait(&mut s);
        }
        s.kick = false;
    }
}
