//! The checker: shuttle, told how many schedules, by which seed, and what is done wrong on purpose.
//!
//! Most schedules go by priorities that change at few points (PCT): one thread runs on while another stands still, which finds what
//! needs few interruptions. The others are random at every point. The same numbers make the same schedules, and what fails says
//! how to have it once more.

use std::cell::Cell;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{
    DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler, Scheduler,
    UncontrolledNondeterminismCheckScheduler,
};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

#[path = "../../models/src/checker/verdict.rs"]
mod verdict;

pub(crate) use verdict::go_on;

/// Bytes of stack of each thread of a scene: tables are built on it.
const STACK: usize = 1 << 18;
/// Points that one schedule may pass: more means that it does not end.
const STEPS: usize = 20_000;
/// How often PCT interrupts the thread that has the right of way, and once more.
const DEPTHS: [usize; 3] = [2, 3, 5];

/// What is done wrong while the sources run, to see whether a scene finds it. Files are named by the end of their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Read-modify-writes of this file are a load and a store.
    TornUpdates(&'static str),
}

/// Which schedules.
#[derive(Clone, Copy, Debug)]
enum Which {
    Sampled(usize),
    All,
    Twice(usize),
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Checker {
    which: Which,
    fault: Option<Fault>,
}

thread_local! {
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Checker {
    /// So many schedules, and `SCHEDULES` in the environment times as many for who has time. `SCHEDULES_SEED` makes them others.
    pub fn sampled(schedules: usize) -> Self {
        let times = from_env("SCHEDULES").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        Self { which: Which::Sampled(schedules * times), fault: None }
    }

    /// Every schedule, of a scene without waits.
    pub fn all() -> Self {
        Self { which: Which::All, fault: None }
    }

    /// So many schedules, each run twice: that the scheduler decides everything.
    pub fn twice(schedules: usize) -> Self {
        Self { which: Which::Twice(schedules), fault: None }
    }

    /// The same with something done wrong.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Runs `scene` in these schedules, or in the one that stands in `SCHEDULE` in the environment; returns how many there were.
    /// Panics with what the first bad one said; standard error has the schedule.
    pub fn run(self, scene: impl Fn() + Send + Sync + 'static) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let scene = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            scene();
        };
        let said = verdict::of(move || {
            FAULT.set(self.fault);
            self.under_each(Arc::new(scene));
        });
        let count = count.load(Ordering::Relaxed);
        if let Err(what) = said {
            panic!("schedule {count}: {what}");
        }
        println!("{count} schedules: {self:?}");
        count
    }

    fn under_each(self, scene: Arc<impl Fn() + Send + Sync + 'static>) {
        let seed = from_env("SCHEDULES_SEED").unwrap_or(1);
        if let Ok(schedule) = std::env::var("SCHEDULE") {
            return under(ReplayScheduler::new_from_encoded(&schedule), scene);
        }
        match self.which {
            Which::Sampled(n) => {
                let each = n.div_ceil(DEPTHS.len() + 1);
                for depth in DEPTHS {
                    under(PctScheduler::new_from_seed(seed, depth, each), scene.clone());
                }
                under(RandomScheduler::new_from_seed(seed, each), scene);
            }
            Which::All => under(DfsScheduler::new(None, false), scene),
            Which::Twice(n) => {
                let random = RandomScheduler::new_from_seed(seed, n);
                under(UncontrolledNondeterminismCheckScheduler::new(random), scene);
            }
        }
    }
}

fn under(scheduler: impl Scheduler + 'static, scene: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.failure_persistence = FailurePersistence::Print;
    Runner::new(scheduler, config).run(move || scene());
}

/// Whether updates made there are to be torn.
pub(crate) fn is_torn(at: &Location<'_>) -> bool {
    matches!(FAULT.get(), Some(Fault::TornUpdates(file)) if at.file().ends_with(file))
}
