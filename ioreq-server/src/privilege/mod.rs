//! What a device model gives up before it serves a guest.
//!
//! The guest writes what a device model reads, so a mistake in a device is the guest's way into this process. What the
//! process may do is therefore all that the guest can win. [`Confinement::enter`] gives up everything else, in this order:
//!
//! | step | what it takes from an intruder | who can |
//! |---|---|---|
//! | (by the caller, before) descriptors opened, privcmd and evtchn [restricted](xen_ioreq::linux::Privcmd::restrict) to the guest | raw hypercalls; other guests | who may open them |
//! | [limits](Limits) | the host's memory, descriptors and threads; the guest's memory in a core file | everybody |
//! | [root directory](Confinement::root) | every path outside | root |
//! | [Landlock](Confinement::writable_below) | every file that is not open, but new files where they belong; by newer kernels also TCP, signals, abstract sockets | everybody, where the kernel has it |
//! | [identity](Identity) | what root, or the user who started us, may do: his files, his processes; capabilities | root; else the user stays |
//! | not dumpable, `no_new_privs` | being traced by processes of the same user; programs with set-user-ID | everybody |
//! | [filter](Filters) | all system calls but some sixty, ioctls but those that go to Xen; for each [kind of thread](ThreadKind) fewer | everybody |
//!
//! # What cannot be given up
//!
//! - **dm_op and mapping frames of the guest**: that is the work. An intruder can do to *this* guest what its device
//!   model can: read and write all its memory, stop it, crash it.
//! - **A raw hypercall**, for a program that uses PV-IOMMU or asks the hypervisor for a domain's state, unless another process
//!   makes it in its place. An unrestricted privcmd is power over the host. Filters bind it to the threads that need it.
//! - **Anonymous memory and the processor**: limits bound the first, the scheduler's weights (of the operator's) the second.
//! - **Descriptors that are open**, whatever Landlock and the new user may open: close what is not needed before.
//! - **fcntl(F_SETFL), close, epoll**: filters cannot tell one descriptor from another where numbers are used again.
//!
//! # Threads
//!
//! Credentials, Landlock and filters belong to threads, so [`enter`](Confinement::enter) refuses a process that has more
//! than one. Threads that start later inherit all of it, and [`narrow`] themselves to what their kind needs.
//!
//! ```no_run
//! use ioreq_server::privilege::{
//!     Confinement, Filters, Identity, Limits, ThreadKind, Violation, narrow, starting_to_serve,
//! };
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let privcmd = xen_ioreq::linux::Privcmd::open()?.restrict(xen_ioreq::DomId(7)).map_err(|(_, e)| e)?;
//! let filters = Filters::new(Violation::Kill)
//!     .starting(&starting_to_serve(&privcmd))
//!     .thread(ThreadKind::EventLoop, ThreadKind::EventLoop.serving(&privcmd));
//! let in_force = Confinement::new()
//!     .limits(Limits { descriptors: Some(64), ..Limits::default() })
//!     .identity(Identity { uid: 65543, gid: 65536 })
//!     .filters(filters)
//!     .enter()?;
//! println!("{in_force}");
//! std::thread::spawn(|| {
//!     narrow(ThreadKind::EventLoop).expect("this kernel has filters");
//!     // serve
//! });
//! # Ok(())
//! # }
//! ```

mod files;
mod filter;
mod identity;
mod limits;
mod profile;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use xen_ioreq::Errno;

pub use files::LandlockState;
pub use filter::{Arg, Filter, FilterError, Syscalls, Verdict, Violation};
pub use identity::{Identity, IdentityError};
pub use limits::Limits;
pub use profile::{
    ThreadKind, control_socket, file_in_place, files_below, granting, hypercalls, polling, registers,
    runtime, starting, starting_to_serve,
};
pub use report::InForce;

/// A step that failed. What was given up before it stays so: end the process.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There are other threads, which would keep what this one gives up.
    #[error("the process has more than one thread already; privileges are given up before others start")]
    Threads,
    /// It was done before.
    #[error("the process has given up its privileges already")]
    Again,
    /// A resource limit.
    #[error("limit {what} {value}: {errno}")]
    Limit {
        /// As the shell's `ulimit` and limits.conf call it.
        what: &'static str,
        /// The limit.
        value: u64,
        /// How it failed.
        errno: Errno,
    },
    /// The root directory.
    #[error("chroot to {}: {errno} (it takes root, and a directory that is there)", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// How it failed.
        errno: Errno,
    },
    /// A directory in which files are to be written.
    #[error("{}: {why}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Landlock is there and does not work.
    #[error("landlock: {0}")]
    Landlock(String),
    /// The user and the group.
    #[error("becoming {identity}: {step}: {errno} (it takes root)")]
    Identity {
        /// Who.
        identity: Identity,
        /// Which part.
        step: &'static str,
        /// How it failed.
        errno: Errno,
    },
    /// The capabilities.
    #[error("giving up capabilities: {0}")]
    Capabilities(Errno),
    /// The two switches of the process.
    #[error("{step}: {errno}")]
    Switch {
        /// Which.
        step: &'static str,
        /// How it failed.
        errno: Errno,
    },
    /// The filters.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Which system calls the threads of a process may make.
#[derive(Clone, Debug)]
pub struct Filters {
    violation: Violation,
    starting: Syscalls,
    threads: BTreeMap<ThreadKind, Syscalls>,
}

impl Filters {
    /// None but those of [`starting`], until threads are named.
    pub fn new(violation: Violation) -> Self {
        Self { violation, starting: starting().and(&runtime()), threads: BTreeMap::new() }
    }

    /// What a kind of thread needs. The process as a whole may do what any of them may, so that it can start them.
    #[must_use]
    pub fn thread(mut self, kind: ThreadKind, needs: Syscalls) -> Self {
        self.threads.insert(kind, needs);
        self
    }

    /// What else the process needs until its threads have narrowed themselves: to open servers, to map their pages.
    #[must_use]
    pub fn starting(mut self, needs: &Syscalls) -> Self {
        self.starting = self.starting.and(needs);
        self
    }

    fn compile(&self) -> Result<Compiled, FilterError> {
        let process = self.threads.values().fold(self.starting.clone(), |all, one| all.and(one));
        let threads = self.threads.iter().map(|(kind, set)| Ok((*kind, set.compile(self.violation)?)));
        Ok(Compiled {
            process: process.compile(self.violation)?,
            threads: threads.collect::<Result<_, FilterError>>()?,
        })
    }
}

struct Compiled {
    process: Filter,
    threads: BTreeMap<ThreadKind, Filter>,
}

/// What the threads of this process have to install. The sandbox is the process's, and for good; so is this.
static THREADS: OnceLock<BTreeMap<ThreadKind, Filter>> = OnceLock::new();

/// What to give up. Nothing is given up before [`enter`](Self::enter).
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    limits: Limits,
    root: Option<PathBuf>,
    landlock: bool,
    writable: Vec<PathBuf>,
    identity: Option<Identity>,
    filters: Option<Filters>,
}

impl Confinement {
    /// Only what needs no choice: no core files, no tracing, no new privileges, no capabilities.
    pub fn new() -> Self {
        Self::default()
    }

    /// Resource limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Another root directory, an empty one for choice. Landlock makes it a second wall.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// No files but those that are open.
    #[must_use]
    pub fn landlock(mut self) -> Self {
        self.landlock = true;
        self
    }

    /// As [`landlock`](Self::landlock), and new files below this directory, by its path or by a descriptor of it. A path
    /// as it is before the root changes.
    #[must_use]
    pub fn writable_below(mut self, directory: impl Into<PathBuf>) -> Self {
        self.writable.push(directory.into());
        self.landlock()
    }

    /// Another user and group, and no supplementary groups.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// System calls.
    #[must_use]
    pub fn filters(mut self, filters: Filters) -> Self {
        self.filters = Some(filters);
        self
    }

    /// Gives up all the rest, for good, and says what is in force. Before other threads start. What is wrong with the
    /// order itself (a directory that is not there, a filter that cannot be made) shows before anything is given up.
    pub fn enter(self) -> Result<InForce, PrivilegeError> {
        let rules = files::Rules::open(&self.writable)?;
        let compiled = self.filters.as_ref().map(Filters::compile).transpose()?;
        let violation = self.filters.map(|f| f.violation);
        single_thread()?;
        let (process, threads) = compiled.map(|c| (c.process, c.threads)).unzip();
        THREADS.set(threads.unwrap_or_default()).map_err(|_| PrivilegeError::Again)?;

        self.limits.set()?;
        if let Some(root) = &self.root {
            files::change_root(root)?;
        }
        let landlock = if self.landlock { rules.enforce()? } else { LandlockState::Unused };
        identity::drop_bounding_set()?;
        if let Some(identity) = self.identity {
            identity.assume()?;
        }
        identity::drop_capabilities()?;
        let switch = |step| move |e: rustix::io::Errno| PrivilegeError::Switch { step, errno: e.into() };
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .map_err(switch("not dumpable"))?;
        rustix::thread::set_no_new_privs(true).map_err(switch("no_new_privs"))?;
        let in_force = InForce {
            identity: Identity::current(),
            root: self.root,
            landlock,
            writable: self.writable,
            limits: self.limits,
            filter: violation,
        };
        // Last: it lets nothing of the above through.
        process.map_or(Ok(()), |p| p.install())?;
        Ok(in_force)
    }
}

/// Gives up, for the calling thread, what a thread of this kind does not need. Threads that it starts then are under the
/// same filter, if it lets them start at all. Without [`Filters`] for the kind this does nothing: so libraries
/// call it in their threads, and the program decides.
pub fn narrow(kind: ThreadKind) -> Result<(), FilterError> {
    THREADS.get().and_then(|t| t.get(&kind)).map_or(Ok(()), Filter::install)
}

/// Errors unless the process has one thread. The kernel is asked first, since `/proc` may not be there.
#[expect(unsafe_code, reason = "unshare(2), of nothing")]
fn single_thread() -> Result<(), PrivilegeError> {
    // SAFETY: for a process with one thread this changes nothing; for others it fails.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(());
    }
    match (filter::last_errno(), std::fs::read_dir("/proc/self/task").map(Iterator::count)) {
        // Inside a container the call itself may be filtered.
        (errno, Ok(1)) if errno != Errno::EINVAL => Ok(()),
        (Errno::EINVAL, _) | (_, Ok(_)) => Err(PrivilegeError::Threads),
        (errno, Err(_)) => {
            Err(PrivilegeError::Switch { step: "asking whether there are other threads", errno })
        }
    }
}
