//! Where asking is mapping anew: what is asked about, what is let go instead, and that frames of pages that were mapped together
//! come back when the guest gives them back.

use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::fake::{Fake, Foreign, Gpu, Kind};
use crate::{BfnSpace, Cause, Client, Config, Draining, EVERYTHING, Guest, Mapped, Ports};

const D: DomId = DomId(3);
const FRAMES: u64 = 64;

struct World {
    xen: Arc<Fake>,
    client: Client,
    guest: Guest,
    gpu: Gpu,
}

fn world(kind: Kind) -> World {
    let xen = Fake::new(kind);
    xen.maps_together();
    let ports = Ports { iommu: Some(xen.clone()), foreign: Some(Arc::new(Foreign(xen.clone()))) };
    let config = Config { bfns: BfnSpace::new(Bfn(0x1000)..Bfn(0x9000)), ..Config::default() };
    let client = Client::start(ports, config).unwrap();
    let guest = client.attach(D, IoServerId(1)).unwrap();
    (0..FRAMES).for_each(|gfn| xen.populate(D, Gfn(gfn)));
    World { xen, client, guest, gpu: Gpu::default() }
}

impl World {
    fn map(&self, gfns: std::ops::Range<u64>) -> Vec<Mapped> {
        self.guest.map(&gfns.map(Gfn).collect::<Vec<_>>()).into_iter().map(Result::unwrap).collect()
    }

    fn release(&self, draining: impl IntoIterator<Item = Draining>) {
        let (quiesced, held) = self.client.quiesce(draining, &self.gpu);
        assert!(held.is_empty(), "{held:?}");
        assert!(self.client.release(quiesced).failed.is_empty());
    }

    fn put(&self, mapped: impl IntoIterator<Item = Mapped>) {
        let draining: Vec<_> = mapped.into_iter().filter_map(Mapped::put).collect();
        self.release(draining);
    }

    /// A notice comes and is carried out.
    fn notice(&self) {
        self.guest.notice(EVERYTHING);
        self.release(self.guest.take_draining().unwrap());
    }
}

#[test]
fn page_that_went_alone_holds_its_frame_until_the_notice_that_the_guest_gave_it_back() {
    let w = world(Kind::Stock);
    let mut mapped = w.map(0..8);
    w.put([mapped.remove(3)]);
    w.xen.balloon_out(D, Gfn(3));
    assert_eq!(w.xen.frames(), 64, "the others keep it");
    w.notice();
    assert_eq!(w.xen.frames(), 63);
    w.put(mapped);
    (0..3).chain(4..8).for_each(|gfn| w.xen.balloon_out(D, Gfn(gfn)));
    assert_eq!(w.xen.frames(), 56, "nothing else holds any");
}

#[test]
fn pages_that_went_are_not_kept_for_ever_by_those_that_stay_though_no_notice_comes() {
    let w = world(Kind::Stock);
    let mut kept = None;
    let mut rounds = 0;
    // Each round leaves one page of many behind, another than the last.
    while !w.guest.has_work() {
        let mut mapped = w.map(0..FRAMES);
        let before = kept.replace(mapped.remove(rounds % 2));
        w.put(mapped.into_iter().chain(before));
        rounds += 1;
        assert!(rounds < 200, "everything is mapped anew some time");
    }
    assert!(rounds > 50, "but not for a few ({rounds})");
    w.release(w.guest.take_draining().unwrap());
    (0..FRAMES).for_each(|gfn| w.xen.balloon_out(D, Gfn(gfn)));
    assert_eq!(w.xen.frames(), 1, "the one in use");
    w.put(kept);
}

#[test]
fn mapping_that_nobody_uses_is_asked_about_only_where_asking_is_cheap() {
    for kind in [Kind::Draft, Kind::Shipped, Kind::Stock] {
        let w = world(kind);
        let live = w.map(0..2);
        let idle: Vec<_> = w.map(2..4).into_iter().filter_map(Mapped::put).collect();
        assert!(!w.guest.renews_everything());
        w.guest.notice(EVERYTHING);
        assert_eq!(w.guest.renews_everything(), kind == Kind::Stock, "{kind:?}");
        let found: Vec<_> = w.guest.take_draining().unwrap();
        let mut causes: Vec<_> = found.iter().map(|d| (d.gfn().0, d.cause())).collect();
        causes.sort_by_key(|(gfn, _)| *gfn);
        let all = [(0, Cause::Replaced), (1, Cause::Replaced), (2, Cause::LastPut), (3, Cause::LastPut)];
        assert_eq!(causes, all[..if kind == Kind::Stock { 4 } else { 0 }], "{kind:?}");
        if kind == Kind::Stock {
            assert!(idle.iter().all(Draining::is_void), "they go by another token");
            // Asked for again before they have gone, they are mapped anew.
            let again = w.map(2..4);
            w.release(found.into_iter().chain(idle));
            let soft = w.client.soft().unwrap();
            again.iter().for_each(|m| soft.unpin(soft.pin(m.bfn()).unwrap().token));
            w.put(again);
        } else {
            w.release(idle);
        }
        w.put(live);
        w.release(w.guest.take_draining().unwrap());
        assert!(w.guest.is_empty());
    }
}

#[test]
fn what_was_announced_is_worked_off_though_more_has_come_since() {
    let w = world(Kind::Stock);
    let mapped = w.map(0..1);
    let nothing = w.guest.announced();
    assert!(w.guest.is_worked_off(nothing));
    w.guest.notice(EVERYTHING);
    let first = w.guest.announced();
    assert!(w.guest.is_worked_off(nothing) && !w.guest.is_worked_off(first));
    let soft = w.client.soft().unwrap();
    let pin = soft.pin(mapped[0].bfn()).unwrap();
    let found = w.guest.take_draining().unwrap();
    w.guest.notice(EVERYTHING);
    let second = w.guest.announced();
    assert!(w.guest.is_worked_off(first) && !w.guest.is_worked_off(second));
    // Its predecessor is in use yet, so it cannot be told whether the page is right.
    assert!(w.guest.take_draining().unwrap().is_empty());
    assert!(!w.guest.is_worked_off(second));
    soft.unpin(pin.token);
    w.release(found);
    w.release(w.guest.take_draining().unwrap());
    assert!(w.guest.is_worked_off(second));
    w.guest.doubt(mapped[0].bfn());
    assert!(!w.guest.is_worked_off(w.guest.announced()));
    w.put(mapped);
}
