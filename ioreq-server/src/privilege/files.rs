//! The file system as the process sees it: a root of its own, and Landlock.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use xen_ioreq::Errno;

use super::PrivilegeError;

/// The newest rules that are asked for; a kernel that has fewer of them enforces those it has.
const NEWEST: ABI = ABI::V6;

/// What Landlock does on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LandlockState {
    /// It was not asked for.
    Unused,
    /// The kernel does not have it, or it is not among the security modules that were switched on (`lsm=`).
    Missing,
    /// Files are out of reach but for those allowed. `network`: so are TCP (from version 4 on); `scopes`: and signals to
    /// and abstract sockets of others (from version 6 on).
    InForce {
        /// The version of its interface.
        version: u8,
        /// TCP.
        network: bool,
        /// Signals and abstract sockets.
        scopes: bool,
    },
}

/// Directories with descriptors to them, taken while paths still mean what the operator meant.
#[derive(Debug)]
pub(super) struct Rules {
    writable: Vec<(PathBuf, PathFd)>,
}

impl Rules {
    pub(super) fn open(writable: &[PathBuf]) -> Result<Self, PrivilegeError> {
        let open = |path: &PathBuf| match PathFd::new(path) {
            Ok(fd) => Ok((path.clone(), fd)),
            Err(e) => Err(PrivilegeError::Directory { path: path.clone(), why: e.to_string() }),
        };
        Ok(Self { writable: writable.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// From then on the process reaches nothing else that it has not open already.
    pub(super) fn enforce(self) -> Result<LandlockState, PrivilegeError> {
        let status = self.restrict().map_err(|e| PrivilegeError::Landlock(e.to_string()))?;
        let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
            return Ok(LandlockState::Missing);
        };
        if status.ruleset == RulesetStatus::NotEnforced {
            return Ok(LandlockState::Missing);
        }
        Ok(LandlockState::InForce {
            version: effective_abi as u8,
            network: effective_abi >= ABI::V4,
            scopes: effective_abi >= ABI::V6,
        })
    }

    fn restrict(self) -> Result<RestrictionStatus, landlock::RulesetError> {
        // New files, and written ones; to read them, or to make anything else of them, is not needed.
        let write: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::Truncate;
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for (_, fd) in self.writable {
            rules = rules.add_rule(PathBeneath::new(fd, write))?;
        }
        rules.restrict_self()
    }
}

/// Makes `root` the root directory and the current one.
pub(super) fn change_root(root: &Path) -> Result<(), PrivilegeError> {
    let fail = |e: rustix::io::Errno| PrivilegeError::Root { path: root.to_owned(), errno: Errno::from(e) };
    rustix::process::chroot(root).map_err(fail)?;
    rustix::process::chdir("/").map_err(fail)
}
