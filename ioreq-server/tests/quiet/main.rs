//! A hostile guest that has a line of the log for each of its accesses. By itself, since a process has one log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ioreq_server::bus::Window;
use ioreq_server::quiet::{BURST, EVERY, Quiet};
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, Device, Guest, GuestLoop, IoError, MmioDevice, OnError, Outcome,
    Region, Server, Space,
};
use log::{LevelFilter, Log, Metadata, Record};
use mock_xen::{Config, DomainConfig, Machine};
use parking_lot::Mutex;
use xen_ioreq::{DomId, Gfn, VcpuId};

const AT: u64 = 0xf000_0000;
const FAULTS: u64 = 100_000;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SECONDS: AtomicU64 = AtomicU64::new(0);

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        LINES.lock().push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// Whose accesses the operator is to hear of.
struct Faulty;

impl Device for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Faulty {
    fn mmio_read(&self, _: &Access) -> Outcome<u64> {
        Outcome::Err(IoError::Broken("a register that is not there any more"))
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

#[test]
fn guest_that_provokes_100000_faults_has_some_lines_of_the_log_and_the_rest_is_told() {
    let clock = || Duration::from_secs(SECONDS.load(Ordering::SeqCst));
    let quiet: &'static _ = Box::leak(Box::new(Quiet::with_clock(Lines, clock)));
    log::set_logger(quiet).unwrap();
    log::set_max_level(LevelFilter::Info);
    let m = Machine::new(Config { frames: 512, ..Config::default() }).unwrap();
    let d = m.create_domain(&DomainConfig { max_pages: 16, ..DomainConfig::default() }).unwrap();
    m.populate(d, Gfn(0), 4).unwrap();
    let caller = Arc::new(m.caller(DomId(0)).unwrap());
    let conn = Connection::new(caller.clone(), caller);
    let server = Server::create(&conn, d, BufferedMode::Off).unwrap();
    let bus = Bus::new(server.claims());
    let id = bus.attach(Arc::new(Faulty));
    bus.map(id, Window { space: Space::Mmio, start: AT, last: AT + 0xfff, region: Region(0) }).unwrap();
    let server = server.map().unwrap().enable().unwrap();
    let mut l = GuestLoop::new().unwrap();
    let handle = l.handle();
    l.add(Guest::new(server, bus, Arc::new(()), OnError::AllOnes)).unwrap();
    let serving = std::thread::spawn(move || l.run().unwrap());
    let v = m.vcpu(d, VcpuId(0)).unwrap();
    for n in 0..FAULTS {
        assert_eq!(v.mmio_read(AT + 8 * (n % 512), 8), Ok(u64::MAX));
        if n == FAULTS / 2 {
            SECONDS.fetch_add(EVERY.as_secs(), Ordering::SeqCst);
        }
    }
    handle.stop();
    serving.join().unwrap();
    let lines = std::mem::take(&mut *LINES.lock());
    assert_eq!(lines.len(), BURST as usize + 1, "{lines:?}");
    assert!(lines.iter().all(|l| l.starts_with(&format!("{d}: answered with all-ones"))), "{lines:?}");
    let (written, middle) = (BURST as u64, FAULTS / 2 + 1 - BURST as u64);
    assert!(lines[BURST as usize].ends_with(&format!("(left out before: {middle} like this)")), "{lines:?}");
    assert_eq!(quiet.left_out(), FAULTS - written - 1);
    quiet.tell_all();
    let rest = FAULTS - written - 1 - middle;
    let [line] = &LINES.lock()[..] else { panic!("one line tells of the rest") };
    assert!(line.ends_with(&format!("(left out before: {rest} like this)")), "{line}");
}
