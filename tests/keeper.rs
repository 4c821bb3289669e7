//! Memory that a device may write to while the process that had it dies: another one has it until then, and no longer.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use integration::until;

/// Whether a process runs. One that has ended and that nobody has asked for is listed, too.
fn runs(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|s| !"ZX".contains(s))
}

#[test]
fn memory_is_kept_by_a_process_that_has_nothing_else_and_ends_after_the_one_that_was_killed() {
    let mut kept = Command::new(env!("CARGO_BIN_EXE_kept"))
        .arg("wait")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kept");
    let said = BufReader::new(kept.stdout.take().unwrap());
    let mut facts = Vec::new();
    let mut keeper = None;
    for line in said.lines().map(|line| line.unwrap()) {
        keeper = line.strip_prefix("keeper ").map(|n| n.parse().unwrap());
        if keeper.is_some() {
            break;
        }
        facts.push(line);
    }
    assert_eq!(facts.last().map(String::as_str), Some("3 passed, 0 failed"), "{facts:#?}");
    let keeper = keeper.expect("its number");
    assert!(runs(keeper), "it keeps what a process has that lives");
    kept.kill().unwrap();
    kept.wait().unwrap();
    until("the keeper ends", || !runs(keeper));
}
