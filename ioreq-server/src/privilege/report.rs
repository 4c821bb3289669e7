//! What is in force, in one line for the operator.

use std::fmt;
use std::path::PathBuf;

use super::files::LandlockState;
use super::filter::Violation;
use super::identity::Identity;
use super::limits::Limits;

/// What [`enter`](super::Confinement::enter) has done.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Who the process is.
    pub identity: Identity,
    /// Its root directory, if that was changed.
    pub root: Option<PathBuf>,
    /// Landlock.
    pub landlock: LandlockState,
    /// Where files may be made.
    pub writable: Vec<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// What meets a system call that was not foreseen; `None`: nothing is filtered.
    pub filter: Option<Violation>,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, no capabilities", self.identity)?;
        if let Some(root) = &self.root {
            write!(f, ", root {}", root.display())?;
        }
        match self.landlock {
            LandlockState::Unused => {}
            LandlockState::Missing => f.write_str(", no landlock in this kernel")?,
            LandlockState::InForce { version, .. } => {
                write!(f, ", landlock {version}")?;
                match self.writable.as_slice() {
                    [] => f.write_str(" (no files)")?,
                    some => {
                        let paths: Vec<_> = some.iter().map(|p| p.display().to_string()).collect();
                        write!(f, " (new files in {} only)", paths.join(", "))?;
                    }
                }
            }
        }
        let Limits { descriptors, locked, address_space, threads } = self.limits;
        for (what, value) in
            [("nofile", descriptors), ("memlock", locked), ("as", address_space), ("nproc", threads)]
        {
            if let Some(value) = value {
                write!(f, ", {what} {value}")?;
            }
        }
        f.write_str(", core 0, no new privileges")?;
        match self.filter {
            None => f.write_str(", no system call filter"),
            Some(Violation::Kill) => f.write_str(", system calls filtered: killed for others"),
            Some(Violation::Refuse) => f.write_str(", system calls filtered: EPERM for others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_all_that_is_in_force() {
        let mut report = InForce {
            identity: Identity { uid: 65543, gid: 65536 },
            root: Some("/var/empty".into()),
            landlock: LandlockState::InForce { version: 6, network: true, scopes: true },
            writable: vec!["pictures".into()],
            limits: Limits { descriptors: Some(64), ..Limits::default() },
            filter: Some(Violation::Kill),
        };
        assert_eq!(
            report.to_string(),
            "uid 65543 gid 65536, no capabilities, root /var/empty, landlock 6 (new files in pictures only), \
             nofile 64, core 0, no new privileges, system calls filtered: killed for others"
        );
        report.landlock = LandlockState::Missing;
        report.filter = None;
        let line = report.to_string();
        assert!(line.contains("no landlock in this kernel") && line.ends_with("no system call filter"));
        assert_eq!(line.lines().count(), 1);
    }
}
