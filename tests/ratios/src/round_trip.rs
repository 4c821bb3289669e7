//! A synchronous access on the model, against a bare ping-pong of two eventfds between the same number of threads.
//!
//! The guest's thread reads a register; the server's thread waits in the library's event loop, answers through bus and
//! device, and the guest's thread goes on. The peer does nothing but wake each other.

use std::sync::Arc;

use ioreq_server::bus::Window;
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, Device, Guest, GuestLoop, OnError, Outcome, PioDevice, Region,
    Server, Space,
};
use mock_xen::{Config, DomainConfig, Machine};
use xen_ioreq::{DomId, Gfn, VcpuId};

use crate::harness::{Figure, Target, interleave, seconds};
use crate::ping_pong::PingPong;

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["round-trip"];

const ROUNDS: usize = 31;
const TRIPS: u32 = 2000;
const PORT: u16 = 0x1000;
const ANSWER: u64 = 0x1234_5678;

struct Register;

impl Device for Register {
    fn name(&self) -> &'static str {
        "register"
    }
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for Register {
    fn pio_read(&self, _: &Access) -> Outcome<u64> {
        Outcome::Ok(ANSWER)
    }
    fn pio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

/// Measures it.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let say = |e: &dyn std::fmt::Display| e.to_string();
    let machine = Machine::new(Config::default()).map_err(|e| say(&e))?;
    let domid = machine.create_domain(&DomainConfig::default()).map_err(|e| say(&e))?;
    machine.populate(domid, Gfn(0), 16).map_err(|e| say(&e))?;
    let dom0 = Arc::new(machine.caller(DomId(0)).map_err(|e| say(&e))?);
    let conn = Connection::new(dom0.clone(), dom0);
    let server = Server::create(&conn, domid, BufferedMode::Atomic).map_err(|e| say(&e))?;
    let server = server.map().map_err(|e| say(&e))?.enable().map_err(|e| say(&e))?;
    let bus = Bus::new(server.claims());
    let id = bus.attach(Arc::new(Register));
    let window =
        Window { space: Space::Pio, start: PORT.into(), last: u64::from(PORT) + 3, region: Region(0) };
    bus.map(id, window).map_err(|e| say(&e))?;
    let guest = Guest::new(server, bus, Arc::new(()), OnError::AllOnes);
    let mut guests = GuestLoop::new().map_err(|e| say(&e))?;
    guests.add(guest).map_err(|e| say(&e))?;
    let handle = guests.handle();
    let serving = std::thread::spawn(move || guests.run());

    let vcpu = machine.vcpu(domid, VcpuId(0)).map_err(|e| say(&e))?;
    let ping_pong = PingPong::start();
    let mut wrong = 0;
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || {
            seconds(|| {
                for _ in 0..TRIPS {
                    wrong += u32::from(vcpu.pio_read(PORT, 4).map(u64::from) != Ok(ANSWER));
                }
            })
        },
        || seconds(|| (0..TRIPS).for_each(|_| ping_pong.round_trip())),
    );
    drop(vcpu);
    handle.stop();
    let served = serving.join();
    if wrong > 0 || !matches!(served, Ok(Ok(()))) {
        return Err(format!("{wrong} accesses had the wrong answer"));
    }
    let us = |s: f64| s / f64::from(TRIPS) * 1e6;
    let detail = format!("{:.2} us, ping-pong {:.2} us", us(ours), us(peer));
    Ok(vec![Figure { name: "round-trip", ratio, target: Target::AtMost(1.3), detail }])
}
