//! Memory that outlives the process that a device writes to it for.
//!
//! The kernel frees a dying process's memory before it closes its descriptors, so that a device without the kernel's IOMMU would write
//! to memory that is somebody else's until VFIO takes its right to do so away. A second process that shares the memory keeps it
//! until the first has wholly ended. It does nothing else, and has nothing else.
#![expect(unsafe_code, reason = "fork")]

use std::io;
use std::time::Duration;

/// How often the keeper looks whether it is needed.
const LOOK: Duration = Duration::from_secs(1);
/// Descriptors that a process may have inherited, where nothing limits them.
const MOST_DESCRIPTORS: libc::rlim_t = 1 << 20;

/// Starts a process that keeps what shared memory this one has mapped now, until this one has ended and its descriptors are closed. To
/// be called before a device is opened and before there are threads. Says its number.
///
/// # Errors
/// There are threads, or the kernel has no room for a process.
pub fn keep_memory() -> io::Result<u32> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has threads already"));
    }
    let parent = std::process::id();
    // SAFETY: there is one thread, so that no lock is held in the child that nobody will release.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => keep(parent),
        child => Ok(child.unsigned_abs()),
    }
}

fn keep(parent: u32) -> ! {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: these take numbers and a struct that lives through the call; what is closed is nobody's in this process, which
    // touches no descriptor from here on.
    unsafe {
        // Who ends the two of them together ends the other one first, which is what is waited for.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE]
        {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"mgpu-keeper".as_ptr());
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        for fd in 0..limit.rlim_cur.min(MOST_DESCRIPTORS) {
            libc::close(i32::try_from(fd).unwrap_or(-1));
        }
    }
    // It is another's child only after its parent's last thread has closed what it had.
    while std::os::unix::process::parent_id() == parent {
        std::thread::sleep(LOOK);
    }
    // SAFETY: ends this process, without what the parent wants done at its own end.
    unsafe { libc::_exit(0) }
}
