//! Be an IOREQ server.

pub mod bus;
pub mod claims;
mod connection;
pub mod device;
pub mod dm;
pub mod memory;
pub mod outcome;
pub mod pci;

pub use bus::Bus;
pub use connection::Connection;
pub use device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region, Space, Width};
pub use dm::{BufferedMode, Dm, DmError};
pub use memory::{GuestMemory, MemoryError};
pub use outcome::{Defer, Deferred, IoError, Outcome};
