//! The part of the device that brings CPUs together: reads that are answered when others have come, and an account of what each
//! has written to the VGA window.
//!
//! Answers are given with no lock held, as a promise asks for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest::rows::{BEGUN, COUNT, GO, HOLD, MEET, RINGED};
use ioreq_server::{Access, Deferred, IoError, Outcome};
use xen_ioreq::{PAGE_SIZE, VcpuId};

/// See the head of the module.
pub(super) struct Together {
    performers: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who has come to the meeting.
    here: Vec<Deferred>,
    meetings: u64,
    /// How many writes the one that is to be held waits for.
    wanted: u64,
    written: u64,
    held: Option<Deferred>,
    /// Who waits until somebody is held.
    waiting: Vec<Deferred>,
    /// By page of the VGA window, which is a vCPU's.
    vga: BTreeMap<u64, Written>,
    /// By vCPU: what came by the ring of what it was last told of.
    ringed: BTreeMap<u64, u64>,
}

/// Writes to a page of the VGA window.
#[derive(Default)]
struct Written {
    /// 1, 2, 3 and so on, up to the first that was another.
    in_order: u64,
    disorder: bool,
    ringed: u64,
}

fn answer(promises: Vec<Deferred>, value: u64) {
    promises.into_iter().for_each(|p| p.answer(Ok(value)));
}

impl Together {
    /// For so many CPUs.
    pub(super) fn new(performers: usize) -> Self {
        Self { performers, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, a: &Access) -> Outcome<u64> {
        let (promise, defer) = Deferred::new();
        let vcpu = a.vcpu.map_or(0, |VcpuId(n)| n.into());
        let mut s = self.state();
        let (due, value) = match a.offset {
            MEET => {
                s.here.push(promise);
                if s.here.len() < self.performers {
                    return Outcome::Defer(defer);
                }
                s.meetings += 1;
                (std::mem::take(&mut s.here), s.meetings)
            }
            HOLD => {
                s.held = Some(promise);
                (std::mem::take(&mut s.waiting), 1)
            }
            BEGUN if s.held.is_none() => {
                s.waiting.push(promise);
                return Outcome::Defer(defer);
            }
            BEGUN => return Outcome::Ok(1),
            COUNT => {
                let written = s.vga.remove(&vcpu).unwrap_or_default();
                s.ringed.insert(vcpu, written.ringed);
                return Outcome::Ok(written.in_order);
            }
            RINGED => return Outcome::Ok(s.ringed.get(&vcpu).copied().unwrap_or(0)),
            _ => return Outcome::Err(IoError::NoRegister),
        };
        drop(s);
        answer(due, value);
        Outcome::Defer(defer)
    }

    pub(super) fn write(&self, a: &Access, value: u64) -> Outcome<()> {
        let mut s = self.state();
        match a.offset {
            HOLD => (s.wanted, s.written) = (value, 0),
            GO => {
                s.written += 1;
                if s.written == s.wanted {
                    let (held, written) = (s.held.take(), s.written);
                    drop(s);
                    answer(held.into_iter().collect(), written);
                }
            }
            _ => return Outcome::Err(IoError::NoRegister),
        }
        Outcome::Ok(())
    }

    /// A write to the VGA window.
    pub(super) fn vga(&self, a: &Access, value: u64) {
        let mut s = self.state();
        let page = s.vga.entry(a.offset / PAGE_SIZE as u64).or_default();
        page.disorder |= value != page.in_order + 1;
        page.in_order += u64::from(!page.disorder);
        // Nobody waits for what comes by the ring.
        page.ringed += u64::from(a.vcpu.is_none());
    }
}
