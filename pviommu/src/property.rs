//! Random lives of two guests' mappings, compared after every step with a table that is obviously right.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::fake::{Fake, Foreign, Gpu, Kind, OFFSET};
use crate::*;

const GFNS: u64 = 12;
const BFNS: u64 = 40;

#[derive(Clone, Debug)]
enum Step {
    Map(Vec<(usize, u64)>),
    Put(usize),
    Out(usize, u64),
    In(usize, u64),
    /// Out and in again: another frame behind the same gfn, and no notice.
    Swap(usize, u64),
    Notice(usize, Option<usize>),
    Take(usize),
    Release,
    Forget(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let page = || (0..2usize, 0..GFNS);
    prop_oneof![
        6 => prop::collection::vec(page(), 1..6).prop_map(Step::Map),
        6 => any::<usize>().prop_map(Step::Put),
        2 => page().prop_map(|(d, g)| Step::Out(d, g)),
        2 => page().prop_map(|(d, g)| Step::In(d, g)),
        1 => page().prop_map(|(d, g)| Step::Swap(d, g)),
        2 => (0..2usize, prop::option::of(any::<usize>())).prop_map(|(d, n)| Step::Notice(d, n)),
        2 => (0..2usize).prop_map(Step::Take),
        2 => Just(Step::Release),
        1 => any::<usize>().prop_map(Step::Forget),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    bfn: Bfn,
    mfn: u64,
    refs: usize,
}

struct World {
    kind: Kind,
    xen: Arc<Fake>,
    client: Client,
    guests: [Guest; 2],
    /// Naive: what the table must say, idle mappings included.
    table: BTreeMap<(usize, Gfn), Entry>,
    /// Naive: mappings that are neither in the table nor released, and the references that are held to them.
    out: BTreeMap<Bfn, usize>,
    held: Vec<(usize, Gfn, Mapped)>,
    draining: Vec<Draining>,
    /// Notices that wait, as the bus frames named or `None`.
    notices: [Vec<Option<Bfn>>; 2],
}

impl World {
    fn new(kind: Kind, device: Device) -> Self {
        let xen = Fake::new(kind);
        let ports = Ports { iommu: Some(xen.clone()), foreign: Some(Arc::new(Foreign(xen.clone()))) };
        let bfns = BfnSpace::new(Bfn(0x1000)..Bfn(0x1000 + BFNS));
        let client = Client::start(ports, Config { bfns, device, ..Config::default() }).unwrap();
        let guests = [1, 2].map(|d| client.attach(DomId(d), IoServerId(d)).unwrap());
        for guest in &guests {
            (0..GFNS).for_each(|g| xen.populate(guest.domid(), Gfn(g)));
        }
        Self {
            kind,
            xen,
            client,
            guests,
            table: BTreeMap::new(),
            out: BTreeMap::new(),
            held: Vec::new(),
            draining: Vec::new(),
            notices: [Vec::new(), Vec::new()],
        }
    }

    fn mfn(&self, d: usize, gfn: Gfn) -> Option<u64> {
        self.xen.mfn(self.guests[d].domid(), gfn)
    }

    fn reach(&self, d: usize, bfn: Bfn) -> u64 {
        let Some(soft) = self.client.soft() else {
            let (owner, mfn) = self.xen.dma(bfn).expect("a bus frame that is held is mapped");
            assert_eq!(owner, self.guests[d].domid());
            if let Some(seen) = self.seen(bfn) {
                assert_eq!(self.xen.owner(seen), Some(owner), "another's frame, or nobody's, is seen");
            }
            return mfn;
        };
        let pin = soft.pin(bfn).expect("a bus frame that is held is mapped");
        let mfn = read(pin);
        soft.unpin(pin.token);
        mfn
    }

    /// The frame that this process sees there, if it is to look at a device's bus and there is one.
    fn seen(&self, bfn: Bfn) -> Option<u64> {
        let view = self.client.view()?;
        let pin = view.pin(bfn).ok()?;
        let mfn = read(pin);
        view.unpin(pin.token);
        Some(mfn)
    }

    fn map(&mut self, d: usize, gfns: &[Gfn]) {
        let answers = self.guests[d].map(gfns);
        for (&gfn, answer) in gfns.iter().zip(answers) {
            let mfn = self.mfn(d, gfn);
            match (self.table.get_mut(&(d, gfn)), answer) {
                (Some(e), Ok(m)) => {
                    assert_eq!(e.bfn, m.bfn(), "a mapping that lives is used");
                    e.refs += 1;
                    self.held.push((d, gfn, m));
                }
                (None, Ok(m)) => {
                    let bfn = m.bfn();
                    assert!(self.table.values().all(|e| e.bfn != bfn) && !self.out.contains_key(&bfn));
                    let mfn = mfn.expect("a hole is not mapped");
                    assert_eq!(self.reach(d, bfn), mfn);
                    assert!(self.client.view().is_none() || self.seen(bfn) == Some(mfn));
                    self.table.insert((d, gfn), Entry { bfn, mfn, refs: 1 });
                    self.held.push((d, gfn, m));
                }
                (None, Err(e)) if e.is_hole() => assert_eq!(mfn, None),
                (None, Err(MapError::NoBusFrames { .. })) => {
                    assert_eq!(self.table.len() + self.out.len(), usize::try_from(BFNS).unwrap());
                }
                (entry, answer) => panic!("{entry:?} {answer:?}"),
            }
        }
    }

    fn put(&mut self, i: usize) {
        if self.held.is_empty() {
            return;
        }
        let (d, gfn, m) = self.held.swap_remove(i % self.held.len());
        let bfn = m.bfn();
        let last = m.put();
        match self.table.get_mut(&(d, gfn)).filter(|e| e.bfn == bfn) {
            Some(e) => {
                e.refs -= 1;
                assert_eq!(last.is_some(), e.refs == 0);
            }
            None => {
                *self.out.get_mut(&bfn).expect("a known mapping") -= 1;
                assert!(last.is_none(), "its token is elsewhere");
            }
        }
        self.draining.extend(last);
    }

    fn take(&mut self, d: usize) {
        let notices = std::mem::take(&mut self.notices[d]);
        let draining = self.guests[d].take_draining().unwrap();
        let everything = notices.contains(&None);
        let mut expected = Vec::new();
        let keys: Vec<(usize, Gfn)> = self.table.keys().filter(|k| k.0 == d).copied().collect();
        for key in keys {
            let e = self.table[&key];
            if !(everything || notices.contains(&Some(e.bfn))) {
                continue;
            }
            if everything && self.kind == Kind::Stock && e.refs == 0 {
                // Not worth asking about.
                self.table.remove(&key);
                self.out.insert(e.bfn, 0);
                continue;
            }
            let now = self.mfn(d, key.1);
            let fresh = if self.kind == Kind::Stock { now.is_some() } else { now == Some(e.mfn) };
            if fresh {
                if self.kind != Kind::Stock {
                    continue;
                }
                // A fresh page is there now, unless the one before it still waits for its flush.
                let reached = self.reach(d, e.bfn);
                assert!(Some(reached) == now || self.guests[d].has_work(), "{e:?} {now:?} {reached}");
                self.table.get_mut(&key).unwrap().mfn = reached;
                if Some(reached) != now {
                    self.notices[d].push(None);
                }
            } else {
                expected.push((key.1, e.bfn));
                self.table.remove(&key);
                self.out.insert(e.bfn, e.refs);
                // Where asking is mapping, the new frame is there, idle.
                if let Some(mfn) = now.filter(|_| self.kind == Kind::Shipped) {
                    self.table.insert(key, Entry { bfn: Bfn(mfn + OFFSET), mfn, refs: 0 });
                }
            }
        }
        // What was asked about is seen as it is now.
        for ((_, gfn), e) in self.table.iter().filter(|((of, _), _)| everything && *of == d) {
            assert!(self.client.view().is_none() || self.seen(e.bfn) == self.mfn(d, *gfn));
        }
        let mut found: Vec<(Gfn, Bfn)> =
            draining.iter().filter(|x| x.cause() == Cause::Invalidated).map(|x| (x.gfn(), x.bfn())).collect();
        // A token that was dropped may be among them a second time.
        found.retain(|f| expected.contains(f));
        found.sort();
        found.dedup();
        assert_eq!(found, expected);
        // As long as pages wait there is work to be done again.
        if self.kind == Kind::Stock && everything && self.guests[d].has_work() {
            self.notices[d].push(None);
        }
        self.draining.extend(draining);
    }

    fn release(&mut self) {
        let (quiesced, held) = self.client.quiesce(std::mem::take(&mut self.draining), &Gpu::default());
        for h in &held {
            assert_ne!(self.out[&h.bfn()], 0);
        }
        self.draining = held;
        let going: Vec<(Bfn, bool)> = quiesced.items.iter().map(|x| (x.bfn(), x.ends_use())).collect();
        let released = self.client.release(quiesced);
        assert!(released.failed.is_empty(), "{:?}", released.failed);
        for (bfn, _) in going.into_iter().filter(|(_, ends)| *ends) {
            assert!(self.out.remove(&bfn).is_none_or(|refs| refs == 0));
            let idle = self.table.iter().find(|(_, e)| e.bfn == bfn).map(|(k, e)| (*k, e.refs));
            if let Some((key, refs)) = idle {
                assert_eq!(refs, 0, "a mapping in use was released");
                self.table.remove(&key);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Map(pages) => {
                for d in 0..2 {
                    let gfns: Vec<Gfn> = pages.iter().filter(|p| p.0 == d).map(|p| Gfn(p.1)).collect();
                    self.map(d, &gfns);
                }
            }
            Step::Put(i) => self.put(i),
            Step::Out(d, g) => {
                if self.mfn(d, Gfn(g)).is_some() {
                    self.xen.balloon_out(self.guests[d].domid(), Gfn(g));
                }
            }
            Step::In(d, g) => {
                if self.mfn(d, Gfn(g)).is_none() {
                    self.xen.populate(self.guests[d].domid(), Gfn(g));
                }
            }
            Step::Swap(d, g) => {
                self.step(Step::Out(d, g));
                self.step(Step::In(d, g));
            }
            Step::Notice(d, which) => {
                let bfns: Vec<Bfn> = self.table.values().map(|e| e.bfn).collect();
                let bfn = which.and_then(|i| Some(*bfns.get(i.checked_rem(bfns.len())?)?));
                self.guests[d].notice(bfn.map_or(EVERYTHING, |b| b.0));
                self.notices[d].push(bfn);
            }
            Step::Take(d) => self.take(d),
            Step::Release => self.release(),
            Step::Forget(i) => {
                if let Some(i) = i.checked_rem(self.draining.len()) {
                    drop(self.draining.swap_remove(i));
                }
            }
        }
    }

    fn check(&self) {
        for (d, gfn, m) in &self.held {
            let reached = self.reach(*d, m.bfn());
            if let Some(e) = self.table.get(&(*d, *gfn)).filter(|e| e.bfn == m.bfn()) {
                assert_eq!(reached, e.mfn);
            }
        }
        let mappings = (self.table.len() + self.out.len()) as u64;
        assert_eq!(self.client.stats().mappings, mappings);
        assert_eq!(self.guests.iter().map(|g| g.stats().mappings).sum::<u64>(), mappings);
    }

    /// At the end everything is given back, and what remains are the guests' own frames.
    fn end(mut self) {
        self.held.clear();
        for d in [0, 1, 0, 1] {
            let guest = self.guests[d].clone();
            self.draining.extend(guest.take_draining().unwrap());
            self.draining.extend(guest.die());
            let (quiesced, held) = self.client.quiesce(std::mem::take(&mut self.draining), &Gpu::default());
            assert!(held.is_empty());
            assert!(self.client.release(quiesced).failed.is_empty());
        }
        assert!(self.guests.iter().all(Guest::is_empty));
        let populated =
            (0..2).map(|d| (0..GFNS).filter(|g| self.mfn(d, Gfn(*g)).is_some()).count()).sum::<usize>();
        assert_eq!(self.xen.frames(), populated);
    }
}

#[expect(unsafe_code, reason = "looks at what a device would see")]
fn read(pin: SoftPin) -> u64 {
    // SAFETY: a pin is 4096 bytes, valid until it is unpinned.
    unsafe { pin.ptr.cast::<u64>().as_ptr().read_volatile() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_table_agrees_with_the_naive_one_whatever_happens(
        (kind, device) in prop::sample::select(vec![
            (Kind::Draft, Device::Software),
            (Kind::Draft, Device::Physical),
            (Kind::Shipped, Device::Software),
            (Kind::Shipped, Device::Physical),
            (Kind::Stock, Device::Software),
        ]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(kind, device);
        for step in steps {
            world.step(step);
            world.check();
        }
        world.end();
    }
}
