//! What a loop waits for beside its guests: timers, signals, control sockets, and whatever else has a descriptor.

mod control;
#[cfg(feature = "signals")]
mod signals;
mod timer;

use std::io;

use mio::{Registry, Token};

pub use self::control::{Control, Reply};
#[cfg(feature = "signals")]
pub use self::signals::Signals;
pub use self::timer::{Alarm, Timer};
use crate::event_loop::LoopHandle;
use crate::guest::Progress;

/// Something else that a loop waits for.
pub trait EventSource: Send {
    /// Registers its descriptors, all with this token. The loop polls edge-triggered, as mio does.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;
    /// Takes them back.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;
    /// A descriptor fired. Read to `WouldBlock`: it fires again only when something new comes; or answer
    /// [`Progress::More`] to be called again after others had their turn. An error or a panic removes the source.
    fn ready(&mut self, handle: &LoopHandle) -> io::Result<Progress>;
}
