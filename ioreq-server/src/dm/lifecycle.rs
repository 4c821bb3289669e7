//! The guest as a whole: how many vCPUs it has, and its end.

use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::abi::sched as reason;

use super::{Dm, DmError};

/// Why a guest goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// It was switched off.
    Poweroff,
    /// It is to start again.
    Reboot,
    /// It is to be saved.
    Suspend,
    /// It is broken.
    Crash,
    /// Its watchdog fired.
    Watchdog,
    /// It starts another kernel.
    SoftReset,
}

impl Dm {
    /// Number of vCPUs of the guest. EOPNOTSUPP before Xen 4.16.
    pub fn nr_vcpus(&self) -> Result<u32, DmError> {
        self.call("nr_vcpus", abi::XEN_DMOP_nr_vcpus, abi::xen_dm_op_nr_vcpus::default()).map(|out| out.vcpus)
    }

    /// Shuts the guest down: its vCPUs stop, and the toolstack does what it was told to do for that reason. A guest that is
    /// down already keeps its first reason.
    pub fn shutdown(&self, why: Shutdown) -> Result<(), DmError> {
        let reason = match why {
            Shutdown::Poweroff => reason::SHUTDOWN_poweroff,
            Shutdown::Reboot => reason::SHUTDOWN_reboot,
            Shutdown::Suspend => reason::SHUTDOWN_suspend,
            Shutdown::Crash => reason::SHUTDOWN_crash,
            Shutdown::Watchdog => reason::SHUTDOWN_watchdog,
            Shutdown::SoftReset => reason::SHUTDOWN_soft_reset,
        };
        let payload = abi::xen_dm_op_remote_shutdown { reason };
        self.call("remote_shutdown", abi::XEN_DMOP_remote_shutdown, payload).map(drop)
    }

    /// Crashes the guest.
    pub fn crash(&self) -> Result<(), DmError> {
        self.shutdown(Shutdown::Crash)
    }
}
