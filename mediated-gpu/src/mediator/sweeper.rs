//! Asks about guests' mappings now and then: a guest can put another frame behind a number, and nobody is told.
//!
//! One thread for all vGPUs, so that idle ones cost one wake-up together. Promises each vGPU a share of its mappings
//! ([`ShadowGgtt::sweep`](super::shadow::ShadowGgtt::sweep)) a tick. While none of them works it sleeps through
//! [`TOGETHER`] ticks, and does all their shares when it wakes. What it finds is for the vGPU's own thread to let go.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::guest::Vgpu;
use crate::privilege::{ThreadKind, narrow};
use crate::vgpu::VgpuId;

/// Ticks whose shares are done in one wake-up while no vGPU works. What is stale is found that much later at most.
pub(super) const TOGETHER: u32 = 4;

/// What the thread is told.
pub(super) struct Sweeper {
    /// A tick.
    every: Duration,
    /// The lock is held for moments, with no other taken.
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    members: BTreeMap<VgpuId, Member>,
    /// Whose mappings are being asked about.
    current: Option<VgpuId>,
    closed: bool,
}

struct Member {
    vgpu: Arc<Vgpu>,
    /// What it had done when it was asked about the last time.
    seen: u64,
}

impl Sweeper {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, list: Mutex::default(), changed: Condvar::new() }
    }

    /// Starts the thread.
    pub(super) fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let sweeper = self.clone();
        std::thread::Builder::new().name("sweeper".into()).spawn(move || {
            narrow(ThreadKind::Maintenance);
            let mut ticks = 1;
            while sweeper.sleep(ticks) {
                ticks = sweeper.shares(ticks);
            }
        })
    }

    /// A vGPU comes.
    pub(super) fn add(&self, vgpu: &Arc<Vgpu>) {
        let member = Member { vgpu: vgpu.clone(), seen: 0 };
        self.list.lock().members.insert(vgpu.id(), member);
        self.changed.notify_all();
    }

    /// A vGPU goes. When this returns nothing of it is held here any more.
    pub(super) fn remove(&self, id: VgpuId) {
        let mut list = self.list.lock();
        list.members.remove(&id);
        while list.current == Some(id) {
            self.changed.wait(&mut list);
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.list.lock().closed = true;
        self.changed.notify_all();
    }

    /// Sleeps so many ticks, and as long as there are no vGPUs. `false`: closed.
    fn sleep(&self, ticks: u32) -> bool {
        let until = Instant::now().checked_add(self.every.saturating_mul(ticks));
        let mut list = self.list.lock();
        loop {
            if list.closed {
                return false;
            }
            match until {
                Some(until) if !list.members.is_empty() => {
                    if Instant::now() >= until {
                        return true;
                    }
                    self.changed.wait_until(&mut list, until);
                }
                _ => self.changed.wait(&mut list),
            }
        }
    }

    /// Does every vGPU's shares of so many ticks. How many ticks later it is to be done again.
    pub(super) fn shares(&self, ticks: u32) -> u32 {
        let mut working = false;
        let mut last = None;
        while let Some((id, vgpu, works)) = self.next(last) {
            working |= works;
            last = Some(id);
            if (0..ticks).fold(false, |found, _| try_sweep(&vgpu) || found) {
                vgpu.maintenance().hurry();
            }
            drop(vgpu);
            self.list.lock().current = None;
            self.changed.notify_all();
        }
        if working { 1 } else { TOGETHER }
    }

    /// The vGPU after this one, and whether it has worked since it was asked about.
    fn next(&self, last: Option<VgpuId>) -> Option<(VgpuId, Arc<Vgpu>, bool)> {
        let mut list = self.list.lock();
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let (&id, member) = list.members.range_mut((after, Bound::Unbounded)).next()?;
        let done = member.vgpu.stats().work();
        let works = std::mem::replace(&mut member.seen, done) != done;
        let vgpu = member.vgpu.clone();
        list.current = Some(id);
        Some((id, vgpu, works))
    }
}

/// Asks about some of the mappings; whether something was found.
fn try_sweep(vgpu: &Vgpu) -> bool {
    catch_unwind(AssertUnwindSafe(|| vgpu.ggtt().sweep())).unwrap_or_else(|_| {
        log::error!("{}: a sweep panicked", vgpu.id());
        true
    })
}

impl std::fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper").field("every", &self.every).finish_non_exhaustive()
    }
}
