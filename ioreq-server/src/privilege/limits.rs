//! Resource limits: what a mistake, or an intruder, can use up at most.

use rustix::process::{Resource, Rlimit, setrlimit};

use super::PrivilegeError;

/// Limits of this process, soft and hard. `None` leaves what there is. There is never a core file: it would hold the
/// guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Number that no descriptor reaches. Those that are open already stay, whatever their number.
    pub descriptors: Option<u64>,
    /// Bytes of memory that may be locked.
    pub locked: Option<u64>,
    /// Bytes of address space: mappings of guest memory count, each stack does, and what the allocator reserves
    /// (64 MiB a thread).
    pub address_space: Option<u64>,
    /// Threads and processes of this user together; the kernel does not count those of uid 0.
    pub threads: Option<u64>,
}

impl Limits {
    pub(super) fn set(&self) -> Result<(), PrivilegeError> {
        let limits = [
            (Resource::Core, Some(0), "core"),
            (Resource::Nofile, self.descriptors, "nofile"),
            (Resource::Memlock, self.locked, "memlock"),
            (Resource::As, self.address_space, "as"),
            (Resource::Nproc, self.threads, "nproc"),
        ];
        for (resource, value, what) in limits {
            if let Some(value) = value {
                let both = Rlimit { current: Some(value), maximum: Some(value) };
                setrlimit(resource, both).map_err(|e| PrivilegeError::Limit {
                    what,
                    value,
                    errno: e.into(),
                })?;
            }
        }
        Ok(())
    }
}
