//! One thread for all that is done with vGPUs at times of their own: a list of members, each with a time for each of its tasks.
//!
//! Promises that a task begins at its time or later, the earliest first, one at a time; that a time is met once; and that nobody
//! uses a member whose removal has returned. Without a time the thread sleeps, and a time that is not the first does not wake it.
//! What a task does, and when it is to be done again, is for the member to say.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::privilege::{ThreadKind, narrow};
use crate::vgpu::VgpuId;

/// A task that has panicked is tried again after this long.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// What can be a member.
pub(super) trait Timed: Send + Sync + 'static {
    /// What is done with it.
    type Task: Copy + Ord + Debug + Send;

    /// Does it: its time has come. When it is to be done again, if it is.
    fn do_in_time(&self, task: Self::Task) -> Option<Instant>;
}

/// The list.
pub(super) struct Timetable<M: Timed> {
    /// The lock is held for moments, with no other taken under it.
    list: Mutex<List<M>>,
    /// There is another first time, nothing is being done any more, or the end has come.
    changed: Condvar,
}

struct List<M: Timed> {
    members: BTreeMap<VgpuId, Member<M>>,
    /// With whom something is being done.
    current: Option<VgpuId>,
    closed: bool,
}

struct Member<M: Timed> {
    it: Arc<M>,
    times: BTreeMap<M::Task, Instant>,
}

impl<M: Timed> Timetable<M> {
    pub(super) fn new() -> Self {
        let list = List { members: BTreeMap::new(), current: None, closed: false };
        Self { list: Mutex::new(list), changed: Condvar::new() }
    }

    /// Starts the thread.
    pub(super) fn spawn(self: &Arc<Self>, name: &str, kind: ThreadKind) -> std::io::Result<JoinHandle<()>> {
        let table = self.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            narrow(kind);
            while let Some((id, member, task)) = table.next() {
                let again = catch_unwind(AssertUnwindSafe(|| member.do_in_time(task))).unwrap_or_else(|_| {
                    log::error!("{id}: {task:?} panicked");
                    Instant::now().checked_add(AFTER_PANIC)
                });
                drop(member);
                table.done(id, task, again);
            }
        })
    }

    /// A member comes, without any time.
    pub(super) fn add(&self, id: VgpuId, it: Arc<M>) {
        self.list.lock().members.insert(id, Member { it, times: BTreeMap::new() });
    }

    /// A member goes. When this returns nothing of it is held here any more. Not for a task to call.
    pub(super) fn remove(&self, id: VgpuId) {
        let mut list = self.list.lock();
        let gone = list.members.remove(&id);
        while list.current == Some(id) {
            self.changed.wait(&mut list);
        }
        drop((list, gone));
    }

    /// Ends the thread, after what it is doing.
    pub(super) fn close(&self) {
        self.list.lock().closed = true;
        self.changed.notify_all();
    }

    /// From now on this is the time of a member's task, whatever it was before. Nothing if there is no such member.
    pub(super) fn set(&self, id: VgpuId, task: M::Task, time: Instant) {
        let mut list = self.list.lock();
        // The thread wakes at what was the first time when it looked, or before.
        let wakes_later = list.first().is_none_or(|(first, ..)| time < first);
        let Some(member) = list.members.get_mut(&id) else { return };
        member.times.insert(task, time);
        drop(list);
        if wakes_later {
            self.changed.notify_all();
        }
    }

    /// Waits for the next time. `None`: closed.
    fn next(&self) -> Option<(VgpuId, Arc<M>, M::Task)> {
        let mut list = self.list.lock();
        loop {
            if list.closed {
                return None;
            }
            match list.first() {
                Some((time, id, task)) if time <= Instant::now() => {
                    // `first` has found it there.
                    let member = list.members.get_mut(&id)?;
                    member.times.remove(&task);
                    let it = member.it.clone();
                    list.current = Some(id);
                    return Some((id, it, task));
                }
                Some((time, ..)) => {
                    self.changed.wait_until(&mut list, time);
                }
                None => self.changed.wait(&mut list),
            }
        }
    }

    /// A task is done. A time that was set meanwhile stands.
    fn done(&self, id: VgpuId, task: M::Task, again: Option<Instant>) {
        let mut list = self.list.lock();
        if let (Some(member), Some(again)) = (list.members.get_mut(&id), again) {
            member.times.entry(task).or_insert(again);
        }
        list.current = None;
        drop(list);
        self.changed.notify_all();
    }
}

impl<M: Timed> List<M> {
    fn first(&self) -> Option<(Instant, VgpuId, M::Task)> {
        let all = self.members.iter().flat_map(|(id, m)| m.times.iter().map(|(task, at)| (*at, *id, *task)));
        all.min()
    }
}

impl<M: Timed> std::fmt::Debug for Timetable<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timetable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
