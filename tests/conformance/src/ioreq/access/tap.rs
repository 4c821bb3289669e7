//! Reads the requests of a server before the server does: the raw bytes, which its own interface does not show.
//!
//! It stands where the server takes its pending ports, and hands on only those behind which it has seen a request. That
//! stays in its slot until the server answers, which is after that; so each is seen exactly once.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use xen_ioreq::seam::{EventChannels, Mapping};
use xen_ioreq::{DomId, Errno, Port, VcpuId};

use super::log::{Log, Seen, Way};
use crate::shared::{Ring, Slot};

/// Event channels of a server whose requests are written down.
pub(super) struct Tap {
    inner: Arc<dyn EventChannels>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: Option<Mapping>,
    /// Remote port and the local one that was bound to it.
    bound: Vec<(Port, Port)>,
    /// Of each vCPU that performs rows, the index of its slot and what was seen of it.
    logs: Vec<(usize, Log)>,
    /// How many requests of theirs have come by their slots.
    steps: u64,
}

impl Tap {
    /// Of a server to whose guest's vCPUs `performers` the rows are given.
    pub(super) fn new(inner: Arc<dyn EventChannels>, performers: &[VcpuId]) -> Self {
        let index = |vcpu: &VcpuId| usize::try_from(vcpu.0).unwrap_or(usize::MAX);
        let logs = performers.iter().map(|v| (index(v), Log::default())).collect();
        Self { inner, state: Mutex::new(State { logs, ..State::default() }) }
    }

    /// The server's pages: the ring and the first page of slots.
    pub(super) fn watch(&self, pages: Mapping) {
        self.with(|s| s.pages = Some(pages));
    }

    /// Whether every performer has said that it is done.
    pub(super) fn ended(&self) -> bool {
        self.with(|s| s.logs.iter().all(|(_, log)| log.ended()))
    }

    /// How far the performers have come: their requests.
    pub(super) fn steps(&self) -> u64 {
        self.with(|s| s.steps)
    }

    /// What was seen of each performer.
    pub(super) fn take(&self) -> Vec<Vec<Seen>> {
        self.with(|s| s.logs.iter_mut().map(|(_, log)| log.take()).collect())
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Writes down what waits behind these ports. Those of slots in which nothing waits (an event that came before
    /// its request, or after it) go into `idle` and are none of the server's.
    fn look(&mut self, taken: &[Port], idle: &mut Vec<Port>) {
        let Some(pages) = &self.pages else { return };
        // Nothing in the ring says whose it is; among several performers the device keeps the account.
        if let [(_, log)] = self.logs.as_mut_slice() {
            for request in Ring::of(pages).map(|r| r.requests()).unwrap_or_default() {
                log.request(Way::Ring, &request);
            }
        }
        for (index, slot) in Slot::all(pages).take_while(|s| s.port() != Port(0)).enumerate() {
            let remote = slot.port();
            let local = self.bound.iter().rev().find(|(r, _)| *r == remote).map(|(_, l)| *l);
            let Some(local) = local.filter(|l| taken.contains(l)) else { continue };
            match slot.ready() {
                Some(request) => match self.logs.iter_mut().find(|(i, _)| *i == index) {
                    Some((_, log)) => {
                        log.request(Way::Slot, &request);
                        self.steps += 1;
                    }
                    None => {
                        if let [(_, log)] = self.logs.as_mut_slice() {
                            log.request(Way::Others, &request);
                        }
                    }
                },
                None => idle.push(local),
            }
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

impl EventChannels for Tap {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.inner.pollable()
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, Errno> {
        let local = self.inner.bind_interdomain(remote, remote_port)?;
        self.with(|s| s.bound.push((remote_port, local)));
        Ok(local)
    }

    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        self.inner.bind_unbound(remote)
    }

    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.inner.unbind(port)
    }

    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.inner.notify(port)
    }

    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        loop {
            let n = self.inner.pending(out)?;
            let mut idle = Vec::new();
            self.with(|s| s.look(out.get(..n).unwrap_or_default(), &mut idle));
            // Whoever posts a request from here on sends another event, which comes once these are unmasked.
            self.inner.unmask(&idle)?;
            let mut kept = 0;
            for i in 0..n {
                if !out.get(i).is_some_and(|p| idle.contains(p)) {
                    out.swap(kept, i);
                    kept += 1;
                }
            }
            if n == 0 || kept > 0 {
                return Ok(kept);
            }
        }
    }

    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        self.inner.unmask(ports)
    }

    fn reset_ring(&self) -> Result<(), Errno> {
        self.inner.reset_ring()
    }
}
