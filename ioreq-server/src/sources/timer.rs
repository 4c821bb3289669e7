//! Timers: a descriptor of the kernel's (timerfd) that fires once or again and again.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::EventSource;
use crate::event_loop::LoopHandle;
use crate::guest::Progress;

type Tick = Box<dyn FnMut(u64, &LoopHandle) -> io::Result<()> + Send>;

/// A timer of a loop, by the monotonic clock. It is set, from any thread, through its [`Alarm`].
///
/// ```
/// use std::time::Duration;
///
/// use ioreq_server::GuestLoop;
/// use ioreq_server::sources::Timer;
///
/// # fn main() -> std::io::Result<()> {
/// let mut serving = GuestLoop::new()?;
/// let mut left = 3;
/// let (timer, alarm) = Timer::new(move |expirations, handle| {
///     left -= left.min(expirations);
///     if left == 0 {
///         handle.stop();
///     }
///     Ok(())
/// })?;
/// serving.add_source(Box::new(timer))?;
/// alarm.every(Duration::from_millis(1))?;
/// serving.run()?;
/// # Ok(())
/// # }
/// ```
pub struct Timer {
    fd: Arc<OwnedFd>,
    tick: Tick,
}

/// Sets a [`Timer`]. Each setting takes the place of the one before.
#[derive(Clone, Debug)]
pub struct Alarm(Arc<OwnedFd>);

impl Timer {
    /// A timer that is not set. `tick` is called on the loop's thread with the number of times that the timer has expired since
    /// it was last called; an error removes the timer from its loop.
    pub fn new(
        tick: impl FnMut(u64, &LoopHandle) -> io::Result<()> + Send + 'static,
    ) -> io::Result<(Self, Alarm)> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        Ok((Self { fd: fd.clone(), tick: Box::new(tick) }, Alarm(fd)))
    }
}

impl Alarm {
    /// Expires after `period`, and again each time that it has passed. A period of 0 is one of a nanosecond.
    pub fn every(&self, period: Duration) -> io::Result<()> {
        let period = timespec(period);
        self.set(period, period)
    }

    /// Expires once, after `delay`.
    pub fn once(&self, delay: Duration) -> io::Result<()> {
        self.set(timespec(delay), NEVER)
    }

    /// Does not expire any more.
    pub fn off(&self) -> io::Result<()> {
        self.set(NEVER, NEVER)
    }

    fn set(&self, it_value: Timespec, it_interval: Timespec) -> io::Result<()> {
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
        Ok(())
    }
}

/// What the kernel takes for "not set".
const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// At least a nanosecond, since 0 would unset the timer; at most what the kernel can count to.
fn timespec(d: Duration) -> Timespec {
    let d = d.max(Duration::from_nanos(1));
    let tv_sec = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: d.subsec_nanos().into() }
}

impl EventSource for Timer {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn ready(&mut self, handle: &LoopHandle) -> io::Result<Progress> {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&*self.fd, &mut count)) {
            Ok(_) => (self.tick)(u64::from_ne_bytes(count), handle)?,
            // Set anew since it fired.
            Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        // A read leaves nothing, and the next expiration makes the descriptor readable anew.
        Ok(Progress::Idle)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::event_loop::GuestLoop;

    #[test]
    fn a_timer_fires_as_often_as_it_was_set_to_and_not_after_it_was_set_off() {
        let mut l = GuestLoop::new().unwrap();
        let (tx, rx) = channel();
        let (timer, alarm) = Timer::new(move |n, _| {
            tx.send(n).unwrap();
            Ok(())
        })
        .unwrap();
        l.add_source(Box::new(timer)).unwrap();
        alarm.once(Duration::ZERO).unwrap();
        l.turn(None).unwrap();
        assert_eq!(rx.try_recv(), Ok(1));

        alarm.every(Duration::from_micros(10)).unwrap();
        let mut seen = 0;
        while seen < 20 {
            l.turn(None).unwrap();
            seen += rx.try_iter().sum::<u64>();
        }
        alarm.off().unwrap();
        l.turn(Some(Duration::ZERO)).unwrap();
        // What had expired before is gone with the setting.
        assert_eq!(rx.try_iter().count(), 0);
        alarm.once(Duration::from_nanos(1)).unwrap();
        l.turn(None).unwrap();
        assert_eq!(rx.try_recv(), Ok(1));
    }

    #[test]
    fn a_timer_whose_tick_fails_or_panics_is_removed_and_the_loop_goes_on() {
        let mut l = GuestLoop::new().unwrap();
        for panics in [false, true] {
            let (timer, alarm) = Timer::new(move |_, _| {
                assert!(!panics, "as told");
                Err(io::Error::other("as told"))
            })
            .unwrap();
            let key = l.add_source(Box::new(timer)).unwrap();
            alarm.once(Duration::ZERO).unwrap();
            l.turn(None).unwrap();
            assert!(l.remove_source(key).is_none());
        }
    }

    #[test]
    fn no_duration_is_too_long_or_too_short() {
        let (_timer, alarm) = Timer::new(|_, _| Ok(())).unwrap();
        for d in [Duration::ZERO, Duration::MAX, Duration::from_secs(1 << 40)] {
            alarm.once(d).unwrap();
            alarm.every(d).unwrap();
        }
    }
}
