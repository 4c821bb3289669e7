//! Letting frames go: when a frame may become RAM again, and the thread that makes RAM of it.
//!
//! Xen carries a trapped store out twice: to make a request of it, and once more when that has been answered, to find it and be done. A
//! frame that becomes RAM in between leaves the answer over: the vCPU's next request is taken for that one, and Xen crashes the
//! domain. So a frame becomes RAM only while the domain is paused, and only when no answer of ours is on its way: then no vCPU is between
//! the two. A store that is a request by then and has not been answered finds its frame trapped again before it is ([`State::hold`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use xen_ioreq::abi::dm_op::xen_dm_op;
use xen_ioreq::seam::MOST_PAUSED_OPS;
use xen_ioreq::{Errno, Gfn};

use super::{State, WriteTraps};
use crate::dm::{Dm, MemType};
use crate::slot::Slots;

/// From one pause to the next, at least.
const APART: Duration = Duration::from_millis(1);
/// How long a look takes at most.
const MOMENT: Duration = Duration::from_micros(100);
/// To the next look when an answer is on its way; twice as long each time.
const LOOK: Duration = Duration::from_micros(50);
const LOOK_MOST: Duration = Duration::from_millis(5);
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
enum Done {
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
        let mut look = LOOK;
        while !state.ended {
            if state.leaving.is_empty() || state.refused.is_some() {
                self.changed.wait(&mut state);
                continue;
            }
            let pause = match self.let_some_go(&mut state) {
                Done::Gone => {
                    look = LOOK;
                    APART
                }
                Done::NotYet => {
                    let now = look;
                    look = (look * 2).min(LOOK_MOST);
                    now
                }
                Done::Refused => continue,
            };
            let next = Instant::now() + pause;
            while !state.ended && !self.changed.wait_until(&mut state, next).timed_out() {}
        }
    }

    /// Nobody is told of a write, and none is answered, before this returns: the lock is held.
    fn let_some_go(&self, state: &mut State) -> Done {
        let Some(pauses) = &self.pauses else { return Done::Refused };
        self.await_answers(state);
        if !state.answered.is_empty() || !state.inherited.is_empty() {
            return Done::NotYet;
        }
        let frames: Vec<Gfn> = state.leaving.iter().take(MOST_PAUSED_OPS).copied().collect();
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

    /// Forgets vCPUs that have come back for their answers: they make use of them before the domain is paused. Waits a moment for those
    /// that have not: the best time for a pause is before they write again.
    fn await_answers(&self, state: &mut State) {
        let Some(slots) = state.slots.upgrade() else { return };
        let until = Instant::now() + MOMENT;
        loop {
            state.answered.retain(|vcpu| slots.is_under_way(*vcpu));
            if state.answered.is_empty() || Instant::now() > until {
                break;
            }
            std::thread::yield_now();
        }
        self.count_answered(state);
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
    /// Whether frames are about to go.
    fn may_go(&self) -> bool {
        !self.leaving.is_empty() && self.refused.is_none() && self.has_thread
    }
}
