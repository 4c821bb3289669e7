use std::collections::BTreeSet;
use std::net::Shutdown;
use std::thread::JoinHandle;

use proptest::prelude::*;
use tempfile::TempDir;
use xen_ioreq::{Gfn, IoServerId};

use super::*;
use crate::fake::{Fake, Gpu, Kind, OFFSET};
use crate::{
    Client, Config, MapError, Mapped, OwnError, OwnFrame, OwnFrames, OwnMemory, Ports, ProcessMemory,
};

const D: DomId = DomId(3);

/// Gives the broker back, and how its conversation ended.
type Serving = JoinHandle<(Broker, io::Result<()>)>;

/// A broker in a thread, which gives it back when its client has gone.
fn spawn(mut broker: Broker) -> (UnixStream, Serving) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let end = broker.serve(&theirs, &|domid| domid == D);
        (broker, end)
    });
    (ours, thread)
}

fn world(kind: Kind) -> (Arc<Fake>, UnixStream, Serving) {
    let xen = Fake::new(kind);
    for domid in [D, DomId(4)] {
        (0..8).for_each(|g| xen.populate(domid, Gfn(g)));
    }
    let (stream, thread) = spawn(Broker::new(xen.clone()).unwrap());
    (xen, stream, thread)
}

fn client(stream: UnixStream) -> Client {
    let ports = Ports { iommu: Some(Arc::new(Brokered::new(stream))), foreign: None };
    Client::start(ports, Config::default()).unwrap()
}

#[test]
fn a_client_lives_behind_a_broker_as_in_front_of_it() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let (xen, stream, thread) = world(kind);
        let client = client(stream);
        let guest = client.attach(D, IoServerId(1)).unwrap();
        let mapped = guest.map(&(0..9).map(Gfn).collect::<Vec<_>>());
        assert!(mapped[8].as_ref().unwrap_err().is_hole());
        let mapped: Vec<Mapped> = mapped.into_iter().flatten().collect();
        assert_eq!(xen.dma(mapped[5].bfn()).map(|(d, mfn)| (d, Some(mfn))), Some((D, xen.mfn(D, Gfn(5)))));
        xen.balloon_out(D, Gfn(5));
        let draining: Vec<_> = mapped.into_iter().filter_map(Mapped::put).collect();
        assert_eq!(client.release(client.quiesce(draining, &Gpu::default()).0).mappings, 8);
        assert_eq!(xen.frames(), 15);
        drop((guest, client));
        let (broker, end) = thread.join().unwrap();
        assert!(end.is_ok());
        assert_eq!(broker.left(), 0);
    }
}

#[test]
fn a_domain_that_the_broker_was_not_told_of_is_out_of_reach() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let (_xen, stream, _thread) = world(kind);
        let other = client(stream).attach(DomId(4), IoServerId(1)).unwrap();
        let e = other.map_one(Gfn(1)).unwrap_err();
        assert!(matches!(e, MapError::Frame { errno: Errno::EPERM, .. }), "{e}");
    }
}

struct Frame77;

impl OwnFrames for Frame77 {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        ProcessMemory.take(pages).map(|m| m.with_frames(vec![OwnFrame::Frame(Gfn(77)); pages]))
    }
}

#[test]
fn own_frames_are_mapped_only_if_the_broker_was_told_and_come_back_too() {
    let (xen, stream, thread) = world(Kind::Draft);
    let own = client(stream).own(1, &Frame77).unwrap_err();
    assert!(matches!(own, OwnError::Refused { errno: Errno::EPERM, .. }), "{own}");
    assert_eq!(xen.seen(IOMMUOP_map_page), 0);
    let mut broker = thread.join().unwrap().0;
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| broker.serve(&theirs, &|domid| domid == DomId::SELF));
        drop(client(ours).own(2, &Frame77).unwrap());
    });
    let released = broker.release_left(&Gpu::default());
    assert_eq!((released.own, released.mappings, broker.left()), (2, 0, 0));
    assert_eq!(xen.seen(IOMMUOP_unmap_page), 2);
}

#[test]
fn frames_of_a_client_that_was_killed_come_back() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let (xen, stream, thread) = world(kind);
        let kept = stream.try_clone().unwrap();
        let guest = client(stream).attach(D, IoServerId(1)).unwrap();
        guest.map(&[Gfn(1), Gfn(2)]).into_iter().for_each(std::mem::forget);
        xen.balloon_out(D, Gfn(2));
        // Killed in the middle of a message.
        (&kept).write_all(&3u32.to_ne_bytes()).unwrap();
        kept.shutdown(Shutdown::Both).unwrap();
        let (mut broker, end) = thread.join().unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!((broker.left(), xen.frames()), (2, 16));
        let gpu = Gpu::default();
        let released = broker.release_left(&gpu);
        assert_eq!((released.mappings, broker.left(), *gpu.flushes.lock()), (2, 0, 1));
        assert_eq!(xen.frames(), 15);
        // Its successor has the same broker.
        let (stream, _thread) = spawn(broker);
        assert!(client(stream).attach(D, IoServerId(2)).unwrap().map_one(Gfn(1)).is_ok());
    }
}

#[test]
fn what_panics_a_shipped_hypervisor_does_not_pass() {
    // The fake panics, too, and the broker's thread with it.
    let (xen, stream, thread) = world(Kind::Shipped);
    let hostile = Brokered::new(stream);
    let op = |subop, flags, bfn| pv_iommu_op { bfn, gfn: 1, domid: D.0, ..pv_iommu_op::new(subop, flags) };
    let mut ops = [
        op(IOMMUOP_map_foreign_page, 3, 7),
        op(IOMMUOP_unmap_foreign_page, 0, 1 << 44),
        op(IOMMUOP_lookup_foreign_page, 3, 0),
        op(IOMMUOP_unmap_page, 0, OFFSET + 100),
        op(99, 3, 0),
    ];
    hostile.iommu_op(&mut ops).unwrap();
    let errors = ops.map(|op| Errno::from_rc(i64::from(op.status)));
    let want = [Some(Errno::EPERM), Some(Errno::ENOENT), None, Some(Errno::EPERM), Some(Errno::ENODEV)];
    assert_eq!(errors, want);
    assert_eq!(xen.seen(IOMMUOP_map_foreign_page), 0);
    drop(hostile);
    let (broker, end) = thread.join().unwrap();
    assert!(end.is_ok());
    assert_eq!(broker.left(), 1);
}

#[test]
fn a_batch_that_is_too_large_ends_the_conversation() {
    let (_xen, mut stream, thread) = world(Kind::Draft);
    stream.write_all(&u32::MAX.to_ne_bytes()).unwrap();
    let (_, end) = thread.join().unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::InvalidData);
    let hostile = Brokered::new(stream);
    assert_eq!(hostile.iommu_op(&mut [pv_iommu_op::default()]), Err(Errno::EIO));
    assert_eq!(hostile.iommu_op(&mut []), Err(Errno::EIO));
}

#[test]
fn a_call_that_fails_in_the_middle_leaves_nothing_unknown() {
    let (xen, stream, thread) = world(Kind::Draft);
    let client = client(stream);
    let guest = client.attach(D, IoServerId(1)).unwrap();
    xen.fail_after(1, Errno::EFAULT);
    let mut mapped = guest.map(&[Gfn(1), Gfn(2)]);
    assert!(matches!(mapped.pop().unwrap(), Err(MapError::Call { .. })));
    let last = mapped.pop().unwrap().unwrap().put();
    assert_eq!(client.release(client.quiesce(last, &Gpu::default()).0).mappings, 1);
    drop((guest, client));
    assert_eq!(thread.join().unwrap().0.left(), 0);
    (0..8).for_each(|g| xen.balloon_out(D, Gfn(g)));
    assert_eq!(xen.frames(), 8);
}

#[test]
fn there_is_no_broker_without_iommu_op() {
    assert!(Broker::new(Fake::new(Kind::Stock)).is_err());
}

/// Orders of more than one frame would map what is in no book; other bits mean nothing yet, or something else.
#[test]
fn only_single_frames_and_flags_that_are_known_pass() {
    let (xen, stream, thread) = world(Kind::Draft);
    let hostile = Brokered::new(stream);
    let rw = IOMMUOP_readable | IOMMUOP_writeable;
    let map = |flags| pv_iommu_op {
        bfn: 7,
        gfn: 1,
        domid: D.0,
        ioserver: 1,
        ..pv_iommu_op::new(IOMMUOP_map_foreign_page, flags)
    };
    let mut ops = [map(rw | 1 << 10), map(rw | 1 << 15), map(rw | 8), map(rw | IOMMUOP_swap_mfn), map(rw)];
    hostile.iommu_op(&mut ops).unwrap();
    let errors = ops.map(|op| Errno::from_rc(i64::from(op.status)));
    assert_eq!(errors, [Some(Errno::ENOSPC), Some(Errno::ENOSPC), Some(Errno::EINVAL), None, None]);
    let mut unmap = pv_iommu_op { bfn: 7, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 1 << 11) };
    unmap.set_unmap_ioserver(1);
    let mut plain = unmap;
    plain.flags = 0;
    let mut ops = [unmap, plain, plain];
    hostile.iommu_op(&mut ops).unwrap();
    let errors = ops.map(|op| Errno::from_rc(i64::from(op.status)));
    assert_eq!(errors, [Some(Errno::ENOSPC), None, Some(Errno::ENOENT)]);
    drop(hostile);
    assert_eq!((thread.join().unwrap().0.left(), xen.frames()), (0, 16));
}

/// What clients had mapped when the broker was killed is known to the next one.
#[test]
fn frames_of_a_broker_that_was_killed_come_back() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger");
        let xen = Fake::new(kind);
        (0..8).for_each(|g| xen.populate(D, Gfn(g)));
        let (stream, thread) = spawn(Broker::with_ledger(xen.clone(), &path).unwrap());
        let kept = stream.try_clone().unwrap();
        let client = client(stream);
        let guest = client.attach(D, IoServerId(1)).unwrap();
        let mut mapped: Vec<Mapped> = guest.map(&[1, 2, 3, 4].map(Gfn)).into_iter().flatten().collect();
        // One is given back, one does not exist, one is looked at again.
        drop(client.release(client.quiesce(mapped.remove(0).put(), &Gpu::default()).0));
        assert!(guest.map_one(Gfn(100)).is_err());
        guest.doubt(mapped[0].bfn());
        assert!(guest.take_draining().unwrap().is_empty());
        mapped.into_iter().for_each(std::mem::forget);
        // Nothing more is said to the hypervisor.
        kept.shutdown(Shutdown::Both).unwrap();
        drop(thread.join().unwrap());
        (2..4).for_each(|g| xen.balloon_out(D, Gfn(g)));
        assert_eq!(xen.frames(), 8, "held by nobody who lives");
        let mut broker = Broker::with_ledger(xen.clone(), &path).unwrap();
        let released = broker.release_left(&Gpu::default());
        assert_eq!(released, Reclaimed { mappings: 3, ..Reclaimed::default() }, "{kind:?}");
        assert_eq!(xen.frames(), 6);
        assert_eq!(broker.release_left(&Gpu::default()), Reclaimed::default());
    }
}

/// Between broker and hypervisor: looks at everything that passes, by rules of its own.
struct Customs {
    xen: Arc<Fake>,
    kind: Kind,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Where something may be mapped for guests, and for the broker's own domain.
    mapped: BTreeSet<(u64, u16)>,
    own: BTreeSet<u64>,
    passed: usize,
}

impl IommuOp for Customs {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        for op in ops.iter() {
            self.inspect(op);
        }
        let rc = self.xen.iommu_op(ops);
        let mut seen = self.seen.lock();
        for op in ops.iter().filter(|op| op.status <= 0) {
            let done = op.status == 0;
            match op.subop_id {
                IOMMUOP_map_foreign_page | IOMMUOP_lookup_foreign_page if done => {
                    seen.mapped.insert((op.bfn, op.ioserver));
                }
                IOMMUOP_map_page if done => {
                    seen.own.insert(op.bfn);
                }
                IOMMUOP_unmap_foreign_page => {
                    seen.mapped.remove(&(op.bfn, op.unmap_ioserver()));
                }
                IOMMUOP_unmap_page => {
                    seen.own.remove(&op.bfn);
                }
                _ => {}
            }
        }
        rc
    }
}

impl Customs {
    fn inspect(&self, op: &pv_iommu_op) {
        let mut seen = self.seen.lock();
        seen.passed += 1;
        assert_eq!(op.flags & !7, 0, "orders and unknown flags: {op:?}");
        match op.subop_id {
            IOMMUOP_query_caps => assert_eq!(op.flags, 0),
            IOMMUOP_map_foreign_page => assert!(self.kind == Kind::Draft && op.domid == D.0, "{op:?}"),
            IOMMUOP_lookup_foreign_page => assert_eq!(op.domid, D.0),
            IOMMUOP_map_page => panic!("an own frame, which the client may not have: {op:?}"),
            IOMMUOP_unmap_foreign_page => {
                assert!(seen.mapped.contains(&(op.bfn, op.unmap_ioserver())), "{op:?}");
            }
            IOMMUOP_unmap_page => assert!(seen.own.contains(&op.bfn), "{op:?}"),
            // The broker itself asks what the hypervisor is.
            other => assert!(other == u16::MAX && seen.passed <= 2, "{op:?}"),
        }
    }
}

/// What a client sends.
#[derive(Clone, Debug)]
enum Sent {
    Ops(Vec<[u64; 4]>),
    Bytes(Vec<u8>),
    Count(u32),
}

/// Mostly what could pass, with numbers that meet each other.
fn op() -> impl Strategy<Value = [u64; 4]> {
    let subop = prop_oneof![8 => 1..7u16, 1 => any::<u16>()];
    let flags = prop_oneof![8 => 0..8u16, 1 => any::<u16>()];
    let bfn = prop_oneof![4 => 0..6u64, 4 => (100..120u64).prop_map(|m| m + OFFSET), 1 => any::<u64>()];
    let domid = prop_oneof![6 => Just(D.0), 1 => Just(DomId::SELF.0), 1 => any::<u16>()];
    let ioserver = prop_oneof![8 => 0..2u16, 1 => any::<u16>()];
    (subop, flags, bfn, 0..10u64, domid, ioserver).prop_map(|(subop, flags, bfn, gfn, domid, ioserver)| {
        let op = pv_iommu_op { bfn, gfn, domid, ioserver, ..pv_iommu_op::new(subop, flags) };
        zerocopy::transmute!(op)
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        8 => prop::collection::vec(op(), 0..12).prop_map(Sent::Ops),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Sent::Bytes),
        1 => (0..3000u32).prop_map(Sent::Count),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_client_sends_the_broker_lives_and_passes_nothing_wrong(
        kind in prop::sample::select(vec![Kind::Draft, Kind::Shipped]),
        messages in prop::collection::vec(sent(), 0..20),
        cut in prop::option::of(0..100usize),
    ) {
        let xen = Fake::new(kind);
        for domid in [D, DomId(4)] {
            (0..8).for_each(|g| xen.populate(domid, Gfn(g)));
        }
        let customs = Arc::new(Customs { xen: xen.clone(), kind, seen: Mutex::default() });
        let (stream, thread) = spawn(Broker::new(customs.clone()).unwrap());
        let mut bytes = Vec::new();
        for message in messages {
            match message {
                Sent::Ops(ops) => {
                    bytes.extend(u32::try_from(ops.len()).unwrap().to_ne_bytes());
                    bytes.extend(ops.as_bytes());
                }
                Sent::Bytes(garbage) => bytes.extend(garbage),
                Sent::Count(count) => bytes.extend(count.to_ne_bytes()),
            }
        }
        bytes.truncate(bytes.len() - cut.unwrap_or(0).min(bytes.len()));
        let reader = stream.try_clone().unwrap();
        let answers = std::thread::spawn(move || std::io::copy(&mut &reader, &mut std::io::sink()));
        // It hangs up on nonsense, and what comes after that is not read.
        let _ = (&stream).write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let (mut broker, _end) = thread.join().expect("the broker lives");
        drop(stream);
        let _ = answers.join().unwrap();
        // The books agree, and all that was mapped comes back.
        prop_assert_eq!(broker.left(), customs.seen.lock().mapped.len());
        let released = broker.release_left(&Gpu::default());
        prop_assert!(released.kept.is_empty());
        prop_assert_eq!((broker.left(), xen.frames()), (0, 16));
    }
}
