//! What the scheduler and the engines' threads take from a vGPU and tell it: its work, what becomes of that, how long it took.
//!
//! What is told of an epoch that a reset has ended has no effect.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Vgpu;
use crate::gen8::context::{CSB_LITE_RESTORE, CSB_PREEMPTED, Descriptor};
use crate::mediator::audit::Refused;
use crate::mediator::workload::GuestContext;
use crate::physical::Engine;
use crate::vgpu::{EngineError, Turn};

impl Vgpu {
    /// Whether a turn may begin.
    pub(in crate::mediator) fn may_run(&self) -> bool {
        !self.retired.load(Ordering::SeqCst) && !self.paused.load(Ordering::SeqCst)
    }

    /// How long its contexts may run, if that has been said.
    pub(in crate::mediator) fn deadline(&self) -> Option<Duration> {
        self.share.lock().deadline
    }

    /// It has had an engine for so long.
    pub(in crate::mediator) fn had(&self, e: Engine, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(had) = self.had.get(e.index()) {
            had.fetch_add(nanos, Ordering::Relaxed);
        }
        self.stats.busy_us.add(nanos / 1000);
    }

    pub(in crate::mediator) fn take_work(&self, e: Engine) -> Option<Turn> {
        self.state.lock().take(e)
    }

    /// Lets newer submissions of the context that runs take the place of what was submitted, and tells the guest. Whether it
    /// goes on under one.
    pub(in crate::mediator) fn lite_restore(&self, e: Engine, epoch: u64, running: Descriptor) -> bool {
        let (newer, goes_on) = {
            let mut state = self.state.lock();
            let engine = state.engine(e);
            if engine.epoch() != epoch {
                return false;
            }
            (engine.lite_restore(running), engine.goes_on())
        };
        for _ in 0..newer {
            // No interrupt: it comes with what is done, and a driver that has more to submit looks before.
            self.push_status(e, epoch, CSB_LITE_RESTORE | CSB_PREEMPTED, running.id());
        }
        goes_on
    }

    /// The next turn, to follow one of this epoch that runs.
    pub(in crate::mediator) fn take_behind(&self, e: Engine, epoch: u64, after_all: bool) -> Option<Turn> {
        self.state.lock().engine(e).take_behind(epoch, after_all)
    }

    pub(in crate::mediator) fn put_back(&self, e: Engine, turn: Turn) {
        self.state.lock().engine(e).put_back(turn);
    }

    /// Whether what was submitted in an epoch may begin: no reset has come since.
    pub(in crate::mediator) fn is_of_now(&self, e: Engine, epoch: u64) -> bool {
        self.state.lock().engine(e).epoch() == epoch
    }

    pub(in crate::mediator) fn work_ended(&self, e: Engine) {
        self.state.lock().ended(e);
        self.reset_done.notify_all();
    }

    pub(in crate::mediator) fn has_work(&self, e: Engine) -> bool {
        self.state.lock().engine(e).has_work()
    }

    pub(in crate::mediator) fn is_banned(&self, e: Engine, context: Descriptor) -> bool {
        self.state.lock().engine(e).is_banned(context.lrca())
    }

    /// Sets the context that the guest believes is on the engine; returns the one before.
    pub(in crate::mediator) fn on_engine(&self, e: Engine, epoch: u64, id: Option<u32>) -> Option<u32> {
        let mut state = self.state.lock();
        let engine = state.engine(e);
        if engine.epoch() != epoch {
            return None;
        }
        let before = engine.active();
        engine.set_active(id);
        before
    }

    pub(in crate::mediator) fn show_ring(&self, e: Engine, epoch: u64, context: &GuestContext, head: u32) {
        let GuestContext { tail, start, control, .. } = *context;
        self.state.lock().show_ring(e, epoch, head, tail, start, control);
    }

    /// The audit refused a context.
    pub(in crate::mediator) fn refused(&self, e: Engine, epoch: u64, context: Descriptor, refused: Refused) {
        self.stats.refusals.add(1);
        let Refused { why, header, addr } = refused;
        log::info!("{}: {} at {addr:#x}, command {header:#010x}: {why}", self.id, e.name());
        self.ban(e, epoch, context, EngineError { header, address: addr });
    }

    /// A context did not come to its end.
    pub(in crate::mediator) fn failed(&self, e: Engine, epoch: u64, context: Descriptor) {
        self.ban(e, epoch, context, EngineError::default());
    }
}
