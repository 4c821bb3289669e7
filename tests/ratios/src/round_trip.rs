//! A synchronous access on the model, against a bare ping-pong of two eventfds between the same number of threads.
//!
//! The guest's thread reads a register; the server's thread waits in the library's event loop, answers through bus and
//! device, and the guest's thread goes on. The peer does nothing but wake each other. Once with both sides asleep between two
//! requests, once with both looking for a while first; and what a loop that looks costs while its guest is idle. The guest
//! has one processor and the server another, and so have the two threads of the ping-pong.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ioreq_server::bus::Window;
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, DEFAULT_PATIENCE, Device, Guest, GuestLoop, LoopHandle, OnError,
    Outcome, PioDevice, Region, Server, Space, Stats,
};
use mock_xen::{Config, DomainConfig, Machine, Vcpu};
use xen_ioreq::{DomId, Gfn, VcpuId};

use crate::harness::{Figure, Target, interleave, median, seconds};
use crate::ping_pong::PingPong;
use crate::processors::{Processors, stay_on};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["round-trip", "round-trip-polling", "polling-idle"];

const ROUNDS: usize = 31;
const TRIPS: u32 = 2000;
const PORT: u16 = 0x1000;
const ANSWER: u64 = 0x1234_5678;
/// How long a guest is idle, and how often.
const IDLE: (Duration, usize) = (Duration::from_millis(20), 15);

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

/// A guest with one vCPU, served on a thread of its own.
struct Rig {
    vcpu: Vcpu,
    handle: LoopHandle,
    serving: Option<JoinHandle<std::io::Result<()>>>,
    /// Of the serving thread.
    tid: i32,
    stats: Arc<Stats>,
}

impl Rig {
    /// Both sides look for the other for so long before they sleep.
    fn new(patience: Duration, cpu: usize) -> Result<Self, String> {
        let say = |e: &dyn std::fmt::Display| e.to_string();
        let machine = Machine::new(Config::default()).map_err(|e| say(&e))?;
        let config = DomainConfig { vcpu_patience: patience, ..DomainConfig::default() };
        let domid = machine.create_domain(&config).map_err(|e| say(&e))?;
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
        let stats = guest.stats();
        let mut guests = GuestLoop::new().map_err(|e| say(&e))?;
        guests.set_patience(patience);
        guests.add(guest).map_err(|e| say(&e))?;
        let handle = guests.handle();
        let (tell, told) = channel();
        let serving = std::thread::spawn(move || {
            let _ = tell.send(stay_on(cpu).map(|()| rustix::thread::gettid().as_raw_nonzero().get()));
            guests.run()
        });
        let tid = told.recv().map_err(|e| say(&e))??;
        let vcpu = machine.vcpu(domid, VcpuId(0)).map_err(|e| say(&e))?;
        Ok(Self { vcpu, handle, serving: Some(serving), tid, stats })
    }

    /// Accesses in a row; how many had a wrong answer.
    fn trips(&self) -> u32 {
        (0..TRIPS).map(|_| u32::from(self.vcpu.pio_read(PORT, 4).map(u64::from) != Ok(ANSWER))).sum()
    }

    /// Time that the serving thread has had on a processor, in seconds.
    fn ran(&self) -> Result<f64, String> {
        let path = format!("/proc/self/task/{}/schedstat", self.tid);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        let ns = text.split(' ').next().and_then(|n| n.parse().ok());
        ns.map(|ns: u64| Duration::from_nanos(ns).as_secs_f64()).ok_or_else(|| format!("{path}: {text}"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(Err(e)) = self.serving.take().map(JoinHandle::join) {
            std::panic::resume_unwind(e);
        }
    }
}

fn us(seconds: f64) -> f64 {
    seconds / f64::from(TRIPS) * 1e6
}

fn asleep(near: usize, far: usize) -> Result<Figure, String> {
    let rig = Rig::new(Duration::ZERO, far)?;
    stay_on(near)?;
    let ping_pong = PingPong::start(Some(far));
    let mut wrong = 0;
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || seconds(|| wrong += rig.trips()),
        || seconds(|| (0..TRIPS).for_each(|_| ping_pong.round_trip())),
    );
    let found = rig.stats.snapshot().unannounced;
    if wrong > 0 || found > 0 {
        return Err(format!("{wrong} accesses had the wrong answer, {found} were found without an event"));
    }
    let detail = format!("{:.2} us, ping-pong {:.2} us", us(ours), us(peer));
    Ok(Figure { name: "round-trip", ratio, target: Target::AtMost(1.15), detail })
}

fn polling(near: usize, far: usize) -> Result<Vec<Figure>, String> {
    let rig = Rig::new(DEFAULT_PATIENCE, far)?;
    stay_on(near)?;
    let (apart, together) = (PingPong::start(Some(far)), PingPong::start(Some(near)));
    let mut wrong = 0;
    let mut each = [Vec::new(), Vec::new()];
    let (ratio, ours, _) = interleave(
        ROUNDS,
        || seconds(|| wrong += rig.trips()),
        || {
            // Two threads that share a processor need not wait for it to be woken up: whichever is faster in the round.
            let times = [&apart, &together].map(|p| seconds(|| (0..TRIPS).for_each(|_| p.round_trip())));
            each.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
            times[0].min(times[1])
        },
    );
    if wrong > 0 {
        return Err(format!("{wrong} accesses had the wrong answer"));
    }
    let stats = rig.stats.snapshot();
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let found = stats.unannounced as f64 / stats.pio as f64 * 100.0;
    let [apart, together] = each.map(|mut times| us(median(&mut times)));
    let detail = format!(
        "{:.2} us, {found:.0} % found by looking; ping-pong {apart:.2} us on two processors, {together:.2} us on one",
        us(ours)
    );
    let load =
        Figure { name: "round-trip-polling", ratio: 1.0 / ratio, target: Target::AtLeast(3.0), detail };

    // After a burst, from when patience has run out.
    let (mut shares, mut worst) = (Vec::new(), 0.0f64);
    for _ in 0..IDLE.1 {
        rig.trips();
        std::thread::sleep(Duration::from_millis(2));
        let (start, before) = (Instant::now(), rig.ran()?);
        std::thread::sleep(IDLE.0);
        let share = (rig.ran()? - before) / start.elapsed().as_secs_f64();
        shares.push(share);
        worst = worst.max(share);
    }
    let detail = format!(
        "share of a processor that the loop takes, from 2 ms after a burst on; worst of {}: {worst:.4}",
        IDLE.1
    );
    let idle =
        Figure { name: "polling-idle", ratio: median(&mut shares), target: Target::AtMost(0.001), detail };
    Ok(vec![load, idle])
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let here = Processors::of_this_thread()?;
    let [near, far] = here.two()?;
    let mut figures = vec![asleep(near, far)?];
    figures.extend(polling(near, far)?);
    Ok(figures)
}
