//! Grants: a granter withdraws or revokes an entry while others claim it, map it and copy by it. The granter's page is a
//! `Frame` that ends when the granter believes it to be its own again: a use after that, or beside it, is found.

use std::sync::Arc;

use xen_ioreq::abi::grant_table::{GTF_permit_access, GTF_reading, GTF_type_mask, GTF_writing};
use xen_ioreq::abi::revokable::GTF_revokable;
use xen_ioreq::{DomId, Mfn};

use crate::checker::{Checker, Frame, Thread, join, spawn};
use crate::grant::{Active, Ask, Entry, Purpose, Side, drained};
use crate::memory::HostMemory;
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, yield_now};

const MAPPER: DomId = DomId(1);
const MARKS: u16 = GTF_reading | GTF_writing;

/// The version of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Marks are in the entry itself.
    One,
    /// Marks are in a status word.
    Two,
}

/// What the granter does wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granter {
    /// Nothing.
    Right,
    /// It takes its page back while others still use it.
    Hasty,
}

/// A page of entries and one of status words.
struct Pages {
    memory: HostMemory,
    version: Version,
}

impl Pages {
    fn new(version: Version, flags: u16) -> Arc<Self> {
        let pages = Self { memory: HostMemory::new(2), version };
        pages.head(|word| word.store(u32::from(flags) | u32::from(MAPPER.0) << 16, Ordering::SeqCst));
        Arc::new(pages)
    }

    fn head<R>(&self, f: impl FnOnce(&crate::sync::atomic::AtomicU32) -> R) -> R {
        f(self.memory.page(Mfn(0)).expect("the first page").u32(0))
    }

    fn entry(&self) -> Entry<'_> {
        let page = |n| self.memory.page(Mfn(n)).expect("two pages");
        match self.version {
            Version::One => Entry::v1(page(0), 0),
            Version::Two => Entry::v2(page(0), 0, page(1), 0),
        }
    }

    /// By the header: whether the entry is the granter's again.
    fn withdraw(&self) -> bool {
        match self.version {
            Version::One => self.head(|word| {
                let seen = word.load(Ordering::SeqCst);
                seen & u32::from(MARKS) == 0
                    && word.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }),
            Version::Two => {
                self.head(|word| word.store(0, Ordering::SeqCst));
                self.entry().marks() == 0
            }
        }
    }

    /// Nobody new gets in.
    fn close(&self) {
        self.head(|word| word.fetch_and(!u32::from(GTF_type_mask), Ordering::SeqCst));
    }
}

fn ask(purpose: Purpose, pinned: bool) -> Ask {
    Ask { by: MAPPER, readonly: false, purpose, revokable: true, pinned }
}

/// A granter withdraws its entry by the header's protocol while a mapper claims it: the page is never both the granter's again and
/// in the mapper's use.
pub fn a_withdrawal_beside_a_claim(checker: Checker, version: Version) -> usize {
    checker.run(move || {
        let pages = Pages::new(version, GTF_permit_access);
        let frame = Arc::new(Frame::new());
        let mapper = {
            let (pages, frame) = (pages.clone(), frame.clone());
            spawn(move || {
                let got = pages.entry().claim(&ask(Purpose::Map, false)).is_ok();
                if got {
                    frame.touch();
                    pages.entry().clear(MARKS);
                }
                got
            })
        };
        let withdrawn = pages.withdraw();
        if withdrawn {
            frame.end();
        }
        let claimed = join(mapper);
        assert!(withdrawn || claimed || version == Version::Two, "one of them has its way");
        assert_eq!(pages.entry().marks(), 0, "no mark is left");
    })
}

/// As `revoke` waits for copies.
fn drain(pages: &Pages, active: &Mutex<Active>) {
    while !drained(active, Some(pages.entry())) {
        yield_now();
    }
}

/// A use as `copy` makes it; whether it was let in.
fn copy(pages: &Pages, active: &Mutex<Active>, frame: &Frame) -> bool {
    {
        let mut act = active.lock();
        if act.refuses(MAPPER, act.pins.full(Side::Host, false)) {
            return false;
        }
        if !act.pins.any() {
            if pages.entry().claim(&ask(Purpose::Copy { transitive: false }, false)).is_err() {
                return false;
            }
            *act = Active { domid: MAPPER, revokable: true, ..Active::default() };
        }
        act.begin_copy(false);
    }
    frame.touch();
    active.lock().end_copy(Some(pages.entry()), false);
    true
}

/// `copiers` copy by a revokable grant while it is revoked: when the revocation is over, nobody uses the page, nobody gets in, and
/// the entry has no mark.
pub fn a_revocation_beside_copies(checker: Checker, copiers: usize, granter: Granter) -> usize {
    checker.run(move || {
        let pages = Pages::new(Version::One, GTF_permit_access | GTF_revokable);
        let active = Arc::new(Mutex::new(Active::default()));
        let frame = Arc::new(Frame::new());
        let threads: Vec<Thread<bool>> = (0..copiers)
            .map(|_| {
                let (pages, active, frame) = (pages.clone(), active.clone(), frame.clone());
                spawn(move || copy(&pages, &active, &frame))
            })
            .collect();
        pages.close();
        active.lock().revoking = true;
        if granter == Granter::Right {
            drain(&pages, &active);
        }
        frame.end();
        for thread in threads {
            join(thread);
        }
        if granter == Granter::Right {
            assert_eq!(pages.entry().flags() & (MARKS | GTF_type_mask), 0, "it may be used again");
            assert!(!copy(&pages, &active, &frame), "nobody gets in");
        }
    })
}

/// A mapping is made, used and ended while the granter revokes: it shows the granter's page or the mapper's own, and the granter's
/// only until the revocation is over. `places` is what the mapper's address space shows.
pub fn a_revocation_beside_a_mapping(checker: Checker, granter: Granter) -> usize {
    checker.run(move || {
        let pages = Pages::new(Version::One, GTF_permit_access | GTF_revokable);
        let active = Arc::new(Mutex::new(Active::default()));
        // What the place shows: 0 nothing, 1 the granter's page, 2 the mapper's own. Locked as an address space is.
        let place = Arc::new(Mutex::new(0u8));
        let frame = Arc::new(Frame::new());
        let mapper = {
            let (pages, active, place, frame) = (pages.clone(), active.clone(), place.clone(), frame.clone());
            spawn(move || {
                {
                    let mut act = active.lock();
                    let refused = act.refuses(MAPPER, act.pins.full(Side::Host, false));
                    if refused || pages.entry().claim(&ask(Purpose::MapRevokable, false)).is_err() {
                        return;
                    }
                    *act = Active { domid: MAPPER, revokable: true, ..Active::default() };
                    act.pins.add(Side::Host, false);
                    act.maps = [Some((MAPPER, 0)), None];
                    *place.lock() = 1;
                }
                {
                    let shown = place.lock();
                    assert_ne!(*shown, 0, "never a fault");
                    if *shown == 1 {
                        frame.touch();
                    }
                }
                let mut act = active.lock();
                let was = std::mem::replace(&mut *place.lock(), 0);
                // After a revocation the granter is left alone.
                if was == 1 {
                    act.unpin(Some(pages.entry()), Side::Host, false);
                }
            })
        };
        pages.close();
        {
            let mut act = active.lock();
            act.revoking = true;
            if act.maps.iter().any(Option::is_some) && granter == Granter::Right {
                *place.lock() = 2;
                act.maps = [None; 2];
                act.pins.sub(Side::Host, false);
            }
        }
        drain(&pages, &active);
        frame.end();
        join(mapper);
        if granter == Granter::Right {
            assert_eq!((*place.lock(), pages.entry().marks()), (0, 0), "unmapped, and no mark is left");
        }
    })
}
