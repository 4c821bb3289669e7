//! The process that serves a guest is killed, and another one takes its place: Xen keeps the dead one's server, whose
//! vCPUs wait, until the successor destroys it.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use ioreq_server::{BufferedMode, Connection, Incarnation, Outcome, Record, Server};
use mock_xen::{Caller, Config, Machine, Moment, Vcpu};
use xen_ioreq::seam::{DmOp, EventChannels, ForeignMap, ForeignPages, Mapping, Prot, ResourceMap};
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, Port};

use crate::rig::*;

/// What the device of a register answers, whoever serves it. Neither zero, with which Xen completes what a destroyed
/// server left, nor all-ones.
const ANSWER: u64 = 0x5a5a_0001;

/// A process of dom0's, and its handle.
fn process(machine: &Arc<Machine>) -> (Arc<Caller>, Connection) {
    let caller = Arc::new(machine.caller(DOM0).unwrap());
    (caller.clone(), Connection::new(caller.clone(), caller))
}

/// A process that is killed in, before or after, one of its calls; what serves by it stops dead there.
struct Mortal {
    caller: Caller,
    record: Option<Arc<Record>>,
    calls: AtomicU64,
    last: (u64, Moment),
    dead: mpsc::Sender<()>,
}

impl Mortal {
    fn call<R>(&self, call: impl FnOnce(&Caller) -> R) -> R {
        let n = 1 + self.calls.fetch_add(1, Ordering::SeqCst);
        if self.last == (n, Moment::Before) {
            self.die();
        }
        let result = call(&self.caller);
        if self.last == (n, Moment::After) {
            self.die();
        }
        result
    }

    fn die(&self) -> ! {
        self.caller.kill();
        // As its files are closed.
        if let Some(record) = &self.record {
            rustix::fs::flock(record, rustix::fs::FlockOperation::Unlock).unwrap();
        }
        self.dead.send(()).unwrap();
        loop {
            std::thread::park();
        }
    }
}

impl DmOp for Mortal {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.call(|c| c.dm_op(domid, bufs))
    }
}

impl ForeignMap for Mortal {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.call(|c| c.map_foreign(domid, gfns, prot))
    }
}

impl ResourceMap for Mortal {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.call(|c| c.map_resource(domid, kind, id, first, nr))
    }
    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        self.call(|c| c.resource_size(domid, kind, id))
    }
}

impl EventChannels for Mortal {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.caller.pollable()
    }
    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        self.call(|c| c.bind_interdomain(remote, port))
    }
    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        self.call(|c| c.bind_unbound(remote))
    }
    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.call(|c| c.unbind(port))
    }
    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.call(|c| c.notify(port))
    }
    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.call(|c| c.pending(out))
    }
    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        self.call(|c| c.unmask(ports))
    }
    fn reset_ring(&self) -> Result<(), Errno> {
        self.call(Caller::reset_ring)
    }
}

/// Serves the guest by a process that is killed at its `last` call, accesses to its device among them. Comes back when it is
/// dead.
fn live_and_die(machine: &Arc<Machine>, d: DomId, last: (u64, Moment), record: Option<Arc<Record>>) {
    let (dead, died) = mpsc::channel();
    let caller = machine.caller(DOM0).unwrap();
    let process = Arc::new(Mortal { caller, record: record.clone(), calls: AtomicU64::new(0), last, dead });
    std::thread::spawn(move || {
        let conn = Connection::new(process.clone(), process.clone());
        let guest = make_on(&conn, d, Options { record, ..Options::default() });
        Reads::attach(guest.bus(), MEMORY, move |_| process.call(|_| Outcome::Ok(ANSWER)));
        std::mem::forget(serve_all(vec![guest]));
    });
    died.recv().unwrap();
}

/// Destroys every server of the guest, of which none is alive.
fn bury_all(machine: &Arc<Machine>, d: DomId) {
    let dm = connect(machine).dm(d);
    for id in (0..8).map(IoServerId) {
        // Most are not there.
        let _ = dm.destroy_server(id);
    }
}

/// Destroys a server by the one that has taken its place.
fn bury(successor: &Serving, dead: IoServerId) -> bool {
    successor.on_loop(move |l| l.iter().all(|(_, guest)| guest.server().bury(dead).is_ok()))
}

/// A vCPU that reads until it is told that all is well; then for a while exactly.
fn restless(v: Vcpu, well: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut exact = 0;
        while exact < 20 {
            let sure = well.load(Ordering::SeqCst);
            let got = v.mmio_read(MEMORY, 8).unwrap();
            // A device's; what Xen says for a server that was destroyed; nobody's.
            assert!(got == ANSWER || !sure && (got == 0 || got == u64::MAX), "{got:#x}");
            exact += u32::from(sure);
        }
    })
}

#[test]
fn a_process_killed_at_any_of_its_calls_is_succeeded_and_no_vcpu_waits_for_ever() {
    for (nth, moment) in (1..=45).flat_map(|n| [(n, Moment::Before), (n, Moment::After)]) {
        let m = Machine::new(Config { frames: 256, xen_frames: 8, ..Config::default() }).unwrap();
        let d = guest(&m, VCPUS);
        let before = m.free_frames();
        let well = Arc::new(AtomicBool::new(false));
        let vcpus: Vec<_> = (0..VCPUS).map(|id| restless(vcpu(&m, d, id), well.clone())).collect();
        live_and_die(&m, d, (nth, moment), None);
        // Both orders are good; the other one leaves a time without a device.
        if nth % 2 == 0 {
            bury_all(&m, d);
        }
        let (_, mine, serving) = constant(&m, d);
        for id in (0..8).map(IoServerId).filter(|id| *id != mine) {
            // Most are not there.
            let _ = bury(&serving, id);
        }
        well.store(true, Ordering::SeqCst);
        vcpus.into_iter().for_each(|v| v.join().unwrap());
        drop(serving);
        assert_eq!(m.free_frames(), before, "killed {moment:?} call {nth}");
        m.assert_clean();
    }
}

/// Serves a constant.
fn constant(machine: &Arc<Machine>, d: DomId) -> (Arc<Caller>, IoServerId, Serving) {
    let (caller, conn) = process(machine);
    let guest = make_on(&conn, d, Options::default());
    let id = guest.server().id();
    Reads::attach(guest.bus(), MEMORY, |_| Outcome::Ok(ANSWER));
    (caller, id, serve_all(vec![guest]))
}

#[test]
fn a_successor_that_is_ready_before_the_dead_ones_server_goes_leaves_no_gap() {
    const ROUNDS: u64 = 25;
    let m = machine();
    let d = guest(&m, VCPUS);
    let before = m.free_frames();
    let (mut process, mut id, mut serving) = constant(&m, d);
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<[AtomicU64; VCPUS as usize]> = Arc::default();
    let vcpus: Vec<_> = (0..VCPUS)
        .map(|id| {
            let (v, stop, answered) = (vcpu(&m, d, id), stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut cut_off = 0;
                while !stop.load(Ordering::SeqCst) {
                    match v.mmio_read(MEMORY, 8).unwrap() {
                        ANSWER => drop(answered[v.id().0 as usize].fetch_add(1, Ordering::SeqCst)),
                        // What was on its way to the dead one: Xen completes it with what it was sent with.
                        0 => cut_off += 1,
                        other => panic!("{other:#x}: for a moment nobody was there"),
                    }
                }
                cut_off
            })
        })
        .collect();
    // Every vCPU has been answered again since.
    let all_served = || {
        let seen: Vec<_> = answered.iter().map(|a| a.load(Ordering::SeqCst)).collect();
        while answered.iter().zip(&seen).any(|(now, seen)| now.load(Ordering::SeqCst) <= seen + 1) {
            std::thread::yield_now();
        }
    };
    for _ in 0..ROUNDS {
        all_served();
        serving.abandon();
        process.kill();
        let next = constant(&m, d);
        assert!(bury(&next.2, id));
        (process, id, serving) = next;
    }
    all_served();
    stop.store(true, Ordering::SeqCst);
    for v in vcpus {
        let cut_off: u64 = v.join().unwrap();
        assert!(cut_off <= ROUNDS, "{cut_off} answers of Xen's own");
    }
    drop(serving);
    assert_eq!(m.free_frames(), before);
    m.assert_clean();
}

#[test]
fn what_a_dead_server_owes_is_completed_by_xen_when_the_successor_destroys_it() {
    let m = machine();
    let d = guest(&m, 1);
    let (caller, conn) = process(&m);
    let guest = make_on(&conn, d, Options::default());
    let id = guest.server().id();
    let tokens = deferring(guest.bus(), MEMORY);
    let s = serve_all(vec![guest]);
    let v = vcpu(&m, d, 0);
    let waiting = std::thread::spawn(move || (v.mmio_read(MEMORY, 4), v));
    let token = tokens.recv().unwrap();
    s.abandon();
    caller.kill();
    // A dead process answers nothing.
    std::mem::forget(token);
    let (_, next, serving) = constant(&m, d);
    assert!(!waiting.is_finished());
    assert!(bury(&serving, id));
    let (got, v) = waiting.join().unwrap();
    assert_eq!(got, Ok(0), "as it was sent");
    assert_ne!(next, id);
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(ANSWER & 0xffff_ffff));
}

/// What the records of these tests say of the guest.
fn incarnation(d: DomId) -> Incarnation {
    Incarnation { domid: d, uuid: [1; 16], shared_info: 2, boot: [3; 16] }
}

/// The guest's servers, all of which are destroyed by asking.
fn servers(machine: &Arc<Machine>, d: DomId) -> usize {
    let dm = connect(machine).dm(d);
    (0..8).filter(|id| dm.destroy_server(IoServerId(*id)).is_ok()).count()
}

#[test]
fn a_successor_finds_by_the_record_what_a_process_killed_at_any_of_its_calls_has_left() {
    let dir = tempfile::tempdir().unwrap();
    for (nth, moment) in (1..=45).flat_map(|n| [(n, Moment::Before), (n, Moment::After)]) {
        let m = Machine::new(Config { frames: 256, xen_frames: 8, ..Config::default() }).unwrap();
        let d = guest(&m, VCPUS);
        let path = dir.path().join(format!("{nth}-{moment:?}"));
        // Somebody else's, which nobody may touch.
        let (_, neighbours) = process(&m);
        let neighbour = Server::create(&neighbours, d, BufferedMode::Off).unwrap();
        let well = Arc::new(AtomicBool::new(false));
        let vcpus: Vec<_> = (0..VCPUS).map(|id| restless(vcpu(&m, d, id), well.clone())).collect();
        live_and_die(&m, d, (nth, moment), Some(Arc::new(Record::open(&path, incarnation(d)).unwrap())));

        let record = Arc::new(Record::open(&path, incarnation(d)).unwrap());
        let left = record.left();
        // The first call creates the server; nothing can be written about it before, and without ranges it harms nobody.
        assert_eq!(left.len(), usize::from(nth > 1), "killed {moment:?} call {nth}");
        assert!(!left.contains(&neighbour.id()));
        let (_, conn) = process(&m);
        let guest = make_on(&conn, d, Options { record: Some(record.clone()), ..Options::default() });
        Reads::attach(guest.bus(), MEMORY, |_| Outcome::Ok(ANSWER));
        assert_eq!(guest.server().succeed(), Ok(left.len()));
        assert!(record.left().is_empty());
        let serving = serve_all(vec![guest]);
        well.store(true, Ordering::SeqCst);
        vcpus.into_iter().for_each(|v| v.join().unwrap());
        drop((serving, record));
        assert!(
            Record::open(&path, incarnation(d)).unwrap().left().is_empty(),
            "what ended well leaves nothing"
        );
        let unknown = usize::from((nth, moment) == (1, Moment::After));
        assert_eq!(servers(&m, d), 1 + unknown, "the neighbour's is there");
        drop(neighbour);
        m.assert_clean();
    }
}

#[test]
fn where_a_guest_has_no_room_for_another_server_a_predecessors_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    let m = machine();
    let d = guest(&m, 1);
    let (caller, conn) = process(&m);
    let record = Arc::new(Record::open(dir.path().join("d"), incarnation(d)).unwrap());
    let full: Vec<_> =
        (0..8).map(|_| Server::create_recorded(&conn, d, BufferedMode::Off, &record).unwrap()).collect();
    caller.kill();
    std::mem::forget(full);
    drop(record);
    // The kernel closes the file of a process that is killed.
    let path = dir.path().join("d");
    std::fs::copy(&path, dir.path().join("e")).unwrap();
    let record = Arc::new(Record::open(dir.path().join("e"), incarnation(d)).unwrap());
    assert_eq!(record.left().len(), 8);
    let (_, conn) = process(&m);
    let server = Server::create_recorded(&conn, d, BufferedMode::Off, &record).unwrap();
    assert!(record.left().is_empty());
    drop(server);
    assert_eq!(servers(&m, d), 0);
}

#[test]
fn a_record_whose_servers_are_gone_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let m = machine();
    let d = guest(&m, 1);
    let path = dir.path().join("d");
    live_and_die(&m, d, (6, Moment::After), Some(Arc::new(Record::open(&path, incarnation(d)).unwrap())));
    assert_eq!(servers(&m, d), 1);
    let record = Arc::new(Record::open(&path, incarnation(d)).unwrap());
    assert_eq!(record.left().len(), 1);
    let (_, conn) = process(&m);
    let guest = make_on(&conn, d, Options { record: Some(record), ..Options::default() });
    assert_eq!(guest.server().succeed(), Ok(0));
    assert_eq!(guest.server().succeed(), Ok(0), "once is enough");
}
