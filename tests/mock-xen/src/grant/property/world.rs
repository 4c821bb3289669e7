//! Both models side by side: steps are done in both, and what can be seen of them compared.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::{GNTTABOP_revoke, GTF_revokable, gnttab_revoke};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Mfn, VcpuId};

use super::naive::{Ask, Dom, End, Entry, Kind, Mutant, Naive, Page};
use crate::grant::tests::{self, FRAMES, Room, op, ptr};
use crate::memory::peek;
use crate::{BusAccess, BusPort, Config, Machine, Vcpu};

/// References that steps use, besides one beyond the table.
const REFS: std::ops::Range<u32> = 8..12;
/// Places of a mapper's.
const PLACES: u64 = 12;
const FIRST_PLACE: u64 = 1000;

#[derive(Debug)]
pub(super) enum Step {
    Grant(Dom, u32, Entry),
    Close(Dom, u32),
    Map(Ask),
    Unmap(usize, bool, bool),
    Copy(Dom, End, End),
    Transfer(Dom, u64, Dom, u32),
    Revoke(Dom, u32),
    Balloon(Dom, u64),
    /// Through a mapping.
    Write(usize, u8),
    Die(Dom),
}

pub(super) struct World {
    m: Arc<Machine>,
    doms: Vec<tests::Dom>,
    v2: [bool; 3],
    rooms: Vec<Option<Room>>,
    vcpus: Vec<Option<Vcpu>>,
    ports: Vec<Option<BusPort>>,
    naive: Naive,
    /// Machine frames of the naive model's pages.
    mfns: Vec<Mfn>,
    /// Handles and bus addresses of its mappings.
    handles: Vec<(u32, u64)>,
    free: u64,
}

impl World {
    pub(super) fn new(rng: &mut Rng, mutant: Option<Mutant>) -> Self {
        let m = tests::machine(Config::default());
        let free = m.free_frames();
        let mut doms = vec![tests::with_device(&m), tests::hvm(&m), tests::with_device(&m)];
        doms[1].put_table(50);
        let v2 = [rng.bool(), rng.bool(), rng.bool()];
        for (d, v2) in doms.iter_mut().zip(v2) {
            if v2 {
                op(&d.caller, GNTTABOP_set_version, &mut gnttab_set_version { version: 2 }).unwrap();
            }
            d.map_tables_of(v2);
        }
        let mut naive = Naive { limit: 256, mutant, ..Naive::default() };
        let mut mfns = Vec::new();
        for (i, d) in doms.iter().enumerate() {
            naive.doms[i].translated = i == 1;
            for gfn in 0..FRAMES {
                naive.doms[i].p2m.insert(gfn, naive.pages.len());
                naive.pages.push(Page { owner: i, allocated: true, byte: u8::try_from(gfn).unwrap() });
                mfns.push(m.mfn(d.id, Gfn(gfn)).unwrap());
            }
        }
        let room = |i: usize| (i != 1).then(|| Room::new(&doms[i], usize::try_from(PLACES).unwrap()));
        let rooms = (0..3).map(room).collect();
        let vcpus = (0..3).map(|i| (i == 1).then(|| m.vcpu(doms[i].id, VcpuId(0)).unwrap())).collect();
        let ports = (0..3).map(|i| (i != 1).then(|| m.bus_port(doms[i].id, "device").unwrap())).collect();
        Self { m, doms, v2, rooms, vcpus, ports, naive, mfns, handles: Vec::new(), free }
    }

    fn alive(&self, d: Dom) -> bool {
        !self.naive.doms[d].dead
    }

    /// A step, likely or not to succeed.
    pub(super) fn choose(&self, rng: &mut Rng) -> Step {
        let living: Vec<Dom> = (0..3).filter(|d| self.alive(*d)).collect();
        let who = living[rng.usize(..living.len())];
        let any = rng.usize(..3);
        let reference = if rng.u8(..20) == 0 { 512 } else { rng.u32(REFS) };
        let gfn = rng.u64(..FRAMES + 1);
        let open: Vec<usize> =
            (0..self.handles.len()).filter(|i| self.alive(self.naive.maps[*i].by)).collect();
        let some_map = (!open.is_empty()).then(|| open[rng.usize(..open.len())]);
        match rng.u8(..100) {
            0..20 => {
                let kind = if rng.u8(..8) == 0 { Kind::Accept } else { Kind::Access };
                let part = kind == Kind::Access && self.v2[who] && rng.u8(..6) == 0;
                let (readonly, revokable) =
                    (rng.u8(..3) == 0 && kind == Kind::Access, rng.bool() && kind == Kind::Access);
                let new = Entry { kind, to: any, gfn, readonly, revokable, part, taken: false };
                Step::Grant(who, rng.u32(REFS), new)
            }
            20..45 => self.mapping(rng, who, any, reference),
            45..60 => match some_map {
                Some(i) => Step::Unmap(i, rng.u8(..4) != 0, rng.u8(..4) != 0),
                None => Step::Balloon(who, gfn),
            },
            60..70 => {
                let end = |rng: &mut Rng| match rng.bool() {
                    true => End::Own(rng.u64(..FRAMES + 1)),
                    false => End::Ref(rng.usize(..3), rng.u32(REFS)),
                };
                Step::Copy(who, end(rng), end(rng))
            }
            70..74 => Step::Transfer(who, gfn, any, reference),
            74..80 => Step::Close(who, rng.u32(REFS)),
            80..90 => Step::Revoke(who, reference),
            90..93 => Step::Balloon(who, gfn),
            93..99 => match some_map {
                Some(i) => Step::Write(i, rng.u8(100..)),
                None => Step::Close(who, rng.u32(REFS)),
            },
            _ if living.len() > 1 => Step::Die(who),
            _ => Step::Balloon(who, gfn),
        }
    }

    /// Most of the time as the entry says, else anything.
    fn mapping(&self, rng: &mut Rng, by: Dom, granter: Dom, reference: u32) -> Step {
        let granted: Vec<(Dom, u32, Entry)> = (0..3)
            .flat_map(|d| self.naive.doms[d].entries.iter().map(move |(r, e)| (d, *r, *e)))
            .filter(|(_, _, e)| e.kind == Kind::Access && self.alive(e.to))
            .collect();
        let lgfn = rng.u64(..FRAMES + 1);
        let (by, granter, reference, revokable, readonly) = if rng.u8(..4) > 0 && !granted.is_empty() {
            let (granter, reference, e) = granted[rng.usize(..granted.len())];
            (e.to, granter, reference, e.revokable, e.readonly || rng.bool())
        } else {
            (by, granter, reference, rng.bool(), rng.bool())
        };
        let lgfn = revokable.then_some(lgfn);
        let taken: Vec<u64> =
            self.naive.maps.iter().filter(|m| m.by == by && !m.ended).filter_map(|m| m.place).collect();
        let place = (0..PLACES).find(|p| !taken.contains(p)).filter(|_| rng.u8(..6) != 0);
        let device = rng.u8(..4) == 0;
        Step::Map(Ask { by, granter, reference, readonly, place, device, lgfn })
    }

    fn place(&self, by: Dom, place: u64) -> u64 {
        match &self.rooms[by] {
            Some(room) => room.addr(usize::try_from(place).unwrap()),
            None => (FIRST_PLACE + place) << 12,
        }
    }

    /// Does a step in both; they must answer alike.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        let (got, wanted) = match *step {
            Step::Grant(d, reference, entry) => {
                self.write(d, reference, &entry);
                self.naive.doms[d].entries.insert(reference, entry);
                (0, 0)
            }
            Step::Close(d, reference) => {
                let was = self.naive.doms[d].entries.entry(reference).or_default();
                was.kind = Kind::Nothing;
                let now = *was;
                self.write(d, reference, &now);
                (0, 0)
            }
            Step::Map(ask) => self.map(&ask),
            Step::Unmap(i, host, device) => self.unmap(i, host, device),
            Step::Copy(by, source, dest) => {
                let (s, d) = (self.end(source), self.end(dest));
                let by_ref = |end, flag| if matches!(end, End::Ref(..)) { flag } else { 0 };
                let flags = by_ref(source, GNTCOPY_source_gref) | by_ref(dest, GNTCOPY_dest_gref);
                let got = self.doms[by].copy(s, d, 1, flags);
                (got.into(), self.naive.copy(by, source, dest).into())
            }
            Step::Transfer(from, gfn, to, reference) => self.transfer(from, gfn, to, reference),
            Step::Revoke(d, r#ref) => {
                let rc = op(&self.doms[d].caller, GNTTABOP_revoke, &mut gnttab_revoke { r#ref });
                (rc.map_or_else(|Errno(n)| n, |()| 0), self.naive.revoke(d, r#ref))
            }
            Step::Balloon(d, gfn) => {
                let got = self.doms[d].balloon(gfn);
                (got.into(), self.naive.balloon(d, gfn).into())
            }
            Step::Write(i, byte) => {
                self.write_through(i, byte);
                (0, 0)
            }
            Step::Die(d) => {
                self.vcpus[d] = None;
                self.doms[d].unmap_tables();
                self.m.destroy_domain(self.doms[d].id).unwrap();
                self.naive.die(d);
                (0, 0)
            }
        };
        if got == wanted { Ok(()) } else { Err(format!("answers {got}, the naive model {wanted}")) }
    }

    fn map(&mut self, ask: &Ask) -> (i32, i32) {
        let mut flags = if ask.readonly { GNTMAP_readonly } else { 0 };
        flags |= if ask.place.is_some() { GNTMAP_host_map } else { 0 };
        flags |= if ask.device { GNTMAP_device_map } else { 0 };
        let at = ask.place.map_or(0, |p| self.place(ask.by, p));
        let (by, granter) = (&self.doms[ask.by], &self.doms[ask.granter]);
        let got = match ask.lgfn {
            Some(lgfn) => by.map_revokable(granter, ask.reference, flags, at, lgfn),
            None => by.map(granter, ask.reference, flags, at),
        };
        let wanted = self.naive.map(ask);
        // Where only one of them has a mapping the answers differ, and that is the end of the life.
        if let Ok(map) = &got {
            self.handles.push((map.handle, map.dev_bus_addr));
        }
        (got.err().unwrap_or(GNTST_okay).into(), wanted.into())
    }

    fn unmap(&mut self, i: usize, host: bool, device: bool) -> (i32, i32) {
        let (m, (handle, bus)) = (self.naive.maps[i], self.handles[i]);
        // A handle that was given back may be another mapping's by now.
        if m.ended {
            return (0, 0);
        }
        let at = m.place.filter(|_| host).map_or(0, |p| self.place(m.by, p));
        let bus = if device && m.device { bus } else { 0 };
        let got = self.doms[m.by].unmap(handle, at, bus);
        (got.into(), self.naive.unmap(i, host && m.place.is_some(), device && m.device).into())
    }

    fn transfer(&mut self, from: Dom, gfn: u64, to: Dom, reference: u32) -> (i32, i32) {
        let mfn = self.m.mfn(self.doms[from].id, Gfn(gfn)).unwrap_or(Mfn(0));
        let wished = self.naive.doms[to].entries.get(&reference).map_or(0, |e| e.gfn);
        let new_gfn = if to == 1 { wished } else { mfn.0 };
        let mut arg =
            gnttab_transfer { mfn: gfn, domid: self.doms[to].id.0, r#ref: reference, ..Default::default() };
        op(&self.doms[from].caller, GNTTABOP_transfer, &mut arg).unwrap();
        (arg.status.into(), self.naive.transfer(from, gfn, to, reference, new_gfn).into())
    }

    fn end(&self, end: End) -> gnttab_copy_ptr {
        match end {
            End::Own(gfn) => ptr(DomId::SELF, gfn, 0),
            End::Ref(d, reference) => ptr(self.doms[d].id, reference.into(), 0),
        }
    }

    fn flags(entry: &Entry) -> u16 {
        let bit = |is: bool, bit: u16| if is { bit } else { 0 };
        let kind = match entry.kind {
            Kind::Nothing => GTF_invalid,
            Kind::Access => GTF_permit_access,
            Kind::Accept => GTF_accept_transfer,
        };
        kind | bit(entry.readonly, GTF_readonly)
            | bit(entry.revokable, GTF_revokable)
            | bit(entry.part, GTF_sub_page)
    }

    /// Marks that the hypervisor owes an entry.
    fn marks(&self, d: Dom, reference: u32) -> u16 {
        let users = self.naive.users(d, reference);
        match (users.is_empty(), users.iter().any(|m| !m.readonly)) {
            (true, _) => 0,
            (false, false) => GTF_reading,
            (false, true) => GTF_reading | GTF_writing,
        }
    }

    /// A granter writes an entry, and leaves the marks as they are.
    fn write(&self, d: Dom, reference: u32, entry: &Entry) {
        let (to, flags) = (self.doms[entry.to].id, Self::flags(entry));
        if self.v2[d] {
            let second = if entry.part { 64 << 16 } else { 0 };
            self.doms[d].grant_v2(reference, to, flags, second, entry.gfn);
        } else {
            self.doms[d].grant(reference, to, entry.gfn, flags | self.marks(d, reference));
        }
    }

    fn write_through(&mut self, i: usize, byte: u8) {
        let m = self.naive.maps[i];
        let Some(place) = m.place.filter(|_| !m.ended && !m.readonly) else { return };
        match (&self.rooms[m.by], &self.vcpus[m.by]) {
            (Some(room), _) => {
                room.page(usize::try_from(place).unwrap()).u8(0).store(byte, Ordering::SeqCst);
            }
            (None, Some(v)) => v.ram_write(self.place(m.by, place), &[byte]).unwrap(),
            (None, None) => return,
        }
        self.naive.pages[m.page].byte = byte;
    }

    /// What is seen at a place.
    fn seen(&self, by: Dom, place: u64) -> Option<u8> {
        let mut seen = [0];
        match (&self.rooms[by], &self.vcpus[by]) {
            (Some(room), _) => return Some(room.byte(usize::try_from(place).unwrap())),
            (None, Some(v)) => v.ram_read(self.place(by, place), &mut seen).ok()?,
            (None, None) => return None,
        }
        Some(seen[0])
    }

    fn reached(&self, by: Dom, bus: u64) -> Option<u8> {
        let port = self.ports[by].as_ref()?;
        let pin = port.pin(Bfn(bus >> 12), BusAccess::Read).ok()?;
        let byte = peek(pin.ptr);
        port.unpin(pin);
        Some(byte)
    }

    /// Everything that can be seen.
    pub(super) fn compare(&self) -> Result<(), String> {
        let same = |what: &str, got: String, wanted: String| {
            if got == wanted { Ok(()) } else { Err(format!("{what}: {got}, the naive model {wanted}")) }
        };
        for (m, (_, bus)) in self.naive.maps.iter().zip(&self.handles).filter(|(m, _)| !m.ended) {
            let byte = Some(self.naive.pages[m.page].byte);
            if let Some(place) = m.place {
                same(
                    &format!("at place {place} of {}", m.by),
                    format!("{:?}", self.seen(m.by, place)),
                    format!("{byte:?}"),
                )?;
            }
            if m.device {
                same("a device", format!("{:?}", self.reached(m.by, *bus)), format!("{byte:?}"))?;
            }
        }
        for d in (0..3).filter(|d| self.alive(*d)) {
            for reference in REFS {
                let access =
                    self.naive.doms[d].entries.get(&reference).is_none_or(|e| e.kind != Kind::Accept);
                let got =
                    if self.v2[d] { self.doms[d].marks(reference) } else { self.doms[d].flags(reference) };
                let (got, wanted) = (got & (GTF_reading | GTF_writing), self.marks(d, reference));
                if access {
                    same(
                        &format!("marks of {reference} of {d}"),
                        format!("{got:#x}"),
                        format!("{wanted:#x}"),
                    )?;
                }
            }
        }
        for (page, mfn) in self.mfns.iter().enumerate() {
            let info = self.m.frame(*mfn).unwrap();
            let references = self.naive.references(page);
            let owner = (references > 0).then(|| self.doms[self.naive.pages[page].owner].id);
            same(
                &format!("page {page}"),
                format!("{:?}", (info.owner, info.references)),
                format!("{:?}", (owner, references)),
            )?;
        }
        let audit = self.m.audit();
        if audit.is_empty() && self.m.violation_count() == 0 { Ok(()) } else { Err(audit.join("; ")) }
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
}
