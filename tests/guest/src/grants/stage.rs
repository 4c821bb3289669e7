//! Runs a line inside a guest: its own table, its own frames, its own hypercalls.
//!
//! A frame that a domain maps of its own loses its place for good, so each line has frames of its own. After a line everything is
//! unmapped, withdrawn and of version 1 again; where that fails the line has failed.

use core::iter;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap,
};
use xen_ioreq::abi::revokable::{
    GNTTABOP_map_revokable, GNTTABOP_revoke, gnttab_map_revokable, gnttab_revoke,
};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SHIFT};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::sheet::{At, Bus, Call, End, FRAMES, Line, Memory, NOBODY, R, Want, Who, mark};
use super::{ASK, Errand, Hypercalls, Seen, WORDS};
use crate::platform::{Platform, RamRange, Way, Width};

/// Where the frames of the table go.
pub const TABLE: Gfn = Gfn(0x7_0000);
/// The status words.
pub const STATUS: Gfn = Gfn(0x7_0100);
/// The first place for a grant; nothing is there but what was mapped.
pub const PLACES: Gfn = Gfn(0x8_0000);
/// Places that lines name; those of many mappings follow.
const MANY: u64 = 100;
/// No RAM: what is added to the number of a frame that lines name as none.
const NO_FRAME: u64 = 0xd_0000;
/// Entries that lines write, from the first that is not the toolstack's.
const ENTRIES: core::ops::Range<u32> = 2..16;
/// Mappings of a line, and structs of a hypercall.
const MAPPINGS: usize = 300;
const BATCH: usize = 1024;
/// Bytes of so many of the longest.
pub(super) const BYTES: usize = BATCH * size_of::<gnttab_copy>();

/// A mapping that was made or tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapping {
    address: u64,
    bus: u64,
    /// Until it has been unmapped by it.
    handle: Option<u32>,
    told: u32,
}

/// Memory for a stage: too much for a kernel's stack.
#[derive(Debug)]
pub struct Workspace {
    maps: [Mapping; MAPPINGS],
    pub(super) bytes: [u8; BYTES],
}

impl Workspace {
    /// Empty.
    pub const NEW: Self =
        Self { maps: [Mapping { address: 0, bus: 0, handle: None, told: 0 }; MAPPINGS], bytes: [0; BYTES] };
}

/// The most RAM that lies together, but for its last frame, which is the stage's own.
pub(super) fn most_ram(platform: &impl Platform) -> Option<RamRange> {
    let most = platform.ram().iter().max_by_key(|r| r.frames)?;
    Some(RamRange { first: most.first, frames: most.frames.checked_sub(1)? })
}

/// The guest that runs lines.
pub(super) struct Stage<'a, P> {
    platform: &'a mut P,
    work: &'a mut Workspace,
    /// Mappings of this line, the first in the workspace.
    count: usize,
    /// First frame of this line's, and where the RAM ends; behind it is a frame into which errands are read.
    ram: Gfn,
    end: Gfn,
    version: u32,
}

impl<'a, P: Hypercalls> Stage<'a, P> {
    /// Its table is shown to this guest. ENOMEM: no RAM at all. Else an error of that hypercall.
    pub(super) fn new(platform: &'a mut P, work: &'a mut Workspace) -> Result<Self, Errno> {
        let ram = most_ram(platform).ok_or(Errno::ENOMEM)?;
        let end = Gfn(ram.first.0 + ram.frames);
        let mut stage = Self { platform, work, count: 0, ram: ram.first, end, version: 1 };
        stage.show_table(0)?;
        Ok(stage)
    }

    pub(super) fn platform(&mut self) -> &mut P {
        self.platform
    }

    /// Reads an errand from its port, by one instruction: an access of the server's for each word would be most of an errand's time.
    pub(super) fn letter(&mut self) -> Option<Errand> {
        let at = self.end.addr();
        let mut words = [0; WORDS];
        self.platform.rep_ins(ASK, Width::B4, at, u32::try_from(words.len()).ok()?, Way::Up);
        self.platform.ram_read(at, words.as_mut_bytes()).ok()?;
        Errand::of_words(words)
    }

    /// Does what a server asks for; of lines it takes nothing away.
    pub(super) fn errand(&mut self, errand: &Errand) -> u64 {
        errand.run(self.platform, self.work)
    }

    /// Runs a line on frames of its own, and takes down what it has left.
    pub(super) fn run(&mut self, line: &Line) -> Seen {
        if self.ram.0 + FRAMES > self.end.0 {
            return Seen(Err(Errno::ENOMEM));
        }
        for frame in 0..FRAMES {
            let at = self.gfn(frame).addr();
            self.platform.mmio_write(at, Width::B1, mark(frame).into());
        }
        let seen = self.judge(line);
        let reset = self.reset();
        self.ram = Gfn(self.ram.0 + FRAMES);
        Seen(reset.and(seen))
    }

    fn judge(&mut self, line: &Line) -> Result<(Want, u16), Errno> {
        for step in line.state {
            match self.call(step)? {
                Want::Status(GNTST_okay) => {}
                // A status has no number among the errors; whatever it is, the state is not there.
                _ => return Err(Errno::EIO),
            }
        }
        let want = self.call(&line.call).unwrap_or_else(Want::Rc);
        Ok((want, self.marks()))
    }

    fn reset(&mut self) -> Result<(), Errno> {
        // An unmapping may have taken another mapping's place: each handle goes with whatever place of its frame is left, most with
        // their own.
        for n in 0..self.count {
            let Some(handle) = self.work.maps[n].handle else { continue };
            let gone = iter::once(n).chain(0..self.count).any(|other| {
                let host_addr = self.work.maps[other].address;
                let mut arg = gnttab_unmap_grant_ref { host_addr, handle, ..Default::default() };
                self.op(GNTTABOP_unmap_grant_ref, &mut arg).is_ok() && arg.status == GNTST_okay
            });
            if !gone {
                return Err(Errno::EBUSY);
            }
        }
        self.count = 0;
        for r in ENTRIES {
            self.write(r, 0, 0);
        }
        self.set_version(1).map(drop)
    }

    fn op<T: IntoBytes + FromBytes + Immutable>(&mut self, cmd: u32, arg: &mut T) -> Result<(), Errno> {
        self.platform.grant_table_op(cmd, arg.as_mut_bytes(), 1)
    }

    fn show(&mut self, idx: u32, at: Gfn) -> Result<(), Errno> {
        let (domid, space) = (DomId::SELF.0, XENMAPSPACE_grant_table);
        let mut arg = xen_add_to_physmap { domid, space, idx: idx.into(), gpfn: at.0, ..Default::default() };
        self.platform.memory_op(XENMEM_add_to_physmap, arg.as_mut_bytes())
    }

    fn show_table(&mut self, index: u32) -> Result<(), Errno> {
        self.show(index, Gfn(TABLE.0 + u64::from(index)))
    }

    fn set_version(&mut self, version: u32) -> Result<Want, Errno> {
        let mut arg = gnttab_set_version { version };
        let done = self.op(GNTTABOP_set_version, &mut arg);
        if self.version != arg.version && (1..=2).contains(&arg.version) {
            self.version = arg.version;
            if self.version == 2 {
                self.show(XENMAPIDX_grant_table_status, STATUS)?;
            }
        }
        done.map(|()| Want::Status(GNTST_okay))
    }

    /// A frame that a line names; what is none for the line is none here.
    fn gfn(&self, frame: u64) -> Gfn {
        if frame < FRAMES { Gfn(self.ram.0 + frame) } else { Gfn(NO_FRAME + frame) }
    }

    fn who(&self, who: Who) -> DomId {
        match who {
            Who::Granter | Who::Mapper => self.platform.domid(),
            Who::Other => DomId(0),
            Who::Itself => DomId::SELF,
            Who::Nobody => NOBODY,
        }
    }

    fn at(&self, at: At) -> u64 {
        match at {
            At::Zero => 0,
            At::Place(n) => Gfn(PLACES.0 + u64::from(n)).addr(),
            At::Ram(frame) => self.gfn(frame).addr(),
            // Beyond what a domain can address.
            At::Bad => 1 << 60,
        }
    }

    fn mapping(&self, n: usize) -> Mapping {
        self.work
            .maps
            .get(n)
            .copied()
            .filter(|_| n < self.count)
            .unwrap_or(Mapping { told: u32::MAX, ..Mapping::default() })
    }

    fn told(&self, bus: Bus) -> u64 {
        match bus {
            Bus::Zero => 0,
            Bus::Told(n) => self.mapping(n).bus,
            Bus::Bad => 1 << 60,
        }
    }

    fn keep(&mut self, arg: &gnttab_map_grant_ref) {
        if let Some(slot) = self.work.maps.get_mut(self.count) {
            let handle = (arg.status == GNTST_okay).then_some(arg.handle);
            *slot = Mapping { address: arg.host_addr, bus: arg.dev_bus_addr, handle, told: arg.handle };
            self.count += 1;
        }
    }

    /// An unmapping by this handle has come about.
    fn gone(&mut self, handle: u32) {
        let maps = &mut self.work.maps[..self.count];
        if let Some(m) = maps.iter_mut().find(|m| m.handle == Some(handle)) {
            m.handle = None;
        }
    }

    /// Writes an entry, the word with the flags last; of version 1 there is only that one.
    fn write(&mut self, r: u32, head: u64, rest: u64) {
        if self.version == 1 {
            self.platform.mmio_write(TABLE.addr() + 8 * u64::from(r), Width::B8, head);
        } else {
            let at = TABLE.addr() + 16 * u64::from(r);
            self.platform.mmio_write(at + 8, Width::B8, rest);
            self.platform.mmio_write(at, Width::B8, head);
        }
    }

    fn head(&self, who: Who, flags: u16) -> u64 {
        u64::from(flags) | u64::from(self.who(who).0) << 16
    }

    /// The hypervisor's marks in entry [`R`].
    fn marks(&mut self) -> u16 {
        let at = match self.version {
            1 => TABLE.addr() + 8 * u64::from(R),
            _ => STATUS.addr() + 2 * u64::from(R),
        };
        let [a, b, ..] = self.platform.mmio_read(at, Width::B2).to_le_bytes();
        u16::from_le_bytes([a, b]) & (GTF_reading | GTF_writing)
    }

    fn end(&self, end: End, offset: u16) -> (gnttab_copy_ptr, bool) {
        let (who, u, by_ref) = match end {
            End::Ref(who, r) => (who, u64::from(r), true),
            End::Frame(who, frame) => (who, self.gfn(frame).0, false),
        };
        (gnttab_copy_ptr { u, domid: self.who(who).0, offset, ..Default::default() }, by_ref)
    }

    fn copy_of(&self, source: (End, u16), dest: (End, u16), len: u16) -> gnttab_copy {
        let ((source, from_ref), (dest, to_ref)) = (self.end(source.0, source.1), self.end(dest.0, dest.1));
        let flags =
            if from_ref { GNTCOPY_source_gref } else { 0 } | if to_ref { GNTCOPY_dest_gref } else { 0 };
        gnttab_copy { source, dest, len, flags, ..Default::default() }
    }

    /// As many structs in one hypercall: `make` says what each is, `done` sees each after it.
    fn many<T: IntoBytes + FromBytes + Immutable>(
        &mut self,
        cmd: u32,
        count: usize,
        make: impl Fn(&Self, usize) -> T,
        mut done: impl FnMut(&mut Self, T),
    ) -> Result<(), Errno> {
        let size = size_of::<T>();
        if count > BATCH {
            return Err(Errno::E2BIG);
        }
        for n in 0..count {
            let one = make(self, n);
            one.write_to(&mut self.work.bytes[n * size..][..size]).map_err(|_| Errno::EFAULT)?;
        }
        let args = &mut self.work.bytes[..count * size];
        let count32 = u32::try_from(count).map_err(|_| Errno::E2BIG)?;
        self.platform.grant_table_op(cmd, args, count32)?;
        for n in 0..count {
            let one = T::read_from_bytes(&self.work.bytes[n * size..][..size]).map_err(|_| Errno::EFAULT)?;
            done(self, one);
        }
        Ok(())
    }

    fn map_many(&mut self, n: u16, r: u32, flags: u32) -> Result<Want, Errno> {
        let (dom, first) = (self.who(Who::Granter).0, self.count as u64);
        let make = |_: &Self, i: usize| gnttab_map_grant_ref {
            host_addr: (PLACES.0 + MANY + first + i as u64) << PAGE_SHIFT,
            flags,
            r#ref: r,
            dom,
            ..Default::default()
        };
        let mut last = GNTST_okay;
        self.many(GNTTABOP_map_grant_ref, n.into(), make, |stage, arg| {
            stage.keep(&arg);
            last = arg.status;
        })?;
        Ok(Want::Status(last))
    }

    fn unmap_all(&mut self) -> Result<Want, Errno> {
        let make = |stage: &Self, i: usize| {
            let m = stage.mapping(i);
            gnttab_unmap_grant_ref { host_addr: m.address, handle: m.told, ..Default::default() }
        };
        let mut first = GNTST_okay;
        self.many(GNTTABOP_unmap_grant_ref, self.count, make, |stage, arg| {
            if arg.status == GNTST_okay {
                stage.gone(arg.handle);
            } else if first == GNTST_okay {
                first = arg.status;
            }
        })?;
        Ok(Want::Status(first))
    }

    /// Makes a call. ENOTSUP: this guest cannot.
    fn call(&mut self, call: &Call) -> Result<Want, Errno> {
        let okay = Ok(Want::Status(GNTST_okay));
        let status = |n| Ok(Want::Status(n));
        match *call {
            Call::Grant(r, who, flags, frame) | Call::Back(r, who, flags, frame) => {
                self.write(r, self.head(who, flags) | self.gfn(frame).0 << 32, 0);
                okay
            }
            Call::GrantV2(r, who, flags, second, third) => {
                // Beyond what version 1 can say it is a number as it stands.
                let frame = if third >> 32 == 0 { self.gfn(third).0 } else { third };
                self.write(r, self.head(who, flags) | u64::from(second) << 32, frame);
                okay
            }
            Call::HandOn(r, who, from, inner) => {
                let head = self.head(who, GTF_transitive) | u64::from(self.who(from).0) << 32;
                self.write(r, head, inner.into());
                okay
            }
            Call::Close(r) => {
                let at = TABLE.addr() + 8 * u64::from(r) * u64::from(self.version);
                let flags = self.platform.mmio_read(at, Width::B2) & !u64::from(GTF_type_mask);
                self.platform.mmio_write(at, Width::B2, flags);
                okay
            }
            Call::Map(who, r#ref, flags, at) => {
                let (host_addr, dom) = (self.at(at), self.who(who).0);
                let mut arg = gnttab_map_grant_ref { host_addr, flags, r#ref, dom, ..Default::default() };
                self.op(GNTTABOP_map_grant_ref, &mut arg)?;
                self.keep(&arg);
                status(arg.status)
            }
            Call::MapMany(n, r, flags) => self.map_many(n, r, flags),
            Call::Unmap(n, at, bus) => {
                let (host_addr, dev_bus_addr, handle) = (self.at(at), self.told(bus), self.mapping(n).told);
                let mut arg =
                    gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() };
                self.op(GNTTABOP_unmap_grant_ref, &mut arg)?;
                if arg.status == GNTST_okay && host_addr != 0 {
                    self.gone(handle);
                }
                status(arg.status)
            }
            Call::UnmapAll => self.unmap_all(),
            Call::UnmapNone => {
                let mut arg = gnttab_unmap_grant_ref { handle: u32::MAX, ..Default::default() };
                self.op(GNTTABOP_unmap_grant_ref, &mut arg)?;
                status(arg.status)
            }
            Call::Replace(n, at, new) => {
                let (host_addr, new_addr, handle) = (self.at(at), self.at(new), self.mapping(n).told);
                let mut arg = gnttab_unmap_and_replace { host_addr, new_addr, handle, ..Default::default() };
                self.op(GNTTABOP_unmap_and_replace, &mut arg)?;
                if arg.status == GNTST_okay {
                    self.gone(handle);
                }
                status(arg.status)
            }
            Call::ReplaceNone => {
                let mut arg = gnttab_unmap_and_replace { handle: u32::MAX, ..Default::default() };
                self.op(GNTTABOP_unmap_and_replace, &mut arg)?;
                status(arg.status)
            }
            Call::Copy(source, from, dest, to, len) => {
                let mut arg = self.copy_of((source, from), (dest, to), len);
                self.op(GNTTABOP_copy, &mut arg)?;
                status(arg.status)
            }
            Call::CopyMany(n, source, dest, len) => {
                let mut first = GNTST_okay;
                let make = |stage: &Self, _| stage.copy_of((source, 0), (dest, 0), len);
                self.many(GNTTABOP_copy, n.into(), make, |_, arg| {
                    if first == GNTST_okay {
                        first = arg.status;
                    }
                })?;
                status(first)
            }
            Call::Transfer(frame, who, r#ref) => {
                let (mfn, domid) = (self.gfn(frame).0, self.who(who).0);
                let mut arg = gnttab_transfer { mfn, domid, r#ref, ..Default::default() };
                self.op(GNTTABOP_transfer, &mut arg)?;
                status(arg.status)
            }
            Call::Setup(who, n) => self.setup(who, n, &mut [0; 4]),
            Call::SetupNowhere(n) => self.setup(Who::Itself, n, &mut []),
            Call::StatusFrames(who, n) => self.status_frames(who, n, &mut [0; 4]),
            Call::StatusShort => {
                self.set_version(2)?;
                self.status_frames(Who::Itself, 1, &mut [])
            }
            Call::Query(who, count) => {
                let mut two = [gnttab_query_size { dom: self.who(who).0, ..Default::default() }; 2];
                self.platform.grant_table_op(GNTTABOP_query_size, two.as_mut_bytes(), count)?;
                status(two[0].status)
            }
            Call::SetVersion(version) => self.set_version(version),
            Call::GetVersion(who) => {
                let mut arg = gnttab_get_version { dom: self.who(who).0, ..Default::default() };
                self.op(GNTTABOP_get_version, &mut arg)?;
                okay
            }
            Call::Swap(ref_a, ref_b) => {
                let mut arg = gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() };
                self.op(GNTTABOP_swap_grant_ref, &mut arg)?;
                status(arg.status)
            }
            Call::Dump => {
                let mut arg = gnttab_dump_table { dom: DomId::SELF.0, ..Default::default() };
                self.op(GNTTABOP_dump_table, &mut arg)?;
                status(arg.status)
            }
            Call::Flush(memory, offset, length, op) => {
                let a = match memory {
                    Memory::Told(n) => self.mapping(n).bus,
                    Memory::Xens => 0,
                    Memory::NoRam => 1 << 52,
                    // Only a mapping tells a guest where its frames are.
                    Memory::Granters | Memory::Own => return Err(Errno::EOPNOTSUPP),
                };
                self.op(GNTTABOP_cache_flush, &mut gnttab_cache_flush { a, offset, length, op })?;
                okay
            }
            Call::Raw(cmd, count) => self.platform.grant_table_op(cmd, &mut [], count).and(okay),
            Call::Look(at) => {
                let [byte, ..] = self.platform.mmio_read(self.at(at), Width::B1).to_le_bytes();
                Ok(Want::Byte(byte))
            }
            Call::MapRevokable(r#ref, flags, at, lgfn) => {
                let (host_addr, dom) = (self.at(at), self.who(Who::Granter).0);
                let map = gnttab_map_grant_ref { host_addr, flags, r#ref, dom, ..Default::default() };
                let mut arg = gnttab_map_revokable { map, lgfn: self.gfn(lgfn).0 };
                self.op(GNTTABOP_map_revokable, &mut arg)?;
                self.keep(&arg.map);
                status(arg.map.status)
            }
            Call::Revoke(r#ref) => self.op(GNTTABOP_revoke, &mut gnttab_revoke { r#ref }).and(okay),
            // Another domain's part, or what would need page tables that Xen knows of.
            Call::Pin(_) | Call::PinOwn(_) | Call::Unpin(_) => Err(Errno::EOPNOTSUPP),
            Call::Die | Call::RevokeMany(_) | Call::SetupShort => Err(Errno::EOPNOTSUPP),
        }
    }

    fn setup(&mut self, who: Who, nr_frames: u32, list: &mut [u64]) -> Result<Want, Errno> {
        let mut arg = gnttab_setup_table { dom: self.who(who).0, nr_frames, ..Default::default() };
        self.platform.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), list)?;
        Ok(Want::Status(arg.status))
    }

    fn status_frames(&mut self, who: Who, nr_frames: u32, list: &mut [u64]) -> Result<Want, Errno> {
        let mut arg = gnttab_get_status_frames { dom: self.who(who).0, nr_frames, ..Default::default() };
        self.platform.grant_table_frames(GNTTABOP_get_status_frames, arg.as_mut_bytes(), list)?;
        Ok(Want::Status(arg.status))
    }
}
