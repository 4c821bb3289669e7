//! The guest's accesses: what the server sees of each, and what the guest gets.
//!
//! A server built with ioreq-server serves the device of the rows; the guest performs a table of `guest::rows` and reports
//! each answer. The files in `expected` are what real Xen was seen to do; the model is held to the same.

mod device;
mod log;
mod tap;
mod together;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use guest::rows::{MMIO, PCI_DEVICE, PORT, PORTS, Table, VGA, VGA_BYTES};
use ioreq_server::bus::Window;
use ioreq_server::device::Region;
use ioreq_server::pci::Sbdf;
use ioreq_server::{BufferedMode, Bus, Connection, Guest, GuestLoop, OnError, Server, Space};
use xen_ioreq::abi::memory::XENMEM_resource_ioreq_server;
use xen_ioreq::{Errno, PAGE_SIZE, VcpuId};

use self::device::{MEMORY, RowsDevice, WINDOW};
use self::tap::Tap;
use crate::Row;
use crate::bench::{Bench, Handle};
use crate::patience::Patience;
pub use log::{Seen, parse, text};

/// What stands before the names of rows in the log of one vCPU of those that performed a table.
pub fn label(performers: &[VcpuId], vcpu: VcpuId) -> String {
    if performers.len() > 1 { format!("vCPU {}: ", vcpu.0) } else { String::new() }
}

/// What real Xen was seen to do when a guest performed this table; `None`: no rows here are about it.
pub fn expected(table: Table) -> Option<&'static str> {
    match table {
        Table::Accesses => Some(include_str!("expected/accesses.txt")),
        Table::Moves => Some(include_str!("expected/moves.txt")),
        Table::Lines => Some(include_str!("expected/lines.txt")),
        Table::Together => Some(include_str!("expected/together.txt")),
        Table::Give => None,
    }
}

/// How often the server looks whether the guest is done.
const MOMENT: Duration = Duration::from_millis(50);

/// A run that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ioreq_server::ServerError),
    /// The device's ranges.
    #[error(transparent)]
    Bus(#[from] ioreq_server::bus::BusError),
    /// The loop.
    #[error("the server's event loop: {0}")]
    Loop(#[from] std::io::Error),
    /// The pages that the tap reads.
    #[error("mapping the server's pages a second time: {0}")]
    Tap(Errno),
    /// The guest could not be started.
    #[error("starting the guest: {0}")]
    Start(Errno),
}

/// Lets the guest of `bench` run, serves a table to some of its vCPUs, and gives the log of each.
///
/// # Errors
/// The server could not be made. A guest that ends early is a short log.
pub fn serve(bench: &Bench, table: Table, performers: &[VcpuId]) -> Result<Vec<Vec<Seen>>, AccessError> {
    let tap = Arc::new(Tap::new(bench.events.clone(), performers));
    let conn = Connection::new(Arc::new(Handle(bench.hypervisor.clone())), tap.clone());
    let server = Server::create(&conn, bench.guest, BufferedMode::Atomic)?.map()?;
    let pages = bench
        .hypervisor
        .map_resource(bench.guest, XENMEM_resource_ioreq_server, server.id().0.into(), 0, 2)
        .map_err(AccessError::Tap)?;
    tap.watch(pages);
    let bus = Bus::new(server.claims());
    let device = bus.attach(Arc::new(RowsDevice::new(server.dm().clone(), server.id(), table, performers)));
    let pci = u64::from(Sbdf::new(0, 0, PCI_DEVICE, 0).0);
    for (space, start, last, region) in [
        (Space::Pio, u64::from(PORT), u64::from(PORT + PORTS - 1), Region(0)),
        (Space::Mmio, MMIO, MMIO + PAGE_SIZE as u64 - 1, MEMORY),
        (Space::Mmio, VGA, VGA + VGA_BYTES - 1, WINDOW),
        (Space::Pci, pci, pci, Region(0)),
    ] {
        bus.map(device, Window { space, start, last, region })?;
    }
    let mut events = GuestLoop::new()?;
    // A server that looks at the slots before it is told would take requests that the tap has not seen.
    events.set_patience(Duration::ZERO);
    events.add(Guest::new(server.enable()?, bus, Arc::new(()), OnError::AllOnes))?;
    // Takes the event that binding made, so that from here on every event is a request's.
    events.turn(Some(Duration::ZERO))?;
    bench.unpause().map_err(AccessError::Start)?;
    let mut patience = Patience::new(0);
    while !tap.ended() && bench.guest_lives() && patience.lasts(tap.steps()) {
        events.turn(Some(MOMENT))?;
    }
    Ok(tap.take())
}

/// Judges a log against a text as of [`text`]: one row for each of the table, whose names begin with `area` and, as there, `label`.
pub fn judge(area: &str, label: &str, table: Table, seen: &[Seen], expected: &str) -> Vec<Row> {
    let expected: BTreeMap<String, Seen> = parse(expected).into_iter().collect();
    let mut rows = Vec::new();
    for (index, row) in table.rows().iter().enumerate() {
        let name = format!("{label}{}", row.name);
        let (ok, detail) = match (seen.get(index), expected.get(&name)) {
            (None, _) => (false, "the guest did not come to it".to_owned()),
            (Some(seen), None) => (false, format!("nobody has said what is right; seen {}", show(seen))),
            (Some(seen), Some(wanted)) if row.expect.is_some_and(|e| e != seen.answer) => {
                (false, format!("{}, but no guest may see that; wanted {}", show(seen), show(wanted)))
            }
            (Some(seen), Some(wanted)) if seen == wanted => (true, show(seen)),
            (Some(seen), Some(wanted)) => (false, format!("{}, wanted {}", show(seen), show(wanted))),
        };
        rows.push(Row { name: format!("{area}: {name}"), ok, detail });
    }
    rows
}

fn show(seen: &Seen) -> String {
    format!("{:#x} [{}]", seen.answer, seen.requests.join("; "))
}
