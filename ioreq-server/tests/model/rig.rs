//! What the tests share: a machine with guests, a server on a loop of its own thread, and a device of plain cells.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ioreq_server::bus::Window;
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, Device, Guest, GuestLoop, LoopHandle, MmioDevice, Notices,
    OnError, Outcome, PioDevice, Record, Region, Server, Snapshot, Space, Stats,
};
use mock_xen::{Caller, Config, DomainConfig, Machine, Profile, Vcpu};
use parking_lot::Mutex;
use xen_ioreq::seam::{EventChannels, Mapping};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE, Port, VcpuId};

pub(crate) const DOM0: DomId = DomId(0);
pub(crate) const PORTS: u16 = 0xc100;
pub(crate) const MEMORY: u64 = 0xf000_0000;
/// Bytes of a [`Cells`] in either space.
pub(crate) const SIZE: u64 = 0x1000;
/// Frames of RAM from 0 on.
pub(crate) const RAM_FRAMES: u64 = 64;

pub(crate) fn machine() -> Arc<Machine> {
    Machine::new(Config { frames: 2048, xen_frames: 8, ..Config::default() }).unwrap()
}

/// Released Xen, which says after each change that there was one.
pub(crate) fn stock_machine() -> Arc<Machine> {
    let config = Config { profile: Profile::Stock, frames: 2048, xen_frames: 8, ..Config::default() };
    Machine::new(config).unwrap()
}

pub(crate) fn guest(machine: &Machine, vcpus: u32) -> DomId {
    let config = DomainConfig {
        vcpus,
        max_pages: RAM_FRAMES + 16,
        stdvga: true,
        legacy_interrupts: true,
        ..DomainConfig::default()
    };
    let domid = machine.create_domain(&config).unwrap();
    machine.populate(domid, Gfn(0), RAM_FRAMES).unwrap();
    domid
}

pub(crate) fn vcpu(machine: &Arc<Machine>, domid: DomId, id: u32) -> Vcpu {
    machine.vcpu(domid, VcpuId(id)).unwrap()
}

pub(crate) fn connect(machine: &Arc<Machine>) -> Connection {
    let caller = Arc::new(machine.caller(DOM0).unwrap());
    Connection::new(caller.clone(), caller.clone()).with_pauses(caller)
}

/// A server that is being served.
pub(crate) struct Serving {
    pub(crate) handle: LoopHandle,
    pub(crate) bus: Arc<Bus>,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Options {
    pub(crate) mode: BufferedMode,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) on_error: OnError,
    /// Pages of guest memory that stay mapped.
    pub(crate) cache: usize,
    /// Where the server is recorded.
    pub(crate) record: Option<Arc<Record>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: BufferedMode::Atomic,
            notices: Arc::new(()),
            on_error: OnError::AllOnes,
            cache: 0,
            record: None,
        }
    }
}

pub(crate) fn make(machine: &Arc<Machine>, domid: DomId, options: Options) -> Guest {
    make_on(&connect(machine), domid, options)
}

pub(crate) fn make_on(conn: &Connection, domid: DomId, options: Options) -> Guest {
    let server = match &options.record {
        Some(record) => Server::create_recorded(conn, domid, options.mode, record),
        None => Server::create(conn, domid, options.mode),
    };
    let server = server.unwrap();
    let bus = Bus::new(server.claims());
    let server = server.map().unwrap().enable().unwrap();
    if options.cache == 0 {
        return Guest::new(server, bus, options.notices, options.on_error);
    }
    let memory = server.guest_memory().cached(options.cache);
    Guest::with_memory(server, bus, memory, options.notices, options.on_error)
}

pub(crate) fn serve_all(guests: Vec<Guest>) -> Serving {
    let bus = guests[0].bus().clone();
    let stats = guests[0].stats();
    let mut l = GuestLoop::new().unwrap();
    let handle = l.handle();
    for guest in guests {
        l.add(guest).unwrap();
    }
    let thread = std::thread::spawn(move || l.run().unwrap());
    Serving { handle, bus, stats, thread: Some(thread) }
}

pub(crate) fn serve(machine: &Arc<Machine>, domid: DomId, options: Options) -> Serving {
    serve_all(vec![make(machine, domid, options)])
}

impl Serving {
    pub(crate) fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Serves nothing whose event was not taken first.
    pub(crate) fn sleep_at_once(&self) {
        self.on_loop(|l| l.set_patience(Duration::ZERO));
    }

    /// Leaves it as a process leaves what it has when it is killed: nothing is taken down, and nothing is done any more.
    pub(crate) fn abandon(mut self) {
        let (tx, rx) = channel::<()>();
        self.handle.call(move |_| {
            drop(tx);
            loop {
                std::thread::park();
            }
        });
        // From here on the loop's thread stands still.
        let _ = rx.recv();
        drop(self.thread.take());
        std::mem::forget(self);
    }

    /// Carries something out on the loop's thread and waits for it.
    pub(crate) fn on_loop<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut GuestLoop) -> T + Send + 'static,
    ) -> T {
        let (tx, rx) = channel();
        self.handle.call(move |l| tx.send(f(l)).unwrap());
        rx.recv().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A byte of a page that others write.
#[expect(unsafe_code, reason = "a byte of a page that is mapped while the mapping lives")]
pub(crate) fn byte(mapping: &Mapping, at: usize) -> u8 {
    let page = mapping.page(at / PAGE_SIZE).unwrap();
    // SAFETY: inside that page.
    unsafe { AtomicU8::from_ptr(page.as_ptr().add(at % PAGE_SIZE)) }.load(Ordering::Acquire)
}

/// Event channels that misbehave when told to.
pub(crate) struct Moody {
    caller: Caller,
    /// Every read fails.
    pub(crate) fail: AtomicBool,
    /// The next read finds that the ring has overflowed and its content is lost.
    pub(crate) lose: AtomicBool,
    /// A read gives one port and keeps the others, of which the descriptor does not tell.
    pub(crate) one_by_one: AtomicBool,
    kept: Mutex<VecDeque<Port>>,
    /// Ports that were read, and those that were unmasked.
    pub(crate) taken: Mutex<Vec<Port>>,
    pub(crate) unmasked: Mutex<Vec<Port>>,
    /// How often somebody read.
    pub(crate) reads: AtomicU64,
}

impl Moody {
    pub(crate) fn connect(machine: &Arc<Machine>) -> (Arc<Self>, Connection) {
        let caller = || machine.caller(DOM0).unwrap();
        let moody = Arc::new(Self {
            caller: caller(),
            fail: AtomicBool::new(false),
            lose: AtomicBool::new(false),
            one_by_one: AtomicBool::new(false),
            kept: Mutex::default(),
            taken: Mutex::default(),
            unmasked: Mutex::default(),
            reads: AtomicU64::new(0),
        });
        (moody.clone(), Connection::new(Arc::new(caller()), moody))
    }
}

impl EventChannels for Moody {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.caller.pollable()
    }
    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        self.caller.bind_interdomain(remote, port)
    }
    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        self.caller.bind_unbound(remote)
    }
    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.caller.unbind(port)
    }
    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.caller.notify(port)
    }
    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) {
            return Err(Errno::EIO);
        }
        let mut n = self.caller.pending(out)?;
        if self.one_by_one.load(Ordering::SeqCst) {
            let mut kept = self.kept.lock();
            kept.extend(&out[..n]);
            n = kept.pop_front().map(|port| out[0] = port).into_iter().count();
        }
        self.taken.lock().extend(&out[..n]);
        if n > 0 && self.lose.swap(false, Ordering::SeqCst) { Err(Errno::EFBIG) } else { Ok(n) }
    }
    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        self.unmasked.lock().extend(ports);
        self.caller.unmask(ports)
    }
    fn reset_ring(&self) -> Result<(), Errno> {
        self.caller.reset_ring()
    }
}

/// Space, read, offset, bytes, value.
type Entry = (Space, bool, u64, u32, u64);

/// A page of cells in ports and in memory, and a log of what happened.
pub(crate) struct Cells {
    cells: Mutex<Vec<u8>>,
    pub(crate) log: Mutex<Vec<Entry>>,
}

impl Cells {
    /// Put on a bus.
    pub(crate) fn attach(bus: &Bus) -> Arc<Self> {
        let cells = Arc::new(Self { cells: Mutex::new(vec![0; SIZE as usize]), log: Mutex::default() });
        let id = bus.attach(cells.clone());
        let ports = u64::from(PORTS);
        for (space, start, last) in [
            (Space::Pio, ports, ports + 0xff),
            (Space::Mmio, MEMORY, MEMORY + SIZE - 1),
            (Space::Mmio, 0xa_0000, 0xa_0fff),
        ] {
            bus.map(id, Window { space, start, last, region: Region(0) }).unwrap();
        }
        cells
    }

    fn read(&self, space: Space, a: &Access) -> Outcome<u64> {
        let start = a.offset as usize;
        let mut bytes = [0; 8];
        let len = a.width.bytes() as usize;
        bytes[..len].copy_from_slice(&self.cells.lock()[start..start + len]);
        let value = u64::from_le_bytes(bytes);
        self.log.lock().push((space, true, a.offset, a.width.bytes(), value));
        Outcome::Ok(value)
    }

    fn write(&self, space: Space, a: &Access, value: u64) -> Outcome<()> {
        let start = a.offset as usize;
        let len = a.width.bytes() as usize;
        self.cells.lock()[start..start + len].copy_from_slice(&value.to_le_bytes()[..len]);
        self.log.lock().push((space, false, a.offset, a.width.bytes(), value));
        Outcome::Ok(())
    }
}

impl Device for Cells {
    fn name(&self) -> &str {
        "cells"
    }
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl PioDevice for Cells {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        self.read(Space::Pio, a)
    }
    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Pio, a, value)
    }
}

impl MmioDevice for Cells {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        self.read(Space::Mmio, a)
    }
    fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Mmio, a, value)
    }
}

type Answer = Box<dyn Fn(&Access) -> Outcome<u64> + Send + Sync>;

/// One window of memory whose reads are answered by a closure.
pub(crate) struct Reads(Answer);

impl Reads {
    pub(crate) fn attach(
        bus: &Bus,
        at: u64,
        answer: impl Fn(&Access) -> Outcome<u64> + Send + Sync + 'static,
    ) -> ioreq_server::bus::DeviceId {
        let id = bus.attach(Arc::new(Self(Box::new(answer))));
        let window = Window { space: Space::Mmio, start: at, last: at + 0xfff, region: Region(0) };
        bus.map(id, window).unwrap();
        id
    }
}

impl Device for Reads {
    fn name(&self) -> &str {
        "reads"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Reads {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        (self.0)(a)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

/// A device that defers every read and hands the obligation to the test.
pub(crate) fn deferring(bus: &Bus, at: u64) -> Receiver<ioreq_server::Deferred> {
    let (tx, rx) = channel();
    let tx = Mutex::new(tx);
    Reads::attach(bus, at, move |_| {
        let (token, defer) = ioreq_server::Deferred::new();
        tx.lock().send(token).unwrap();
        Outcome::Defer(defer)
    });
    rx
}

/// vCPUs of a guest whose devices are put under load.
pub(crate) const VCPUS: u32 = 4;

/// Runs `vcpu` on every vCPU, with how often it has been round, until `main` is through; gives what each has counted.
pub(crate) fn meanwhile<T: Default + Send>(
    m: &Arc<Machine>,
    d: DomId,
    vcpu_does: impl Fn(&Vcpu, u64, &mut T) + Sync,
    main: impl FnOnce(&dyn Fn()),
) -> Vec<T> {
    /// However `main` ends, the vCPUs end too.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let stop = AtomicBool::new(false);
    let rounds: [AtomicU64; VCPUS as usize] = Default::default();
    std::thread::scope(|t| {
        let ending = Stop(&stop);
        let threads: Vec<_> = (0..VCPUS)
            .map(|id| {
                let (v, stop, rounds, vcpu_does) = (vcpu(m, d, id), &stop, &rounds, &vcpu_does);
                t.spawn(move || {
                    let mut counted = T::default();
                    while !stop.load(Ordering::SeqCst) {
                        let round = rounds[id as usize].fetch_add(1, Ordering::SeqCst);
                        vcpu_does(&v, round, &mut counted);
                    }
                    counted
                })
            })
            .collect();
        // Every vCPU has been round since.
        let all_round = || {
            let seen: Vec<_> = rounds.iter().map(|r| r.load(Ordering::SeqCst)).collect();
            while rounds.iter().zip(&seen).any(|(now, seen)| now.load(Ordering::SeqCst) <= seen + 1) {
                assert!(!threads.iter().any(|t| t.is_finished()), "a vCPU has failed");
                std::thread::yield_now();
            }
        };
        main(&all_round);
        drop(ending);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}
