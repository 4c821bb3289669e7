//! What stands between the mediator and the GPU in some tests: it stops at a chosen point until let go, panics there, or
//! does not do what it should.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mediated_gpu::physical::{CsbEntry, Engine, PhysicalGpu};
use parking_lot::{Condvar, Mutex};
use xen_ioreq::Bfn;

/// A call of the mediator's to its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// An entry of the table is written.
    Write,
    /// The translations are flushed.
    Flush,
    /// Work is submitted; the GPU has it already.
    Submit,
    /// Status entries are taken.
    Csb,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The caller waits inside until let go.
    Hold,
    /// The caller panics.
    Panic,
}

/// Where the next caller meets its fault.
#[derive(Debug, Default)]
pub struct Trap {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<(Call, Fault)>,
    inside: bool,
    let_go: bool,
}

impl Trap {
    /// The next such call waits inside.
    pub fn hold(&self, call: Call) {
        *self.state.lock() = State { armed: Some((call, Fault::Hold)), ..State::default() };
    }

    /// The next such call panics.
    pub fn panic(&self, call: Call) {
        *self.state.lock() = State { armed: Some((call, Fault::Panic)), ..State::default() };
    }

    /// Waits until a call has met its fault.
    #[track_caller]
    pub fn sprung(&self) {
        crate::until("the call that is waited for", || self.state.lock().inside);
    }

    /// Lets it go.
    pub fn let_go(&self) {
        self.state.lock().let_go = true;
        self.changed.notify_all();
    }

    fn pass(&self, call: Call) {
        let mut state = self.state.lock();
        let Some((_, fault)) = state.armed.take_if(|(c, _)| *c == call) else { return };
        state.inside = true;
        match fault {
            Fault::Panic => {
                drop(state);
                panic!("as the test wants it: at {call:?}");
            }
            Fault::Hold => {
                while !state.let_go {
                    // A test that failed never lets go.
                    if self.changed.wait_for(&mut state, crate::HANG).timed_out() {
                        break;
                    }
                }
            }
        }
    }
}

/// What a broken GPU, or a mediator that forgets to ask it, leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Omission {
    /// Nothing.
    #[default]
    Nothing,
    /// Flushes.
    Flushes,
    /// Pointing entries at scratch.
    Removals,
}

/// A GPU with a trap in it.
pub struct Faulty {
    gpu: Arc<dyn PhysicalGpu>,
    trap: Arc<Trap>,
    omit: Omission,
    omitted: Arc<AtomicU64>,
    /// Where the first entry ever written leads.
    scratch: OnceLock<Bfn>,
}

impl Faulty {
    /// Around a GPU.
    pub fn trapped(trap: &Arc<Trap>) -> crate::world::Around<dyn PhysicalGpu> {
        let trap = trap.clone();
        Box::new(|gpu| Arc::new(Self::new(gpu, trap, Omission::Nothing, Arc::default())))
    }

    /// One that leaves something out, and counts how often.
    pub fn omitting(omit: Omission, omitted: &Arc<AtomicU64>) -> crate::world::Around<dyn PhysicalGpu> {
        let omitted = omitted.clone();
        Box::new(move |gpu| Arc::new(Self::new(gpu, Arc::default(), omit, omitted)))
    }

    fn new(gpu: Arc<dyn PhysicalGpu>, trap: Arc<Trap>, omit: Omission, omitted: Arc<AtomicU64>) -> Self {
        Self { gpu, trap, omit, omitted, scratch: OnceLock::new() }
    }

    fn omits(&self, what: Omission) -> bool {
        let omits = self.omit == what;
        self.omitted.fetch_add(u64::from(omits), Ordering::Relaxed);
        omits
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("trap", &self.trap).field("omit", &self.omit).finish_non_exhaustive()
    }
}

impl PhysicalGpu for Faulty {
    mediated_gpu::delegate_gpu!(gpu: read32, write32, ggtt_entries, ggtt_read, is_idle, reset_engine);
    mediated_gpu::delegate_gpu!(gpu: has_fast_copy, set_interrupt_sink);

    fn ggtt_write(&self, index: u32, bfn: Option<Bfn>) {
        self.trap.pass(Call::Write);
        // The mediator begins with its own areas, which lead to scratch.
        let scratch = bfn.map(|first| *self.scratch.get_or_init(|| first));
        let leads = self.gpu.ggtt_read(index).is_some_and(|old| Some(old) != scratch);
        if leads && bfn == scratch && self.omits(Omission::Removals) {
            return;
        }
        self.gpu.ggtt_write(index, bfn);
    }

    fn ggtt_flush(&self) {
        self.trap.pass(Call::Flush);
        if !self.omits(Omission::Flushes) {
            self.gpu.ggtt_flush();
        }
    }

    fn submit(&self, engine: Engine, first: u64, second: Option<u64>) {
        self.gpu.submit(engine, first, second);
        self.trap.pass(Call::Submit);
    }

    fn take_csb(&self, engine: Engine) -> Vec<CsbEntry> {
        self.trap.pass(Call::Csb);
        self.gpu.take_csb(engine)
    }
}
