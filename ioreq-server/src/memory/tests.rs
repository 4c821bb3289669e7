//! The cache against a naive book of which frame an access may reach, and against threads that take frames away.
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]
#![expect(unsafe_code, reason = "a hypervisor of plain memory, which hands out its pages")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;
use xen_ioreq::PAGE_SIZE;
use xen_ioreq::seam::{ForeignPages, Mapping, MappingOwner};

use super::*;
use crate::testing::Pages;

/// What a frame is filled with once nobody has it any more.
const POISON: u64 = 0xdead_dead_dead_dead;

/// A hypervisor with one guest: frames, who holds them, and which one a guest frame number means.
struct World {
    pages: Pages,
    p2m: Mutex<Vec<Option<usize>>>,
    frames: Mutex<Vec<Frame>>,
    maps: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
struct Frame {
    /// Mappings of it.
    holds: usize,
    /// The guest has it.
    owned: bool,
}

struct Hold(Arc<World>, usize);

// SAFETY: the pages live as long as the world, which is held until the last page is released.
unsafe impl MappingOwner for Hold {
    fn release(&self, _: usize, count: usize) {
        assert_eq!(count, 1);
        self.0.frames.lock()[self.1].holds -= 1;
        self.0.settle(self.1);
    }
}

impl World {
    /// `gfns` guest frames, each with the frame of the same number behind it; `frames` in all.
    fn new(gfns: usize, frames: usize) -> Arc<Self> {
        let all = (0..frames).map(|i| Frame { holds: 0, owned: i < gfns }).collect();
        Arc::new(Self {
            pages: Pages::new(frames),
            p2m: Mutex::new((0..gfns).map(Some).collect()),
            frames: Mutex::new(all),
            maps: AtomicUsize::new(0),
        })
    }

    fn memory(self: &Arc<Self>, pages: usize) -> GuestMemory {
        let memory = GuestMemory::new(Arc::new(Xen(self.clone())), DomId(7));
        if pages == 0 { memory } else { memory.cached(pages) }
    }

    /// Poisons a frame that nobody has.
    fn settle(&self, frame: usize) {
        let frames = self.frames.lock();
        if frames[frame].holds == 0 && !frames[frame].owned {
            self.pages.write(frame * PAGE_SIZE, &POISON.to_le_bytes());
        }
    }

    /// Takes the frame from behind `gfn`; Xen has said nothing yet.
    fn balloon_out(&self, gfn: usize) -> Option<usize> {
        let frame = self.p2m.lock()[gfn].take()?;
        self.frames.lock()[frame].owned = false;
        self.settle(frame);
        Some(frame)
    }

    /// Puts a frame that nobody has behind `gfn`, also where there is one; none: `false`.
    fn populate(&self, gfn: usize, content: u64) -> bool {
        let mut p2m = self.p2m.lock();
        let mut frames = self.frames.lock();
        let Some(fresh) = frames.iter().position(|f| f.holds == 0 && !f.owned) else { return false };
        frames[fresh].owned = true;
        drop(frames);
        self.pages.write(fresh * PAGE_SIZE, &content.to_le_bytes());
        // Whatever was there stays the guest's, out of its reach.
        p2m[gfn] = Some(fresh);
        true
    }

    fn held(&self) -> usize {
        self.frames.lock().iter().map(|f| f.holds).sum()
    }

    fn maps(&self) -> usize {
        self.maps.load(Ordering::SeqCst)
    }

    fn content(&self, frame: usize) -> Vec<u8> {
        self.pages.read::<PAGE_SIZE>(frame * PAGE_SIZE).to_vec()
    }

    /// Nobody has it any more, so that it was poisoned.
    fn is_free(&self, frame: usize) -> bool {
        let frame = self.frames.lock()[frame];
        frame.holds == 0 && !frame.owned
    }
}

struct Xen(Arc<World>);

impl ForeignMap for Xen {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        assert_eq!((domid, gfns.len()), (DomId(7), 1));
        self.0.maps.fetch_add(1, Ordering::SeqCst);
        // As in Xen, the reference is taken while the table is locked.
        let p2m = self.0.p2m.lock();
        let frame = usize::try_from(gfns[0].0).ok().and_then(|gfn| *p2m.get(gfn)?);
        if let Some(frame) = frame {
            self.0.frames.lock()[frame].holds += 1;
            let base = self.0.pages.page(frame);
            let mapping = Mapping::new(base, 1, Arc::new(Hold(self.0.clone(), frame)));
            Ok(ForeignPages { mapping, errors: vec![None] })
        } else {
            Ok(ForeignPages { mapping: Pages::new(1).mapping(), errors: vec![Some(Errno::ENOENT)] })
        }
    }
}

#[test]
fn a_page_is_mapped_once_until_a_notice_and_anew_after_it() {
    let world = World::new(8, 8);
    let memory = world.memory(8);
    let buffer = memory.buffer(0x1ff8, 16).unwrap();
    for _ in 0..10 {
        buffer.store(0, Width::Qword, 5).unwrap();
        buffer.read(0, &mut [0; 16]).unwrap();
    }
    assert_eq!((world.maps(), world.held()), (2, 2));
    memory.invalidate();
    assert_eq!((world.maps(), world.held()), (2, 0));
    assert_eq!(buffer.load(0, Width::Qword), Ok(5));
    assert_eq!((world.maps(), world.held()), (3, 1));
    assert_eq!(memory.cache_stats(), CacheStats { hits: 28, maps: 3, evictions: 0 });
}

#[test]
fn a_page_that_is_cached_for_reading_is_mapped_anew_for_writing_and_replaced() {
    let world = World::new(2, 2);
    let memory = world.memory(4);
    memory.read(0, &mut [0; 8]).unwrap();
    memory.write(0, &[1; 8]).unwrap();
    memory.read(0, &mut [0; 8]).unwrap();
    assert_eq!((world.maps(), world.held()), (2, 1));
}

#[test]
fn a_hole_is_asked_for_each_time_since_nobody_says_when_it_is_filled() {
    let world = World::new(4, 5);
    let memory = world.memory(4);
    world.balloon_out(2);
    let hole = MemoryError::Hole { domid: DomId(7), gfn: Gfn(2), errno: Errno::ENOENT };
    let mut buf = [0xaa; 4096];
    assert_eq!(memory.read(0x1800, &mut buf), Err(hole));
    assert!(buf[..0x800].iter().all(|b| *b == 0) && buf[0x800..].iter().all(|b| *b == 0xaa));
    assert_eq!(memory.write(0x2000, &[1]), Err(hole));
    assert!(world.populate(2, 9));
    assert_eq!(memory.session().read_item(0x2000, Width::Qword), Ok(9));
}

#[test]
fn a_notice_takes_the_page_of_a_running_access_when_that_ends_and_not_before() {
    let world = World::new(4, 4);
    let memory = world.memory(4);
    let mut session = memory.session();
    session.write_item(0x1000, Width::Dword, 1).unwrap();
    memory.read(0x2000, &mut [0; 1]).unwrap();
    let frame = world.balloon_out(1).unwrap();
    memory.invalidate();
    // Only what the session is using.
    assert_eq!(world.held(), 1);
    assert_ne!(world.pages.u64(frame * PAGE_SIZE), POISON);
    // Its next access finds what is there now: nothing.
    assert!(matches!(session.read_item(0x1000, Width::Dword), Err(MemoryError::Hole { .. })));
    assert_eq!(world.held(), 0);
    assert_eq!(world.pages.u64(frame * PAGE_SIZE), POISON);
}

#[test]
fn a_notice_of_one_frame_leaves_the_others() {
    let world = World::new(4, 4);
    let memory = world.memory(4);
    for gfn in 0..4 {
        memory.read(gfn << 12, &mut [0; 1]).unwrap();
    }
    memory.invalidate_frame(Gfn(2));
    memory.invalidate_frame(Gfn(77));
    assert_eq!(world.held(), 3);
    memory.read(0x1000, &mut [0; 1]).unwrap();
    assert_eq!(world.maps(), 4);
    memory.read(0x2000, &mut [0; 1]).unwrap();
    assert_eq!(world.maps(), 5);
    let mut session = memory.session();
    session.read_item(0x3000, Width::Byte).unwrap();
    memory.invalidate_frame(Gfn(3));
    session.read_item(0x3000, Width::Byte).unwrap();
    assert_eq!(world.maps(), 6);
}

#[test]
fn there_are_never_more_pages_than_the_cache_may_keep_and_the_one_in_use() {
    for pages in [1, 2, 3, 4, 7, 8, 33] {
        let world = World::new(64, 64);
        let memory = world.memory(pages);
        assert!((1..=pages).contains(&memory.cache_pages()));
        for round in 0..3u64 {
            for gfn in 0..64u64 {
                memory.write(gfn << 12, &[round as u8]).unwrap();
                assert!(world.held() <= memory.cache_pages());
            }
        }
        assert_eq!(world.held(), memory.cache_pages());
        assert_eq!(memory.cache_stats().evictions as usize, world.maps() - memory.cache_pages());
    }
}

#[test]
fn what_is_used_often_stays_while_others_come_and_go() {
    let world = World::new(64, 64);
    let memory = world.memory(4);
    for gfn in 1..64u64 {
        memory.read(gfn << 12, &mut [0; 1]).unwrap();
        memory.read(0, &mut [0; 1]).unwrap();
    }
    assert_eq!(world.maps(), 64);
}

#[test]
fn a_set_whose_pages_are_all_in_use_serves_others_without_keeping_them() {
    let world = World::new(8, 8);
    let memory = world.memory(2);
    let mut sessions: Vec<_> = (0..2).map(|_| memory.session()).collect();
    for (gfn, session) in (0u64..).zip(&mut sessions) {
        session.read_item(gfn << 12, Width::Byte).unwrap();
    }
    let mut third = memory.session();
    third.read_item(0x5000, Width::Byte).unwrap();
    third.read_item(0x5001, Width::Byte).unwrap();
    assert_eq!((world.maps(), world.held()), (3, 3));
    memory.invalidate();
    third.read_item(0x5002, Width::Byte).unwrap();
    assert_eq!(world.maps(), 4);
    drop(third);
    drop(sessions);
    memory.invalidate();
    assert_eq!(world.held(), 0);
}

#[test]
fn an_access_outside_of_its_buffer_is_refused_and_one_that_wraps_too() {
    let world = World::new(2, 2);
    let memory = world.memory(0);
    let buffer = memory.buffer(0x1000, 16).unwrap();
    assert!(buffer.read(8, &mut [0; 8]).is_ok() && buffer.read(16, &mut []).is_ok());
    for (offset, len) in [(9, 8), (16, 1), (17, 0), (u64::MAX, 1)] {
        let e = buffer.read(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(e, MemoryError::Outside { domid: DomId(7), offset, len, size: 16 });
    }
    assert!(buffer.store(9, Width::Qword, 1).is_err());
    assert!(memory.buffer(u64::MAX, 2).is_err());
    assert!(memory.buffer(u64::MAX, 1).is_ok() && memory.buffer(u64::MAX, 0).unwrap().is_empty());
    assert!(matches!(memory.read(u64::MAX, &mut [0; 2]), Err(MemoryError::Wraps { .. })));
}

#[test]
fn a_cache_that_has_nothing_does_nothing_at_a_notice() {
    let world = World::new(4, 4);
    let memory = world.memory(4);
    memory.read(0, &mut [0; 1]).unwrap();
    let cache = memory.0.cache.as_ref().unwrap();
    assert!(cache.revoke());
    assert!((0..1000).all(|_| !cache.revoke()));
    assert_eq!(cache.sweep().len(), 1);
}

#[test]
fn what_is_revoked_is_found_by_nobody_although_it_has_not_been_swept_yet() {
    let world = World::new(4, 4);
    let memory = world.memory(4);
    memory.read(0x1000, &mut [0; 1]).unwrap();
    memory.read(0x2000, &mut [0; 1]).unwrap();
    let cache = memory.0.cache.as_ref().unwrap();
    assert!(cache.revoke());
    memory.read(0x1000, &mut [0; 1]).unwrap();
    assert_eq!((world.maps(), world.held()), (3, 2));
    // Only the page that nobody asked for again is left to be swept.
    assert_eq!(cache.sweep().len(), 1);
    memory.read(0x1000, &mut [0; 1]).unwrap();
    assert_eq!((world.maps(), world.held()), (3, 1));
}

#[derive(Clone, Debug)]
enum Op {
    Read { addr: u64, len: usize },
    Write { addr: u64, len: usize, byte: u8 },
    Item { addr: u64, width: Width, value: Option<u64> },
    Balloon { gfn: usize },
    Populate { gfn: usize },
    Notice,
    NoticeOf { gfn: usize },
}

const GFNS: usize = 6;

fn op() -> impl Strategy<Value = Op> {
    let addr =
        || (0u64..GFNS as u64 + 1, prop_oneof![0u64..16, 4080u64..4096]).prop_map(|(g, o)| g << 12 | o);
    let len = || prop_oneof![0usize..20, Just(5000usize)];
    let width = prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Dword), Just(Width::Qword)];
    prop_oneof![
        4 => (addr(), len()).prop_map(|(addr, len)| Op::Read { addr, len }),
        4 => (addr(), len(), any::<u8>()).prop_map(|(addr, len, byte)| Op::Write { addr, len, byte }),
        4 => (addr(), width, any::<Option<u64>>()).prop_map(|(addr, width, value)| Op::Item { addr, width, value }),
        2 => (0..GFNS).prop_map(|gfn| Op::Balloon { gfn }),
        2 => (0..GFNS).prop_map(|gfn| Op::Populate { gfn }),
        2 => Just(Op::Notice),
        1 => (0..GFNS).prop_map(|gfn| Op::NoticeOf { gfn }),
    ]
}

/// The frames that an access to each guest frame may reach: what is there, or was there at some time since the last notice.
struct Naive(Vec<BTreeSet<Option<usize>>>);

impl Naive {
    fn change(&mut self, world: &World, gfn: usize) {
        self.0[gfn].insert(world.p2m.lock()[gfn]);
    }

    fn notice(&mut self, world: &World, gfn: usize) {
        self.0[gfn] = BTreeSet::from([world.p2m.lock()[gfn]]);
    }

    /// Checks what became of `bytes` from `addr` on: a whole page's part at a time comes from one of its frames, or is the first
    /// that could not be reached.
    fn check(
        &self,
        addr: u64,
        len: usize,
        result: Result<(), MemoryError>,
        same: impl Fn(usize, std::ops::Range<usize>, std::ops::Range<usize>) -> bool,
    ) {
        let mut done = 0;
        while done < len {
            let at = addr as usize + done;
            let (gfn, offset) = (at / PAGE_SIZE, at % PAGE_SIZE);
            let now = (PAGE_SIZE - offset).min(len - done);
            let nothing = BTreeSet::from([None]);
            let may = self.0.get(gfn).unwrap_or(&nothing);
            let good = may.iter().flatten().any(|f| same(*f, offset..offset + now, done..done + now));
            if let Err(MemoryError::Hole { gfn: hole, .. }) = result
                && hole.0 as usize == gfn
            {
                assert!(may.contains(&None), "a hole at {gfn} where there was none");
                return;
            }
            assert!(good, "not what any frame of {gfn} has");
            done += now;
        }
        assert_eq!(result, Ok(()));
    }
}

fn carry_out(world: &World, memory: &GuestMemory, naive: &mut Naive, op: Op, fresh: &mut u64) {
    // As they were before the access, which may end the life of a frame.
    let frames: BTreeSet<usize> = naive.0.iter().flatten().flatten().copied().collect();
    let before: BTreeMap<usize, Vec<u8>> = frames.into_iter().map(|f| (f, world.content(f))).collect();
    let saw = |f: usize, at: std::ops::Range<usize>, got: &[u8]| before[&f][at] == *got;
    let took =
        |f: usize, at: std::ops::Range<usize>, put: &[u8]| world.is_free(f) || world.content(f)[at] == *put;
    match op {
        Op::Read { addr, len } => {
            let mut buf = vec![0; len];
            let result = memory.read(addr, &mut buf);
            naive.check(addr, len, result, |f, at, part| saw(f, at, &buf[part]));
        }
        Op::Write { addr, len, byte } => {
            let data = vec![byte; len];
            let result = memory.write(addr, &data);
            naive.check(addr, len, result, |f, at, part| took(f, at, &data[part]));
        }
        Op::Item { addr, width, value } => {
            let len = width.bytes() as usize;
            let (result, bytes) = match value {
                Some(v) => (memory.session().write_item(addr, width, v), v.to_le_bytes()),
                None => match memory.session().read_item(addr, width) {
                    Ok(v) => (Ok(()), v.to_le_bytes()),
                    Err(e) => (Err(e), [0; 8]),
                },
            };
            let write = value.is_some();
            // A read that fails gives nothing to compare with.
            let same = |f, at, part: &[u8]| {
                if write { took(f, at, part) } else { result.is_err() || saw(f, at, part) }
            };
            naive.check(addr, len, result, |f, at, part| same(f, at, &bytes[part]));
        }
        Op::Balloon { gfn } => {
            world.balloon_out(gfn);
            naive.change(world, gfn);
        }
        Op::Populate { gfn } => {
            *fresh += 0x0101_0101_0101;
            world.populate(gfn, *fresh);
            naive.change(world, gfn);
        }
        Op::Notice => {
            memory.invalidate();
            assert_eq!(world.held(), 0);
            (0..GFNS).for_each(|gfn| naive.notice(world, gfn));
        }
        Op::NoticeOf { gfn } => {
            memory.invalidate_frame(Gfn(gfn as u64));
            naive.notice(world, gfn);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_accesses_reach_a_frame_that_was_there_since_the_last_notice(
        ops in proptest::collection::vec(op(), 1..60),
        pages in 0usize..9,
    ) {
        let world = World::new(GFNS, 64);
        let memory = world.memory(pages);
        let mut naive = Naive((0..GFNS).map(|gfn| BTreeSet::from([Some(gfn)])).collect());
        let mut fresh = 0;
        for op in ops {
            carry_out(&world, &memory, &mut naive, op, &mut fresh);
            prop_assert!(world.held() <= memory.cache_pages());
            if pages == 0 {
                // Without a cache only what is there now is reached.
                (0..GFNS).for_each(|gfn| naive.notice(&world, gfn));
            }
        }
        drop(memory);
        prop_assert_eq!(world.held(), 0);
    }
}

/// Pages are taken away and replaced, each time with a notice, while threads read them. Nobody ever sees a page that has
/// gone, and who begins after a notice sees what is new.
#[test]
fn threads_that_read_while_pages_are_taken_away_see_neither_freed_nor_old_ones() {
    const PAGES: usize = 8;
    const ROUNDS: u64 = 3000;
    for capacity in [2, 4, 16] {
        let world = World::new(PAGES, 40);
        for gfn in 0..PAGES {
            world.pages.write(gfn * PAGE_SIZE, &(gfn as u64).to_le_bytes());
        }
        let memory = world.memory(capacity);
        let versions: Vec<_> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            for seed in 0..3u64 {
                let (memory, versions, stop) = (memory.clone(), &versions, &stop);
                s.spawn(move || {
                    let mut n = seed;
                    let mut reads = 0;
                    while !stop.load(Ordering::SeqCst) || reads < 100 {
                        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let gfn = (n >> 33) as usize % PAGES;
                        let oldest = versions[gfn].load(Ordering::SeqCst);
                        match memory.session().read_item((gfn as u64) << 12, Width::Qword) {
                            Ok(value) => {
                                assert_ne!(value, POISON);
                                assert_eq!(value % PAGES as u64, gfn as u64);
                                assert!(value / PAGES as u64 >= oldest, "{value} is older than {oldest}");
                                reads += 1;
                            }
                            Err(e) => assert!(matches!(e, MemoryError::Hole { .. })),
                        }
                    }
                });
            }
            for round in 1..=ROUNDS {
                let gfn = round as usize % PAGES;
                world.balloon_out(gfn).unwrap();
                if round % 3 == 0 {
                    memory.invalidate_frame(Gfn(gfn as u64))
                } else {
                    memory.invalidate()
                }
                // There are frames enough for all that may still be in use.
                assert!(world.populate(gfn, round * PAGES as u64 + gfn as u64));
                versions[gfn].store(round, Ordering::SeqCst);
            }
            stop.store(true, Ordering::SeqCst);
        });
        memory.invalidate();
        assert_eq!(world.held(), 0);
    }
}
