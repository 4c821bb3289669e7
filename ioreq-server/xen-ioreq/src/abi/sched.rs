//! `sched.h`: a domain's own scheduling and shutdown.

abi_structs! {
    header "xen/sched.h";
    /// [`SCHEDOP_shutdown`].
    struct sched_shutdown = "struct sched_shutdown" {
        /// `SHUTDOWN_*`.
        reason: u32,
    }
    /// [`SCHEDOP_poll`].
    struct sched_poll = "struct sched_poll" {
        /// Handle to the ports (u32 each).
        ports: u64,
        /// Number of ports.
        nr_ports: u32,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
        /// System time in nanoseconds at which to give up; 0 never.
        timeout: u64,
    }
    /// [`SCHEDOP_remote_shutdown`].
    struct sched_remote_shutdown = "struct sched_remote_shutdown" {
        /// Domain.
        domain_id: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// `SHUTDOWN_*`.
        reason: u32,
    }
}

abi_consts! {
    header "xen/sched.h";
    /// Let others run.
    SCHEDOP_yield: u32 = 0,
    /// Sleep until an event.
    SCHEDOP_block: u32 = 1,
    /// Shut the caller down.
    SCHEDOP_shutdown: u32 = 2,
    /// Sleep until one of some events.
    SCHEDOP_poll: u32 = 3,
    /// Shut another domain down.
    SCHEDOP_remote_shutdown: u32 = 4,
    /// Latch a reason for a later shutdown.
    SCHEDOP_shutdown_code: u32 = 5,
    /// Watchdog of the domain.
    SCHEDOP_watchdog: u32 = 6,
    /// Run on one physical CPU for a while.
    SCHEDOP_pin_override: u32 = 7,
    /// Went down cleanly.
    SHUTDOWN_poweroff: u32 = 0,
    /// Wants to be started again.
    SHUTDOWN_reboot: u32 = 1,
    /// Wants to be saved.
    SHUTDOWN_suspend: u32 = 2,
    /// Crashed.
    SHUTDOWN_crash: u32 = 3,
    /// Its watchdog fired.
    SHUTDOWN_watchdog: u32 = 4,
    /// Starts another kernel (kexec).
    SHUTDOWN_soft_reset: u32 = 5,
    /// Highest known reason.
    SHUTDOWN_MAX: u32 = 5,
}
