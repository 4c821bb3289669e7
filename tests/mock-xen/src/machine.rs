//! The machine: its memory, its domains, and what a toolstack does with them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId, Mfn, PAGE_MASK, PAGE_SIZE, VcpuId};

use crate::bus::BusPort;
use crate::caller::Caller;
use crate::config::{Config, DomainConfig, Iommu, Profile};
use crate::domain::{Domain, DomainInfo};
use crate::evtchn::{self, EvtchnDevice};
use crate::faults::{FaultPlan, Faults};
use crate::frames::{FrameTable, Hold, M2b, Owner};
use crate::grant;
use crate::history::Event;
use crate::iommu::{self, BFN_BITS_MAX, BusTable};
use crate::ioreq;
use crate::irq::InterruptLines;
use crate::memory::HostMemory;
use crate::oracle::{Oracle, Violation};
use crate::p2m::P2m;
use crate::sync::{Mutex, RwLock};
use crate::vcpu::Vcpu;

/// Why a machine or a domain cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// the host gives no memory for the frames
    #[error("the host gives no memory for {frames} frames: {errno}")]
    Memory {
        /// Frames asked for.
        frames: usize,
        /// The host's error.
        errno: Errno,
    },
    /// Xen keeps more frames than there are
    #[error("Xen keeps {xen} of {frames} frames")]
    Frames {
        /// Frames in all.
        frames: usize,
        /// Frames for Xen.
        xen: usize,
    },
    /// a bus frame number cannot have this many bits
    #[error("bus frame numbers of {0} bits: at most 36, and enough for every frame")]
    BfnBits(u32),
    /// the number is taken or reserved
    #[error("{0} is taken or reserved")]
    DomId(DomId),
    /// a domain has 1 to 128 vCPUs for each page of slots
    #[error("{0} vCPUs: a guest has 1 to 128 for each page of slots")]
    Vcpus(u32),
}

/// What is known of a machine frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameInfo {
    /// Whose it is, if any domain's.
    pub owner: Option<DomId>,
    /// References that hold it; 0 for one that is free or Xen's.
    pub references: u32,
    /// Its entries in the M2B table: bus frame, calling domain, IOREQ server.
    pub m2b: Vec<(Bfn, DomId, IoServerId)>,
    /// Of [`Profile::Xs`]: a lookup holds it.
    pub looked_up: bool,
    /// How many uses of its grants may write it. Xen counts them as those of a writable page.
    pub written: u32,
    /// It is one of its owner's page tables.
    pub page_table: bool,
}

/// Counts that the model keeps for reports.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) notices: AtomicU64,
    pub(crate) sync_notices: AtomicU64,
    pub(crate) iotlb_flushes: AtomicU64,
}

/// The model hypervisor and the machine that it runs on.
///
/// Locks: those of a domain come before `frames`; `domains` is a leaf.
pub struct Machine {
    config: Config,
    memory: Arc<HostMemory>,
    oracle: Arc<Oracle>,
    frames: Mutex<FrameTable>,
    domains: RwLock<BTreeMap<DomId, Arc<Domain>>>,
    next_id: Mutex<u16>,
    pub(crate) counters: Counters,
    pub(crate) faults: Faults,
}

impl Machine {
    /// Builds a machine with dom0 and nothing else.
    pub fn new(config: Config) -> Result<Arc<Self>, CreateError> {
        if config.xen_frames >= config.frames {
            return Err(CreateError::Frames { frames: config.frames, xen: config.xen_frames });
        }
        let enough = config.frames.ilog2() + 1;
        if config.bfn_bits > BFN_BITS_MAX || config.bfn_bits < enough {
            return Err(CreateError::BfnBits(config.bfn_bits));
        }
        let memory = HostMemory::new(config.frames)
            .map_err(|e| CreateError::Memory { frames: config.frames, errno: Errno(e.raw_os_error()) })?;
        let memory = Arc::new(memory);
        let oracle = Arc::new(Oracle::new(config.fail_fast));
        let table = FrameTable::new(memory.clone(), oracle.clone(), config.frames, config.xen_frames);
        let machine = Arc::new(Self {
            config,
            memory,
            oracle,
            frames: Mutex::new(table),
            domains: RwLock::new(BTreeMap::new()),
            next_id: Mutex::new(1),
            counters: Counters::default(),
            faults: Faults::default(),
        });
        let dom0 = DomainConfig {
            domid: Some(DomId(0)),
            max_pages: u64::MAX,
            vcpus: 0,
            hvm: false,
            target: None,
            device_assigned: true,
            rmrrs: machine.config.rmrrs.clone(),
            stdvga: false,
            legacy_interrupts: false,
            vcpu_patience: Duration::ZERO,
            max_grant_frames: None,
            max_maptrack_frames: None,
        };
        machine.insert(&dom0, DomId(0), true);
        Ok(machine)
    }

    /// What it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn memory(&self) -> &HostMemory {
        &self.memory
    }

    pub(crate) fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Works on the frame table, and then forgets the domains whose last frame has gone.
    pub(crate) fn frames<R>(&self, f: impl FnOnce(&mut FrameTable) -> R) -> R {
        let (result, reaped) = {
            let mut table = self.frames.lock();
            let result = f(&mut table);
            (result, std::mem::take(&mut table.reaped))
        };
        if !reaped.is_empty() {
            self.domains.write().retain(|id, _| !reaped.contains(id));
        }
        result
    }

    pub(crate) fn domain(&self, id: DomId) -> Option<Arc<Domain>> {
        self.domains.read().get(&id).cloned()
    }

    /// The table of a domain's devices and whether the domain may change it. Where nothing translates, it is memory as the
    /// devices of that domain see it.
    fn bus_for(&self, privileged: bool) -> (Arc<BusTable>, bool) {
        let (all, xens) = (self.config.frames as u64, self.config.xen_frames as u64);
        let offset = if self.config.profile == Profile::Xs { self.config.foreign_offset } else { 0 };
        let (table, controls) = match self.config.iommu {
            Iommu::Absent => (iommu::one_to_one(0..all, 0), false),
            Iommu::Passthrough if privileged => (iommu::one_to_one(0..all, 0), false),
            Iommu::OneToOne if privileged => (iommu::one_to_one(xens..all, offset), true),
            Iommu::On | Iommu::Passthrough | Iommu::OneToOne => (BusTable::default(), true),
        };
        (Arc::new(table), controls)
    }

    fn insert(&self, config: &DomainConfig, id: DomId, privileged: bool) {
        let bus = config.device_assigned.then(|| self.bus_for(privileged));
        self.frames(|t| t.open_account(id, config.max_pages));
        self.domains.write().insert(id, Arc::new(Domain::new(id, privileged, config, &self.config, bus)));
    }

    /// Builds a domain without memory.
    pub fn create_domain(&self, config: &DomainConfig) -> Result<DomId, CreateError> {
        let max_vcpus = self.config.slot_pages.saturating_mul(ioreq::VCPUS_PER_PAGE);
        if config.vcpus > max_vcpus || (config.hvm && config.vcpus == 0) {
            return Err(CreateError::Vcpus(config.vcpus));
        }
        let mut next = self.next_id.lock();
        let taken = |id: DomId| id >= DomId::FIRST_RESERVED || self.domains.read().contains_key(&id);
        let id = match config.domid {
            Some(id) if taken(id) => return Err(CreateError::DomId(id)),
            Some(id) => id,
            None => {
                let count = DomId::FIRST_RESERVED.0 - 1;
                let candidates = (0..count).map(|i| DomId((*next - 1 + i) % count + 1));
                let id = candidates.clone().find(|id| !taken(*id)).ok_or(CreateError::DomId(DomId(*next)))?;
                *next = id.0 % count + 1;
                id
            }
        };
        self.insert(config, id, false);
        Ok(id)
    }

    /// Puts frames behind `count` numbers from `first` on. ESRCH: no such domain. EINVAL: a number too large. ENOMEM: no
    /// frames left for it; some may have been put.
    pub fn populate(&self, domid: DomId, first: Gfn, count: u64) -> Result<(), Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        for i in 0..count {
            let gfn = first.checked_add(i).filter(|g| P2m::addressable(*g)).ok_or(Errno::EINVAL)?;
            let mfn = self.frames(|t| t.allocate(domid, true))?;
            let put = domain.put(gfn, mfn);
            self.frames(|t| match put {
                Ok(old) => {
                    t.note(mfn, Event::Populated { owner: domid, gfn });
                    if let Some(old) = old {
                        t.release(old, Hold::Allocation);
                    }
                    Ok(())
                }
                Err(e) => {
                    t.release(mfn, Hold::Allocation);
                    Err(e)
                }
            })?;
        }
        Ok(())
    }

    /// Destroys a domain: its vCPUs stop, its servers and ports go, its frames are given back as far as nobody holds
    /// them. While somebody does, it stays in the list, dying. ESRCH: no such domain. EINVAL: dom0.
    pub fn destroy_domain(&self, domid: DomId) -> Result<(), Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        if domain.privileged {
            return Err(Errno::EINVAL);
        }
        if !domain.begin_death() {
            return Ok(());
        }
        self.frames(|t| t.begin_end(domid));
        ioreq::destroy_all(&domain, None);
        // The servers that it was the emulator of. The last page of one may be the last frame of its guest, which is then
        // taken off the list.
        let all: Vec<_> = self.domains.read().values().cloned().collect();
        for other in all {
            ioreq::destroy_all(&other, Some(domid));
        }
        evtchn::close_all(&domain);
        grant::end(self, &domain);
        iommu::release_all(self, &domain);
        domain.p2m.write().clear();
        iommu::swap_all(self, &domain);
        iommu::forget_lookups(self, domid);
        self.frames(|t| t.relinquish(domid));
        Ok(())
    }

    /// Stops a domain's vCPUs at their next resume, or before they take an answer, until as many [`unpause`](Self::unpause) calls;
    /// returns when none is about to send a request or making use of an answer. ESRCH.
    pub fn pause(&self, domid: DomId) -> Result<(), Errno> {
        self.domain(domid).ok_or(Errno::ESRCH)?.pause();
        Ok(())
    }

    /// Undoes one [`pause`](Self::pause). ESRCH; EINVAL: it is not paused.
    pub fn unpause(&self, domid: DomId) -> Result<(), Errno> {
        self.domain(domid).ok_or(Errno::ESRCH)?.unpause()
    }

    /// Changes the limit of a domain's frames. ESRCH.
    pub fn set_max_pages(&self, domid: DomId, max: u64) -> Result<(), Errno> {
        self.domain(domid).ok_or(Errno::ESRCH)?;
        self.frames(|t| t.set_max(domid, max));
        Ok(())
    }

    /// What a toolstack learns of a domain, dying ones included.
    pub fn domain_info(&self, domid: DomId) -> Option<DomainInfo> {
        let d = self.domain(domid)?;
        let account = self.frames(|t| t.account(domid))?;
        Some(DomainInfo {
            domid,
            dying: d.dying(),
            shutdown: d.shutdown_reason(),
            tot_pages: account.charged,
            max_pages: account.max,
            vcpus: u32::try_from(d.vcpus.len()).unwrap_or(u32::MAX),
        })
    }

    /// All domains, in the order of their numbers.
    pub fn domains(&self) -> Vec<DomainInfo> {
        let ids: Vec<_> = self.domains.read().keys().copied().collect();
        ids.into_iter().filter_map(|id| self.domain_info(id)).collect()
    }

    /// Frames that nobody owns (`physinfo.free_pages`).
    pub fn free_frames(&self) -> u64 {
        self.frames(|t| t.free_count())
    }

    /// A domain's hand on the hypervisor, with an event-channel device of its own. ESRCH; EMFILE and the like from the
    /// host.
    pub fn caller(self: &Arc<Self>, domid: DomId) -> Result<Caller, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let device = EvtchnDevice::new(self.clone(), domain.clone())?;
        Ok(Caller::new(self.clone(), domain, device))
    }

    /// An event-channel device of a domain. Errors as [`caller`](Self::caller).
    pub fn open_evtchn(self: &Arc<Self>, domid: DomId) -> Result<EvtchnDevice, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        EvtchnDevice::new(self.clone(), domain)
    }

    /// A vCPU of a guest. ESRCH: no such domain. ENOENT: no such vCPU. EBUSY: somebody has it.
    pub fn vcpu(self: &Arc<Self>, domid: DomId, id: VcpuId) -> Result<Vcpu, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        Vcpu::new(self.clone(), domain, id)
    }

    /// A port to memory for a device of a domain; `device` is its name in the oracle's reports. ESRCH: no such domain.
    /// ENODEV: it has no device.
    pub fn bus_port(self: &Arc<Self>, domid: DomId, device: &str) -> Result<BusPort, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let table = domain.bus.clone().ok_or(Errno::ENODEV)?;
        Ok(BusPort::new(self.clone(), table, &domain, device.to_owned()))
    }

    /// Reads a guest's RAM, as a toolstack would through a mapping. ESRCH; EINVAL: a hole.
    pub fn read_guest(&self, domid: DomId, gpa: u64, mut out: &mut [u8]) -> Result<(), Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let p2m = domain.p2m.read();
        let mut at = gpa;
        while !out.is_empty() {
            let (offset, room) = split(at);
            let (part, rest) = out.split_at_mut(room.min(out.len()));
            let (mfn, _) = p2m.ram(Gfn::of_addr(at)).ok_or(Errno::EINVAL)?;
            self.memory.page(mfn).ok_or(Errno::EINVAL)?.read(offset, part);
            at = at.wrapping_add(part.len() as u64);
            out = rest;
        }
        Ok(())
    }

    /// Writes a guest's RAM, as a toolstack that builds it would. ESRCH; EINVAL: a hole.
    pub fn write_guest(&self, domid: DomId, gpa: u64, mut data: &[u8]) -> Result<(), Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let p2m = domain.p2m.read();
        let mut at = gpa;
        while !data.is_empty() {
            let (offset, room) = split(at);
            let (part, rest) = data.split_at(room.min(data.len()));
            let (mfn, _) = p2m.ram(Gfn::of_addr(at)).ok_or(Errno::EINVAL)?;
            self.memory.page(mfn).ok_or(Errno::EINVAL)?.write(offset, part);
            at = at.wrapping_add(part.len() as u64);
            data = rest;
        }
        Ok(())
    }

    /// References that hold the frame behind `gfn`, the guest's own included. ESRCH; ENOENT: a hole.
    pub fn references(&self, domid: DomId, gfn: Gfn) -> Result<u32, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let p2m = domain.p2m.read();
        let (mfn, _) = p2m.get(gfn).ok_or(Errno::ENOENT)?;
        Ok(self.frames(|t| t.refs(mfn)))
    }

    /// Faults from now on, in place of those before; none with [`FaultPlan::default`].
    pub fn inject(&self, plan: FaultPlan) {
        self.faults.inject(plan);
    }

    /// How many faults were made, of all plans.
    pub fn faults_met(&self) -> u64 {
        self.faults.met()
    }

    /// Who reaches the frame behind `gfn` on behalf of which server, and where: its entries in the M2B table. ESRCH;
    /// ENOENT: a hole.
    pub fn m2b(&self, domid: DomId, gfn: Gfn) -> Result<Vec<(Bfn, DomId, IoServerId)>, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let p2m = domain.p2m.read();
        let (mfn, _) = p2m.get(gfn).ok_or(Errno::ENOENT)?;
        let entry = |e: &M2b| (e.bfn, e.by, IoServerId(e.ioserver));
        Ok(self.frames(|t| t.m2b(mfn).iter().map(entry).collect()))
    }

    /// A domain's interrupt lines, as its device models have set them. ESRCH: no such domain.
    pub fn interrupt_lines(&self, domid: DomId) -> Result<InterruptLines, Errno> {
        Ok(self.domain(domid).ok_or(Errno::ESRCH)?.interrupts.lock().lines)
    }

    /// What holds a machine frame: `None` where there is no RAM.
    pub fn frame(&self, mfn: Mfn) -> Option<FrameInfo> {
        self.frames(|t| {
            let owner = match t.owner(mfn)? {
                Owner::Dom(d) => Some(d),
                Owner::Free | Owner::Xen => None,
            };
            let entry = |e: &M2b| (e.bfn, e.by, IoServerId(e.ioserver));
            let m2b = t.m2b(mfn).iter().map(entry).collect();
            Some(FrameInfo {
                owner,
                references: t.refs(mfn),
                m2b,
                looked_up: t.looked_up(mfn),
                written: t.granted(mfn).writing,
                page_table: t.is_table(mfn),
            })
        })
    }

    /// The machine frame behind `gfn`. ESRCH; ENOENT: a hole.
    pub fn mfn(&self, domid: DomId, gfn: Gfn) -> Result<Mfn, Errno> {
        let domain = self.domain(domid).ok_or(Errno::ESRCH)?;
        let p2m = domain.p2m.read();
        p2m.get(gfn).map(|(mfn, _)| mfn).ok_or(Errno::ENOENT)
    }

    /// Flushes of IOTLBs so far.
    pub fn iotlb_flushes(&self) -> u64 {
        self.counters.iotlb_flushes.load(Ordering::Relaxed)
    }

    /// What the oracle has seen, oldest first, at most 64; [`violation_count`](Self::violation_count) has all.
    pub fn violations(&self) -> Vec<Violation> {
        self.oracle.violations()
    }

    /// How many violations there were.
    pub fn violation_count(&self) -> u64 {
        self.oracle.count()
    }

    /// How many accesses of devices the IOMMU refused.
    pub fn bus_faults(&self) -> u64 {
        self.oracle.faults()
    }

    /// Notices of withdrawn frames that were sent, and how many of them found no room in the buffered ring.
    pub fn notices(&self) -> (u64, u64) {
        (self.counters.notices.load(Ordering::Relaxed), self.counters.sync_notices.load(Ordering::Relaxed))
    }

    /// Frames, references and accounts that do not add up, one line each; empty when all is well.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = self.frames(|t| t.audit());
        let domains: Vec<_> = self.domains.read().values().cloned().collect();
        wrong.extend(grant::audit(self, &domains));
        wrong
    }

    /// Panics with the whole report if the oracle saw anything or the books do not add up.
    #[track_caller]
    pub fn assert_clean(&self) {
        let count = self.violation_count();
        let mut lines: Vec<String> = self.violations().iter().map(ToString::to_string).collect();
        lines.extend(self.audit());
        assert!(count == 0 && lines.is_empty(), "{count} violation(s)\n{}", lines.join("\n"));
    }
}

fn split(addr: u64) -> (usize, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "below the page size")]
    let offset = (addr & PAGE_MASK) as usize;
    (offset, PAGE_SIZE - offset)
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
