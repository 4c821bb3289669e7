//! Runs a line on the model: two domains, or one, whose hands on the hypervisor are raw structs.

use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, Iommu, Machine, Profile, Vcpu};
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap,
};
use xen_ioreq::abi::revokable::{
    GNTTABOP_map_revokable, GNTTABOP_revoke, gnttab_map_revokable, gnttab_revoke,
};
use xen_ioreq::seam::{GrantTableOp, Mapping, MemoryOp, OwnMemory};
use xen_ioreq::{DomId, Errno, Gfn, Mfn, PAGE_SIZE, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Row;
use crate::bench::BenchError;
use crate::case::Unmade;
use crate::shared::{entry, set_entry, status_word};
use guest::grants::sheet::{
    At, Bus, By, Call, End, FRAMES, G, L, Line, Memory, NOBODY, Parties, R, Sheet, Want, Who, mark,
};

/// Frames of each domain's RAM, from 0 on.
const RAM: u64 = 2 * FRAMES;
/// Places at which grants can be mapped, the first of them named by lines.
const PLACES: usize = 400;
const MANY: usize = 100;
/// Where a translated domain has its table, and its places.
const TABLE: u64 = 50;
const STATUS: u64 = 60;
const FIRST_PLACE: u64 = 1000;

/// A domain.
struct Dom {
    id: DomId,
    caller: Caller,
    table: Option<Mapping>,
    status: Option<Mapping>,
    translated: bool,
}

/// What a line runs on.
pub(super) struct Stage {
    machine: Arc<Machine>,
    /// The same domain twice where it is alone.
    granter: Dom,
    mapper: Dom,
    /// Address space of the mapper's, if it is a PV domain; else a vCPU of its own.
    room: Option<Mapping>,
    vcpu: Option<Vcpu>,
    maps: Vec<gnttab_map_grant_ref>,
    /// The frame that lines grant.
    frame: Mfn,
    dead: bool,
}

/// One operation: what the hypercall says.
fn op<T: IntoBytes + FromBytes + Immutable>(d: &Dom, cmd: u32, arg: &mut T) -> Result<(), Errno> {
    d.caller.grant_table_op(cmd, arg.as_mut_bytes(), 1).map(drop)
}

/// As many of one operation as there are structs, in one hypercall.
fn many<T: IntoBytes + FromBytes + Immutable>(d: &Dom, cmd: u32, all: &mut [T]) -> Result<(), Errno> {
    let count = u32::try_from(all.len()).map_err(|_| Errno::E2BIG)?;
    d.caller.grant_table_op(cmd, all.as_mut_bytes(), count).map(drop)
}

fn first_bad(mut all: impl Iterator<Item = i16>) -> i16 {
    all.find(|s| *s != GNTST_okay).unwrap_or(GNTST_okay)
}

impl Dom {
    fn new(machine: &Arc<Machine>, hvm: bool, device_assigned: bool) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let config = DomainConfig { hvm, device_assigned, ..DomainConfig::default() };
        let id = machine.create_domain(&config)?;
        machine.populate(id, Gfn(0), RAM).map_err(call("its memory"))?;
        Self::of(machine, id, hvm)
    }

    fn of(machine: &Arc<Machine>, id: DomId, hvm: bool) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let caller = machine.caller(id).map_err(call("a handle"))?;
        let mut d = Self { id, caller, table: None, status: None, translated: hvm };
        if hvm {
            d.show(0, TABLE).map_err(call("its table"))?;
        }
        d.map_tables().map_err(|Unmade(errno)| BenchError::Call { what: "its table", errno })?;
        Ok(d)
    }

    /// Has a translated domain's frame of its table at this place.
    fn show(&self, idx: u32, gpfn: u64) -> Result<(), Errno> {
        let (domid, space) = (DomId::SELF.0, XENMAPSPACE_grant_table);
        let mut put = xen_add_to_physmap { domid, space, idx: idx.into(), gpfn, ..Default::default() };
        self.caller.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).map(drop)
    }

    fn map_tables(&mut self) -> Result<(), Unmade> {
        let (done, frames) = self.setup(DomId::SELF, 1, 1);
        done?;
        self.table = Some(self.caller.map_table(&frames)?);
        if self.translated {
            // It is not told where its status words are: it puts them there, where it has any.
            let there = self.show(XENMAPIDX_grant_table_status, STATUS).is_ok();
            self.status = if there { Some(self.caller.map_table(&[STATUS])?) } else { None };
            return Ok(());
        }
        self.status = match self.status_frames(DomId::SELF, 1, 1) {
            (Ok(Want::Status(GNTST_okay)), frames) => Some(self.caller.map_table(&frames)?),
            _ => None,
        };
        Ok(())
    }

    fn setup(&self, dom: DomId, nr_frames: u32, room: usize) -> (Result<Want, Errno>, Vec<u64>) {
        let mut list = vec![0; room];
        let mut arg = gnttab_setup_table { dom: dom.0, nr_frames, ..Default::default() };
        let rc = self.caller.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), &mut list);
        (rc.map(|_| Want::Status(arg.status)), list)
    }

    fn status_frames(&self, dom: DomId, nr_frames: u32, room: usize) -> (Result<Want, Errno>, Vec<u64>) {
        let mut list = vec![0; room];
        let mut arg = gnttab_get_status_frames { dom: dom.0, nr_frames, ..Default::default() };
        let rc = self.caller.grant_table_frames(GNTTABOP_get_status_frames, arg.as_mut_bytes(), &mut list);
        (rc.map(|_| Want::Status(arg.status)), list)
    }

    fn set_version(&mut self, version: u32) -> Result<Want, Errno> {
        op(self, GNTTABOP_set_version, &mut gnttab_set_version { version })?;
        self.map_tables().map_err(|Unmade(e)| e)?;
        Ok(Want::Status(GNTST_okay))
    }

    /// Writes an entry of one or two words, the one with the flags last.
    fn write(&self, reference: u32, words: &[u64]) -> Result<(), Unmade> {
        let table = self.table.as_ref().ok_or(Errno::ENOENT)?;
        let at = usize::try_from(reference).map_err(|_| Errno::ERANGE)? * words.len();
        for (i, word) in words.iter().enumerate().rev() {
            set_entry(table, at + i, *word).ok_or(Errno::ERANGE)?;
        }
        Ok(())
    }
}

impl Stage {
    fn new(parties: Parties, profile: Profile) -> Result<Self, BenchError> {
        let iommu = if parties == Parties::Untranslated { Iommu::Absent } else { Iommu::On };
        let machine = Machine::new(Config {
            frames: 512,
            xen_frames: 8,
            profile,
            iommu,
            max_grant_frames: 2,
            max_maptrack_frames: 1,
            ..Config::default()
        })?;
        let call = |what| move |errno| BenchError::Call { what, errno };
        let (translated, device) = match parties {
            Parties::Pv | Parties::Untranslated => (false, true),
            Parties::Translated | Parties::Alone => (true, false),
        };
        let mapper = Dom::new(&machine, translated, device)?;
        let granter = match parties {
            Parties::Alone => Dom::of(&machine, mapper.id, translated)?,
            _ => Dom::new(&machine, false, false)?,
        };
        let room =
            if translated { None } else { Some(mapper.caller.reserve(PLACES).map_err(call("places"))?) };
        let vcpu = if translated {
            let vcpu = machine.vcpu(mapper.id, VcpuId(0)).map_err(call("its vCPU"))?;
            for frame in 0..FRAMES {
                let marked = vcpu.mmio_write(Gfn(frame).addr(), 1, mark(frame).into());
                marked.map_err(|_| BenchError::Call { what: "its memory", errno: Errno::EIO })?;
            }
            Some(vcpu)
        } else {
            None
        };
        let frame = machine.mfn(granter.id, Gfn(G)).map_err(call("the frame"))?;
        Ok(Self { machine, granter, mapper, room, vcpu, maps: Vec::new(), frame, dead: false })
    }

    fn who(&self, who: Who) -> DomId {
        match who {
            Who::Granter => self.granter.id,
            Who::Mapper => self.mapper.id,
            Who::Other => DomId(0),
            Who::Itself => DomId::SELF,
            Who::Nobody => NOBODY,
        }
    }

    fn place(&self, index: usize) -> u64 {
        match &self.room {
            Some(room) => (room.base().as_ptr().addr() + index * PAGE_SIZE) as u64,
            None => (FIRST_PLACE + index as u64) * PAGE_SIZE as u64,
        }
    }

    fn at(&self, at: At) -> u64 {
        match at {
            At::Zero => 0,
            At::Place(n) => self.place(n.into()),
            At::Ram(frame) => Gfn(frame).addr(),
            // Beyond what a domain can address.
            At::Bad => 1 << 60,
        }
    }

    fn told(&self, bus: Bus) -> u64 {
        match bus {
            Bus::Zero => 0,
            Bus::Told(n) => self.maps.get(n).map_or(0, |m| m.dev_bus_addr),
            Bus::Bad => 1 << 60,
        }
    }

    fn handle(&self, mapping: usize) -> u32 {
        self.maps.get(mapping).map_or(u32::MAX, |m| m.handle)
    }

    fn map(&mut self, dom: DomId, r#ref: u32, flags: u32, host_addr: u64) -> Result<Want, Errno> {
        let mut arg = gnttab_map_grant_ref { host_addr, flags, r#ref, dom: dom.0, ..Default::default() };
        op(&self.mapper, GNTTABOP_map_grant_ref, &mut arg)?;
        self.maps.push(arg);
        Ok(Want::Status(arg.status))
    }

    fn end(&self, end: End, offset: u16) -> (gnttab_copy_ptr, bool) {
        let (who, u, by_ref) = match end {
            End::Ref(who, r) => (who, u64::from(r), true),
            End::Frame(who, frame) => (who, frame, false),
        };
        (gnttab_copy_ptr { u, domid: self.who(who).0, offset, ..Default::default() }, by_ref)
    }

    fn copy_of(&self, source: (End, u16), dest: (End, u16), len: u16) -> gnttab_copy {
        let ((source, from_ref), (dest, to_ref)) = (self.end(source.0, source.1), self.end(dest.0, dest.1));
        let flags =
            if from_ref { GNTCOPY_source_gref } else { 0 } | if to_ref { GNTCOPY_dest_gref } else { 0 };
        gnttab_copy { source, dest, len, flags, ..Default::default() }
    }

    fn entry(&self, d: &Dom, r: u32, who: Who, flags: u16, frame: u64) -> Result<Want, Unmade> {
        let head = u64::from(flags) | u64::from(self.who(who).0) << 16;
        d.write(r, &[head | frame << 32])?;
        Ok(Want::Status(GNTST_okay))
    }

    /// Makes a call. An error of the state, not of the call, is `Unmade`.
    fn call(&mut self, call: &Call) -> Result<Result<Want, Errno>, Unmade> {
        let status = |rc: Result<(), Errno>, status: i16| rc.map(|()| Want::Status(status));
        Ok(match *call {
            Call::Grant(r, who, flags, frame) => Ok(self.entry(&self.granter, r, who, flags, frame)?),
            Call::Back(r, who, flags, frame) => Ok(self.entry(&self.mapper, r, who, flags, frame)?),
            Call::GrantV2(r, who, flags, second, third) => {
                let head = u64::from(flags) | u64::from(self.who(who).0) << 16 | u64::from(second) << 32;
                self.granter.write(r, &[head, third])?;
                Ok(Want::Status(GNTST_okay))
            }
            Call::HandOn(r, who, from, inner) => {
                let head = u64::from(GTF_transitive) | u64::from(self.who(who).0) << 16;
                self.granter.write(r, &[head | u64::from(self.who(from).0) << 32, inner.into()])?;
                Ok(Want::Status(GNTST_okay))
            }
            Call::Close(r) => {
                let table = self.granter.table.as_ref().ok_or(Errno::ENOENT)?;
                let at = usize::try_from(r).map_err(|_| Errno::ERANGE)?;
                let word = entry(table, at).ok_or(Errno::ERANGE)?;
                set_entry(table, at, word & !u64::from(GTF_type_mask)).ok_or(Errno::ERANGE)?;
                Ok(Want::Status(GNTST_okay))
            }
            Call::Pin(frame) => {
                let pinned = self.machine.pin_table(self.granter.id, Gfn(frame));
                status(pinned.map(drop), GNTST_okay)
            }
            Call::PinOwn(frame) => {
                let pinned = self.machine.pin_table(self.mapper.id, Gfn(frame));
                status(pinned.map(drop), GNTST_okay)
            }
            Call::Unpin(frame) => {
                let mfn = self.machine.mfn(self.granter.id, Gfn(frame))?;
                status(self.machine.unpin_table(self.granter.id, mfn), GNTST_okay)
            }
            Call::Die => {
                self.granter.table = None;
                self.granter.status = None;
                self.dead = true;
                self.machine.destroy_domain(self.granter.id)?;
                Ok(Want::Status(GNTST_okay))
            }
            Call::Map(who, r, flags, at) => self.map(self.who(who), r, flags, self.at(at)),
            Call::MapMany(n, r, flags) => {
                let (done, dom) = (self.maps.len(), self.granter.id.0);
                let one = |i| gnttab_map_grant_ref {
                    host_addr: self.place(MANY + done + i),
                    flags,
                    r#ref: r,
                    dom,
                    ..Default::default()
                };
                let mut all: Vec<_> = (0..usize::from(n)).map(one).collect();
                let rc = many(&self.mapper, GNTTABOP_map_grant_ref, &mut all);
                let last = all.last().map_or(GNTST_okay, |m| m.status);
                self.maps.extend(all);
                status(rc, last)
            }
            Call::MapRevokable(r#ref, flags, at, lgfn) => {
                let (host_addr, dom) = (self.at(at), self.granter.id.0);
                let map = gnttab_map_grant_ref { host_addr, flags, r#ref, dom, ..Default::default() };
                let mut arg = gnttab_map_revokable { map, lgfn };
                let rc = op(&self.mapper, GNTTABOP_map_revokable, &mut arg);
                self.maps.push(arg.map);
                status(rc, arg.map.status)
            }
            Call::Unmap(n, at, bus) => {
                let (host_addr, dev_bus_addr, handle) = (self.at(at), self.told(bus), self.handle(n));
                let mut arg =
                    gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() };
                status(op(&self.mapper, GNTTABOP_unmap_grant_ref, &mut arg), arg.status)
            }
            Call::UnmapAll => {
                let one = |m: &gnttab_map_grant_ref| gnttab_unmap_grant_ref {
                    host_addr: m.host_addr,
                    handle: m.handle,
                    ..Default::default()
                };
                let mut all: Vec<_> = self.maps.iter().map(one).collect();
                let rc = many(&self.mapper, GNTTABOP_unmap_grant_ref, &mut all);
                status(rc, first_bad(all.iter().map(|u| u.status)))
            }
            Call::UnmapNone => {
                let mut arg = gnttab_unmap_grant_ref { handle: u32::MAX, ..Default::default() };
                let rc = op(&self.mapper, GNTTABOP_unmap_grant_ref, &mut arg);
                status(rc, arg.status)
            }
            Call::Replace(n, at, new) => {
                let (host_addr, new_addr, handle) = (self.at(at), self.at(new), self.handle(n));
                let mut arg = gnttab_unmap_and_replace { host_addr, new_addr, handle, ..Default::default() };
                let rc = op(&self.mapper, GNTTABOP_unmap_and_replace, &mut arg);
                status(rc, arg.status)
            }
            Call::ReplaceNone => {
                let mut arg = gnttab_unmap_and_replace { handle: u32::MAX, ..Default::default() };
                let rc = op(&self.mapper, GNTTABOP_unmap_and_replace, &mut arg);
                status(rc, arg.status)
            }
            Call::Copy(source, from, dest, to, len) => {
                let mut arg = self.copy_of((source, from), (dest, to), len);
                status(op(&self.mapper, GNTTABOP_copy, &mut arg), arg.status)
            }
            Call::CopyMany(n, source, dest, len) => {
                let mut all = vec![self.copy_of((source, 0), (dest, 0), len); n.into()];
                let rc = many(&self.mapper, GNTTABOP_copy, &mut all);
                status(rc, first_bad(all.iter().map(|c| c.status)))
            }
            Call::Transfer(mfn, who, r#ref) => {
                let mut arg = gnttab_transfer { mfn, domid: self.who(who).0, r#ref, ..Default::default() };
                let rc = op(&self.granter, GNTTABOP_transfer, &mut arg);
                status(rc, arg.status)
            }
            Call::Revoke(r#ref) => {
                status(op(&self.granter, GNTTABOP_revoke, &mut gnttab_revoke { r#ref }), GNTST_okay)
            }
            Call::RevokeMany(count) => {
                let mut two = [gnttab_revoke { r#ref: R }; 2];
                let rc = self.granter.caller.grant_table_op(GNTTABOP_revoke, two.as_mut_bytes(), count);
                status(rc.map(drop), GNTST_okay)
            }
            Call::Setup(who, n) => self.mapper.setup(self.who(who), n, 4).0,
            Call::SetupNowhere(n) => self.mapper.setup(DomId::SELF, n, 0).0,
            Call::SetupShort => self.mapper.setup(DomId::SELF, 2, 1).0,
            Call::StatusFrames(who, n) => self.mapper.status_frames(self.who(who), n, 4).0,
            Call::StatusShort => {
                self.mapper.set_version(2)?;
                self.mapper.status_frames(DomId::SELF, 1, 0).0
            }
            Call::Query(who, count) => {
                let mut two = [gnttab_query_size { dom: self.who(who).0, ..Default::default() }; 2];
                let rc = self.mapper.caller.grant_table_op(GNTTABOP_query_size, two.as_mut_bytes(), count);
                let [first, _] = two;
                status(rc.map(drop), first.status)
            }
            Call::SetVersion(version) => self.granter.set_version(version),
            Call::GetVersion(who) => {
                let mut arg = gnttab_get_version { dom: self.who(who).0, ..Default::default() };
                status(op(&self.mapper, GNTTABOP_get_version, &mut arg), GNTST_okay)
            }
            Call::Swap(ref_a, ref_b) => {
                let mut arg = gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() };
                let rc = op(&self.granter, GNTTABOP_swap_grant_ref, &mut arg);
                status(rc, arg.status)
            }
            Call::Dump => {
                let mut arg = gnttab_dump_table { dom: DomId::SELF.0, ..Default::default() };
                let rc = op(&self.mapper, GNTTABOP_dump_table, &mut arg);
                status(rc, arg.status)
            }
            Call::Flush(memory, offset, length, cache_op) => {
                let mfn = match memory {
                    Memory::Granters => self.frame,
                    Memory::Told(n) => Mfn::of_addr(self.maps.get(n).map_or(0, |m| m.dev_bus_addr)),
                    Memory::Own => self.machine.mfn(self.mapper.id, Gfn(L))?,
                    Memory::Xens => Mfn(0),
                    Memory::NoRam => Mfn(1 << 40),
                };
                let mut arg = gnttab_cache_flush { a: mfn.addr(), offset, length, op: cache_op };
                status(op(&self.mapper, GNTTABOP_cache_flush, &mut arg), GNTST_okay)
            }
            Call::Raw(cmd, count) => {
                let rc = self.mapper.caller.grant_table_op(cmd, &mut [], count);
                status(rc.map(drop), GNTST_okay)
            }
            Call::Look(at) => {
                let vcpu = self.vcpu.as_ref().ok_or(Errno::EOPNOTSUPP)?;
                let [byte, ..] = vcpu.mmio_read(self.at(at), 1).map_err(|_| Errno::EIO)?.to_le_bytes();
                Ok(Want::Byte(byte))
            }
        })
    }

    /// The hypervisor's marks in entry [`R`] of the granter.
    fn marks(&self) -> u16 {
        let word = match (&self.granter.table, &self.granter.status) {
            (Some(_), Some(status)) => status_word(status, usize::try_from(R).unwrap_or(0)).map(u64::from),
            (Some(table), None) => entry(table, usize::try_from(R).unwrap_or(0)),
            (None, _) => None,
        };
        u16::try_from(word.unwrap_or(0) & u64::from(GTF_reading | GTF_writing)).unwrap_or(0)
    }
}

/// What a call of a state must have said.
fn made(done: Result<Want, Errno>) -> Result<(), Unmade> {
    match done? {
        Want::Status(GNTST_okay) => Ok(()),
        // A status has no number among the errors; whatever it is, the state is not there.
        Want::Status(_) | Want::Rc(_) | Want::Byte(_) => Err(Unmade(Errno::EIO)),
    }
}

/// The profiles whose rows a sheet's are, with the rows' area.
fn profiles(sheet: &Sheet) -> Vec<(Profile, String)> {
    let title = |profile| format!("{profile}, {}", sheet.parties.words());
    let (stock, draft) = ((Profile::Stock, title("stock")), (Profile::Draft, title("draft")));
    match sheet.by {
        By::All => vec![stock, draft],
        By::Stock => vec![stock],
        By::Draft => vec![draft],
    }
}

/// The rows of a sheet.
pub(super) fn rows(sheet: &Sheet) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for (profile, title) in profiles(sheet) {
        for line in sheet.lines {
            rows.push(run(line, sheet.parties, profile, &title)?);
        }
    }
    Ok(rows)
}

/// Runs a line on a machine of its own.
pub(super) fn run(line: &Line, parties: Parties, profile: Profile, title: &str) -> Result<Row, BenchError> {
    let mut stage = Stage::new(parties, profile)?;
    let name = format!("{title}: {line}");
    let wanted = (line.want, line.marks, line.refs);
    let (ok, detail) = match judge(line, &mut stage) {
        Ok(seen) if seen == wanted => (true, format!("{} [{}]", line.want, line.source)),
        Ok((want, marks, refs)) => {
            let seen = format!("{want}, marks {marks:#x}, {refs} references");
            let wanted = format!("{}, marks {:#x}, {} references", line.want, line.marks, line.refs);
            (false, format!("{seen}, wanted {wanted} [{}]", line.source))
        }
        Err(Unmade(e)) => (false, format!("the state could not be made: {e}")),
    };
    Ok(Row { name, ok, detail })
}

fn judge(line: &Line, stage: &mut Stage) -> Result<(Want, u16, u32), Unmade> {
    for step in line.state {
        made(stage.call(step)?)?;
    }
    let want = stage.call(&line.call)?.unwrap_or_else(Want::Rc);
    let refs = stage.machine.frame(stage.frame).map_or(0, |f| f.references);
    // Whatever was refused, nobody reached what was not granted, and everything adds up.
    let clean = stage.machine.violation_count() == 0 && stage.machine.audit().is_empty();
    if clean { Ok((want, stage.marks(), refs)) } else { Err(Unmade(Errno::EFAULT)) }
}
