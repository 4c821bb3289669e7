//! Both models side by side, and everything that can be seen of them compared.

mod act;
mod choose;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::{Bfn, DomId, Gfn, Mfn, VcpuId};

use super::naive::{Ask, CELLS, CopyAsk, Dom, Entry, Kind, Mapping, Mutant, Naive, Page};
use crate::grant::tests::{self, FRAMES, Room};
use crate::memory::Page as Bytes;
use crate::{BusAccess, BusPort, Config, Machine, Vcpu};

/// References that steps use, two of which outlast a change of version.
const REFS: std::ops::Range<u32> = 6..12;
/// Bytes of a cell.
const CELL: usize = 4096 / CELLS;
/// Places of a mapper's.
const PLACES: u64 = 12;
const FIRST_PLACE: u64 = 1000;
/// Where the translated domain has its tables.
const TABLE_GFN: u64 = 50;
const STATUS_GFN: u64 = 51;
const TRANSLATED: Dom = 1;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Grant(Dom, u32, Entry),
    Close(Dom, u32),
    /// Of one domain, in one call, which ends after so many.
    Map(Vec<Ask>, usize),
    /// Of one domain, in one call: mapping, for the CPU, for devices.
    Unmap(Vec<(usize, bool, bool)>),
    Copy(CopyAsk),
    Transfer(Dom, u64, Dom, u32),
    Revoke(Dom, u32),
    Swap(Dom, u32, u32),
    /// To version 2 or 1, with the status words mapped or not.
    SetVersion(Dom, bool, bool),
    PinTable(Dom, u64),
    UnpinTable(usize),
    Balloon(Dom, u64),
    /// Through a mapping.
    Write(usize, usize, u8),
    KillProcess(Dom),
    Die(Dom),
    /// The call fails before the hypervisor has done anything.
    Failing(Box<Step>),
}

pub(super) struct World {
    m: Arc<Machine>,
    doms: Vec<tests::Dom>,
    rooms: Vec<Option<Room>>,
    vcpus: Vec<Option<Vcpu>>,
    ports: Vec<Option<BusPort>>,
    naive: Naive,
    /// Machine frames of the naive model's pages.
    mfns: Vec<Mfn>,
    /// Handles and bus addresses of its mappings.
    handles: Vec<(u32, u64)>,
    free: u64,
    failing: bool,
}

impl World {
    pub(super) fn new(rng: &mut Rng, mutant: Option<Mutant>) -> Self {
        // Preempted all the time or now and then.
        let m = tests::machine(Config { preempt_after: rng.usize(1..4), ..Config::default() });
        let free = m.free_frames();
        let mut doms = vec![tests::with_device(&m), tests::hvm(&m), tests::with_device(&m)];
        doms[TRANSLATED].put_table(TABLE_GFN);
        doms[TRANSLATED].map_tables();
        let mut naive = Naive::new(mutant);
        let mut mfns = Vec::new();
        for (i, d) in doms.iter().enumerate() {
            naive.doms[i].translated = i == TRANSLATED;
            for gfn in 0..FRAMES {
                naive.doms[i].p2m.insert(gfn, naive.pages.len());
                let cells = [u8::try_from(gfn).unwrap(), 0, 0, 0];
                naive.pages.push(Page { owner: i, allocated: true, table: false, cells });
                mfns.push(m.mfn(d.id, Gfn(gfn)).unwrap());
            }
        }
        let rooms = doms.iter().enumerate().map(|(i, d)| (i != TRANSLATED).then(|| Self::room(d))).collect();
        let only = |i: usize| i == TRANSLATED;
        let vcpus = (0..3).map(|i| only(i).then(|| m.vcpu(doms[i].id, VcpuId(0)).unwrap())).collect();
        let ports = (0..3).map(|i| (!only(i)).then(|| m.bus_port(doms[i].id, "device").unwrap())).collect();
        let mut world =
            Self { m, doms, rooms, vcpus, ports, naive, mfns, handles: Vec::new(), free, failing: false };
        for d in 0..3 {
            if rng.bool() {
                world.step(&Step::SetVersion(d, true, false)).unwrap();
            }
        }
        world
    }

    fn room(d: &tests::Dom) -> Room {
        Room::new(d, usize::try_from(PLACES).unwrap())
    }

    fn alive(&self, d: Dom) -> bool {
        !self.naive.doms[d].dead
    }

    fn place(&self, by: Dom, place: u64) -> u64 {
        match &self.rooms[by] {
            Some(room) => room.addr(usize::try_from(place).unwrap()),
            None => (FIRST_PLACE + place) << 12,
        }
    }

    /// Marks that the hypervisor owes an entry.
    fn marks(&self, d: Dom, reference: u32) -> u16 {
        match self.naive.in_use(d, reference) {
            (false, _) => 0,
            (true, false) => GTF_reading,
            (true, true) => GTF_reading | GTF_writing,
        }
    }

    /// What is seen at a place.
    fn seen(&self, by: Dom, place: u64) -> Option<[u8; CELLS]> {
        let mut seen = [0; CELLS];
        for (i, cell) in seen.iter_mut().enumerate() {
            let at = i * CELL;
            match (&self.rooms[by], &self.vcpus[by]) {
                (Some(room), _) => {
                    let page = room.page(usize::try_from(place).unwrap());
                    *cell = page.u8(at).load(Ordering::SeqCst);
                }
                (None, Some(v)) => {
                    v.ram_read(self.place(by, place) + at as u64, std::slice::from_mut(cell)).ok()?;
                }
                (None, None) => return None,
            }
        }
        Some(seen)
    }

    fn reached(&self, by: Dom, bus: u64) -> Option<[u8; CELLS]> {
        let port = self.ports[by].as_ref()?;
        let pin = port.pin(Bfn(bus >> 12), BusAccess::Read).ok()?;
        let seen = std::array::from_fn(|i| Bytes::of_pin(&pin).u8(i * CELL).load(Ordering::SeqCst));
        port.unpin(pin);
        Some(seen)
    }

    /// Frames of the tables of those who live, which may have been pages before.
    fn tables(&self) -> BTreeSet<Mfn> {
        let living = (0..3).filter(|d| self.alive(*d));
        let known = living.flat_map(|d| {
            let dom = &self.doms[d];
            let shared = dom.frames(GNTTABOP_setup_table, 1).unwrap();
            // A translated domain is not told where they are: it has put them there.
            let put = d == TRANSLATED && self.naive.doms[d].second_version;
            let told = dom.frames(GNTTABOP_get_status_frames, 1).unwrap_or_default();
            let status = told.into_iter().chain(put.then_some(STATUS_GFN));
            let all = shared.into_iter().chain(status);
            all.filter_map(
                move |n| if d == TRANSLATED { self.m.mfn(dom.id, Gfn(n)).ok() } else { Some(Mfn(n)) },
            )
        });
        known.collect()
    }

    /// Everything that can be seen.
    pub(super) fn compare(&self) -> Result<(), String> {
        // First, as a mapping that is not there cannot be looked at.
        let tables = self.tables();
        for (page, mfn) in self.mfns.iter().enumerate() {
            let references = self.naive.references(page);
            if references == 0 && tables.contains(mfn) {
                continue;
            }
            let info = self.m.frame(*mfn).unwrap();
            let naive = &self.naive.pages[page];
            let owner = (references > 0).then(|| self.doms[naive.owner].id);
            let got = (info.owner, info.references, info.written, info.page_table);
            same(&format!("page {page}"), got, (owner, references, self.naive.written(page), naive.table))?;
        }
        for (m, (_, bus)) in self.naive.maps.iter().zip(&self.handles).filter(|(m, _)| !m.ended) {
            self.compare_mapping(m, *bus)?;
        }
        for d in (0..3).filter(|d| self.alive(*d)) {
            self.compare_marks(d)?;
            for (gfn, page) in &self.naive.doms[d].p2m {
                let mut cells = [0; CELLS];
                for (i, cell) in cells.iter_mut().enumerate() {
                    let at = (gfn << 12) + (i * CELL) as u64;
                    self.m
                        .read_guest(self.doms[d].id, at, std::slice::from_mut(cell))
                        .map_err(|e| format!("gfn {gfn} of {d} is not there: {e}"))?;
                }
                same(&format!("gfn {gfn} of {d}"), cells, self.naive.pages[*page].cells)?;
            }
        }
        let audit = self.m.audit();
        if audit.is_empty() && self.m.violation_count() == 0 { Ok(()) } else { Err(audit.join("; ")) }
    }

    fn compare_mapping(&self, m: &Mapping, bus: u64) -> Result<(), String> {
        let cells = Some(self.naive.pages[m.page].cells);
        if let Some(place) = m.place {
            same(&format!("at place {place} of {}", m.by), self.seen(m.by, place), cells)?;
        }
        if m.device { same("a device", self.reached(m.by, bus), cells) } else { Ok(()) }
    }

    fn compare_marks(&self, d: Dom) -> Result<(), String> {
        for reference in REFS {
            let entry = self.naive.doms[d].entries.get(&reference);
            // The bits of a transfer are the same.
            if entry.is_some_and(|e| e.kind == Kind::Accept) {
                continue;
            }
            let second = self.naive.doms[d].second_version;
            let word = if second { self.doms[d].marks(reference) } else { self.doms[d].flags(reference) };
            let marks = word & (GTF_reading | GTF_writing);
            same(&format!("marks of {reference} of {d}"), marks, self.marks(d, reference))?;
        }
        Ok(())
    }

    /// Everybody dies; every frame is back.
    pub(super) fn close(mut self) -> Result<(), String> {
        for d in 0..3 {
            if self.alive(d) {
                self.step(&Step::Die(d))?;
                self.compare()?;
            }
        }
        drop((self.rooms, self.doms));
        let (free, audit) = (self.m.free_frames(), self.m.audit());
        if free == self.free && audit.is_empty() {
            Ok(())
        } else {
            Err(format!("{free} frames free of {}: {}", self.free, audit.join("; ")))
        }
    }

    fn id(&self, d: Dom) -> DomId {
        self.doms[d].id
    }
}

fn same<T: std::fmt::Debug + PartialEq>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, the naive model {wanted:?}")) }
}
