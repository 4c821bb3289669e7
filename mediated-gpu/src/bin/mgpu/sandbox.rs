//! What `mgpu serve` gives up before the guest can reach it; see [`ioreq_server::privilege`] for what each step is for.
//!
//! What stays: the descriptors that are restricted to the guest, new files in `--out`, the guest's record in `--state`, the GPU if it
//! is a physical one, and one unrestricted privcmd, bound to two threads: the first, which hears of the guest's end through it, and
//! one that pauses the guest. (PV-IOMMU is a raw hypercall, too: with it, to all that map.)

use std::fmt;
use std::os::fd::AsFd;

use ioreq_server::Record;
use ioreq_server::privilege::{
    Confinement, Filters, Identity, InForce, Limits, ThreadKind, Violation, control_socket, file_in_place,
    files_below, hypercalls, starting, starting_to_serve,
};
use mediated_gpu::vfio::VfioDevice;
use xen_ioreq::linux::{Privcmd, RestrictedPrivcmd};
use xen_ioreq::{DomId, PAGE_SHIFT};

use crate::pictures::Pictures;
use crate::show::Show;
use crate::{Error, cli};

/// Users of guests begin here, each has one of its own: above what systems hand out, below subordinate users (100000).
const FIRST_USER: u32 = 65536;
/// The group of all of them.
const GROUP: u32 = 65536;
/// Threads of a server: some fifteen, and room.
const THREADS: u64 = 64;
/// Descriptors: some twenty, and room.
const DESCRIPTORS: u64 = 64;
/// Bytes of locked memory, which hypercalls without `/dev/xen/hypercall` take.
const LOCKED: u64 = 1 << 20;
/// Bytes of address space besides the guest's memory: what the allocator reserves for each thread, stacks, tables.
const OWN_SPACE: u64 = 4 << 30;

/// As whom a guest is served. `None`: as whoever started us.
pub(crate) fn identity(args: &cli::Sandbox, domid: DomId) -> Result<Option<Identity>, Error> {
    match &args.user {
        _ if args.no_sandbox => Ok(None),
        Some(user) => Ok(Some(user.parse().map_err(|e| format!("--user {user}: {e}"))?)),
        None if Identity::may_change() => {
            Ok(Some(Identity { uid: FIRST_USER + u32::from(domid.0), gid: GROUP }))
        }
        None => Ok(None),
    }
}

/// What a server keeps.
#[derive(Clone, Copy)]
pub(crate) struct Keeps<'a> {
    /// The guest's pages, at most.
    pub(crate) guest_pages: u64,
    /// The unrestricted privcmd.
    pub(crate) raw: &'a Privcmd,
    /// The one that is restricted to the guest.
    pub(crate) guest: &'a RestrictedPrivcmd,
    /// Whether guests' frames are mapped through raw hypercalls.
    pub(crate) iommu: bool,
    /// The physical GPU.
    pub(crate) device: Option<&'a VfioDevice>,
    /// Where pictures go.
    pub(crate) pictures: Option<&'a Pictures>,
    /// The record of what is in Xen.
    pub(crate) record: Option<&'a Record>,
    /// Whether there is a control socket.
    pub(crate) controlled: bool,
    /// What a viewer is shown through.
    pub(crate) viewed: Option<&'a Show>,
}

/// What came of it, in a line.
pub(crate) enum Sandbox {
    Off,
    On(InForce),
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("sandbox: none (--no-sandbox)"),
            Self::On(in_force) => write!(f, "sandbox: {in_force}"),
        }
    }
}

/// Gives up the rest, before there are threads.
pub(crate) fn enter(
    args: &cli::Sandbox,
    identity: Option<Identity>,
    keeps: Keeps<'_>,
) -> Result<Sandbox, Error> {
    if args.no_sandbox {
        return Ok(Sandbox::Off);
    }
    // Thrice: what is used, what that replaces until nobody uses it, and what went before all that was mapped with it.
    let guest = keeps.guest_pages.checked_mul(3 << PAGE_SHIFT);
    let limits = Limits {
        descriptors: Some(DESCRIPTORS),
        locked: Some(LOCKED),
        address_space: guest.and_then(|g| g.checked_add(OWN_SPACE)),
        // Those of a user who is not this server's alone may be many more.
        threads: (args.user.is_none() && identity.is_some()).then_some(THREADS),
    };
    let mut confinement = Confinement::new().limits(limits).landlock().filters(filters(args, keeps));
    if let Some(pictures) = keeps.pictures {
        confinement = confinement.writable_below(pictures.path());
    }
    if let Some(root) = &args.chroot {
        confinement = confinement.root(root);
    }
    if let Some(identity) = identity {
        confinement = confinement.identity(identity);
    }
    let in_force = confinement.enter().map_err(|e| format!("sandbox: {e}; or --no-sandbox"))?;
    Ok(Sandbox::On(in_force))
}

fn filters(args: &cli::Sandbox, keeps: Keeps<'_>) -> Filters {
    let violation = match args.on_violation {
        cli::Violation::Kill => Violation::Kill,
        cli::Violation::Refuse => Violation::Refuse,
    };
    let filters = Filters::new(violation).starting(&starting_to_serve(keeps.guest));
    ThreadKind::ALL.into_iter().fold(filters, |filters, kind| {
        let mut needs = kind.serving(keeps.guest);
        let maps = !matches!(kind, ThreadKind::Engine | ThreadKind::Pauser);
        if matches!(kind, ThreadKind::Main | ThreadKind::Pauser) || keeps.iommu && maps {
            needs = needs.and(&hypercalls(keeps.raw));
        }
        if let Some(device) = keeps.device.filter(|_| maps) {
            // Whoever looks at a page of the guest's may be the first, and whoever makes the device let go of one may have to end
            // all that it does.
            let maps = ThreadKind::Maintenance.serving(keeps.guest);
            needs = needs.and(&maps).and(&mediated_gpu::vfio::needs(device));
        }
        if let (ThreadKind::Main, Some(pictures)) = (kind, keeps.pictures) {
            needs = needs.and(&files_below(&pictures.as_fd()));
        }
        // Of a server's begin and end, and of what the guest does with its function.
        if let (ThreadKind::Main | ThreadKind::EventLoop, Some(record)) = (kind, keeps.record) {
            needs = needs.and(&file_in_place(record));
        }
        if kind == ThreadKind::Main && keeps.controlled {
            // A vGPU that an operator has made anew has a thread.
            needs = needs.and(&control_socket()).and(&starting());
        }
        if let (ThreadKind::Main, Some(viewed)) = (kind, keeps.viewed) {
            needs = needs.and(&viewed.needs());
        }
        filters.thread(kind, needs)
    })
}
