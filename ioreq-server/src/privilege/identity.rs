//! Who the process is: a user and a group of its own, no further groups, no capabilities.

use std::fmt;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User, setgroups, setresgid, setresuid};
use rustix::thread as sys;
use xen_ioreq::Errno;

use super::PrivilegeError;

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user, real, effective and saved.
    pub uid: u32,
    /// The group, likewise; the only one.
    pub gid: u32,
}

/// What somebody has written as a user cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// There is no user of that name.
    #[error("there is no user {0:?}: write a name that the system knows, or a number")]
    NoUser(String),
    /// There is no group of that name.
    #[error("there is no group {0:?}: write a name that the system knows, or a number")]
    NoGroup(String),
    /// The system could not be asked.
    #[error("looking up {name:?}: {errno}")]
    LookUp {
        /// User or group.
        name: String,
        /// How it failed.
        errno: Errno,
    },
}

/// `USER` or `USER:GROUP`, each a name or a number. Without a group it is the user's own; for a number that the system
/// has no user for, the same number.
impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        let fail = |name: &str| {
            let name = name.to_owned();
            |e: nix::Error| IdentityError::LookUp { name, errno: Errno(e as i32) }
        };
        let (uid, own) = match user.parse() {
            Ok(uid) => {
                let known = User::from_uid(Uid::from_raw(uid)).map_err(fail(user))?;
                (uid, known.map_or(uid, |u| u.gid.as_raw()))
            }
            Err(_) => {
                let known = User::from_name(user).map_err(fail(user))?;
                let known = known.ok_or_else(|| IdentityError::NoUser(user.to_owned()))?;
                (known.uid.as_raw(), known.gid.as_raw())
            }
        };
        let gid = match group {
            None => own,
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => Group::from_name(group)
                    .map_err(fail(group))?
                    .ok_or_else(|| IdentityError::NoGroup(group.to_owned()))?
                    .gid
                    .as_raw(),
            },
        };
        Ok(Self { uid, gid })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)
    }
}

impl Identity {
    /// Who the process is now.
    pub fn current() -> Self {
        Self { uid: Uid::current().as_raw(), gid: Gid::current().as_raw() }
    }

    /// Whether the process may become somebody else: it is root, as far as this matters.
    pub fn may_change() -> bool {
        let needed = sys::CapabilitySet::SETUID | sys::CapabilitySet::SETGID;
        sys::capabilities(None).is_ok_and(|c| c.effective.contains(needed))
    }

    /// Becomes this user, for good.
    pub(super) fn assume(self) -> Result<(), PrivilegeError> {
        let Self { uid, gid } = self;
        let fail = |step| {
            move |e: nix::Error| PrivilegeError::Identity { identity: self, step, errno: Errno(e as i32) }
        };
        setgroups(&[]).map_err(fail("its supplementary groups"))?;
        let group = Gid::from_raw(gid);
        setresgid(group, group, group).map_err(fail("its group"))?;
        let user = Uid::from_raw(uid);
        setresuid(user, user, user).map_err(fail("its user"))
    }
}

/// Takes every capability out of the set that a process could ever have again. Needs CAP_SETPCAP, so it comes before the
/// user changes; without it the process has none to lose by `execve` either, since that is left to `no_new_privs`.
pub(super) fn drop_bounding_set() -> Result<(), PrivilegeError> {
    let has = sys::capabilities(None).map_err(capabilities)?;
    if !has.effective.contains(sys::CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in sys::CapabilitySet::all() {
        match sys::remove_capability_from_bounding_set(capability) {
            // Newer than this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(capabilities(e)),
        }
    }
    Ok(())
}

/// Gives up all capabilities. Changing the user from 0 has done so already; this is for a process that stays uid 0.
pub(super) fn drop_capabilities() -> Result<(), PrivilegeError> {
    let none = sys::CapabilitySet::empty();
    // Kernels without ambient capabilities have none to clear.
    match sys::clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(e) => return Err(capabilities(e)),
    }
    let sets = sys::CapabilitySets { effective: none, permitted: none, inheritable: none };
    sys::set_capabilities(None, sets).map_err(capabilities)
}

fn capabilities(e: rustix::io::Errno) -> PrivilegeError {
    PrivilegeError::Capabilities(e.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_users_and_groups_whether_the_system_knows_them_or_not() {
        assert_eq!("70007:70000".parse(), Ok(Identity { uid: 70007, gid: 70000 }));
        assert_eq!("70007".parse(), Ok(Identity { uid: 70007, gid: 70007 }));
        assert_eq!("0".parse(), Ok(Identity { uid: 0, gid: 0 }));
    }

    #[test]
    fn names_are_looked_up_and_unknown_ones_are_named_in_the_error() {
        assert_eq!("root".parse(), Ok(Identity { uid: 0, gid: 0 }));
        assert_eq!("root:root".parse(), Ok(Identity { uid: 0, gid: 0 }));
        let nobody = "no-such-user".parse::<Identity>();
        assert_eq!(nobody, Err(IdentityError::NoUser("no-such-user".into())));
        let no_group = "1:no-such-group".parse::<Identity>();
        assert_eq!(no_group, Err(IdentityError::NoGroup("no-such-group".into())));
        assert!("-1".parse::<Identity>().is_err());
        assert!("".parse::<Identity>().is_err());
    }
}
