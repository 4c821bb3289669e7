//! A futex, which may wake for no reason, and here always does: who waits asks again after everybody else.

pub(crate) use rustix::thread::futex::{Flags, Timespec};

use super::atomic::{AtomicU32, Ordering};

pub(crate) fn wait(
    word: &AtomicU32,
    _flags: Flags,
    expected: u32,
    _timeout: Option<&Timespec>,
) -> rustix::io::Result<()> {
    if word.load(Ordering::SeqCst) != expected {
        return Err(rustix::io::Errno::AGAIN);
    }
    super::yield_now();
    Ok(())
}

pub(crate) fn wake(_word: &AtomicU32, _flags: Flags, _count: u32) -> rustix::io::Result<usize> {
    Ok(0)
}
