//! Where the program runs: in dom0, in another domain, or not on Xen.

use std::fmt;
use std::fs;
use std::path::Path;

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the control domain.
    ControlDomain,
    /// In another domain of a Xen host: a stub domain, if it is there for a guest.
    OtherDomain,
    /// Not on Xen.
    NotXen,
}

impl Place {
    /// Finds out from `/sys/hypervisor` and `/proc/xen`.
    pub fn detect() -> Self {
        Self::detect_below(Path::new("/"))
    }

    /// The same for a file system that starts at `root`.
    pub fn detect_below(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        if read("sys/hypervisor/type").trim() != "xen" {
            return Self::NotXen;
        }
        // xenfs; without it mounted, a control domain is known by its start flags (xen.h `SIF_PRIVILEGED`, bit 0).
        let capabilities = read("proc/xen/capabilities");
        let flags = read("sys/hypervisor/start_flags/privileged");
        if capabilities.split(',').any(|c| c.trim() == "control_d") || flags.trim() == "1" {
            Self::ControlDomain
        } else {
            Self::OtherDomain
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlDomain => "the control domain of a Xen host",
            Self::OtherDomain => "a domain of a Xen host that is not its control domain",
            Self::NotXen => "no Xen here",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A root with these files, gone at the end.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("stubdom-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("below the root")).expect("mkdir");
                fs::write(path, text).expect("write");
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn dom0_is_known_by_its_capability() {
        let root =
            Root::with("dom0", &[("sys/hypervisor/type", "xen\n"), ("proc/xen/capabilities", "control_d\n")]);
        assert_eq!(Place::detect_below(&root.0), Place::ControlDomain);
    }

    #[test]
    fn dom0_without_xenfs_is_known_by_its_start_flags() {
        let files = [("sys/hypervisor/type", "xen\n"), ("sys/hypervisor/start_flags/privileged", "1\n")];
        assert_eq!(Place::detect_below(&Root::with("flags", &files).0), Place::ControlDomain);
    }

    #[test]
    fn a_domain_without_the_capability_is_another() {
        let root = Root::with("domu", &[("sys/hypervisor/type", "xen\n"), ("proc/xen/capabilities", "\n")]);
        assert_eq!(Place::detect_below(&root.0), Place::OtherDomain);
    }

    #[test]
    fn another_hypervisor_is_not_xen() {
        let root = Root::with("kvm", &[("sys/hypervisor/type", "kvm\n")]);
        assert_eq!(Place::detect_below(&root.0), Place::NotXen);
        assert_eq!(Place::detect_below(Path::new("/nonexistent")), Place::NotXen);
    }
}
