//! A line for each fact that an example finds, and a verdict at the end: the rig reads both.

use std::fmt::Debug;
use std::process::ExitCode;

#[derive(Default)]
pub(crate) struct Judge {
    passed: u32,
    failed: u32,
}

impl Judge {
    pub(crate) fn is<T: PartialEq + Debug>(&mut self, what: &str, got: T, want: T) {
        if got == want {
            self.passed += 1;
            println!("ok     {what}: {got:?}");
        } else {
            self.failed += 1;
            println!("FAILED {what}: {got:?}, wanted {want:?}");
        }
    }

    pub(crate) fn that(&mut self, what: &str, holds: bool) {
        self.is(what, holds, true);
    }

    /// How many held; status 1 if any did not.
    pub(crate) fn verdict(&self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
