//! What a server that was killed has trapped: its frames become RAM, and the writes that wait for its answers are carried out.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use xen_ioreq::seam::Mapping;
use xen_ioreq::{Errno, Gfn, IoServerId, VcpuId};

use super::{State, WriteTraps, left};
use crate::dm::{Dm, MemType};
use crate::memory::GuestMemory;
use crate::slot::{Unfinished, unfinished};

/// How long vCPUs are waited for that have an answer and are to make use of it.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(50);

impl WriteTraps {
    /// Takes the type from a server that was killed, whose slots are `slots`. Of the frames to which unfinished writes go, as far as these
    /// are no device's (`claimed`), none becomes RAM before they are finished: they are this server's, and let go. `wake` makes
    /// every vCPU look for its answer. How many writes were carried out; `None`: that server did not have the type.
    pub(crate) fn inherit(
        &self,
        dead: IoServerId,
        slots: &Mapping,
        memory: &GuestMemory,
        claimed: impl Fn(u64) -> bool,
        wake: impl Fn(),
    ) -> Option<usize> {
        let to_ram = |u: &Unfinished| left::to_ram(&u.request, &claimed);
        let mut state = self.state.lock();
        let frames: Vec<Gfn> =
            unfinished(slots).iter().filter_map(to_ram).flat_map(|r| left::frames(&r)).collect();
        if !self.take_type(&mut state, dead, &frames) {
            return None;
        }
        let mut carried_out = 0;
        let mut waits = Vec::new();
        for u in unfinished(slots) {
            let Some(run) = to_ram(&u) else { continue };
            waits.push(u.vcpu);
            if !u.is_owed() {
                continue;
            }
            if left::write_all(&run, memory) {
                carried_out += 1;
                // What became a request after the first look.
                left::frames(&run).into_iter().for_each(|gfn| self.take_over(&mut state, gfn));
            }
            u.answer();
        }
        state.inherited.extend(&waits);
        self.count_answered(&state);
        drop(state);
        wake();
        self.await_all(slots, &waits);
        Some(carried_out)
    }

    /// Makes RAM of all frames of a dead server's but these, which are ours from here on. `false`: it does not have the type.
    fn take_type(&self, state: &mut State, dead: IoServerId, frames: &[Gfn]) -> bool {
        let pauses = self.pauses.as_ref().filter(|_| state.has_thread && state.refused.is_none());
        let Some(pauses) = pauses else { return self.dm.release_mem_type(dead).is_ok() };
        let mut ops = vec![Dm::map_mem_type_op(dead, false)];
        if !frames.is_empty() {
            ops.push(Dm::map_mem_type_op(self.server, true));
            ops.extend(frames.iter().map(|gfn| Dm::mem_type_op(*gfn, 1, MemType::IoreqServer)));
        }
        let done = match pauses.paused_dm_op(self.dm.domid(), &mut ops) {
            Ok(done) => done,
            Err(Errno::ESRCH) => return false,
            // More vCPUs than fit, or it cannot be paused: better while it runs than never.
            Err(_) => return self.dm.release_mem_type(dead).is_ok(),
        };
        let mut done = done.into_iter();
        let had = done.next().is_some_and(|d| d.is_ok());
        if done.next().is_some_and(|d| d.is_ok()) {
            state.claimed = true;
        }
        for (gfn, _) in frames.iter().zip(done).filter(|(_, d)| d.is_ok()) {
            state.leaving.insert(*gfn);
            self.used.store(true, Ordering::Release);
        }
        self.changed.notify_all();
        had
    }

    fn take_over(&self, state: &mut State, gfn: Gfn) {
        if state.has_thread && state.refused.is_none() && self.claim_locked(state).is_ok() {
            self.used.store(true, Ordering::Release);
            self.hold(state, gfn);
        }
    }

    /// Waits until these vCPUs, all of which have an answer, have taken it. One that does not, since somebody has paused the domain, is
    /// waited for until it asks for something else.
    fn await_all(&self, slots: &Mapping, waits: &[VcpuId]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answered = unfinished(slots).into_iter().filter(Unfinished::is_answered);
            let left: Vec<_> = answered.map(|u| u.vcpu).filter(|v| waits.contains(v)).collect();
            let mut state = self.state.lock();
            for done in waits.iter().filter(|v| !left.contains(v)) {
                state.inherited.remove(done);
            }
            self.count_answered(&state);
            self.changed.notify_all();
            drop(state);
            if left.is_empty() || Instant::now() > until {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
