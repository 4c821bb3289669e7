//! Boots real Xen 4.17 under QEMU and judges what runs there.
//!
//! Fetches Debian's packages and unpacks them below the target directory; installs nothing. [`run`] is the program's
//! work; other programs call it for the figures of a scenario.

mod cpio;
mod dom0;
mod error;
mod host;
mod images;
mod kit;
mod linux;
mod log;
mod packages;
mod qemu;
mod runner;
mod scenario;
mod screen;

pub use cpio::Tree;
pub use error::{Error, Result};
pub use host::Places;
pub use kit::Kit;
pub use log::{Line, Log};
pub use qemu::{Below, End, Machine};
pub use runner::{Report, Rig};
pub use scenario::{ALL, Checks, Run, Scenario};

/// Runs the named scenarios, all of them if none is named, and tells of progress by `say`.
///
/// # Errors
/// Anything that keeps the rig from booting. A scenario that fails is a [`Report`] that says so.
pub fn run(names: &[&str], say: &dyn Fn(&str)) -> Result<Vec<Report>> {
    let chosen = select(names)?;
    let rig = Rig::set_up(say)?;
    chosen.into_iter().map(|scenario| rig.run(scenario, say)).collect()
}

/// The scenarios of these names; all for no names.
///
/// # Errors
/// [`Error::NoScenario`].
pub fn select(names: &[&str]) -> Result<Vec<&'static dyn Scenario>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let found = ALL.iter().find(|s| s.name() == *name);
            found.copied().ok_or_else(|| Error::NoScenario((*name).to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_selects_all_and_a_wrong_one_is_refused() {
        assert_eq!(select(&[]).unwrap().len(), ALL.len());
        assert_eq!(select(&["speed"]).unwrap()[0].name(), "speed");
        assert!(matches!(select(&["boot", "bot"]), Err(Error::NoScenario(name)) if name == "bot"));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
