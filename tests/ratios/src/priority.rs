//! A real-time priority, for figures whose two sides have different numbers of threads.
//!
//! Whoever has more threads to be kept waiting loses more to what else runs on the machine, and such a figure would be of that.
//! Threads have the priority of the one that starts them, so both sides have it.
#![expect(unsafe_code, reason = "rustix has no call for a thread's scheduling policy")]

/// Any would do: nobody else is expected to have one.
const PRIORITY: libc::c_int = 10;

/// The calling thread, and those that it starts, go before all that have no real-time priority; it is put back when this is
/// dropped.
pub(crate) struct RealTime(());

impl RealTime {
    /// Takes it. An error is the system's refusal.
    pub(crate) fn take() -> std::io::Result<Self> {
        set(libc::SCHED_FIFO, PRIORITY).map(|()| Self(()))
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = set(libc::SCHED_OTHER, 0);
    }
}

/// Sets the calling thread's policy.
fn set(policy: libc::c_int, priority: libc::c_int) -> std::io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the parameter is read during the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
