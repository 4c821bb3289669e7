//! Runs a line on the model: two domains, or one, whose hands on the hypervisor are raw structs.

use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, Iommu, Machine, Profile};
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap};
use xen_ioreq::abi::revokable::{
    GNTTABOP_map_revokable, GNTTABOP_revoke, gnttab_map_revokable, gnttab_revoke,
};
use xen_ioreq::seam::{GrantTableOp, Mapping, MemoryOp, OwnMemory};
use xen_ioreq::{DomId, Errno, Gfn, Mfn, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::sheet::{At, Bus, Call, End, G, L, Line, Memory, Parties, R, Sheet, Want, Who};
use crate::Row;
use crate::bench::{BenchError, NOBODY};
use crate::case::Unmade;
use crate::shared::{entry, set_entry, status_word};

/// Frames of each domain's RAM, from 0 on.
const FRAMES: u64 = 16;
/// Places at which grants can be mapped, the first of them named by lines.
const PLACES: usize = 400;
const MANY: usize = 100;
/// Where a translated domain has its table, and its places.
const TABLE: u64 = 50;
const FIRST_PLACE: u64 = 1000;

/// A domain.
struct Dom {
    id: DomId,
    caller: Caller,
    table: Option<Mapping>,
    status: Option<Mapping>,
}

/// What a line runs on.
pub(super) struct Stage {
    machine: Arc<Machine>,
    /// The same domain twice where it is alone.
    granter: Dom,
    mapper: Dom,
    /// Address space of the mapper's, if it is a PV domain.
    room: Option<Mapping>,
    maps: Vec<gnttab_map_grant_ref>,
    /// The frame that lines grant.
    frame: Mfn,
    dead: bool,
}

/// One operation: what the hypercall says.
fn op<T: IntoBytes + FromBytes + Immutable>(d: &Dom, cmd: u32, arg: &mut T) -> Result<(), Errno> {
    d.caller.grant_table_op(cmd, arg.as_mut_bytes(), 1).map(drop)
}

impl Dom {
    fn new(machine: &Arc<Machine>, hvm: bool, device_assigned: bool) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let config = DomainConfig { hvm, device_assigned, ..DomainConfig::default() };
        let id = machine.create_domain(&config)?;
        machine.populate(id, Gfn(0), FRAMES).map_err(call("its memory"))?;
        Self::of(machine, id, hvm)
    }

    fn of(machine: &Arc<Machine>, id: DomId, hvm: bool) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let caller = machine.caller(id).map_err(call("a handle"))?;
        let mut d = Self { id, caller, table: None, status: None };
        if hvm {
            let mut put = xen_add_to_physmap {
                domid: DomId::SELF.0,
                space: XENMAPSPACE_grant_table,
                gpfn: TABLE,
                ..xen_add_to_physmap::default()
            };
            d.caller
                .memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut [])
                .map_err(call("its table"))?;
        }
        d.map_tables().map_err(|Unmade(errno)| BenchError::Call { what: "its table", errno })?;
        Ok(d)
    }

    fn map_tables(&mut self) -> Result<(), Unmade> {
        let (done, frames) = self.setup(DomId::SELF, 1, 1);
        done?;
        self.table = Some(self.caller.map_table(&frames)?);
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
        let frame = machine.mfn(granter.id, Gfn(G)).map_err(call("the frame"))?;
        Ok(Self { machine, granter, mapper, room, maps: Vec::new(), frame, dead: false })
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

    fn copy(&self, source: (End, u16), dest: (End, u16), len: u16) -> Result<Want, Errno> {
        let ((source, from_ref), (dest, to_ref)) = (self.end(source.0, source.1), self.end(dest.0, dest.1));
        let flags =
            if from_ref { GNTCOPY_source_gref } else { 0 } | if to_ref { GNTCOPY_dest_gref } else { 0 };
        let mut arg = gnttab_copy { source, dest, len, flags, ..Default::default() };
        op(&self.mapper, GNTTABOP_copy, &mut arg)?;
        Ok(Want::Status(arg.status))
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
            Call::Close(r) => {
                let table = self.granter.table.as_ref().ok_or(Errno::ENOENT)?;
                let at = usize::try_from(r).map_err(|_| Errno::ERANGE)?;
                let word = entry(table, at).ok_or(Errno::ERANGE)?;
                set_entry(table, at, word & !u64::from(GTF_type_mask)).ok_or(Errno::ERANGE)?;
                Ok(Want::Status(GNTST_okay))
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
                let done = self.maps.len();
                let mut last = Ok(Want::Status(GNTST_okay));
                for i in 0..usize::from(n) {
                    last = self.map(self.granter.id, r, flags, self.place(MANY + done + i));
                }
                last
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
            Call::Copy(source, from, dest, to, len) => self.copy((source, from), (dest, to), len),
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
        Want::Status(_) | Want::Rc(_) => Err(Unmade(Errno::EIO)),
    }
}

impl Sheet {
    /// The profiles whose rows these are, with the row's area.
    fn profiles(&self) -> Vec<(Profile, String)> {
        let title = |profile| format!("{profile}, {}", self.parties.words());
        let (stock, draft) = ((Profile::Stock, title("stock")), (Profile::Draft, title("draft")));
        match self.by {
            super::sheet::By::All => vec![stock, draft],
            super::sheet::By::Stock => vec![stock],
            super::sheet::By::Draft => vec![draft],
        }
    }

    pub(super) fn rows(&self) -> Result<Vec<Row>, BenchError> {
        let mut rows = Vec::new();
        for (profile, title) in self.profiles() {
            for line in self.lines {
                rows.push(line.run(self.parties, profile, &title)?);
            }
        }
        Ok(rows)
    }
}

impl Line {
    /// Runs it on a machine of its own.
    pub(super) fn run(&self, parties: Parties, profile: Profile, title: &str) -> Result<Row, BenchError> {
        let mut stage = Stage::new(parties, profile)?;
        let name = format!("{title}: {self}");
        let wanted = (self.want, self.marks, self.refs);
        let (ok, detail) = match self.judge(&mut stage) {
            Ok(seen) if seen == wanted => (true, format!("{} [{}]", self.want, self.source)),
            Ok((want, marks, refs)) => {
                let seen = format!("{want}, marks {marks:#x}, {refs} references");
                let wanted = format!("{}, marks {:#x}, {} references", self.want, self.marks, self.refs);
                (false, format!("{seen}, wanted {wanted} [{}]", self.source))
            }
            Err(Unmade(e)) => (false, format!("the state could not be made: {e}")),
        };
        Ok(Row { name, ok, detail })
    }

    fn judge(&self, stage: &mut Stage) -> Result<(Want, u16, u32), Unmade> {
        for step in self.state {
            made(stage.call(step)?)?;
        }
        let want = stage.call(&self.call)?.unwrap_or_else(Want::Rc);
        let refs = stage.machine.frame(stage.frame).map_or(0, |f| f.references);
        // Whatever was refused, nobody reached what was not granted, and everything adds up.
        let clean = stage.machine.violation_count() == 0 && stage.machine.audit().is_empty();
        if clean { Ok((want, stage.marks(), refs)) } else { Err(Unmade(Errno::EFAULT)) }
    }
}
