//! Futexes, as the kernel's: the word is compared and the sleeper queued under one lock, which every waker takes too.

use std::cell::RefCell;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
pub(crate) use rustix::thread::futex::{Flags, Timespec};
use xen_ioreq::Errno;

use super::atomic::{AtomicU32, Ordering};

struct Sleeper {
    word: usize,
    bell: Arc<Condvar>,
    /// Taken off the queue.
    woken: bool,
}

/// Who sleeps, by ticket.
type Queue = Vec<Sleeper>;

thread_local!(static QUEUE: RefCell<Option<Arc<Mutex<Queue>>>> = const { RefCell::new(None) });

/// Nobody sleeps.
pub(super) fn forget() {
    QUEUE.set(None);
}

fn queue() -> Arc<Mutex<Queue>> {
    QUEUE.with_borrow_mut(|q| q.get_or_insert_with(|| Arc::new(Mutex::new(Vec::new()))).clone())
}

/// Sleeps until woken, unless the word has another value. Nothing is ever late in a model, so a deadline is not looked at.
pub(crate) fn wait(word: &AtomicU32, _: Flags, value: u32, _: Option<&Timespec>) -> Result<(), Errno> {
    let queue = queue();
    let mut sleepers = queue.lock().expect("not poisoned");
    // The kernel has a full barrier between announcing the sleeper and this.
    if word.load(Ordering::SeqCst) != value {
        return Err(Errno::EAGAIN);
    }
    let bell = Arc::new(Condvar::new());
    let ticket = sleepers.len();
    sleepers.push(Sleeper { word: std::ptr::from_ref(word).addr(), bell: bell.clone(), woken: false });
    while sleepers.get(ticket).is_some_and(|s| !s.woken) {
        sleepers = bell.wait(sleepers).expect("not poisoned");
    }
    Ok(())
}

/// Wakes at most `n`; how many it was.
pub(crate) fn wake(word: &AtomicU32, _: Flags, n: u32) -> Result<usize, Errno> {
    let queue = queue();
    let mut sleepers = queue.lock().expect("not poisoned");
    let address = std::ptr::from_ref(word).addr();
    let asleep = sleepers.iter_mut().filter(|s| s.word == address && !s.woken);
    let mut woken = 0;
    for sleeper in asleep.take(usize::try_from(n).unwrap_or(usize::MAX)) {
        sleeper.woken = true;
        sleeper.bell.notify_one();
        woken += 1;
    }
    Ok(woken)
}
