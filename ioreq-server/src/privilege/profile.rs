//! What kinds of threads of a device model need of the kernel, as sets to start from.
//!
//! The base is what Rust's standard library, glibc's allocator and threads, parking_lot and mio call by themselves. What goes
//! to Xen is bound to the descriptor that is restricted to the guest.

use std::os::fd::AsFd;

use libc as l;
use xen_ioreq::Errno;
use xen_ioreq::abi::evtchn::{
    IOCTL_EVTCHN_BIND_INTERDOMAIN, IOCTL_EVTCHN_NOTIFY, IOCTL_EVTCHN_RESET, IOCTL_EVTCHN_UNBIND,
};
use xen_ioreq::abi::gntalloc::{
    IOCTL_GNTALLOC_ALLOC_GREF, IOCTL_GNTALLOC_DEALLOC_GREF, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY,
};
use xen_ioreq::abi::privcmd::{
    IOCTL_PRIVCMD_DM_OP, IOCTL_PRIVCMD_HYPERCALL, IOCTL_PRIVCMD_MMAP_RESOURCE, IOCTL_PRIVCMD_MMAPBATCH_V2,
};

use super::filter::{Arg, Syscalls};

/// Kinds of threads, as far as they differ in what they need.
///
/// | kind | beyond the [run-time](runtime) | of privcmd | of evtchn |
/// |---|---|---|---|
/// | `EventLoop` | [`polling`] | dm_op, mapping frames | notify, unbind, reset |
/// | `Engine` | - | - | - |
/// | `Device` | - | dm_op: it raises interrupts; mapping frames | - |
/// | `Maintenance` | - | mapping frames | - |
/// | `Pauser` | [`hypercalls`], which the program adds | - | - |
/// | `Viewers` | [`polling`], accept | - | - |
/// | `Main` | [`polling`], and what the program adds | dm_op, mapping frames: it takes down | notify, to wake the loop |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadKind {
    /// Answers a guest's requests.
    EventLoop,
    /// Computes, and reaches nothing but memory: an engine of a software GPU.
    Engine,
    /// Does a device's work, maps what that reaches, and raises its interrupts.
    Device,
    /// Maps and unmaps a guest's frames.
    Maintenance,
    /// Pauses the guest for the length of a call.
    Pauser,
    /// Shows pictures to those who come to a socket.
    Viewers,
    /// The thread that has started the others, and waits for the end.
    Main,
}

impl ThreadKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::EventLoop,
        Self::Engine,
        Self::Device,
        Self::Maintenance,
        Self::Pauser,
        Self::Viewers,
        Self::Main,
    ];

    /// What a thread of this kind needs, but for what goes to Xen and to files.
    pub fn base(self) -> Syscalls {
        match self {
            Self::EventLoop | Self::Main => runtime().and(&polling()),
            Self::Viewers => runtime().and(&polling()).allow(&[l::SYS_accept4, l::SYS_setsockopt]),
            Self::Engine | Self::Device | Self::Maintenance | Self::Pauser => runtime(),
        }
    }

    /// What a thread of this kind needs, with what goes to Xen. `guest` is the privcmd that is restricted to the guest; with
    /// another descriptor these ioctls are refused.
    pub fn serving(self, guest: &impl AsFd) -> Syscalls {
        let of_privcmd: &[u32] = match self {
            Self::EventLoop | Self::Device | Self::Main => &[IOCTL_PRIVCMD_DM_OP, IOCTL_PRIVCMD_MMAPBATCH_V2],
            Self::Engine | Self::Pauser | Self::Viewers => &[],
            Self::Maintenance => &[IOCTL_PRIVCMD_MMAPBATCH_V2],
        };
        // What may be bound is limited by the descriptors themselves, all of which are restricted.
        let of_evtchn: &[u32] = match self {
            Self::EventLoop => &[IOCTL_EVTCHN_NOTIFY, IOCTL_EVTCHN_UNBIND, IOCTL_EVTCHN_RESET],
            Self::Main => &[IOCTL_EVTCHN_NOTIFY],
            Self::Engine | Self::Device | Self::Maintenance | Self::Pauser | Self::Viewers => &[],
        };
        let set = of_privcmd.iter().fold(self.base(), |set, request| set.ioctl_of(guest, *request));
        of_evtchn.iter().fold(set, |set, request| set.ioctl(*request))
    }
}

/// What only a start needs of Xen: a server's shared pages and its event channels.
pub fn starting_to_serve(guest: &impl AsFd) -> Syscalls {
    Syscalls::none()
        .ioctl_of(guest, IOCTL_PRIVCMD_DM_OP)
        .ioctl_of(guest, IOCTL_PRIVCMD_MMAP_RESOURCE)
        .ioctl(IOCTL_EVTCHN_BIND_INTERDOMAIN)
        .ioctl(IOCTL_EVTCHN_UNBIND)
}

/// What every thread needs: memory that is not executable, locks, clocks, its end; reading and writing what is open; a
/// signal's delivery. Calls that libraries make to find something out fail with an error that they bear.
pub fn runtime() -> Syscalls {
    let no_exec = [Arg::bits(2, l::PROT_EXEC as u32, 0)];
    let own_pid = Arg::is(0, std::process::id());
    Syscalls::none()
        // memory: the allocator, stacks, mappings
        .allow_if(l::SYS_mmap, &no_exec)
        .allow_if(l::SYS_mprotect, &no_exec)
        .allow(&[l::SYS_munmap, l::SYS_mremap, l::SYS_madvise, l::SYS_brk])
        // locks, waiting, time
        .allow(&[l::SYS_futex, l::SYS_sched_yield, l::SYS_nanosleep, l::SYS_clock_nanosleep])
        .allow(&[l::SYS_clock_gettime, l::SYS_gettimeofday, l::SYS_restart_syscall])
        // what is open
        .allow(&[l::SYS_read, l::SYS_write, l::SYS_readv, l::SYS_writev, l::SYS_close])
        .allow_if(l::SYS_fcntl, &[Arg::is(1, l::F_GETFD as u32)])
        .allow_if(l::SYS_fcntl, &[Arg::is(1, l::F_GETFL as u32)])
        .allow_if(l::SYS_fcntl, &[Arg::is(1, l::F_SETFL as u32)])
        // a connected socket, without an address; the handler of a signal, on whatever thread, writes to one
        .allow_if(l::SYS_sendto, &[Arg::is(4, 0), Arg::is(5, 0)])
        .allow_if(l::SYS_recvfrom, &[Arg::is(4, 0), Arg::is(5, 0)])
        // signals
        .allow(&[l::SYS_rt_sigreturn, l::SYS_rt_sigprocmask, l::SYS_rt_sigaction, l::SYS_sigaltstack])
        // an abort is a signal to oneself
        .allow_if(l::SYS_tgkill, &[own_pid])
        .allow(&[l::SYS_getpid, l::SYS_gettid])
        // keys of hash tables; how many arenas the allocator makes
        .allow(&[l::SYS_getrandom, l::SYS_sched_getaffinity])
        // a thread's name, its first steps and its end
        .allow_if(l::SYS_prctl, &[Arg::is(0, l::PR_SET_NAME as u32)])
        .allow(&[l::SYS_set_robust_list, l::SYS_rseq, l::SYS_exit, l::SYS_exit_group])
        // a panic looks for files to make its backtrace readable, and prints addresses without them
        .answer(&[l::SYS_open, l::SYS_openat, l::SYS_stat, l::SYS_newfstatat, l::SYS_statx], Errno::EACCES)
        .answer(&[l::SYS_readlink, l::SYS_readlinkat, l::SYS_access, l::SYS_faccessat], Errno::EACCES)
        .answer(&[l::SYS_getcwd], Errno::EACCES)
        // its flags are in memory, where a filter cannot look: glibc then uses clone, whose flags are an argument
        .answer(&[l::SYS_clone3], Errno::ENOSYS)
}

/// What a loop that waits for descriptors needs. Making one is [`starting`].
pub fn polling() -> Syscalls {
    Syscalls::none().allow(&[l::SYS_epoll_wait, l::SYS_epoll_pwait, l::SYS_epoll_ctl]).allow(&[
        l::SYS_poll,
        l::SYS_ppoll,
        l::SYS_timerfd_settime,
    ])
}

/// What a loop with a [control socket](crate::sources::Control) needs besides [`polling`]. The socket is bound before, and its
/// file stays at the end, as nobody can remove it then.
pub fn control_socket() -> Syscalls {
    Syscalls::none().allow(&[l::SYS_accept4])
}

/// What only a start needs: threads (no processes, no namespaces), event loops, wakers, filters of their own for
/// threads.
pub fn starting() -> Syscalls {
    let namespaces = l::CLONE_NEWNS
        | l::CLONE_NEWUSER
        | l::CLONE_NEWPID
        | l::CLONE_NEWNET
        | l::CLONE_NEWUTS
        | l::CLONE_NEWIPC
        | l::CLONE_NEWCGROUP;
    let thread = l::CLONE_THREAD | l::CLONE_VM | l::CLONE_SIGHAND;
    let bits = |flags: i32| flags.cast_unsigned();
    Syscalls::none()
        .allow_if(l::SYS_clone, &[Arg::bits(0, bits(thread | namespaces), bits(thread))])
        .allow(&[l::SYS_seccomp])
        .allow(&[l::SYS_epoll_create1, l::SYS_eventfd2, l::SYS_timerfd_create])
        // mio and std keep second handles of what they share between threads
        .allow_if(l::SYS_fcntl, &[Arg::is(1, l::F_DUPFD_CLOEXEC as u32)])
}

/// Granting pages by this `/dev/xen/gntalloc`.
pub fn granting(gntalloc: &impl AsFd) -> Syscalls {
    [IOCTL_GNTALLOC_ALLOC_GREF, IOCTL_GNTALLOC_DEALLOC_GREF, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY]
        .iter()
        .fold(Syscalls::none(), |set, request| set.ioctl_of(gntalloc, *request))
}

/// Hypercalls of any kind through this unrestricted privcmd, with memory for them.
pub fn hypercalls(unrestricted: &impl AsFd) -> Syscalls {
    Syscalls::none().ioctl_of(unrestricted, IOCTL_PRIVCMD_HYPERCALL).allow(&[l::SYS_mlock])
}

/// Creating and writing files below an open directory, by relative names. A name can still climb out by `..`, or be
/// absolute: where files may lie is for Landlock or chroot to say.
pub fn files_below(directory: &impl AsFd) -> Syscalls {
    Syscalls::none().allow_if(l::SYS_openat, &[super::filter::number_of(directory)])
}

/// Writing to this open file at places that it names, as a [`Record`](crate::Record) does.
pub fn file_in_place(file: &impl AsFd) -> Syscalls {
    Syscalls::none().allow_if(l::SYS_pwrite64, &[super::filter::number_of(file)])
}

/// Reading and writing this open file at places that it names, as the registers of a device are.
pub fn registers(device: &impl AsFd) -> Syscalls {
    file_in_place(device).allow_if(l::SYS_pread64, &[super::filter::number_of(device)])
}
