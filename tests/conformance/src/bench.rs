//! What rows run against: a hypervisor through the seam, and one guest whose device model the rows are.
//!
//! The model and the Xen that this domain runs on give the same handles, so a row cannot tell them apart.

use std::fmt;
use std::sync::Arc;

use ioreq_server::Connection;
use mock_xen::{CreateError, DomainConfig, Machine};
use xen_ioreq::abi::domctl::{
    XEN_DOMINF_dying, XEN_DOMINF_hvm_guest, XEN_DOMINF_paused, XEN_DOMINF_shutdown, xen_domctl_getdomaininfo,
};
use xen_ioreq::linux::{Evtchn, OpenError, Privcmd};
use xen_ioreq::seam::{
    DmOp, EventChannels, ForeignMap, ForeignPages, GrantTableOp, IommuOp, Mapping, MemoryOp, PausedDmOp,
    Prot, ResourceMap, Sysctl,
};
use xen_ioreq::{DomId, Errno, Gfn};

/// Everything that rows call.
pub trait Hypervisor:
    DmOp + PausedDmOp + ResourceMap + ForeignMap + MemoryOp + IommuOp + GrantTableOp + Sysctl
{
}
impl<T: DmOp + PausedDmOp + ResourceMap + ForeignMap + MemoryOp + IommuOp + GrantTableOp + Sysctl> Hypervisor
    for T
{
}

/// What a handle that was restricted to one domain still has.
pub trait Restricted: DmOp + ResourceMap + ForeignMap {}
impl<T: DmOp + ResourceMap + ForeignMap> Restricted for T {}

/// Where rows run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The model hypervisor.
    Model,
    /// The Xen of this domain; the guest is paused, has no other device model, and nobody minds what becomes of it.
    Xen(DomId),
}

pub use guest::grants::sheet::NOBODY;
/// First of [`RAM_FRAMES`] frames of the guest's RAM that rows may balloon and overwrite.
pub const RAM: Gfn = Gfn(0x10);
/// How many.
pub const RAM_FRAMES: u64 = 3;
/// A frame number without RAM: far above any guest's memory.
pub const HOLE: Gfn = Gfn(1 << 30);

/// Rows that cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No Xen, no driver, no permission.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such guest.
    #[error("{0} is not there: create the guest first (`xl create -p`) and give its number by --domid")]
    NoGuest(DomId),
    /// dom0 or a PV guest.
    #[error("{0} is no HVM or PVH guest: the rows are about device models, which only those have")]
    NotHvm(DomId),
    /// It runs.
    #[error("{0} runs: rows begin with a guest that does not (`xl pause`)")]
    NotPaused(DomId),
    /// The model could not be built.
    #[error("building the model: {0}")]
    Model(#[from] CreateError),
    /// Something else failed before the first row.
    #[error("{what}: {errno}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        errno: Errno,
    },
}

/// Which hypervisor it is, for what the seam does not have: starting a guest, and a second handle.
enum Kind {
    Model(Arc<Machine>),
    Xen(Arc<Privcmd>),
}

/// A hypervisor and a guest.
pub struct Bench {
    /// The calling domain's hand on the hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its event channels.
    pub events: Arc<dyn EventChannels>,
    /// The guest.
    pub guest: DomId,
    kind: Kind,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("guest", &self.guest).finish_non_exhaustive()
    }
}

impl Bench {
    /// On the model: dom0 of `machine`, and its guest `guest`.
    ///
    /// # Errors
    /// The host lacks memory or descriptors.
    pub fn on_model(machine: &Arc<Machine>, guest: DomId) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let caller = Arc::new(machine.caller(DomId(0)).map_err(call("a handle for dom0"))?);
        Ok(Self { hypervisor: caller.clone(), events: caller, guest, kind: Kind::Model(machine.clone()) })
    }

    /// On the Xen of this domain.
    ///
    /// # Errors
    /// No Xen, no permission, no such guest, or one that runs.
    pub fn on_xen(guest: DomId) -> Result<Self, BenchError> {
        let privcmd = Privcmd::open()?;
        let call = |what| move |errno| BenchError::Call { what, errno };
        let found = privcmd.domains(guest, 1).map_err(call("looking for the guest"))?;
        let info = found.first().filter(|d| d.domain == guest.0).ok_or(BenchError::NoGuest(guest))?;
        if info.flags & XEN_DOMINF_hvm_guest == 0 {
            return Err(BenchError::NotHvm(guest));
        }
        if info.flags & XEN_DOMINF_paused == 0 {
            return Err(BenchError::NotPaused(guest));
        }
        let privcmd = Arc::new(privcmd);
        Ok(Self {
            hypervisor: privcmd.clone(),
            events: Arc::new(Evtchn::open()?),
            guest,
            kind: Kind::Xen(privcmd),
        })
    }

    /// A fresh handle, restricted to `domid`.
    ///
    /// # Errors
    /// Those of the restriction.
    pub fn restricted(&self, domid: DomId) -> Result<Box<dyn Restricted>, Errno> {
        Ok(match &self.kind {
            Kind::Model(machine) => Box::new(machine.caller(DomId(0))?.restrict(domid)),
            Kind::Xen(_) => {
                // Opened a moment ago, so what can fail is the restriction.
                let fresh = Privcmd::open().map_err(|_| Errno::ENODEV)?;
                Box::new(fresh.restrict(domid).map_err(|(_, e)| e)?)
            }
        })
    }

    /// Handles for a server of its own, with event channels that are nobody else's.
    ///
    /// # Errors
    /// The host lacks descriptors.
    pub fn connection(&self) -> Result<Connection, Errno> {
        Ok(match &self.kind {
            Kind::Model(machine) => {
                let caller = Arc::new(machine.caller(DomId(0))?);
                Connection::new(caller.clone(), caller)
            }
            Kind::Xen(privcmd) => {
                // Another one is open, so what can fail is that it is one too many.
                Connection::new(privcmd.clone(), Arc::new(Evtchn::open().map_err(|_| Errno::EMFILE)?))
            }
        })
    }

    /// The model, if this is it.
    pub fn machine(&self) -> Option<&Arc<Machine>> {
        match &self.kind {
            Kind::Model(machine) => Some(machine),
            Kind::Xen(_) => None,
        }
    }

    /// Stops the guest's vCPUs, until as many [`unpause`](Self::unpause).
    ///
    /// # Errors
    /// ESRCH: it is gone.
    pub fn pause(&self) -> Result<(), Errno> {
        match &self.kind {
            Kind::Model(machine) => machine.pause(self.guest),
            Kind::Xen(privcmd) => privcmd.pause(self.guest),
        }
    }

    /// Undoes one [`pause`](Self::pause), or that of the guest's creation on Xen.
    ///
    /// # Errors
    /// ESRCH: it is gone. EINVAL: it is not paused.
    pub fn unpause(&self) -> Result<(), Errno> {
        match &self.kind {
            Kind::Model(machine) => machine.unpause(self.guest),
            Kind::Xen(privcmd) => privcmd.unpause(self.guest),
        }
    }

    /// Stops the guest's vCPUs if they are not stopped; of a guest that has gone there are none.
    ///
    /// # Errors
    /// Those of the pause.
    pub fn stand_still(&self) -> Result<(), Errno> {
        let Kind::Xen(privcmd) = &self.kind else { return self.pause() };
        let list = privcmd.domains(self.guest, 1)?;
        let runs = |d: &&xen_domctl_getdomaininfo| {
            d.domain == self.guest.0 && d.flags & (XEN_DOMINF_paused | XEN_DOMINF_dying) == 0
        };
        if list.first().is_some_and(|d| runs(&d)) { self.pause() } else { Ok(()) }
    }

    /// Destroys the guest.
    ///
    /// # Errors
    /// ESRCH: it is gone.
    pub fn destroy(&self) -> Result<(), Errno> {
        match &self.kind {
            Kind::Model(machine) => machine.destroy_domain(self.guest),
            Kind::Xen(privcmd) => privcmd.destroy(self.guest),
        }
    }

    /// Frames that are charged to the guest while it is dying; `None`: it is not, or it has gone.
    pub fn frames_of_the_dying(&self) -> Option<u64> {
        match &self.kind {
            Kind::Model(machine) => machine.domain_info(self.guest).filter(|i| i.dying).map(|i| i.tot_pages),
            Kind::Xen(privcmd) => {
                let list = privcmd.domains(self.guest, 1).ok()?;
                let dying = |d: &&xen_domctl_getdomaininfo| {
                    d.domain == self.guest.0 && d.flags & XEN_DOMINF_dying != 0
                };
                list.first().filter(dying).map(|d| d.tot_pages)
            }
        }
    }

    /// Whether the guest is there and has not shut down or crashed.
    pub fn guest_lives(&self) -> bool {
        match &self.kind {
            Kind::Model(machine) => {
                machine.domain_info(self.guest).is_some_and(|i| !i.dying && i.shutdown.is_none())
            }
            Kind::Xen(privcmd) => privcmd.domains(self.guest, 1).is_ok_and(|list| {
                let ended = XEN_DOMINF_shutdown | XEN_DOMINF_dying;
                list.first().is_some_and(|d| d.domain == self.guest.0 && d.flags & ended == 0)
            }),
        }
    }

    /// Free frames of the host.
    ///
    /// # Errors
    /// EPERM: not dom0.
    pub fn free_frames(&self) -> Result<u64, Errno> {
        self.hypervisor.physinfo().map(|i| i.free_pages)
    }
}

/// A guest for rows on the model: `frames` frames from 0 on, room for some more, `vcpus` vCPUs.
///
/// # Errors
/// The machine is too small.
pub fn model_guest(machine: &Machine, frames: u64, vcpus: u32) -> Result<DomId, BenchError> {
    build(machine, frames, DomainConfig { vcpus, ..DomainConfig::default() })
}

/// The same as an HVM guest: with interrupt controllers and a VGA window.
///
/// # Errors
/// The machine is too small.
pub fn model_hvm_guest(machine: &Machine, frames: u64, vcpus: u32) -> Result<DomId, BenchError> {
    let config = DomainConfig { vcpus, legacy_interrupts: true, stdvga: true, ..DomainConfig::default() };
    build(machine, frames, config)
}

fn build(machine: &Machine, frames: u64, config: DomainConfig) -> Result<DomId, BenchError> {
    let config = DomainConfig { max_pages: frames + 16, ..config };
    let guest = machine.create_domain(&config)?;
    let fill = |errno| BenchError::Call { what: "the guest's memory", errno };
    machine.populate(guest, Gfn(0), frames).map_err(fill)?;
    Ok(guest)
}

/// A shared [`Hypervisor`] as one value, for who wants a type and not a trait object.
#[derive(Clone)]
pub struct Handle(pub Arc<dyn Hypervisor>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl DmOp for Handle {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.0.dm_op(domid, bufs)
    }
}

impl ForeignMap for Handle {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.0.map_foreign(domid, gfns, prot)
    }
}

impl ResourceMap for Handle {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.0.map_resource(domid, kind, id, first, nr)
    }

    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        self.0.resource_size(domid, kind, id)
    }
}
