//! The model checker: loom, with types that the project's sources can be built with unchanged.
//!
//! Promises: every order in which threads can meet, up to a bound of preemptions, is tried, and with each every value
//! that a load may return under the C++20 memory model as far as loom has it. A [`Fault`] weakens the sources while
//! they run, to show that a model looks. Leaves what must hold to the models.

mod atomic;
mod frame;
mod futex;
mod lock;
mod page;
mod verdict;

use std::cell::Cell;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Count, Ordering};

pub(crate) use atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};
pub(crate) use frame::Frame;
pub(crate) use futex::{Flags, Timespec, wait, wake};
pub(crate) use lock::{Mutex, MutexGuard, OnceLock, RwLock};
pub(crate) use page::{Memory, Words};
use verdict::go_on;

/// Words of stack of each thread of a model: tables are built on it.
const STACK: usize = 1 << 16;
/// Steps of one execution: more means that it does not end.
const STEPS: usize = 10_000;

/// What is done wrong, to see whether a model finds it. Files are named by the end of their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Loads of this file are relaxed.
    RelaxedLoads(&'static str),
    /// Stores of this file are relaxed.
    RelaxedStores(&'static str),
    /// Read-modify-writes of this file are relaxed.
    RelaxedUpdates(&'static str),
    /// Sequentially consistent operations of this file are merely acquire and release.
    NoTotalOrder(&'static str),
    /// Read-modify-writes of this file are a load and a store.
    TornUpdates(&'static str),
    /// Locks of this file do not exclude anybody.
    NoLocks(&'static str),
}

/// How far to look.
///
/// What is never found: a load that returns what is stored only later. What may be found although it cannot be: an exchange that
/// overlooks a mere store to the same word. Time does not pass in a model, and no exchange fails without a reason.
#[derive(Clone, Copy, Debug)]
pub struct Checker {
    preemptions: Option<usize>,
    fault: Option<Fault>,
    atomics: usize,
}

/// Atomics that a model may use, unless it says otherwise.
const ATOMICS: usize = 48;

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

impl Checker {
    /// Every order.
    pub fn whole() -> Self {
        Self { preemptions: None, fault: None, atomics: ATOMICS }
    }

    /// Every order in which threads are interrupted at most `n` times where they could have gone on; `MODELS_DEEPER` in the
    /// environment is how many more times, for who has time.
    pub fn bounded(n: usize) -> Self {
        let deeper = std::env::var("MODELS_DEEPER").ok().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        Self { preemptions: Some(n + deeper), fault: None, atomics: ATOMICS }
    }

    /// The same with something done wrong.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// The same for a model that uses so many atomics.
    pub(crate) fn atomics(self, atomics: usize) -> Self {
        Self { atomics, ..self }
    }

    /// Runs `model` in every order; returns how many there were. Panics with what the first bad one said.
    pub fn run(self, model: impl Fn() + Send + Sync + 'static) -> usize {
        let orders = Arc::new(Count::new(0));
        let count = orders.clone();
        let model = Arc::new(model);
        let said = verdict::of(move || {
            FAULT.set(self.fault);
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = self.preemptions;
            builder.max_branches = STEPS;
            builder.check(move || {
                count.fetch_add(1, Ordering::Relaxed);
                atomic::refill(self.atomics);
                page::forget();
                futex::forget();
                let model = model.clone();
                join(spawn(move || model()));
            });
        });
        if let Err(what) = said {
            panic!("order {}: {what}", orders.load(Ordering::Relaxed));
        }
        let orders = orders.load(Ordering::Relaxed);
        println!("{orders} orders, preemptions {:?}, fault {:?}", self.preemptions, self.fault);
        orders
    }
}

/// A thread of a model.
pub(crate) type Thread<R> = loom::thread::JoinHandle<R>;

/// Begins a thread of a model; at most four.
pub(crate) fn spawn<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> Thread<R> {
    loom::thread::Builder::new().stack_size(STACK).spawn(f).expect("a model has few threads")
}

/// Waits for its end.
pub(crate) fn join<R>(thread: Thread<R>) -> R {
    thread.join().expect("a panic ends the whole model")
}

fn fault_at(at: &Location<'_>, pick: impl FnOnce(Fault) -> Option<&'static str>) -> bool {
    FAULT.get().and_then(pick).is_some_and(|file| at.file().ends_with(file))
}
