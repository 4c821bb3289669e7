//! The world in which crates meet: guests that draw on the model hypervisor, served by the mediator with the software GPU.
//!
//! One file a topic beside this folder. Nothing in them is timed: they wait for what must happen, and [`join`] and
//! [`until`] turn a hang into a failure. [`World::end`] judges every run in the same way.

pub mod astray;
pub mod drawing;
pub mod faulty;
mod native;
pub mod painter;
pub mod world;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use drawing::{Drawing, Drawn};
pub use mock_xen::Profile;
pub use painter::Painter;
pub use world::World;

/// The hypervisors that keep a dead guest's frames as long as somebody holds them. The one that was shipped frees what was
/// looked up together with the guest, under a device at work: there a toolstack ends the device model first.
pub const KEEPING: [Profile; 2] = [Profile::Draft, Profile::Stock];

/// The hypervisors that the tests run on.
pub const PROFILES: [Profile; 3] = [Profile::Draft, Profile::Xs, Profile::Stock];

/// What takes longer than this hangs. Far beyond anything that a slow machine makes of it.
const HANG: Duration = Duration::from_secs(60);

/// Waits until something is so; panics if it never is.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < HANG, "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits for a thread's end; panics if it hangs or has panicked.
#[track_caller]
pub fn join<T>(what: &str, thread: JoinHandle<T>) -> T {
    until(what, || thread.is_finished());
    match thread.join() {
        Ok(value) => value,
        Err(_) => panic!("{what}: panicked"),
    }
}

/// [`join`] of work done on a thread of its own, so that it can be seen to hang.
#[track_caller]
pub fn bounded<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| {
        let worker = s.spawn(work);
        let start = Instant::now();
        while !worker.is_finished() {
            if start.elapsed() > HANG {
                // The scope would wait for ever.
                eprintln!("{what}: hangs");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        match worker.join() {
            Ok(value) => value,
            Err(_) => panic!("{what}: panicked"),
        }
    })
}
