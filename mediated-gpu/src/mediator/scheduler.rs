//! Who runs: a thread an engine, which gives the vGPUs that have work their turns, one submission each.
//!
//! `shares` says whose turn it is, `worker` is the thread. No one's turn is longer than its deadline: an engine that has not
//! come back by then is reset, and only the context that was on it is banned. Idle vGPUs cost nobody anything.
//!
//! Lock order: an engine's `queue` is taken with no other lock held and never while calling the GPU, whose
//! interrupts take it.

mod clock;
mod shares;
mod stint;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub(super) use self::clock::{Clock, Monotonic};
use self::shares::Shares;
pub use self::shares::{Policy, Share, WHOLE_WEIGHT};
pub(super) use self::worker::Worker;
use super::guest::Vgpu;
use crate::physical::{Engine, Interrupt, InterruptSink};
use crate::vgpu::VgpuId;

/// The scheduler: what vGPUs and the GPU's interrupts reach.
pub(super) struct Scheduler {
    engines: [EngineQueue; 4],
    policy: Policy,
    clock: Box<dyn Clock>,
    /// Number of the last context submitted: each has its own, so that no late news is mistaken.
    contexts: AtomicU32,
}

struct EngineQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// An engine's state, under its lock.
pub(super) struct Queue {
    shares: Shares,
    /// Who has work and waits for its turn.
    ready: BTreeMap<VgpuId, Arc<Vgpu>>,
    /// Whose turn it is.
    current: Option<VgpuId>,
    /// What is on the engine for it must stop.
    stop: bool,
    /// The engine said that something happened, or who has it submitted more, so often.
    news: u64,
    /// The engine said that it met an error.
    error: bool,
    /// No more turns.
    closed: bool,
}

impl EngineQueue {
    fn new(policy: Policy, slice: Duration) -> Self {
        let queue = Queue {
            shares: Shares::new(policy, slice),
            ready: BTreeMap::new(),
            current: None,
            stop: false,
            news: 0,
            error: false,
            closed: false,
        };
        Self { queue: Mutex::new(queue), changed: Condvar::new() }
    }
}

impl Scheduler {
    pub(super) fn new(policy: Policy, slice: Duration, clock: Box<dyn Clock>) -> Self {
        let engines = std::array::from_fn(|_| EngineQueue::new(policy, slice));
        Self { engines, policy, clock, contexts: AtomicU32::new(0) }
    }

    /// How engines are shared.
    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// What time it is.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    fn engine(&self, e: Engine) -> &EngineQueue {
        let [rcs, bcs, vcs, vecs] = &self.engines;
        match e {
            Engine::Rcs => rcs,
            Engine::Bcs => bcs,
            Engine::Vcs => vcs,
            Engine::Vecs => vecs,
        }
    }

    /// A vGPU comes, or its share changes.
    pub(super) fn set_share(&self, id: VgpuId, share: Share) {
        for engine in &self.engines {
            engine.queue.lock().shares.set(id, share, self.clock.now());
            engine.changed.notify_all();
        }
    }

    /// The most that a vGPU may have of an engine, in parts in a million; `None`: all of it.
    pub(super) fn limit(&self, e: Engine, id: VgpuId) -> Option<u32> {
        self.engine(e).queue.lock().shares.limit(id)
    }

    /// A vGPU has work for an engine.
    pub(super) fn ready(&self, e: Engine, vgpu: &Arc<Vgpu>) {
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        if queue.closed || !vgpu.may_run() {
            return;
        }
        queue.shares.set_busy(vgpu.id(), true, self.clock.now());
        // What is on the engine may go on with it.
        queue.news = queue.news.wrapping_add(u64::from(queue.current == Some(vgpu.id())));
        queue.ready.insert(vgpu.id(), vgpu.clone());
        engine.changed.notify_all();
    }

    /// Stops what runs on an engine for a vGPU. Does not wait.
    pub(super) fn stop(&self, e: Engine, id: VgpuId) {
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        if queue.current == Some(id) {
            queue.stop = true;
            engine.changed.notify_all();
        }
    }

    /// Waits until it is not the vGPU's turn on any engine. It may not run any more, so that no turn begins after.
    pub(super) fn drain(&self, id: VgpuId) {
        for engine in &self.engines {
            let mut queue = engine.queue.lock();
            queue.ready.remove(&id);
            while queue.current == Some(id) {
                engine.changed.wait(&mut queue);
            }
            queue.shares.set_busy(id, false, self.clock.now());
        }
    }

    /// A vGPU is not counted while it is paused.
    pub(super) fn pause(&self, id: VgpuId, paused: bool) {
        for engine in &self.engines {
            engine.queue.lock().shares.pause(id, paused, self.clock.now());
            engine.changed.notify_all();
        }
    }

    /// A vGPU that has been drained is gone.
    pub(super) fn forget(&self, id: VgpuId) {
        for engine in &self.engines {
            engine.queue.lock().shares.remove(id, self.clock.now());
            engine.changed.notify_all();
        }
    }

    /// Ends the threads after the turn they are in, which is cut short.
    pub(super) fn close(&self) {
        for engine in &self.engines {
            let mut queue = engine.queue.lock();
            queue.closed = true;
            queue.stop = true;
            queue.ready.clear();
            engine.changed.notify_all();
        }
    }

    /// How long a vGPU has had work for an engine, waiting or running.
    pub(super) fn wanted(&self, e: Engine, id: VgpuId) -> Duration {
        self.engine(e).queue.lock().shares.wanted(id, self.clock.now())
    }

    #[cfg(test)]
    pub(super) fn current(&self, e: Engine) -> Option<VgpuId> {
        self.engine(e).queue.lock().current
    }

    fn next_context(&self) -> u32 {
        // 20 bits, as i915 uses; 0 is left out.
        self.contexts.fetch_add(1, Ordering::Relaxed) % 0xf_ffff + 1
    }
}

impl InterruptSink for Scheduler {
    fn interrupt(&self, irq: Interrupt) {
        let (e, error) = match irq {
            Interrupt::Error(e) => (e, true),
            Interrupt::User(e) | Interrupt::ContextSwitch(e) => (e, false),
        };
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        queue.news = queue.news.wrapping_add(1);
        queue.error |= error;
        engine.changed.notify_all();
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("policy", &self.policy).finish_non_exhaustive()
    }
}
