//! Be an IOREQ server.
pub mod bus;
pub mod claims;
mod connection;
pub mod device;
pub mod dm;
mod event_loop;
mod exec;
mod guest;
pub mod memory;
pub mod outcome;
pub mod pci;
mod request;
mod ring;
mod server;
mod slot;
mod stats;
#[cfg(test)]
mod testing;

pub use bus::Bus;
pub use connection::Connection;
pub use device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region, Space, Width};
pub use dm::{BufferedMode, Dm, DmError};
pub use event_loop::{EventSource, GuestKey, GuestLoop, LoopHandle, SourceKey};
pub use guest::{Guest, GuestError, Notices, OnError, Progress};
pub use memory::{GuestMemory, MemoryError};
pub use outcome::{Defer, Deferred, IoError, Outcome};
pub use request::{Invalidation, MAX_REPS};
pub use server::{Created, Enabled, Endpoint, Mapped, Server, ServerError};
pub use stats::{Snapshot, Stats};
