//! The guest while it runs its rows: its kernel on real Xen, a model vCPU on a thread of its own; the same code of
//! `guest::rows` in both. Before and after that it does not run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use guest::RamRange;
use guest::model::ModelCpu;
use xen_ioreq::{Errno, Gfn, VcpuId};

use crate::bench::Bench;

/// RAM that the model's guest uses for its rows. Not from 0 on, so that an address is not taken for an offset.
const RAM: RamRange = RamRange { first: Gfn(8), frames: 56 };

/// A guest that waits to be started, or runs.
pub(crate) struct Running<'a> {
    bench: &'a Bench,
    go: Option<mpsc::Sender<()>>,
    ended: Arc<AtomicBool>,
    started: AtomicBool,
}

impl Running<'_> {
    /// Lets it run. ESRCH: it has gone.
    pub(crate) fn start(&self) -> Result<(), Errno> {
        self.started.store(true, Ordering::Relaxed);
        match &self.go {
            Some(go) => go.send(()).map_err(|_| Errno::ESRCH),
            None => self.bench.unpause(),
        }
    }

    /// Whether it still does.
    pub(crate) fn lives(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && self.bench.guest_lives()
    }
}

/// Hands the guest of `bench`, which is paused, to `f`; after it the guest is paused again. ENOENT, EBUSY: of the model's
/// vCPU.
pub(crate) fn run<R>(bench: &Bench, f: impl FnOnce(&Running<'_>) -> R) -> Result<R, Errno> {
    let ended = Arc::new(AtomicBool::new(false));
    let running = |go| Running { bench, go, ended: ended.clone(), started: AtomicBool::new(false) };
    let Some(machine) = bench.machine() else {
        let running = running(None);
        let r = f(&running);
        if running.started.load(Ordering::Relaxed) && bench.guest_lives() {
            bench.pause()?;
        }
        return Ok(r);
    };
    let vcpu = machine.vcpu(bench.guest, VcpuId(0))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut cpu = ModelCpu::new(vcpu, vec![RAM], stop.clone(), Box::new(|_| {}));
    let (go, wait) = mpsc::channel();
    Ok(thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            // The sender goes without a word where the guest was never started.
            if wait.recv().is_ok() {
                guest::rows::serve(&mut cpu, &mut |_, _| {}, &mut || false);
            }
            ended.store(true, Ordering::Release);
        });
        let r = f(&running(Some(go)));
        stop.store(true, Ordering::Release);
        // Whatever `f` has left paused would never see that.
        while bench.unpause().is_ok() {}
        r
    }))
}
