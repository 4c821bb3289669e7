//! A domain: its memory, ports, IOREQ servers, vCPUs, and whether it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use xen_ioreq::abi::sched::{SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend};
use xen_ioreq::{DomId, Errno, Gfn, Mfn};

use crate::config::{Config, DomainConfig, RmrrRange};
use crate::evtchn::Ports;
use crate::grant::Grants;
use crate::iommu::{BusTable, PvIommu};
use crate::ioreq::Servers;
use crate::irq::Interrupts;
use crate::p2m::{P2m, P2mType};
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::vcpu::VcpuState;

/// Why a domain no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// `SHUTDOWN_poweroff`
    Poweroff,
    /// `SHUTDOWN_reboot`
    Reboot,
    /// `SHUTDOWN_suspend`
    Suspend,
    /// `SHUTDOWN_crash`
    Crash,
    /// Another code.
    Other(u32),
}

impl ShutdownReason {
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            SHUTDOWN_poweroff => Self::Poweroff,
            SHUTDOWN_reboot => Self::Reboot,
            SHUTDOWN_suspend => Self::Suspend,
            SHUTDOWN_crash => Self::Crash,
            other => Self::Other(other),
        }
    }
}

/// What a toolstack learns of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub domid: DomId,
    /// Destroyed, and kept in the list by frames that somebody still holds.
    pub dying: bool,
    /// Why it stopped, if it has.
    pub shutdown: Option<ShutdownReason>,
    /// Frames charged to it.
    pub tot_pages: u64,
    /// Limit for them.
    pub max_pages: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

const RUNNING: u32 = 0;
const DYING: u32 = u32::MAX;

/// Locks, in the order in which they may be taken: those of `grants`, `servers`, `p2m`, then the machine's frame table;
/// `interrupts`, `pinned` and the port table are leaves.
pub(crate) struct Domain {
    pub(crate) id: DomId,
    pub(crate) hvm: bool,
    pub(crate) privileged: bool,
    pub(crate) target: Option<DomId>,
    pub(crate) stdvga: bool,
    /// How long its vCPUs look for an answer before they sleep.
    pub(crate) vcpu_patience: Duration,
    pub(crate) p2m: RwLock<P2m>,
    pub(crate) ports: Ports,
    pub(crate) servers: RwLock<Servers>,
    pub(crate) vcpus: Vec<Arc<VcpuState>>,
    /// Table of its devices, if it has any.
    pub(crate) bus: Option<Arc<BusTable>>,
    /// Whether the table is its own to change.
    pub(crate) controls_bus: bool,
    /// Bus frames that its devices' firmware uses.
    pub(crate) rmrrs: Vec<RmrrRange>,
    /// What of its PV-IOMMU is not in the table.
    pub(crate) pv_iommu: PvIommu,
    pub(crate) grants: Grants,
    /// The frame that Xen shares with it, once it has asked for it.
    pub(crate) shared_info: Mutex<Option<Mfn>>,
    pub(crate) interrupts: Mutex<Interrupts>,
    /// Frames whose caching is pinned: first, last, how.
    pub(crate) pinned: Mutex<Vec<(u64, u64, u32)>>,
    /// The latch of port 0xcf8.
    pub(crate) cf8: AtomicU32,
    pub(crate) paused: AtomicUsize,
    /// How often it was.
    pub(crate) pauses: AtomicU64,
    /// Held by a vCPU for reading from where it decides that a store is a request until that is in its slot, and from where it takes
    /// the answer until it has made use of it: who pauses the domain waits until none does.
    pub(crate) on_the_way: RwLock<()>,
    /// `RUNNING`, `DYING`, or a shutdown code + 1.
    stop: AtomicU32,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Domain {
    pub(crate) fn new(
        id: DomId,
        privileged: bool,
        config: &DomainConfig,
        machine: &Config,
        bus: Option<(Arc<BusTable>, bool)>,
    ) -> Self {
        let controls_bus = bus.as_ref().is_some_and(|b| b.1);
        let bus = bus.map(|b| b.0);
        Self {
            id,
            hvm: config.hvm,
            privileged,
            target: config.target,
            stdvga: config.stdvga,
            vcpu_patience: config.vcpu_patience,
            p2m: RwLock::new(P2m::default()),
            ports: Ports::default(),
            servers: RwLock::new(Servers::default()),
            vcpus: (0..config.vcpus).map(|i| Arc::new(VcpuState::new(i))).collect(),
            bus,
            controls_bus,
            rmrrs: config.rmrrs.clone(),
            pv_iommu: PvIommu::default(),
            grants: Grants::new(machine, config),
            shared_info: Mutex::new(None),
            interrupts: Mutex::new(Interrupts::new(config.legacy_interrupts)),
            pinned: Mutex::default(),
            cf8: AtomicU32::new(0),
            paused: AtomicUsize::new(0),
            pauses: AtomicU64::new(0),
            on_the_way: RwLock::new(()),
            stop: AtomicU32::new(RUNNING),
        }
    }

    /// Whether this domain may act as a device model for `other`.
    pub(crate) fn controls(&self, other: DomId) -> bool {
        self.privileged || self.target == Some(other)
    }

    pub(crate) fn dying(&self) -> bool {
        self.stop.load(Ordering::Acquire) == DYING
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) != RUNNING
    }

    pub(crate) fn shutdown_reason(&self) -> Option<ShutdownReason> {
        match self.stop.load(Ordering::Acquire) {
            RUNNING | DYING => None,
            code => Some(ShutdownReason::from_code(code - 1)),
        }
    }

    /// Marks it as dying; `false` if it was already.
    pub(crate) fn begin_death(&self) -> bool {
        let first = self.stop.swap(DYING, Ordering::AcqRel) != DYING;
        self.kick();
        first
    }

    /// Stops it, unless it has stopped before.
    pub(crate) fn shut_down(&self, code: u32) {
        let code = code.min(DYING - 2) + 1;
        let _ = self.stop.compare_exchange(RUNNING, code, Ordering::AcqRel, Ordering::Acquire);
        self.kick();
    }

    /// Stops it because of an error that its device model, or a bug, made.
    pub(crate) fn crash(&self, why: &str) {
        log::error!("{}: crashed: {why}", self.id);
        self.shut_down(SHUTDOWN_crash);
    }

    /// Puts a frame of this domain's at `gfn`; returns what was there. ESRCH: the domain is dying and will not look
    /// through its address space again. EPERM: a grant is mapped there, and the domain crashes for it, as in Xen. Either way
    /// the frame is still the caller's to release.
    pub(crate) fn put(&self, gfn: Gfn, mfn: Mfn) -> Result<Option<Mfn>, Errno> {
        self.put_as(gfn, mfn, P2mType::RamRw)
    }

    /// The same for memory of any type.
    pub(crate) fn put_as(&self, gfn: Gfn, mfn: Mfn, ty: P2mType) -> Result<Option<Mfn>, Errno> {
        let mut p2m = self.p2m.write();
        // Under the lock that the destruction takes after it has marked the domain.
        if self.dying() {
            return Err(Errno::ESRCH);
        }
        if p2m.get(gfn).is_some_and(|(_, t)| t.granted()) {
            self.crash("a frame is put where a grant is mapped");
            return Err(Errno::EPERM);
        }
        Ok(p2m.set(gfn, mfn, ty))
    }

    /// Stops its vCPUs, and waits until none is inside the hypervisor but for one that waits for an answer.
    pub(crate) fn pause(&self) {
        self.paused.fetch_add(1, Ordering::SeqCst);
        self.pauses.fetch_add(1, Ordering::SeqCst);
        self.kick();
        drop(self.on_the_way.write());
    }

    /// Undoes one [`pause`](Self::pause). EINVAL: it is not paused.
    pub(crate) fn unpause(&self) -> Result<(), Errno> {
        let less = |n: usize| n.checked_sub(1);
        self.paused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).map_err(|_| Errno::EINVAL)?;
        self.kick();
        Ok(())
    }

    /// Whether its vCPUs may go on, if only to see that it has stopped.
    pub(crate) fn may_run(&self) -> bool {
        self.paused.load(Ordering::SeqCst) == 0 || self.stopped()
    }

    /// Whether any of its vCPUs has ever run.
    pub(crate) fn has_run(&self) -> bool {
        self.vcpus.iter().any(|v| v.has_run())
    }

    /// Makes every vCPU look at what has changed.
    pub(crate) fn kick(&self) {
        for v in &self.vcpus {
            v.kick();
        }
    }
}
