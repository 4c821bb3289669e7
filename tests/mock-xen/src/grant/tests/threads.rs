//! Whole operations in many threads at once. Each domain has a guest's thread that introduces and withdraws entries by the header's
//! protocol, with atomics on the page that the hypervisor reads meanwhile, and two that map, copy and unmap whatever they can; one
//! domain dies on the way. A page that is the granter's again holds a secret, which nobody else may see or overwrite.

use std::sync::atomic::{AtomicBool, AtomicU32, fence};
use std::thread;

use fastrand::Rng;

use super::*;

const PUBLIC: u8 = 1;
const SECRET: u8 = 200;
/// Uses that must have come about.
const USES: u32 = 500;
const REFS: std::ops::Range<u32> = 8..12;
/// A frame of each mapper's own.
const STAND_IN: u64 = 15;

/// How a granter behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Granter {
    Right,
    /// It believes its page to be its own while others still use it.
    Hasty,
}

struct Scene {
    m: Arc<Machine>,
    doms: Vec<Dom>,
    granter: Granter,
    /// A secret was seen, or overwritten.
    leaked: AtomicBool,
    /// Pages that were granted and were the granter's own again.
    rounds: AtomicU32,
    /// Uses that came about.
    uses: AtomicU32,
}

impl Scene {
    fn new(granter: Granter) -> Self {
        let m = machine(Config { preempt_after: 2, ..Config::default() });
        let mut doms = vec![with_device(&m), with_device(&m), with_device(&m)];
        op(&doms[1].caller, GNTTABOP_set_version, &mut gnttab_set_version { version: 2 }).unwrap();
        doms[1].map_tables();
        let (leaked, rounds, uses) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        Self { m, doms, granter, leaked, rounds, uses }
    }

    /// Version 2 is that of the one in the middle.
    fn second(&self, d: usize) -> bool {
        d == 1
    }

    fn marks(&self, d: usize, reference: u32) -> u16 {
        let word = if self.second(d) { self.doms[d].marks(reference) } else { self.doms[d].flags(reference) };
        word & (GTF_reading | GTF_writing)
    }

    fn introduce(&self, d: usize, reference: u32, to: usize, flags: u16) {
        let (dom, to) = (&self.doms[d], self.doms[to].id);
        if self.second(d) {
            dom.grant_v2(reference, to, flags, 0, reference.into());
        } else {
            dom.grant(reference, to, reference.into(), flags);
        }
    }

    /// Withdraws an entry as the header says; whether it had not been in use.
    fn withdraw(&self, d: usize, reference: u32) -> bool {
        if !self.second(d) {
            return self.doms[d].withdraw(reference);
        }
        let at = usize::try_from(reference).unwrap() * 16;
        self.doms[d].page().u16(at).store(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.marks(d, reference) == 0
    }

    fn dying(&self, d: usize) -> bool {
        self.m.domain_info(self.doms[d].id).is_none_or(|info| info.dying)
    }

    /// Has the page back, or waits until its mappers have let go. `false`: the domain is dead.
    fn take_back(&self, d: usize, reference: u32, revokable: bool) -> bool {
        if self.granter == Granter::Hasty || self.withdraw(d, reference) {
            return true;
        }
        if !self.second(d) {
            self.doms[d].close(reference);
        }
        let mut arg = gnttab_revoke { r#ref: reference };
        match op(&self.doms[d].caller, GNTTABOP_revoke, &mut arg) {
            Ok(()) if revokable => {
                let marks = self.marks(d, reference);
                assert!(marks == 0 || self.dying(d), "it may be used again, {marks:#x}");
            }
            // In the meantime everybody may have gone, or it is not revokable.
            Ok(()) | Err(Errno::EPERM) => {
                while self.marks(d, reference) != 0 {
                    // Nobody tells a dead domain.
                    if self.dying(d) {
                        return false;
                    }
                    thread::yield_now();
                }
            }
            Err(Errno::ESRCH) => return false,
            Err(e) => panic!("revoke: {e}"),
        }
        true
    }

    /// The first two bytes of a page: one to be read, one to be written by others.
    fn put(&self, d: usize, gfn: u64, byte: u8) -> bool {
        self.m.write_guest(self.doms[d].id, gfn << 12, &[byte, byte]).is_ok()
    }

    /// A guest's thread.
    fn grants(&self, d: usize, mut rng: Rng, more: impl Fn() -> bool) {
        while more() {
            let reference = rng.u32(REFS);
            let gfn = u64::from(reference);
            let revokable = rng.bool();
            let flags = GTF_permit_access
                | if revokable { GTF_revokable } else { 0 }
                | if rng.u8(..4) == 0 { GTF_readonly } else { 0 };
            if !self.put(d, gfn, PUBLIC) {
                return;
            }
            self.introduce(d, reference, rng.usize(..3), flags);
            for _ in 0..rng.u8(..20) {
                thread::yield_now();
            }
            if !self.take_back(d, reference, revokable) || !self.put(d, gfn, SECRET) {
                return;
            }
            thread::yield_now();
            let mut kept = [SECRET; 2];
            if self.m.read_guest(self.doms[d].id, gfn << 12, &mut kept).is_err() {
                return;
            }
            self.see(kept[0] != SECRET || kept[1] != SECRET);
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn see(&self, wrong: bool) {
        if wrong {
            self.leaked.store(true, Ordering::SeqCst);
        }
    }

    /// One of those who use what they can; `false`: the domain is dead.
    fn uses(&self, d: usize, room: &Room, rng: &mut Rng) -> bool {
        let (dom, from, reference) = (&self.doms[d], &self.doms[rng.usize(..3)], rng.u32(REFS));
        let readonly = rng.bool();
        if rng.u8(..3) == 0 {
            let (grant, own) = (ptr(from.id, reference.into(), 0), ptr(DomId::SELF, STAND_IN, 8));
            let mut arg = gnttab_copy {
                source: grant,
                dest: own,
                len: 1,
                flags: GNTCOPY_source_gref,
                ..Default::default()
            };
            let done = op(&dom.caller, GNTTABOP_copy, &mut arg);
            let mut seen = [0];
            let there = self.m.read_guest(dom.id, (STAND_IN << 12) + 8, &mut seen);
            self.see(arg.status == GNTST_okay && there.is_ok() && seen[0] == SECRET);
            self.uses.fetch_add(u32::from(arg.status == GNTST_okay), Ordering::Relaxed);
            return done.is_ok();
        }
        let flags = GNTMAP_host_map
            | if readonly { GNTMAP_readonly } else { 0 }
            | if rng.u8(..4) == 0 { GNTMAP_device_map } else { 0 };
        let host_addr = room.addr(0);
        let map =
            gnttab_map_grant_ref { host_addr, flags, r#ref: reference, dom: from.id.0, ..Default::default() };
        let mut arg = gnttab_map_revokable { map, lgfn: STAND_IN };
        let done = if rng.bool() {
            op(&dom.caller, GNTTABOP_map_revokable, &mut arg)
        } else {
            op(&dom.caller, GNTTABOP_map_grant_ref, &mut arg.map)
        };
        if done.is_err() {
            return false;
        }
        if arg.map.status != GNTST_okay {
            return true;
        }
        self.uses.fetch_add(1, Ordering::Relaxed);
        for _ in 0..rng.u8(..8) {
            self.see(room.byte(0) == SECRET);
            if !readonly {
                room.page(0).u8(1).store(PUBLIC + 1, Ordering::SeqCst);
            }
            thread::yield_now();
        }
        let dev_bus_addr = if flags & GNTMAP_device_map != 0 { arg.map.dev_bus_addr } else { 0 };
        let handle = arg.map.handle;
        let mut unmap = gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() };
        match op(&dom.caller, GNTTABOP_unmap_grant_ref, &mut unmap) {
            Ok(()) => assert_eq!(unmap.status, GNTST_okay),
            Err(e) => assert_eq!(e, Errno::ESRCH),
        }
        true
    }

    /// Everybody at once, until the granters have had so many pages back or a secret is out.
    fn play(&self, seed: u64, rounds: u32, dies: bool) {
        let over = AtomicBool::new(false);
        let more = || {
            let few =
                self.rounds.load(Ordering::Relaxed) < rounds || self.uses.load(Ordering::Relaxed) < USES;
            few && !self.leaked.load(Ordering::SeqCst)
        };
        thread::scope(|s| {
            let granters: Vec<_> = (0..3)
                .map(|d| s.spawn(move || self.grants(d, Rng::with_seed(seed * 16 + d as u64), more)))
                .collect();
            for (d, n) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
                let over = &over;
                s.spawn(move || {
                    let mut rng = Rng::with_seed(seed * 16 + 4 + d as u64 * 2 + n);
                    let room = Room::new(&self.doms[d], 1);
                    while !over.load(Ordering::SeqCst) && self.uses(d, &room, &mut rng) {}
                });
            }
            if dies {
                while self.rounds.load(Ordering::Relaxed) < rounds / 2 && more() {
                    thread::yield_now();
                }
                self.m.destroy_domain(self.doms[2].id).unwrap();
            }
            for granter in granters {
                granter.join().unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
    }
}

#[test]
fn what_is_the_granters_again_is_nobody_elses_and_everything_adds_up_at_rest() {
    for seed in 0..6 {
        let scene = Scene::new(Granter::Right);
        scene.play(seed, 600, seed % 2 == 1);
        assert!(!scene.leaked.load(Ordering::SeqCst), "seed {seed}");
        scene.m.assert_clean();
        let (m, doms) = (scene.m, scene.doms);
        for d in doms {
            let id = d.id;
            drop(d);
            let _gone_already = m.destroy_domain(id);
        }
        m.assert_clean();
        assert_eq!(m.domains().len(), 1, "nobody is held but dom0");
    }
}

#[test]
fn a_granter_that_does_not_take_its_page_back_is_found_out() {
    let scene = Scene::new(Granter::Hasty);
    scene.play(0, u32::MAX, false);
    assert!(scene.leaked.load(Ordering::SeqCst));
}
