//! Be an IOREQ server: answer the accesses of a Xen guest to devices that are not there.
//!
//! Xen hands an access to ports, memory or PCI configuration space that a *server* has claimed to the program that
//! created the server. This crate is that program's half of the protocol. It knows Xen only through the traits of
//! [`xen_ioreq::seam`], so the same code serves on `/dev/xen` and on a model of the hypervisor.
//!
//! - [`Server`]: created, mapped, enabled; taken down in order when it is dropped, whatever the guest is doing.
//! - [`Bus`]: which [`Device`] answers. A device offers capabilities, and answers an access with a value, a reason
//!   why not, or a promise ([`Outcome`]). What an error looks like to the guest is the operator's choice ([`OnError`]).
//! - [`pci`]: functions with BARs, capabilities and MSI; [`regs`]: registers declared as a table.
//! - [`Guest`] joins the two; [`GuestLoop`] serves guests, one or many to a thread.
//! - [`record`]: what a process that was killed leaves in Xen, for the one that takes its place.
//! - [`traps`]: RAM whose writes come to the server before they are done.
//! - [`eventfd`]: doorbells and interrupts that the kernel carries where it can.
//! - [`privilege`] (a feature, on by default): what the process gives up before it serves.
//!
//! Two devices that stock Linux guests drive show how it is used: a display ([`devices`], served by
//! `examples/bochs-display`) and a serial port with MSI (`examples/serial-port.rs`).
//!
//! # What it promises
//!
//! Requests are copied out of shared memory once, checked, and used from the copy. A vCPU that has sent one is answered:
//! an early return, an error, a panic in a device, a forgotten promise and the end of the server all complete the
//! request. What a guest can bring about by itself reads as all-ones, and never stops the program.
//!
//! # A complete emulator of one register
//!
//! On the model hypervisor. On Xen, `machine.caller` becomes the descriptors of `xen_ioreq::linux`, and the guest is a
//! guest.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use ioreq_server::bus::Window;
//! use ioreq_server::*;
//! use mock_xen::{Config, DomainConfig, Machine};
//! use xen_ioreq::{DomId, VcpuId};
//!
//! /// A register that counts how often it is read.
//! struct Counter(AtomicU64);
//!
//! impl Device for Counter {
//!     fn name(&self) -> &str { "counter" }
//!     fn supports_mmio(&self) -> Option<&dyn MmioDevice> { Some(self) }
//! }
//!
//! impl MmioDevice for Counter {
//!     fn mmio_read(&self, access: &Access) -> Outcome<u64> {
//!         match (access.offset, access.width) {
//!             (0, Width::Dword) => Outcome::Ok(self.0.fetch_add(1, Ordering::Relaxed)),
//!             _ => Outcome::Err(IoError::NoRegister),
//!         }
//!     }
//!     fn mmio_write(&self, _: &Access, value: u64) -> Outcome<()> {
//!         self.0.store(value, Ordering::Relaxed);
//!         Outcome::Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = Machine::new(Config::default())?;
//! let domid = machine.create_domain(&DomainConfig::default())?;
//! let xen = Arc::new(machine.caller(DomId(0))?);
//!
//! let conn = Connection::new(xen.clone(), xen);
//! let server = Server::create(&conn, domid, BufferedMode::Atomic)?.map()?.enable()?;
//! let bus = Bus::new(server.claims());
//! let device = bus.attach(Arc::new(Counter(AtomicU64::new(0))));
//! bus.map(device, Window { space: Space::Mmio, start: 0xf000_0000, last: 0xf000_0fff, region: Region(0) })?;
//!
//! let mut serving = GuestLoop::new()?;
//! serving.add(Guest::new(server, bus, Arc::new(()), OnError::AllOnes))?;
//! let handle = serving.handle();
//! let thread = std::thread::spawn(move || serving.run());
//!
//! let vcpu = machine.vcpu(domid, VcpuId(0))?;
//! vcpu.mmio_write(0xf000_0000, 4, 41)?;
//! assert_eq!(vcpu.mmio_read(0xf000_0000, 4)?, 41);
//! assert_eq!(vcpu.mmio_read(0xf000_0000, 4)?, 42);
//! assert_eq!(vcpu.mmio_read(0xf000_0008, 4)?, 0xffff_ffff);
//!
//! handle.stop();
//! thread.join().expect("the loop does not panic")?;
//! # Ok(())
//! # }
//! ```

pub mod bus;
pub mod claims;
mod connection;
pub mod device;
pub mod devices;
pub mod dm;
mod event_loop;
pub mod eventfd;
mod exec;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod guest;
mod linger;
pub mod memory;
pub mod outcome;
pub mod pci;
#[cfg(all(feature = "privilege", target_os = "linux", target_arch = "x86_64"))]
pub mod privilege;
pub mod quiet;
pub mod record;
pub mod regs;
mod request;
mod ring;
mod server;
mod slot;
pub mod sources;
mod stats;
mod sync;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzz targets use a part of it"))]
mod testing;
pub mod traps;

pub use bus::Bus;
pub use connection::Connection;
pub use device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region, Space, Width};
pub use dm::{BufferedMode, Dm, DmError};
pub use event_loop::{DEFAULT_PATIENCE, GuestInfo, GuestKey, GuestLoop, LoopHandle, SourceKey};
pub use guest::{Guest, GuestError, Notices, OnError, Progress};
pub use memory::{GuestBuffer, GuestMemory, MemoryError};
pub use outcome::{Defer, Deferred, IoError, Outcome};
pub use record::{Incarnation, Record, RecordError};
pub use request::{Invalidation, MAX_REPS};
pub use server::{Created, Enabled, Endpoint, Mapped, Server, ServerError};
pub use sources::EventSource;
pub use stats::{Snapshot, Stats};
pub use traps::WriteTraps;
