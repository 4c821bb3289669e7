//! Letting frames go: when a frame may become RAM again, and the thread that makes RAM of it.
//!
//! Xen carries a trapped store out twice: to make a request of it, and once more when that has been answered, to find it and be done. A
//! frame that becomes RAM in between leaves the answer over: the vCPU's next request is taken for that one, and Xen crashes the
//! domain. So a frame becomes RAM only while the domain is paused, and only when no answer of ours is on its way: then no vCPU is between
//! the two. A store that is a request by then and has not been answered finds its frame trapped again before it is
//! ([`WriteTraps::hold`]).
//!
//! Among vCPUs that write without pause there would always be one on its way. So while those that have an answer are waited for, no
//! other gets one (`State::shut`); for as long as that is so it is not, after that, so that neither side starves.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use xen_ioreq::abi::dm_op::xen_dm_op;
use xen_ioreq::seam::MOST_PAUSED_OPS;
use xen_ioreq::{Errno, Gfn, VcpuId};

use super::{State, WriteTraps};
use crate::dm::{Dm, MemType};
use crate::slot::Slots;

/// From one pause to the next, at least.
const APART: Duration = Duration::from_millis(1);
/// How long answers on their way are waited for at first, and at most: twice as long each time. Then others are given for as long.
const SHUT: Duration = Duration::from_micros(100);
const SHUT_MOST: Duration = Duration::from_millis(50);
/// To the next look.
const LOOK: Duration = Duration::from_micros(50);
/// How long who needs RAM waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives up what this thread does not need, if the process is confined.
#[cfg(all(feature = "privilege", target_os = "linux", target_arch = "x86_64"))]
fn narrow() {
    if let Err(e) = crate::privilege::narrow(crate::privilege::ThreadKind::Pauser) {
        log::error!("a thread keeps what the whole process may do: {e}");
    }
}

#[cfg(not(all(feature = "privilege", target_os = "linux", target_arch = "x86_64")))]
fn narrow() {}

/// What became of letting frames go.
pub(super) enum Done {
    /// Some, or all, have gone.
    Gone,
    /// An answer is on its way.
    NotYet,
    /// The domain cannot be paused.
    Refused,
}

impl WriteTraps {
    /// Begins to let frames go, on a thread of its own. `slots`: where our answers are.
    pub(crate) fn begin(self: &Arc<Self>, slots: &Arc<Slots>) -> std::io::Result<()> {
        let Some(pauses) = &self.pauses else { return Ok(()) };
        let mut state = self.state.lock();
        state.slots = Arc::downgrade(slots);
        if let Err(errno) = pauses.paused_dm_op(self.dm.domid(), &mut []) {
            state.refused = Some(errno);
            return Ok(());
        }
        drop(state);
        let traps = self.clone();
        let name = format!("pauser-{}", self.dm.domid().0);
        std::thread::Builder::new().name(name).spawn(move || {
            narrow();
            traps.let_go();
        })?;
        self.state.lock().has_thread = true;
        Ok(())
    }

    fn let_go(&self) {
        let mut state = self.state.lock();
        let mut patience = SHUT;
        while !state.ended {
            if state.leaving.is_empty() || state.refused.is_some() {
                self.changed.wait(&mut state);
                continue;
            }
            let pause = match self.let_some_go(&mut state, patience) {
                Done::Gone => {
                    patience = SHUT;
                    APART
                }
                Done::NotYet => {
                    let waited = patience;
                    patience = (patience * 2).min(SHUT_MOST);
                    waited
                }
                Done::Refused => continue,
            };
            let next = Instant::now() + pause;
            while !state.ended && !self.changed.wait_until(&mut state, next).timed_out() {}
        }
    }

    /// Nobody is told of a write, and none is answered, from when all answers have been taken up to when this returns: the lock is held.
    pub(super) fn let_some_go(&self, state: &mut MutexGuard<'_, State>, patience: Duration) -> Done {
        let Some(pauses) = &self.pauses else { return Done::Refused };
        self.await_answers(state, patience);
        if !state.answered.is_empty() || !state.inherited.is_empty() {
            return Done::NotYet;
        }
        let frames = state.next_to_go();
        let mut ops: Vec<xen_dm_op> =
            frames.iter().map(|gfn| Dm::mem_type_op(*gfn, 1, MemType::RamRw)).collect();
        match pauses.paused_dm_op(self.dm.domid(), &mut ops) {
            Ok(done) => {
                self.stats.pauses();
                let mut refused = None;
                for (gfn, done) in frames.iter().zip(done) {
                    match done {
                        Ok(()) => {}
                        Err(Errno::EINVAL) => log::debug!("{gfn} has gone, or is something else"),
                        // It may be trapped still.
                        Err(e) => {
                            refused = Some(e);
                            continue;
                        }
                    }
                    state.leaving.remove(gfn);
                }
                if let Some(e) = refused {
                    self.refuse(state, e);
                    return Done::Refused;
                }
                if state.leaving.is_empty() {
                    self.changed.notify_all();
                }
                Done::Gone
            }
            Err(e) => {
                self.refuse(state, e);
                Done::Refused
            }
        }
    }

    /// Forgets vCPUs that have come back for their answers: they make use of them before the domain is paused. Waits for those that have
    /// not, for so long at most: the best time for a pause is before they write again. No other vCPU gets an answer meanwhile.
    fn await_answers(&self, state: &mut MutexGuard<'_, State>, patience: Duration) {
        let Some(slots) = state.slots.upgrade() else { return };
        let begun = Instant::now();
        loop {
            state.answered.retain(|vcpu| slots.is_under_way(*vcpu));
            self.count_answered(state);
            let waited = begun.elapsed();
            if state.answered.is_empty() || state.ended || waited > patience {
                break;
            }
            state.shut = true;
            if waited < SHUT {
                MutexGuard::unlocked(state, std::thread::yield_now);
            } else {
                self.changed.wait_for(state, LOOK);
            }
        }
        if std::mem::take(&mut state.shut) {
            // They come when the lock is free.
            self.changed.notify_all();
        }
    }

    /// Waits until a vCPU may be given an answer to its write.
    pub(super) fn await_turn(&self, state: &mut MutexGuard<'_, State>, vcpu: VcpuId) {
        while state.must_wait(vcpu) {
            self.changed.wait(state);
        }
    }

    /// The domain cannot be paused any more: what is trapped stays so, which is slow and right.
    fn refuse(&self, state: &mut State, errno: Errno) {
        // It is dead, as a rule.
        if errno != Errno::ESRCH && state.refused.is_none() {
            let domid = self.dm.domid();
            log::warn!("{domid}: pages whose writes are trapped cannot be let go, and stay so: {errno}");
        }
        state.refused = Some(errno);
        self.changed.notify_all();
    }

    /// Waits until the frames that were [let go](Self::clear) are RAM; `false`: some are not, after two seconds, or ever.
    pub fn settle(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while state.may_go() {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.leaving.is_empty()
    }

    /// The same for who answers the requests: calls `serve` again and again meanwhile, and once at least when all frames are RAM.
    /// It tells whether there was one.
    pub(super) fn settle_serving(&self, mut serve: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let ram = !self.state.lock().may_go();
            let served = serve();
            if ram && !served && !self.state.lock().may_go() || Instant::now() > until {
                return;
            }
            if !served {
                std::thread::sleep(LOOK);
            }
        }
    }
}

impl State {
    /// Whether no answer may be given to this vCPU now. One whose write has been begun goes on: it is waited for.
    fn must_wait(&self, vcpu: VcpuId) -> bool {
        self.shut && !self.answered.contains(&vcpu)
    }

    /// Those that go with the next pause: in turn, since those before may have come back.
    fn next_to_go(&mut self) -> Vec<Gfn> {
        let last = self.went_last.unwrap_or(Gfn(u64::MAX));
        let after = self.leaving.range((Excluded(last), Unbounded));
        let before = self.leaving.range((Unbounded, Included(last)));
        let frames: Vec<Gfn> = after.chain(before).take(MOST_PAUSED_OPS).copied().collect();
        self.went_last = frames.last().copied();
        frames
    }

    /// Whether frames are about to go.
    fn may_go(&self) -> bool {
        !self.leaving.is_empty() && self.refused.is_none() && self.has_thread
    }
}
