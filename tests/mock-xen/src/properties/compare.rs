//! The machine and the naive model side by side, all of them, after every step.

use std::collections::BTreeSet;

use xen_ioreq::{Bfn, DomId, Gfn, Mfn};

use super::agree;
use super::book::Why;
use super::mutants::Mutant;
use super::step::WINDOW;
use super::world::{UNKNOWN, World, stamp_of};
use crate::frames::Owner;
use crate::{BusAccess, iommu};

impl World {
    /// Holds the machine against the facts.
    pub(super) fn compare(&mut self) {
        self.find_scratch();
        self.follow_contents();
        agree("free frames", &self.machine.free_frames(), &self.book.free());
        agree("violations", &self.machine.violation_count(), &self.book.accused);
        self.compare_notices();
        self.compare_domains();
        self.compare_pages();
        self.compare_reach();
    }

    /// Where scratch is, is the machine's business; that it is somewhere is not.
    fn find_scratch(&mut self) {
        let unknown = self.book.holds.iter().copied().filter(|h| self.book.pages[&h.0].1 >= UNKNOWN);
        for (page, why) in unknown.collect::<Vec<_>>() {
            let Why::Scratch(by, guest) = why else { continue };
            let domain = self.machine.domain(by).unwrap();
            let mfn = iommu::scratch_of(&domain, guest).map_or(u64::MAX, |mfn| mfn.0);
            agree("frames given to scratch", &self.book.page_of(mfn), &None);
            self.book.pages.insert(page, (by, mfn, false));
        }
    }

    /// A frame comes back with what was left in it, unless its owner is no more. Xen clears what it takes for itself, and the
    /// kernel what it gives to a process.
    fn follow_contents(&mut self) {
        let before = std::mem::take(&mut self.before);
        for (page, (owner, mfn, server)) in &before {
            if self.book.pages.contains_key(page) || *mfn >= UNKNOWN {
                continue;
            }
            let alive = self.book.domains.get(owner).is_some_and(|d| !d.dying);
            // Of its rings nothing is known.
            let left = if *server {
                stamp_of(&self.machine, *mfn)
            } else {
                self.contents.get(mfn).copied().unwrap_or(0)
            };
            self.contents.insert(*mfn, if alive { left } else { 0 });
        }
        for (page, (owner, mfn, counts)) in &self.book.pages {
            let cleared = !counts || !self.book.domains[owner].guest;
            if !before.contains_key(page) && cleared {
                self.contents.insert(*mfn, 0);
            }
        }
        // Scratch that came and went within one call has cleared some frame that is free again.
        let used: BTreeSet<u64> = self.book.pages.values().map(|p| p.1).collect();
        let machine = &self.machine;
        self.contents.retain(|mfn, _| used.contains(mfn) || stamp_of(machine, *mfn) != 0);
        let now =
            self.book.pages.iter().map(|(p, (owner, mfn, _))| (*p, (*owner, *mfn, self.servers_own(*p))));
        self.before = now.collect();
    }

    fn compare_notices(&mut self) {
        for a in &self.actors {
            let Some(e) = a.emulator.as_ref().filter(|e| e.has_ring()) else { continue };
            self.got.extend(e.take_invalidates().into_iter().map(|bfn| (a.guest, e.id, None, bfn, 0)));
        }
        if self.mutant == Some(Mutant::NoticeIsOverlooked) {
            self.got.pop();
        }
        self.got.sort_unstable();
        self.book.told.sort_unstable();
        agree("notices", &self.got, &self.book.told);
        self.got.clear();
        self.book.told.clear();
    }

    fn compare_domains(&self) {
        let got: Vec<_> =
            self.machine.domains().into_iter().map(|d| (d.domid, d.dying, d.tot_pages)).collect();
        let expected: Vec<_> =
            self.book.domains.iter().map(|(d, dom)| (*d, dom.dying, self.book.charged(*d))).collect();
        agree("domains: dying, charged pages", &got, &expected);
        for guest in &self.guests {
            let domain = self.machine.domain(*guest).unwrap();
            let p2m = domain.p2m.read();
            for gfn in Self::gfns() {
                let expected = self.book.p2m.get(&(*guest, gfn)).map(|p| self.book.pages[p].1);
                let got = p2m.get(Gfn(gfn)).map(|e| e.0.0);
                agree(&format!("what is behind gfn {gfn} of {guest}"), &got, &expected);
            }
        }
    }

    /// Owner, references, M2B entries and contents of every page.
    fn compare_pages(&self) {
        self.machine.frames(|t| {
            for (page, (owner, mfn, _)) in self.book.pages.iter().filter(|p| p.1.1 < UNKNOWN) {
                let m = Mfn(*mfn);
                let mut m2b: Vec<_> = t.m2b(m).iter().map(|e| (e.by, e.bfn.0, e.ioserver)).collect();
                m2b.sort_unstable();
                let entry = |w| if let Why::Map(by, f, Some(s), _) = w { Some((by, f, s)) } else { None };
                let mut entries: Vec<_> = self.book.why(*page).filter_map(entry).collect();
                entries.sort_unstable();
                let got = (t.owner(m), t.refs(m) as usize, t.looked_up(m), m2b);
                let taken = |w: &Why| !matches!(w, Why::Swapped(..));
                let why: Vec<_> = self.book.why(*page).filter(taken).collect();
                let expected = (Some(Owner::Dom(*owner)), why.len(), why.contains(&Why::Lookup), entries);
                if got != expected {
                    agree(&format!("frame {mfn:#x}, held by {why:?}"), &got, &expected);
                }
            }
        });
        for (page, (_, mfn, _)) in self.book.pages.iter().filter(|p| p.1.1 < UNKNOWN) {
            if !self.servers_own(*page) {
                let expected = self.left_in(*page);
                agree(
                    &format!("contents of page {page}, frame {mfn:#x}"),
                    &stamp_of(&self.machine, *mfn),
                    &expected,
                );
            }
        }
    }

    /// What devices get to, where they have business.
    fn compare_reach(&self) {
        for (by, port) in &self.ports {
            for bfn in self.bfns(*by) {
                let expected = self.book.reach(*by, bfn);
                if expected.is_some_and(|r| !r.2 || r.0 >= UNKNOWN) {
                    continue;
                }
                for (access, allowed) in [
                    (BusAccess::Read, expected.is_some_and(|r| r.1.0)),
                    (BusAccess::Write, expected.is_some_and(|r| r.1.1)),
                ] {
                    let pin = port.pin(Bfn(bfn), access).ok();
                    let got = pin.as_ref().map(|p| p.ptr);
                    let page = expected.filter(|_| allowed);
                    let page = page.and_then(|r| self.machine.memory().page(Mfn(r.0)));
                    agree(
                        &format!("{access:?} by a device of {by} at {bfn:#x}"),
                        &got,
                        &page.map(|p| p.ptr()),
                    );
                    if let Some(pin) = pin {
                        port.unpin(pin);
                    }
                }
            }
        }
    }

    /// Every bus frame of which there is something to say.
    pub(super) fn bfns(&self, of: DomId) -> BTreeSet<u64> {
        let mapped = self.book.holds.iter().filter_map(|h| match h.1 {
            Why::Map(by, f, ..) | Why::Flush(by, f, ..) | Why::Swapped(by, f, _) => (by == of).then_some(f),
            Why::Lookup => Some(self.book.pages[&h.0].1 + self.book.domains[&of].offset),
            _ => None,
        });
        mapped.chain(WINDOW.0..WINDOW.0 + WINDOW.1).collect()
    }
}
