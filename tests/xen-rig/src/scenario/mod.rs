//! A scenario: what goes into dom0, what dom0 does with it, and how the host judges what came out.
//!
//! dom0 acts and records, the host judges. Each scenario has a boot of its own, so none depends on another.

mod boot;
mod channel;
mod conformance;
mod descriptors;
mod grant_rows;
mod grants;
mod i915;
mod killed;
mod promise;
mod sandbox;
mod saved;
mod serve;
mod speed;
mod stock_linux;
mod vfio;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::kit::Kit;
use crate::linux::Kind;
use crate::log::Log;
use crate::qemu::{End, Machine};

/// Every scenario, in the order in which they run.
pub const ALL: &[&dyn Scenario] = &[
    &boot::Boot,
    &descriptors::Descriptors,
    &grants::Grants,
    &grant_rows::GrantRows,
    &channel::Channel,
    &conformance::Conformance,
    &serve::Serve,
    &promise::Promise,
    &saved::SaveBalloon,
    &killed::Killed,
    &view::View,
    &stock_linux::StockLinux(Kind::Pvh),
    &stock_linux::StockLinux(Kind::Hvm),
    &i915::I915Pvh,
    &i915::I915Tracked,
    &i915::I915Hvm,
    &i915::I915Balloon,
    &i915::TwoGuests,
    &i915::I915Hang,
    &i915::I915Reset,
    &i915::I915Life,
    &i915::I915Killed,
    &i915::SaveRestore,
    &vfio::Vfio,
    &sandbox::Sandbox,
    &speed::Speed,
];

/// One thing to show on real Xen.
pub trait Scenario: Sync {
    /// What the command line calls it.
    fn name(&self) -> &'static str;

    /// One line: what it shows.
    fn about(&self) -> &'static str;

    /// The machine that it needs.
    fn machine(&self) -> Machine {
        Machine::default()
    }

    /// Whether a guest that Xen crashes is part of it.
    fn guests_may_die(&self) -> bool {
        false
    }

    /// Adds programs to dom0's files and gives the shell script that dom0 runs; `dom0/init` has its helpers.
    ///
    /// # Errors
    /// Something that does not build.
    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String>;

    /// Judges what came out. Called only after a run that ended in order: no crash, results complete.
    ///
    /// # Errors
    /// Something on the host that the judgement needs and that failed.
    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()>;
}

/// What a boot left behind.
#[derive(Debug)]
pub struct Run {
    /// The serial line.
    pub log: Log,
    /// How it ended.
    pub end: End,
    /// The files of dom0's `/results`.
    pub results: BTreeMap<String, Vec<u8>>,
}

impl Run {
    /// A result file as text; empty if it is not there.
    pub fn text(&self, name: &str) -> String {
        self.results.get(name).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
    }

    /// Keeps the result files where one can look at them.
    pub(crate) fn keep(&self, dir: &Path) -> Result<()> {
        if dir.exists() {
            fs::remove_dir_all(dir).at(dir)?;
        }
        fs::create_dir_all(dir).at(dir)?;
        for (name, bytes) in &self.results {
            let path = dir.join(name.replace('/', "-"));
            fs::write(&path, bytes).at(&path)?;
        }
        Ok(())
    }

    /// The exit status of a recorded command.
    pub fn status(&self, name: &str) -> Option<i32> {
        self.text(&format!("{name}.status")).trim().parse().ok()
    }
}

/// What was checked and what came of it, and the figures measured on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    passed: Vec<String>,
    failed: Vec<String>,
    figures: Vec<(String, f64)>,
}

impl Checks {
    /// Checks one thing; `what` says what should hold.
    pub fn that(&mut self, holds: bool, what: impl Into<String>) {
        if holds { self.passed.push(what.into()) } else { self.failed.push(what.into()) }
    }

    /// Checks that two values are equal, and shows both if they are not.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, wanted: T) {
        let holds = found == wanted;
        self.that(holds, if holds { what.to_owned() } else { format!("{what}: {found:?}, not {wanted:?}") });
    }

    /// Checks that a recorded command ended with status 0, and shows what it said if not.
    pub fn succeeded(&mut self, run: &Run, name: &str) {
        let status = run.status(name);
        let said = run.text(&format!("{name}.err")) + &run.text(&format!("{name}.out"));
        let last = said.trim().lines().last().unwrap_or_default().to_owned();
        self.that(status == Some(0), format!("{name} ends with status 0 (status {status:?}: {last})"));
    }

    /// Takes over the verdict of a program that ends its output with `N passed, N failed`: it must be there, with rows
    /// that passed and none that failed.
    pub fn rows(&mut self, out: &str) {
        let last = out.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let holds = last.strip_suffix(" passed, 0 failed").and_then(|n| n.trim().parse::<u32>().ok());
        self.that(holds.is_some_and(|n| n > 0), format!("all rows pass ({last})"));
        for line in out.lines().filter(|line| line.contains("FAIL")) {
            self.that(false, line.trim());
        }
    }

    /// Takes over the facts that a program of ours has judged: a line for each, and a verdict at the end.
    pub fn facts(&mut self, run: &Run, name: &str) {
        let out = run.text(&format!("{name}.out"));
        for line in out.lines() {
            if let Some(what) = line.strip_prefix("ok     ") {
                self.that(true, what);
            } else if line.starts_with("FAILED") {
                self.that(false, format!("{name}: {line}"));
            }
        }
        self.that(out.trim_end().ends_with(" passed, 0 failed"), format!("{name} comes to its end"));
    }

    /// Notes a measured number.
    pub fn figure(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }

    /// What held.
    pub fn passed(&self) -> &[String] {
        &self.passed
    }

    /// What did not hold.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// What was measured.
    pub fn figures(&self) -> &[(String, f64)] {
        &self.figures
    }

    /// Whether something was checked and all of it held.
    pub fn all_hold(&self) -> bool {
        self.failed.is_empty() && !self.passed.is_empty()
    }
}

/// The line that dom0 says last.
const LAST_LINE: &str = "RIG: end of scenario";
/// What dom0 says before anything that it could not do.
const FAILED: &str = "RIG: FAILED";

/// What must hold of every run, whatever the scenario.
pub(crate) fn judge_run(log: &Log, end: End, guests_may_die: bool, checks: &mut Checks) {
    match end {
        End::TimedOut => checks.that(false, "the machine is switched off in time"),
        End::Exited(status) => checks.that(status.success(), format!("QEMU ends well ({status})")),
    }
    match log.crash(guests_may_die) {
        Some(line) => checks.that(false, format!("nothing crashes: {}", line.text)),
        None => checks.that(true, "nothing crashes"),
    }
    checks.that(log.find("RIG: user space").is_some(), "dom0 comes up");
    checks.that(log.find(LAST_LINE).is_some(), "dom0 runs the scenario to its end");
    if let Some(line) = log.find(FAILED) {
        checks.that(false, line.text.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;

    fn judged(lines: &[&str], end: End) -> Checks {
        let mut log = Log::default();
        for line in lines {
            log.push(Duration::ZERO, line.as_bytes());
        }
        let mut checks = Checks::default();
        judge_run(&log, end, false, &mut checks);
        checks
    }

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    const GOOD: &[&str] = &["RIG: user space after 5.1 s", "RIG: end of scenario after 9 s"];

    #[test]
    fn a_run_to_the_end_passes() {
        assert!(judged(GOOD, exited(0)).all_hold());
    }

    #[test]
    fn a_panic_fails_though_qemu_ends_well() {
        let checks = judged(&[GOOD[0], "(XEN) Panic on CPU 0:", GOOD[1]], exited(0));
        assert_eq!(checks.failed(), ["nothing crashes: (XEN) Panic on CPU 0:"]);
    }

    #[test]
    fn a_missing_last_line_fails() {
        assert_eq!(judged(&GOOD[..1], exited(0)).failed(), ["dom0 runs the scenario to its end"]);
    }

    #[test]
    fn a_timeout_and_a_bad_end_of_qemu_fail() {
        assert!(!judged(GOOD, End::TimedOut).all_hold());
        assert!(!judged(GOOD, exited(1)).all_hold());
    }

    #[test]
    fn what_dom0_could_not_do_fails() {
        let checks = judged(&[GOOD[0], "RIG: FAILED insmod xenfs", GOOD[1]], exited(0));
        assert_eq!(checks.failed(), ["RIG: FAILED insmod xenfs"]);
    }

    #[test]
    fn nothing_checked_is_not_a_pass() {
        assert!(!Checks::default().all_hold());
    }

    #[test]
    fn rows_pass_only_with_a_verdict_and_no_failure() {
        let of = |out: &str| {
            let mut checks = Checks::default();
            checks.rows(out);
            checks.all_hold()
        };
        assert!(of("ok one\nok two\n2 passed, 0 failed\n"));
        assert!(!of("ok one\nFAILED two\n1 passed, 1 failed\n"));
        assert!(!of("FAILED two\n1 passed, 0 failed\n"));
        assert!(!of("0 passed, 0 failed\n"));
        assert!(!of("ok one\n"));
    }

    #[test]
    fn a_command_without_a_status_has_not_succeeded() {
        let run = Run { log: Log::default(), end: exited(0), results: BTreeMap::new() };
        let mut checks = Checks::default();
        checks.succeeded(&run, "mgpu");
        assert!(!checks.all_hold());
    }
}
