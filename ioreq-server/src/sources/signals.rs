//! Signals as events of a loop.

use std::fmt;
use std::io;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use super::EventSource;
use crate::event_loop::LoopHandle;
use crate::guest::Progress;

type Heard = Box<dyn FnMut(i32, &LoopHandle) -> io::Result<()> + Send>;

/// Highest number of a signal (Linux `_NSIG`).
const LAST: i32 = 64;

/// Signals of the process, handled on a loop's thread. Their default action does not happen any more, also after this was
/// dropped.
///
/// ```
/// use ioreq_server::GuestLoop;
/// use ioreq_server::sources::Signals;
///
/// # fn main() -> std::io::Result<()> {
/// let mut serving = GuestLoop::new()?;
/// let signals = Signals::new([signal_hook::consts::SIGUSR1], |_, handle| {
///     handle.stop();
///     Ok(())
/// })?;
/// serving.add_source(Box::new(signals))?;
/// signal_hook::low_level::raise(signal_hook::consts::SIGUSR1)?;
/// serving.run()?;
/// # Ok(())
/// # }
/// ```
pub struct Signals {
    signals: signal_hook_mio::v1_0::Signals,
    heard: Heard,
}

impl Signals {
    /// Has `heard` called with each signal's number. Errors: a number that is no signal, or one that cannot be caught or
    /// must not be.
    pub fn new(
        signals: impl IntoIterator<Item = i32>,
        heard: impl FnMut(i32, &LoopHandle) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let signals: Vec<i32> = signals.into_iter().collect();
        let good = |s: &i32| (1..=LAST).contains(s) && !signal_hook::consts::FORBIDDEN.contains(s);
        if let Some(bad) = signals.iter().find(|s| !good(s)) {
            let why = format!("signal {bad} cannot be handled");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let signals = signal_hook_mio::v1_0::Signals::new(signals)?;
        Ok(Self { signals, heard: Box::new(heard) })
    }
}

impl EventSource for Signals {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.signals.register(registry, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.signals.deregister(registry)
    }

    fn ready(&mut self, handle: &LoopHandle) -> io::Result<Progress> {
        for signal in self.signals.pending() {
            (self.heard)(signal, handle)?;
        }
        Ok(Progress::Idle)
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_nobody_can_handle_are_refused() {
        for signal in [9, 19, 11, 12345, 0, -1] {
            assert!(Signals::new([signal], |_, _| Ok(())).is_err(), "{signal}");
        }
    }
}
