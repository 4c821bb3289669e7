//! A guest that asks at ports what it is to do: a server built with ioreq-server, which has them.

use std::sync::Arc;

use guest::grants::PORTS;
use guest::rows::PORT;
use ioreq_server::bus::Window;
use ioreq_server::device::{Device, Region};
use ioreq_server::{BufferedMode, Bus, Guest, GuestLoop, OnError, Server, Space};

use crate::bench::Bench;
use crate::ioreq::access::AccessError;

/// Has a device at the ports of the guest of `bench`, which stands still, and lets it run. The loop serves it.
pub(super) fn serving(bench: &Bench, ports: Arc<dyn Device>) -> Result<GuestLoop, AccessError> {
    let conn = bench.connection().map_err(AccessError::Start)?;
    let server = Server::create(&conn, bench.guest, BufferedMode::Off)?.map()?;
    let bus = Bus::new(server.claims());
    let device = bus.attach(ports);
    let (start, last) = (u64::from(PORT), u64::from(PORT + PORTS - 1));
    bus.map(device, Window { space: Space::Pio, start, last, region: Region(0) })?;
    let mut events = GuestLoop::new()?;
    events.add(Guest::new(server.enable()?, bus, Arc::new(()), OnError::AllOnes))?;
    bench.unpause().map_err(AccessError::Start)?;
    Ok(events)
}
