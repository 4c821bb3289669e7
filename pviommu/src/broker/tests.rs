use std::thread::JoinHandle;

use xen_ioreq::Gfn;

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
    assert_eq!((broker.left(), broker.release_left(&Gpu::default())), (2, 2));
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
        kept.shutdown(std::net::Shutdown::Both).unwrap();
        let (mut broker, end) = thread.join().unwrap();
        assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!((broker.left(), xen.frames()), (2, 16));
        let gpu = Gpu::default();
        assert_eq!((broker.release_left(&gpu), broker.left(), *gpu.flushes.lock()), (2, 0, 1));
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
    let foreign = |subop, bfn| pv_iommu_op { bfn, gfn: 1, domid: D.0, ..pv_iommu_op::new(subop, 3) };
    let mut ops = [
        foreign(IOMMUOP_map_foreign_page, 7),
        foreign(IOMMUOP_unmap_foreign_page, 1 << 44),
        foreign(IOMMUOP_lookup_foreign_page, 0),
        foreign(IOMMUOP_unmap_page, OFFSET + 100),
        foreign(99, 0),
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
    assert!(guest.map(&[Gfn(1), Gfn(2)]).iter().all(|r| matches!(r, Err(MapError::Call { .. }))));
    drop((guest, client));
    assert_eq!(thread.join().unwrap().0.left(), 0);
    (0..8).for_each(|g| xen.balloon_out(D, Gfn(g)));
    assert_eq!(xen.frames(), 8);
}

#[test]
fn there_is_no_broker_without_iommu_op() {
    assert!(Broker::new(Fake::new(Kind::Stock)).is_err());
}
