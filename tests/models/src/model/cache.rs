//! Pages of guest memory that stay mapped: those who access them, a guest that takes a frame away, the notice of it.

use std::sync::Arc;

use xen_ioreq::Gfn;

use crate::checker::{Checker, Frame, join, spawn};
use crate::emulator::memory::cache::Cache;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, Ordering};

/// When the emulator revokes its mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// After the frame has left the guest's address space, as Xen tells it.
    AfterTheChange,
    /// Too early.
    BeforeTheChange,
    /// After it, of that one frame.
    OfTheFrame,
}

/// A machine frame: it ends when nobody has a reference any more.
struct Machine {
    references: AtomicU32,
    frame: Frame,
}

/// A reference.
struct Hold(Arc<Machine>);

impl Hold {
    fn first() -> Self {
        Self(Arc::new(Machine { references: AtomicU32::new(1), frame: Frame::new() }))
    }

    fn another(&self) -> Self {
        self.0.references.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }

    fn is(&self, machine: &Arc<Machine>) -> bool {
        Arc::ptr_eq(&self.0, machine)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // As a frame's references are counted in Xen.
        if self.0.references.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.frame.end();
        }
    }
}

/// A guest with two frames, and the emulator's cache of them.
struct Scene {
    /// What is behind each frame number; the guest's own reference.
    p2m: Mutex<[Hold; 2]>,
    cache: Cache<Hold>,
}

impl Scene {
    fn new(pages: usize) -> Arc<Self> {
        Arc::new(Self { p2m: Mutex::new([Hold::first(), Hold::first()]), cache: Cache::new(pages) })
    }

    fn machine(&self, gfn: usize) -> Arc<Machine> {
        self.p2m.lock()[gfn].0.clone()
    }

    /// One access; the frame that it reached.
    fn access(&self, gfn: usize, write: bool) -> Arc<Machine> {
        let map = || Ok::<_, ()>(self.p2m.lock()[gfn].another());
        let Ok(held) = self.cache.get(Gfn(gfn as u64), write, map) else { unreachable!("no holes here") };
        held.page().0.frame.touch();
        held.page().0.clone()
    }

    /// The guest takes the frame 0 away and puts another there, and the emulator is told.
    fn replace(&self, notice: Notice) {
        let sweep = || {
            if self.cache.revoke() {
                drop(self.cache.sweep());
            }
        };
        if notice == Notice::BeforeTheChange {
            sweep();
        }
        let fresh = Hold::first();
        drop(std::mem::replace(&mut self.p2m.lock()[0], fresh));
        match notice {
            Notice::AfterTheChange => sweep(),
            Notice::OfTheFrame => drop(self.cache.forget(Gfn(0))),
            Notice::BeforeTheChange => {}
        }
    }
}

/// A frame is replaced while `readers` access it; `cached`: it has been mapped before. Nobody uses it after its end; when all
/// is over it has ended, so that nothing idle has kept it; and who begins after the notice reaches the new one.
pub fn frame_is_replaced_beside_readers(
    checker: Checker,
    readers: usize,
    cached: bool,
    notice: Notice,
) -> usize {
    checker.run(move || {
        let scene = Scene::new(1);
        let old = scene.machine(0);
        if cached {
            scene.access(0, false);
        }
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let scene = scene.clone();
                spawn(move || drop(scene.access(0, false)))
            })
            .collect();
        scene.replace(notice);
        let now = scene.machine(0);
        assert!(
            Arc::ptr_eq(&scene.access(0, false), &now),
            "an access after the notice reaches the old frame"
        );
        threads.into_iter().for_each(join);
        assert!(old.frame.has_ended(), "a frame that was taken away is kept by nobody's mapping");
        // One reference is the guest's; the cache has one too, unless the old page was still in the way.
        assert!(now.references.load(Ordering::Relaxed) <= 2, "there are two mappings");
        if scene.cache.revoke() {
            drop(scene.cache.sweep());
        }
        assert_eq!(now.references.load(Ordering::Relaxed), 1, "a mapping is lost");
        assert!(scene.p2m.lock()[0].is(&now));
        assert!(!now.frame.has_ended());
    })
}

/// Two threads want two pages, and there is room for one: each reaches its own, none is lost, none is unmapped in use.
pub fn two_pages_in_one_place(checker: Checker, write: bool) -> usize {
    checker.run(move || {
        let scene = Scene::new(1);
        let [first, second] = [scene.machine(0), scene.machine(1)];
        let other = {
            let (scene, second) = (scene.clone(), second.clone());
            spawn(move || assert!(Arc::ptr_eq(&scene.access(1, false), &second)))
        };
        assert!(Arc::ptr_eq(&scene.access(0, false), &first));
        // For writing it must be mapped anew.
        assert!(Arc::ptr_eq(&scene.access(0, write), &first));
        join(other);
        let kept: u32 = [&first, &second].map(|m| m.references.load(Ordering::Relaxed) - 1).iter().sum();
        assert!(kept <= 1, "more pages are mapped than there is room for");
        if scene.cache.revoke() {
            drop(scene.cache.sweep());
        }
        for machine in [first, second] {
            assert_eq!(machine.references.load(Ordering::Relaxed), 1, "a mapping is lost");
            assert!(!machine.frame.has_ended());
        }
    })
}
