//! What is tried. Each is the system call itself, with arguments that would work for who has the right.
#![expect(unsafe_code, reason = "system calls that a program has no business making")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::ptr;

use ioreq_server::privilege::{ThreadKind, Verdict};
use libc as l;
use xen_ioreq::Errno;
use xen_ioreq::abi::evtchn::{IOCTL_EVTCHN_BIND_VIRQ, IOCTL_EVTCHN_NOTIFY, IOCTL_EVTCHN_UNBIND};
use xen_ioreq::abi::privcmd::{
    IOCTL_PRIVCMD_DM_OP, IOCTL_PRIVCMD_HYPERCALL, IOCTL_PRIVCMD_MMAP_RESOURCE, IOCTL_PRIVCMD_MMAPBATCH_V2,
};

use crate::{Ground, Outcome, needs, service};

type Attempt = fn(&Ground) -> Outcome;

/// The attempt of this name.
pub(crate) fn by_name(name: &str) -> Option<Attempt> {
    let all: &[(&str, Attempt)] = &[
        // files
        ("open-outside", |_| open(c"/etc/passwd", l::O_RDONLY)),
        ("open-device", |_| open(c"/dev/zero", l::O_RDWR)),
        ("open-own-memory", |_| open(c"/proc/self/mem", l::O_RDWR)),
        ("create-outside", |_| open(c"/var/tmp/confined-was-here", l::O_WRONLY | l::O_CREAT)),
        ("create-inside", |g| below(g, c"new.png", l::O_WRONLY | l::O_CREAT)),
        ("climb-out", |g| below(g, c"../outside.png", l::O_WRONLY | l::O_CREAT)),
        ("read-inside", |g| below(g, c"there.png", l::O_RDONLY)),
        ("overwrite-inside", |g| below(g, c"there.png", l::O_WRONLY | l::O_TRUNC)),
        ("remove-inside", remove),
        ("make-device", |_| call(l::SYS_mknodat, [cwd(), at(c"node"), 0o20666, 0x103, 0, 0])),
        // the network
        ("socket", |_| call(l::SYS_socket, [l::AF_INET as u64, l::SOCK_STREAM as u64, 0, 0, 0, 0])),
        ("connect", connect),
        ("abstract-socket", |_| abstract_socket()),
        // programs and processes
        ("execve", |_| execve()),
        ("execute-open", |g| execute_open(g)),
        ("fork", |_| fork()),
        ("threads", |_| many_threads()),
        ("thread", |_| thread()),
        ("namespace", |_| call(l::SYS_unshare, [l::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0])),
        ("clone3", |_| call(l::SYS_clone3, [0; 6])),
        ("ptrace", |_| call(l::SYS_ptrace, [u64::from(l::PTRACE_SEIZE), parent(), 0, 0, 0, 0])),
        ("read-other-memory", |_| read_other_memory()),
        ("signal-other", |_| call(l::SYS_kill, [parent(), 0, 0, 0, 0, 0])),
        ("limits-of-other", |_| call(l::SYS_prlimit64, [parent(), u64::from(l::RLIMIT_CORE), 0, 0, 0, 0])),
        // identity
        ("setuid", |_| call(l::SYS_setuid, [0; 6])),
        ("setgid", |_| call(l::SYS_setgid, [0; 6])),
        ("setgroups", |_| {
            call(l::SYS_setgroups, [1, ptr::from_ref(&0u32).expose_provenance() as u64, 0, 0, 0, 0])
        }),
        ("capset", |_| capset()),
        ("dumpable", |_| call(l::SYS_prctl, [l::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0])),
        ("new-privileges", |_| call(l::SYS_prctl, [l::PR_SET_NO_NEW_PRIVS as u64, 0, 0, 0, 0, 0])),
        ("chroot", |_| call(l::SYS_chroot, [at(c"/"), 0, 0, 0, 0, 0])),
        ("mount", |_| call(l::SYS_mount, [at(c"none"), at(c"/proc"), at(c"tmpfs"), 0, 0, 0])),
        ("port-io", |_| call(l::SYS_iopl, [3, 0, 0, 0, 0, 0])),
        // memory and limits
        ("many-descriptors", |g| many(|| call(l::SYS_dup, [fd(&g.guest), 0, 0, 0, 0, 0]))),
        ("core-limit", |_| core_limit()),
        ("lock-memory", |_| map(8 << 20, l::PROT_READ | l::PROT_WRITE, l::MAP_LOCKED | l::MAP_POPULATE)),
        ("much-memory", |_| map(1 << 40, l::PROT_NONE, l::MAP_NORESERVE)),
        ("executable-memory", |_| map(4096, l::PROT_READ | l::PROT_EXEC, 0)),
        ("make-executable", |_| make_executable()),
        ("abort", |_| std::process::abort()),
        // Xen
        ("dm-op", |g| ioctl(&g.guest, IOCTL_PRIVCMD_DM_OP)),
        ("dm-op-of-other", |g| ioctl(&g.other, IOCTL_PRIVCMD_DM_OP)),
        ("map-frames", |g| ioctl(&g.guest, IOCTL_PRIVCMD_MMAPBATCH_V2)),
        ("map-frames-of-other", |g| ioctl(&g.other, IOCTL_PRIVCMD_MMAPBATCH_V2)),
        ("map-resource", |g| ioctl(&g.guest, IOCTL_PRIVCMD_MMAP_RESOURCE)),
        ("hypercall", |g| ioctl(&g.guest, IOCTL_PRIVCMD_HYPERCALL)),
        ("hypercall-of-other", |g| ioctl(&g.other, IOCTL_PRIVCMD_HYPERCALL)),
        ("privcmd-unknown", |g| ioctl(&g.guest, IOCTL_PRIVCMD_DM_OP + 40)),
        ("terminal", |g| ioctl(&g.guest, u32::try_from(l::TIOCSTI).unwrap_or(0))),
        ("notify", |g| ioctl(&g.guest, IOCTL_EVTCHN_NOTIFY)),
        ("unbind", |g| ioctl(&g.guest, IOCTL_EVTCHN_UNBIND)),
        ("bind-virq", |g| ioctl(&g.guest, IOCTL_EVTCHN_BIND_VIRQ)),
        // the filter itself
        ("wide-request", wide_request),
        ("x32", |_| call(0x4000_0000 | l::SYS_getpid, [0; 6])),
        ("every-other-call", every_other_call),
        // what must work
        ("say", |_| Ok(())),
        ("run-time", |_| service::run_time()),
        ("panic", |_| service::panic()),
        ("service-draft", |_| service::on_the_model(integration::Profile::Draft)),
        ("service-stock", |_| service::on_the_model(integration::Profile::Stock)),
        ("hold", |_| service::hold()),
        ("sources", service::sources),
    ];
    all.iter().find(|(n, _)| *n == name).map(|(_, attempt)| *attempt)
}

fn call(number: i64, a: [u64; 6]) -> Outcome {
    // SAFETY: each caller passes what that call takes, or what the kernel refuses.
    match unsafe { l::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) } {
        -1 => Err(last()),
        _ => Ok(()),
    }
}

fn last() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn at(text: &CStr) -> u64 {
    text.as_ptr().expose_provenance() as u64
}

fn fd(fd: &impl AsRawFd) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs())
}

fn cwd() -> u64 {
    i64::from(l::AT_FDCWD).cast_unsigned()
}

fn parent() -> u64 {
    u64::from(std::os::unix::process::parent_id())
}

fn open(path: &CStr, flags: i32) -> Outcome {
    call(l::SYS_openat, [cwd(), at(path), u64::from(flags.unsigned_abs()), 0o600, 0, 0])
}

fn below(g: &Ground, name: &CStr, flags: i32) -> Outcome {
    call(l::SYS_openat, [fd(&g.dir), at(name), u64::from(flags.unsigned_abs()), 0o600, 0, 0])
}

fn remove(g: &Ground) -> Outcome {
    let path = g.path.join("there.png");
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    call(l::SYS_unlink, [at(&path), 0, 0, 0, 0, 0])
}

fn connect(g: &Ground) -> Outcome {
    // to port 9, where nobody listens: ECONNREFUSED for who may
    let to = l::sockaddr_in {
        sin_family: 2,
        sin_port: 9u16.to_be(),
        sin_addr: l::in_addr { s_addr: 0x0100_007f },
        sin_zero: [0; 8],
    };
    let to = ptr::from_ref(&to).expose_provenance() as u64;
    call(l::SYS_connect, [fd(&g.socket), to, size_of::<l::sockaddr_in>() as u64, 0, 0, 0])
}

fn abstract_socket() -> Outcome {
    // the test listens on it
    let name = SocketAddr::from_abstract_name(format!("confined-{}", parent())).map_err(|_| Errno::EINVAL)?;
    UnixStream::connect_addr(&name).map(drop).map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))
}

pub(crate) fn tcp_socket() -> std::io::Result<OwnedFd> {
    // SAFETY: no addresses.
    let fd = unsafe { l::socket(l::AF_INET, l::SOCK_STREAM | l::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn execute_open(g: &Ground) -> Outcome {
    let argv = [c"true".as_ptr(), ptr::null()];
    let argv = argv.as_ptr().expose_provenance() as u64;
    call(l::SYS_execveat, [fd(&g.program), at(c""), argv, 0, l::AT_EMPTY_PATH as u64, 0])
}

fn execve() -> Outcome {
    let argv = [c"/bin/true".as_ptr(), ptr::null()];
    call(l::SYS_execve, [at(c"/bin/true"), argv.as_ptr().expose_provenance() as u64, 0, 0, 0, 0])
}

fn fork() -> Outcome {
    // SAFETY: the child does nothing but end.
    match unsafe { l::syscall(l::SYS_fork) } {
        -1 => Err(last()),
        // SAFETY: as above.
        0 => unsafe { l::_exit(0) },
        _ => Ok(()),
    }
}

fn many_threads() -> Outcome {
    let mut threads = Vec::new();
    for _ in 0..200 {
        let spawned = std::thread::Builder::new().stack_size(1 << 16).spawn(std::thread::park);
        threads.push(spawned.map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))?);
    }
    Ok(())
}

fn thread() -> Outcome {
    let spawned = std::thread::Builder::new().spawn(|| ());
    spawned.map(drop).map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))
}

fn read_other_memory() -> Outcome {
    let mut byte = [0u8];
    let local = l::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // the parent may not have anything there: EFAULT for who may
    let remote = l::iovec { iov_base: ptr::without_provenance_mut(0x1000), iov_len: 1 };
    let addr = |v: &l::iovec| ptr::from_ref(v).expose_provenance() as u64;
    call(l::SYS_process_vm_readv, [parent(), addr(&local), 1, addr(&remote), 1, 0])
}

fn capset() -> Outcome {
    // _LINUX_CAPABILITY_VERSION_3, this thread; CAP_SYS_RAWIO, effective and permitted
    let header = [0x2008_0522u32, 0];
    let data = [1u32 << 17, 1 << 17, 0, 0, 0, 0];
    let addr = |words: &[u32]| words.as_ptr().expose_provenance() as u64;
    call(l::SYS_capset, [addr(&header), addr(&data), 0, 0, 0, 0])
}

fn many(mut one: impl FnMut() -> Outcome) -> Outcome {
    (0..1000).try_for_each(|_| one())
}

fn core_limit() -> Outcome {
    let high = l::rlimit64 { rlim_cur: l::RLIM64_INFINITY, rlim_max: l::RLIM64_INFINITY };
    let addr = ptr::from_ref(&high).expose_provenance() as u64;
    call(l::SYS_prlimit64, [0, u64::from(l::RLIMIT_CORE), addr, 0, 0, 0])
}

fn map(len: u64, prot: i32, flags: i32) -> Outcome {
    let flags = flags | l::MAP_PRIVATE | l::MAP_ANONYMOUS;
    let none = u64::MAX;
    call(l::SYS_mmap, [0, len, u64::from(prot.unsigned_abs()), u64::from(flags.unsigned_abs()), none, 0])
}

fn make_executable() -> Outcome {
    let page = vec![0u8; 8192];
    let page = (page.as_ptr().expose_provenance() as u64).next_multiple_of(4096);
    let prot = (l::PROT_READ | l::PROT_WRITE | l::PROT_EXEC).unsigned_abs();
    call(l::SYS_mprotect, [page, 4096, u64::from(prot), 0, 0, 0])
}

fn ioctl(device: &impl AsRawFd, request: u32) -> Outcome {
    call(l::SYS_ioctl, [fd(device), u64::from(request), 0, 0, 0, 0])
}

/// The kernel looks at 32 bits of a request; so must the filter, or what is above would hide one.
fn wide_request(g: &Ground) -> Outcome {
    call(l::SYS_ioctl, [fd(&g.guest), 1 << 32 | u64::from(IOCTL_PRIVCMD_HYPERCALL), 0, 0, 0, 0])
}

/// uretprobe and uprobe: kernels that have them let them through every filter, and send SIGILL to who calls them from
/// elsewhere than their own trampolines.
const NEVER_FILTERED: [i64; 2] = [335, 336];

/// Every system call there may be, but those that the first thread is let make: each must fail as its verdict says. Under a
/// filter that refuses, so the kernel's own code never sees one.
fn every_other_call(g: &Ground) -> Outcome {
    let set = needs(ThreadKind::Main, g);
    ioreq_server::privilege::narrow(ThreadKind::Main).map_err(|_| Errno::EIO)?;
    let mut refused = 0;
    for number in 0..1024 {
        let wanted = match set.verdict(number) {
            Verdict::Allowed | Verdict::Conditional => continue,
            _ if NEVER_FILTERED.contains(&number) => continue,
            Verdict::Answered(errno) => errno,
            Verdict::Violation => Errno::EPERM,
        };
        match call(number, [0; 6]) {
            Err(errno) if errno == wanted => refused += 1,
            other => {
                println!("system call {number}: {other:?}, wanted {wanted:?}");
                return Err(Errno(0));
            }
        }
    }
    // The kernel has some 370 on x86-64, and a device model needs few of them.
    if refused < 940 {
        println!("{refused} calls refused");
        return Err(Errno(0));
    }
    Ok(())
}
