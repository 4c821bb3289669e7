//! A process of a domain's: what the kernel gives back when it ends, and what it calls until then.
//!
//! CPU mappings, own memory and ports end with their process. IOREQ servers and what was mapped for devices do not: the
//! hypervisor knows domains, not processes.

use std::panic::resume_unwind;
use std::sync::{Arc, Weak};

use xen_ioreq::Errno;

use crate::faults::{Fault, Faults, Killed, Moment, Site};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Something that ends with the process.
pub(crate) trait Held: Send + Sync {
    /// Gives it back; what the process does with it afterwards has no effect.
    fn let_go(&self);
}

#[derive(Default)]
pub(crate) struct Process {
    dead: AtomicBool,
    held: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    all: Vec<Weak<dyn Held>>,
    /// Length at which those that have gone by themselves are forgotten.
    sweep_at: usize,
}

impl Process {
    pub(crate) fn dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Remembers what ends with the process.
    pub(crate) fn keep<T: Held + 'static>(&self, held: &Arc<T>) {
        let weak: Weak<T> = Arc::downgrade(held);
        let mut kept = self.held.lock();
        if kept.all.len() >= kept.sweep_at {
            kept.all.retain(|h| h.strong_count() > 0);
            kept.sweep_at = (kept.all.len() * 2).max(64);
        }
        kept.all.push(weak);
    }

    /// Ends the process.
    pub(crate) fn kill(&self) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            let all = std::mem::take(&mut self.held.lock().all);
            all.iter().filter_map(Weak::upgrade).for_each(|held| held.let_go());
        }
    }

    /// Makes a call, unless a fault comes in between. `call` is told after how many operations the process is killed, if it
    /// is. ESRCH: it is dead.
    pub(crate) fn call<R>(
        &self,
        faults: &Faults,
        site: Site,
        call: impl FnOnce(Option<u64>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        if self.dead() {
            return Err(Errno::ESRCH);
        }
        let die = || -> ! {
            self.kill();
            // No word of it by the panic hook: it is what was asked for.
            resume_unwind(Box::new(Killed))
        };
        match faults.at(&[Site::Call, site]) {
            None => call(None),
            Some(Fault::Error(e)) => Err(e),
            Some(Fault::Delay(time)) => {
                crate::sync::sleep(time);
                call(None)
            }
            Some(Fault::Kill(Moment::Before)) => die(),
            Some(Fault::Kill(Moment::Within(n))) => {
                let _nobody_sees_it = call(Some(n));
                die()
            }
            Some(Fault::Kill(Moment::After)) => {
                let _nobody_sees_it = call(None);
                die()
            }
        }
    }
}

#[cfg(test)]
mod tests;
