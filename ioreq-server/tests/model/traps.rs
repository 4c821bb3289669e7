//! RAM whose writes come to the server: what the guest's instructions leave in it, and what becomes of it with the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ioreq_server::traps::{TrapError, Watcher};
use ioreq_server::{BufferedMode, Connection, Created, Incarnation, Record, Server, WriteTraps};
use mock_xen::{Fault, FaultPlan, Machine, Moment, Site, Vcpu, VcpuError, When};
use parking_lot::Mutex;
use proptest::prelude::*;
use xen_ioreq::abi::ioreq::{Bits, SLOT_BITS_OFFSET, STATE_IOREQ_READY, ioreq};
use xen_ioreq::abi::memory::XENMEM_resource_ioreq_server;
use xen_ioreq::seam::{PausedDmOp, ResourceMap};
use xen_ioreq::{DomId, Gfn, PAGE_SIZE};

use crate::rig::*;

/// The first of two frames that are trapped, and of two that are not and get the same.
const TRAPPED: u64 = 0x10;
const PLAIN: u64 = 0x20;
/// Where string instructions have what they write.
const SOURCE: u64 = 0x30;
const PAGE: u64 = PAGE_SIZE as u64;

/// Notes which frames were written, and lets them go if it is told to.
struct Seen {
    traps: Arc<WriteTraps>,
    frames: Mutex<Vec<Gfn>>,
    lets_go: bool,
}

impl Watcher for Seen {
    fn written(&self, gfn: Gfn) {
        self.frames.lock().push(gfn);
        if self.lets_go {
            self.traps.clear(gfn);
        }
    }
}

fn traps(s: &Serving) -> Arc<WriteTraps> {
    s.on_loop(|l| l.iter().map(|(_, guest)| guest.server().write_traps()).next().unwrap())
}

/// Traps both frames.
fn trap(s: &Serving, lets_go: bool) -> Arc<Seen> {
    let traps = traps(s);
    let seen = Arc::new(Seen { traps: traps.clone(), frames: Mutex::default(), lets_go });
    for n in 0..2 {
        // What a predecessor had trapped may be on its way to RAM.
        while let Err(e) = traps.set(Gfn(TRAPPED + n), seen.clone()) {
            assert_eq!(e, TrapError::Leaving(Gfn(TRAPPED + n)));
            std::thread::yield_now();
        }
    }
    seen
}

fn content(v: &Vcpu, first: u64) -> Vec<u8> {
    let mut all = vec![0; 2 * PAGE_SIZE];
    v.ram_read(first * PAGE, &mut all).unwrap();
    all
}

#[derive(Clone, Debug)]
enum Write {
    /// One, of a power of two bytes.
    One { at: u64, size: usize, value: u64 },
    /// By as many instructions as it takes.
    Bytes { at: u64, bytes: Vec<u8> },
    /// A string instruction, whose data is in memory.
    String { at: u64, size: usize, from: u64, count: u32, df: bool },
}

impl Write {
    fn carry_out(&self, v: &Vcpu, first: u64) -> Result<(), VcpuError> {
        let base = first * PAGE;
        match self {
            Self::One { at, size, value } => v.mmio_write(base + at, *size, *value),
            Self::Bytes { at, bytes } => v.write(base + at, bytes),
            Self::String { at, size, from, count, df } => {
                v.rep_mmio(base + at, *size, false, SOURCE * PAGE + from, *count, *df)
            }
        }
    }
}

fn write() -> impl Strategy<Value = Write> {
    let size = (0usize..4).prop_map(|s| 1 << s);
    // Around the end of the first page, or anywhere.
    let at = prop_oneof![4050u64..4150, 512u64..7000];
    prop_oneof![
        (at.clone(), size.clone(), any::<u64>()).prop_map(|(at, size, value)| Write::One { at, size, value }),
        (at.clone(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(at, bytes)| Write::Bytes { at, bytes }),
        (at, size, 512u64..7000, 1u32..40, any::<bool>())
            .prop_map(|(at, size, from, count, df)| Write::String { at, size, from, count, df }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn trapped_frames_hold_after_any_writes_what_plain_ones_do(
        writes in prop::collection::vec(write(), 1..40),
        lets_go: bool,
        cache in 0usize..2,
    ) {
        let m = machine();
        let d = guest(&m, 1);
        let s = serve(&m, d, Options { cache: 8 * cache, ..Options::default() });
        let v = vcpu(&m, d, 0);
        let source: Vec<u8> = (0..2 * PAGE_SIZE).map(|i| (i * 7 + i / 251) as u8).collect();
        v.ram_write(SOURCE * PAGE, &source).unwrap();
        let seen = trap(&s, lets_go);
        for write in &writes {
            seen.frames.lock().clear();
            let before = content(&v, TRAPPED);
            write.carry_out(&v, PLAIN).unwrap();
            write.carry_out(&v, TRAPPED).unwrap();
            let after = content(&v, TRAPPED);
            prop_assert!(after == content(&v, PLAIN), "{:?}", write);
            let changed = |n: usize| before[n * PAGE_SIZE..][..PAGE_SIZE] != after[n * PAGE_SIZE..][..PAGE_SIZE];
            let told = seen.frames.lock().clone();
            for n in 0..2 {
                let hears = told.contains(&Gfn(TRAPPED + n as u64));
                prop_assert!(hears || lets_go || !changed(n), "{:?}: nobody was told of page {}", write, n);
            }
        }
        if lets_go {
            prop_assert!(seen.frames.lock().len() <= 2);
        }
    }
}

#[test]
fn frame_that_is_let_go_at_its_first_write_costs_one_request() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let v = vcpu(&m, d, 0);
    let seen = trap(&s, true);
    v.mmio_write(TRAPPED * PAGE, 8, 0).unwrap();
    while !seen.traps.settle() {}
    for n in 1..PAGE / 8 {
        v.mmio_write(TRAPPED * PAGE + 8 * n, 8, n).unwrap();
    }
    assert_eq!((s.stats().ram_writes, s.stats().unclaimed, seen.traps.watched()), (1, 0, 1));
    assert_eq!(*seen.frames.lock(), [Gfn(TRAPPED)]);
    assert_eq!(v.mmio_read(TRAPPED * PAGE + 8 * 77, 8), Ok(77));
    assert_eq!(s.stats().pauses, 1);
    // And is trapped anew.
    seen.traps.set(Gfn(TRAPPED), seen.clone()).unwrap();
    v.mmio_write(TRAPPED * PAGE, 8, 5).unwrap();
    assert_eq!((s.stats().ram_writes, v.mmio_read(TRAPPED * PAGE, 8)), (2, Ok(5)));
}

#[test]
fn device_in_the_place_of_a_trapped_frame_gets_the_writes() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let cells = Cells::attach(&s.bus);
    let seen = trap(&s, false);
    let v = vcpu(&m, d, 0);
    v.mmio_write(MEMORY, 4, 7).unwrap();
    assert_eq!((v.mmio_read(MEMORY, 4), cells.log.lock().len()), (Ok(7), 2));
    assert_eq!(*seen.frames.lock(), []);
}

#[test]
fn string_instruction_that_reads_a_device_into_a_trapped_frame_is_told_of() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let deferred = deferring(&s.bus, MEMORY + 0x10_0000);
    let seen = trap(&s, false);
    let v = vcpu(&m, d, 0);
    v.mmio_write(MEMORY, 8, 0x1122_3344_5566_7788).unwrap();
    v.rep_mmio(MEMORY, 4, true, (TRAPPED + 1) * PAGE - 4, 2, false).unwrap();
    assert_eq!(*seen.frames.lock(), [Gfn(TRAPPED), Gfn(TRAPPED + 1)]);
    seen.frames.lock().clear();
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || v.rep_mmio(MEMORY + 0x10_0000, 4, true, TRAPPED * PAGE, 2, false));
        (0..2).for_each(|n| deferred.recv().unwrap().answer(Ok(n)));
        waits.join().unwrap().unwrap();
    });
    assert_eq!(*seen.frames.lock(), [Gfn(TRAPPED), Gfn(TRAPPED)]);
}

#[test]
fn type_of_another_server_is_not_to_be_had_until_that_one_goes() {
    let m = machine();
    let d = guest(&m, 1);
    let (first, second) = (serve(&m, d, Options::default()), serve(&m, d, Options::default()));
    let seen = trap(&first, false);
    let other = traps(&second);
    assert_eq!(other.claim(), Err(TrapError::Taken(d)));
    assert_eq!(other.set(Gfn(TRAPPED), seen.clone()), Err(TrapError::Taken(d)));
    assert!(!other.is_claimed());
    drop(first);
    assert_eq!(seen.traps.claim(), Err(TrapError::Gone));
    assert_eq!(other.claim(), Ok(()));
}

#[test]
fn frame_that_is_not_ram_is_refused_and_not_watched() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let seen = trap(&s, false);
    for hole in [Gfn(0xf_0000), Gfn(u64::MAX)] {
        assert!(matches!(seen.traps.set(hole, seen.clone()), Err(TrapError::Xen(_))));
    }
    assert_eq!(seen.traps.watched(), 2);
    // One that goes while it is watched, and one that comes in its place.
    let v = vcpu(&m, d, 0);
    v.decrease_reservation(&[Gfn(TRAPPED)]).unwrap();
    v.populate_physmap(&[Gfn(TRAPPED)]).unwrap();
    v.mmio_write(TRAPPED * PAGE, 8, 9).unwrap();
    assert_eq!((s.stats().ram_writes, v.mmio_read(TRAPPED * PAGE, 8)), (0, Ok(9)));
    seen.traps.clear(Gfn(TRAPPED));
}

#[test]
fn guest_whose_trapped_frames_are_let_go_while_it_writes_is_not_crashed_and_loses_nothing() {
    let m = machine();
    let d = guest(&m, 2);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let seen = trap(&s, true);
    let vcpus = [0, 1].map(|id| vcpu(&m, d, id));
    let writers = vcpus.map(|v| {
        std::thread::spawn(move || {
            for n in 0..3000u64 {
                // Each its own items; a request that is of another kind meets what would be left over.
                let at = (TRAPPED + n % 2) * PAGE + 16 * (n % 256) + 8 * u64::from(v.id().0);
                v.mmio_write(at, 8, n).unwrap();
                assert_eq!(v.mmio_read(at, 8), Ok(n), "no write is lost");
                v.mmio_read(MEMORY, 4).unwrap();
            }
        })
    });
    while !writers.iter().all(|w| w.is_finished()) {
        for n in 0..2 {
            match seen.traps.set(Gfn(TRAPPED + n), seen.clone()) {
                Ok(()) | Err(TrapError::Leaving(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
        std::thread::yield_now();
    }
    writers.into_iter().for_each(|w| w.join().unwrap());
    (0..2).for_each(|n| seen.traps.clear(Gfn(TRAPPED + n)));
    while !seen.traps.settle() {}
    assert!(s.stats().ram_writes > 0 && s.stats().pauses > 0);
}

#[test]
fn without_leave_to_pause_the_guest_nothing_is_trapped() {
    let m = machine();
    let d = guest(&m, 1);
    let caller = Arc::new(m.caller(DOM0).unwrap());
    let bare = ioreq_server::Connection::new(caller.clone(), caller);
    let s = serve_all(vec![make_on(&bare, d, Options::default())]);
    let unasked = TrapError::NoPause { domid: d, errno: xen_ioreq::Errno::ENOSYS };
    let seen = Arc::new(Seen { traps: traps(&s), frames: Mutex::default(), lets_go: false });
    assert_eq!(seen.traps.set(Gfn(TRAPPED), seen.clone()), Err(unasked));
    // A stub domain may be a device model, and may not pause.
    let config = mock_xen::DomainConfig { target: Some(d), ..Default::default() };
    let stub = m.create_domain(&config).unwrap();
    let caller = Arc::new(m.caller(stub).unwrap());
    let conn = ioreq_server::Connection::new(caller.clone(), caller.clone()).with_pauses(caller);
    let s = serve_all(vec![make_on(&conn, d, Options::default())]);
    let refused = TrapError::NoPause { domid: d, errno: xen_ioreq::Errno::EPERM };
    let seen = Arc::new(Seen { traps: traps(&s), frames: Mutex::default(), lets_go: false });
    assert_eq!(seen.traps.set(Gfn(TRAPPED), seen.clone()), Err(refused));
    assert_eq!((s.stats().pauses, m.unpause(d)), (0, Err(xen_ioreq::Errno::EINVAL)));
}

#[test]
fn guest_that_cannot_be_paused_any_more_keeps_its_trapped_frames_and_loses_nothing() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let seen = trap(&s, true);
    let v = vcpu(&m, d, 0);
    m.inject(FaultPlan::one(Site::PausedDmOp, When::Always, Fault::Error(xen_ioreq::Errno::EPERM)));
    for n in 0..64 {
        v.mmio_write(TRAPPED * PAGE + 8 * n, 8, n).unwrap();
        assert_eq!(v.mmio_read(TRAPPED * PAGE + 8 * n, 8), Ok(n));
    }
    // Until it has been tried.
    while seen.traps.set(Gfn(TRAPPED), seen.clone()) == Err(TrapError::Leaving(Gfn(TRAPPED))) {
        std::thread::yield_now();
    }
    assert!(!seen.traps.settle());
    assert_eq!((s.stats().ram_writes, s.stats().pauses), (64, 0));
    let refused = TrapError::NoPause { domid: d, errno: xen_ioreq::Errno::EPERM };
    assert_eq!(seen.traps.set(Gfn(TRAPPED), seen.clone()), Err(refused));
}

#[test]
fn killed_at_a_pause_leaves_no_guest_paused() {
    for moment in [Moment::Before, Moment::Within(1), Moment::After] {
        let m = machine();
        let d = guest(&m, 1);
        let caller = m.caller(DOM0).unwrap();
        m.inject(FaultPlan::one(Site::PausedDmOp, When::Nth(1), Fault::Kill(moment)));
        let call = || caller.paused_dm_op(d, &mut [xen_ioreq::abi::dm_op::xen_dm_op::default()]);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        assert_eq!(m.unpause(d), Err(xen_ioreq::Errno::EINVAL), "{moment:?}: it is not paused");
        vcpu(&m, d, 0).mmio_read(0, 4).unwrap();
    }
}

/// A vCPU that counts up in both trapped frames until it is stopped: where it stands in each.
fn counting(v: Vcpu, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(Vcpu, u64)> {
    std::thread::spawn(move || {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) || n < 100 {
            n += 1;
            for page in 0..2 {
                let at = (TRAPPED + page) * PAGE + 8 * (n % 512);
                v.mmio_write(at, 8, n).unwrap();
                assert_eq!(v.mmio_read(at, 8), Ok(n), "no write is lost");
            }
        }
        (v, n)
    })
}

#[test]
fn server_that_stops_while_the_guest_writes_loses_nothing_and_leaves_ram() {
    for _ in 0..20 {
        let m = machine();
        let d = guest(&m, 1);
        let s = serve(&m, d, Options::default());
        trap(&s, false);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = counting(vcpu(&m, d, 0), stop.clone());
        drop(s);
        stop.store(true, Ordering::SeqCst);
        let (v, n) = writer.join().unwrap();
        assert!(n >= 100);
        v.ram_write(TRAPPED * PAGE, &[1; 64]).unwrap();
    }
}

/// Kills who serves the guest, and has another one take its place.
fn succeed(m: &Arc<Machine>, d: DomId, s: Serving, dead: xen_ioreq::IoServerId) -> Serving {
    s.abandon();
    let successor = serve(m, d, Options::default());
    assert_eq!(traps(&successor).claim(), Err(TrapError::Taken(d)), "the dead one has it");
    successor.on_loop(move |l| l.iter().for_each(|(_, guest)| guest.server().bury(dead).unwrap()));
    successor
}

#[test]
fn successor_of_a_killed_server_carries_out_the_write_that_waits_and_may_trap_itself() {
    for _ in 0..20 {
        let m = machine();
        let d = guest(&m, 1);
        let s = serve(&m, d, Options::default());
        trap(&s, false);
        let dead = s.on_loop(|l| l.iter().map(|(_, guest)| guest.server().id()).next().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let writer = counting(vcpu(&m, d, 0), stop.clone());
        let successor = succeed(&m, d, s, dead);
        let seen = trap(&successor, false);
        stop.store(true, Ordering::SeqCst);
        let (v, _) = writer.join().unwrap();
        v.mmio_write(TRAPPED * PAGE, 8, 1).unwrap();
        assert!(seen.frames.lock().contains(&Gfn(TRAPPED)));
        drop(successor);
        v.mmio_write(TRAPPED * PAGE, 8, 2).unwrap();
    }
}

#[test]
fn successor_leaves_what_a_killed_server_was_to_do_for_a_device_to_the_guest() {
    let m = machine();
    let d = guest(&m, 2);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    trap(&s, false);
    let dead = s.on_loop(|l| l.iter().map(|(_, guest)| guest.server().id()).next().unwrap());
    s.abandon();
    let [a, b] = [0, 1].map(|id| vcpu(&m, d, id));
    std::thread::scope(|scope| {
        // One waits with a write to RAM, one with a write to the device's register.
        let ram = scope.spawn(move || {
            a.mmio_write(TRAPPED * PAGE + 8, 8, 3).map(|()| a.mmio_read(TRAPPED * PAGE + 8, 8))
        });
        let device = scope.spawn(move || b.mmio_write(MEMORY, 4, 3));
        let successor = serve(&m, d, Options::default());
        Cells::attach(&successor.bus);
        successor.on_loop(move |l| l.iter().for_each(|(_, guest)| guest.server().bury(dead).unwrap()));
        assert_eq!(ram.join().unwrap(), Ok(Ok(3)));
        device.join().unwrap().unwrap();
        drop(successor);
    });
}

/// A guest whose servers are all taken, one of them by a process that was killed and had trapped frames; the record in which it stands.
fn full(m: &Arc<Machine>, d: DomId, dir: &std::path::Path) -> (Vec<Server<Created>>, Arc<Record>) {
    let who = Incarnation { domid: d, uuid: [1; 16], shared_info: 2, boot: [3; 16] };
    let record = Arc::new(Record::open(dir.join("record"), who).unwrap());
    let process = Arc::new(m.caller(DOM0).unwrap());
    let conn = Connection::new(process.clone(), process.clone()).with_pauses(process.clone());
    let s =
        serve_all(vec![make_on(&conn, d, Options { record: Some(record.clone()), ..Options::default() })]);
    Cells::attach(&s.bus);
    trap(&s, false);
    let others = connect(m);
    let others = (0..7).map(|_| Server::create(&others, d, BufferedMode::Off).unwrap()).collect();
    s.abandon();
    process.kill();
    drop(record);
    // The kernel closes the file of a process that is killed.
    std::fs::copy(dir.join("record"), dir.join("successor")).unwrap();
    (others, Arc::new(Record::open(dir.join("successor"), who).unwrap()))
}

#[test]
fn successor_that_finds_no_room_for_a_server_finishes_what_waits_for_the_dead_one_before_that_goes() {
    let dir = tempfile::tempdir().unwrap();
    let m = machine();
    let d = guest(&m, 2);
    let (_others, record) = full(&m, d, dir.path());
    let (dom0, dead) = (m.caller(DOM0).unwrap(), record.left()[0]);
    let slots = dom0.map_resource(d, XENMEM_resource_ioreq_server, dead.0.into(), 1, 1).unwrap();
    std::thread::scope(|scope| {
        let writers = [0, 1].map(|id| {
            let v = vcpu(&m, d, id);
            scope.spawn(move || {
                for n in 0..200 {
                    // Each its own items, of both pages.
                    let at = (TRAPPED + n % 2) * PAGE + 16 * n + 8 * u64::from(id);
                    v.mmio_write(at, 8, n + 1)?;
                    assert_eq!(v.mmio_read(at, 8), Ok(n + 1), "no write is lost");
                    // A request of another kind: it must not be taken for the write.
                    v.mmio_read(MEMORY, 4)?;
                }
                Ok::<_, VcpuError>(v)
            })
        });
        // Both wait for the dead one.
        let state = |vcpu| Bits::unpack(byte(&slots, vcpu * size_of::<ioreq>() + SLOT_BITS_OFFSET)).state;
        while (0..2).any(|vcpu| state(vcpu) != STATE_IOREQ_READY) {
            std::thread::yield_now();
        }
        let successor = serve(&m, d, Options { record: Some(record), ..Options::default() });
        Cells::attach(&successor.bus);
        let [v, _] = writers.map(|w| w.join().unwrap().expect("the guest is not crashed"));
        // They are RAM, and can be trapped anew.
        let before = successor.stats().ram_writes;
        v.mmio_write(TRAPPED * PAGE, 8, 5).unwrap();
        assert_eq!(successor.stats().ram_writes, before);
        let seen = trap(&successor, false);
        v.mmio_write(TRAPPED * PAGE, 8, 6).unwrap();
        assert_eq!(*seen.frames.lock(), [Gfn(TRAPPED)]);
    });
}
