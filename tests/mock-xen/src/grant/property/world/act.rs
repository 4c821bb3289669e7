//! A step, done in both models; they must answer alike.

use std::sync::atomic::Ordering;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::*;
use xen_ioreq::seam::GrantTableOp;
use xen_ioreq::{DomId, Errno, Gfn, Mfn};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::naive::{Ask, CopyAsk, Dom, End, Entry, Kind};
use super::{CELL, STATUS_GFN, Step, TRANSLATED, World, same};
use crate::grant::tests::{self, ptr};
use crate::{Fault, FaultPlan, Site, When};

/// What the errors of both models are compared as.
fn number(done: Result<(), Errno>) -> i32 {
    done.map_or_else(|Errno(n)| n, |()| 0)
}

impl World {
    pub(in super::super) fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Grant(d, reference, entry) => {
                self.write(d, reference, &entry);
                self.naive.doms[d].entries.insert(reference, entry);
                Ok(())
            }
            Step::Close(d, reference) => {
                let was = self.naive.doms[d].entries.entry(reference).or_default();
                was.kind = Kind::Nothing;
                let now = *was;
                self.write(d, reference, &now);
                Ok(())
            }
            Step::Map(ref asks, given) => self.map(asks, given),
            Step::Unmap(ref parts) => self.unmap(parts),
            Step::Copy(copy) => self.copy(&copy),
            Step::Transfer(from, gfn, to, reference) => self.transfer(from, gfn, to, reference),
            Step::Revoke(d, r#ref) => {
                let done = self.call(d, GNTTABOP_revoke, &mut [gnttab_revoke { r#ref }], 1);
                if self.failing {
                    return same("a failing call", done, Err(Errno::EIO));
                }
                same("revoke", number(done), self.naive.revoke(d, r#ref))
            }
            Step::Swap(d, ref_a, ref_b) => {
                let mut arg = [gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() }];
                let done = self.call(d, GNTTABOP_swap_grant_ref, &mut arg, 1);
                if self.failing {
                    return same("a failing call", done, Err(Errno::EIO));
                }
                same("swap_grant_ref", arg[0].status, self.naive.swap(d, ref_a, ref_b))
            }
            Step::SetVersion(d, second, looked_at) => self.set_version(d, second, looked_at),
            Step::PinTable(d, gfn) => {
                let done = self.m.pin_table(self.id(d), Gfn(gfn)).map(drop);
                same("pin", number(done), self.naive.pin(d, gfn))
            }
            Step::UnpinTable(page) => {
                let done = self.m.unpin_table(self.id(self.naive.pages[page].owner), self.mfns[page]);
                self.naive.pages[page].table = false;
                same("unpin", number(done), 0)
            }
            Step::Balloon(d, gfn) => same("balloon", self.doms[d].balloon(gfn), self.naive.balloon(d, gfn)),
            Step::Write(i, cell, byte) => {
                self.write_through(i, cell, byte);
                Ok(())
            }
            Step::KillProcess(d) => {
                self.doms[d].restart();
                self.rooms[d] = Some(Self::room(&self.doms[d]));
                self.naive.kill(d);
                Ok(())
            }
            Step::Die(d) => {
                self.vcpus[d] = None;
                self.doms[d].unmap_tables();
                self.m.destroy_domain(self.id(d)).unwrap();
                self.naive.die(d);
                Ok(())
            }
            Step::Failing(ref step) => {
                self.failing = true;
                let fine = self.step(step);
                self.failing = false;
                fine
            }
        }
    }

    /// A call of `count` operations, of which not all may be given; with a fault if there shall be one.
    fn call<T: IntoBytes + FromBytes + Immutable>(
        &self,
        by: Dom,
        cmd: u32,
        args: &mut [T],
        count: usize,
    ) -> Result<(), Errno> {
        if self.failing {
            self.m.inject(FaultPlan::one(Site::GrantCall, When::Nth(1), Fault::Error(Errno::EIO)));
        }
        let count = u32::try_from(count).unwrap();
        let done = self.doms[by].caller.grant_table_op(cmd, args.as_mut_bytes(), count).map(drop);
        self.m.inject(FaultPlan::default());
        done
    }

    fn map(&mut self, asks: &[Ask], given: usize) -> Result<(), String> {
        let by = asks[0].by;
        let whole = |ask: &Ask| {
            let mut flags = if ask.readonly { GNTMAP_readonly } else { 0 };
            flags |= if ask.place.is_some() { GNTMAP_host_map } else { 0 };
            flags |= if ask.device { GNTMAP_device_map } else { 0 };
            let host_addr = ask.place.map_or(0, |p| self.place(by, p));
            let (r#ref, dom) = (ask.reference, self.id(ask.granter).0);
            gnttab_map_grant_ref { host_addr, flags, r#ref, dom, ..Default::default() }
        };
        let mut plain: Vec<_> = asks.iter().take(given).map(whole).collect();
        let done = if asks[0].lgfn.is_some() {
            let both = plain.iter().zip(asks);
            let mut args: Vec<_> = both
                .map(|(map, ask)| gnttab_map_revokable { map: *map, lgfn: ask.lgfn.unwrap_or_default() })
                .collect();
            let done = self.call(by, GNTTABOP_map_revokable, &mut args, asks.len());
            plain = args.iter().map(|a| a.map).collect();
            done
        } else {
            self.call(by, GNTTABOP_map_grant_ref, &mut plain, asks.len())
        };
        if self.failing {
            return same("a failing call", done, Err(Errno::EIO));
        }
        // Those before the end of what was given are done.
        same("map", done, if given < asks.len() { Err(Errno::EFAULT) } else { Ok(()) })?;
        for (map, ask) in plain.iter().zip(asks) {
            same("status of map", map.status, self.naive.map(ask))?;
            if map.status == GNTST_okay {
                self.handles.push((map.handle, map.dev_bus_addr));
            }
        }
        Ok(())
    }

    fn unmap(&mut self, parts: &[(usize, bool, bool)]) -> Result<(), String> {
        let by = self.naive.maps[parts[0].0].by;
        let one = |(i, host, device): &(usize, bool, bool)| {
            let (m, (handle, bus)) = (self.naive.maps[*i], self.handles[*i]);
            let host_addr = m.place.filter(|_| *host).map_or(0, |p| self.place(by, p));
            let dev_bus_addr = if *device && m.device { bus } else { 0 };
            gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() }
        };
        let mut args: Vec<_> = parts.iter().map(one).collect();
        let count = args.len();
        let done = self.call(by, GNTTABOP_unmap_grant_ref, &mut args, count);
        if self.failing {
            return same("a failing call", done, Err(Errno::EIO));
        }
        same("unmap", done, Ok(()))?;
        for (arg, (i, host, device)) in args.iter().zip(parts) {
            let m = self.naive.maps[*i];
            let wanted = self.naive.unmap(*i, *host && m.place.is_some(), *device && m.device);
            same("status of unmap", arg.status, wanted)?;
        }
        Ok(())
    }

    fn copy(&mut self, c: &CopyAsk) -> Result<(), String> {
        let end = |end, cell: usize| {
            let at = u16::try_from(cell * CELL).unwrap();
            match end {
                End::Own(gfn) => ptr(DomId::SELF, gfn, at),
                End::Ref(d, reference) => ptr(self.id(d), reference.into(), at),
            }
        };
        let by_ref = |end, flag| if matches!(end, End::Ref(..)) { flag } else { 0 };
        let flags = by_ref(c.source, GNTCOPY_source_gref) | by_ref(c.dest, GNTCOPY_dest_gref);
        let (source, dest) = (end(c.source, c.from), end(c.dest, c.to));
        let len = u16::try_from(c.cells * CELL).unwrap();
        let mut arg = [gnttab_copy { source, dest, len, flags, ..Default::default() }];
        let done = self.call(c.by, GNTTABOP_copy, &mut arg, 1);
        if self.failing {
            return same("a failing call", done, Err(Errno::EIO));
        }
        same("copy", arg[0].status, self.naive.copy(c))
    }

    fn transfer(&mut self, from: Dom, gfn: u64, to: Dom, reference: u32) -> Result<(), String> {
        let mfn = self.m.mfn(self.id(from), Gfn(gfn)).unwrap_or(Mfn(0));
        let wished = self.naive.doms[to].entries.get(&reference).map_or(0, |e| e.gfn);
        let new_gfn = if to == TRANSLATED { wished } else { mfn.0 };
        let mut arg =
            [gnttab_transfer { mfn: gfn, domid: self.id(to).0, r#ref: reference, ..Default::default() }];
        let done = self.call(from, GNTTABOP_transfer, &mut arg, 1);
        if self.failing {
            return same("a failing call", done, Err(Errno::EIO));
        }
        let wanted = self.naive.transfer(from, gfn, to, reference, new_gfn);
        let got = done.map_or_else(|Errno(n)| n, |()| arg[0].status.into());
        same("transfer", got, i32::from(wanted))
    }

    fn set_version(&mut self, d: Dom, second: bool, looked_at: bool) -> Result<(), String> {
        let was = self.naive.doms[d].second_version;
        if !looked_at {
            self.doms[d].unmap_tables();
        }
        let mut arg = [gnttab_set_version { version: if second { 2 } else { 1 } }];
        let done = self.call(d, GNTTABOP_set_version, &mut arg, 1);
        let wanted = self.naive.set_version(d, second, looked_at);
        let now = self.naive.doms[d].second_version;
        if now && !was && d == TRANSLATED && done.is_ok() {
            self.doms[d].put_status(STATUS_GFN);
        }
        self.doms[d].map_tables();
        same("set_version", (number(done), arg[0].version), (wanted, if now { 2 } else { 1 }))
    }

    fn flags(entry: &Entry) -> u16 {
        let bit = |is: bool, bit: u16| if is { bit } else { 0 };
        let kind = match entry.kind {
            Kind::Nothing => GTF_invalid,
            Kind::Access => GTF_permit_access,
            Kind::Accept => GTF_accept_transfer,
            Kind::HandedOn(..) => GTF_transitive,
        };
        kind | bit(entry.readonly, GTF_readonly)
            | bit(entry.revokable, GTF_revokable)
            | bit(entry.part.is_some(), GTF_sub_page)
    }

    /// A granter writes an entry, and leaves the marks as they are.
    fn write(&self, d: Dom, reference: u32, entry: &Entry) {
        let (to, flags) = (self.id(entry.to), Self::flags(entry));
        let dom: &tests::Dom = &self.doms[d];
        if !self.naive.doms[d].second_version {
            dom.grant(reference, to, entry.gfn, flags | self.marks(d, reference));
        } else if let Kind::HandedOn(root, there) = entry.kind {
            dom.grant_v2(reference, to, flags, u32::from(self.id(root).0), there.into());
        } else {
            let (first, count) = entry.part.unwrap_or((0, 0));
            let second = u32::try_from((first * CELL) | ((count * CELL) << 16)).unwrap();
            dom.grant_v2(reference, to, flags, second, entry.gfn);
        }
    }

    fn write_through(&mut self, i: usize, cell: usize, byte: u8) {
        let m = self.naive.maps[i];
        let Some(place) = m.place.filter(|_| !m.ended && !m.readonly) else { return };
        match (&self.rooms[m.by], &self.vcpus[m.by]) {
            (Some(room), _) => {
                room.page(usize::try_from(place).unwrap()).u8(cell * CELL).store(byte, Ordering::SeqCst);
            }
            (None, Some(v)) => v.ram_write(self.place(m.by, place) + (cell * CELL) as u64, &[byte]).unwrap(),
            (None, None) => return,
        }
        self.naive.pages[m.page].cells[cell] = byte;
    }
}
