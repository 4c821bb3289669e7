//! What `mgpu serve` gives up in dom0: the kernel's word for it, and that nothing which it needs is among that.
//!
//! The program that the test `privilege` uses tries some of its rows here too, since this is another kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Sandbox;

/// Attempts with all layers but a kill, and what must come of each: EPERM is 1, EACCES 13, ENOTTY 25.
const ROWS: &[(&str, &str)] = &[
    ("say", "ok"),
    ("run-time", "ok"),
    ("service-stock", "ok"),
    ("create-inside", "ok"),
    ("dm-op", "errno 25"),
    ("dm-op-of-other", "errno 1"),
    ("hypercall", "errno 1"),
    ("socket", "errno 1"),
    ("execve", "errno 1"),
    ("open-outside", "errno 13"),
    ("climb-out", "errno 13"),
    ("setuid", "errno 1"),
    // last: the kernel logs the first of so many only
    ("every-other-call", "ok"),
];
/// What the kernel logs of a refused system call. 41 is `socket`.
const REFUSED: &str = "type=1326";

impl Scenario for Sandbox {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn about(&self) -> &'static str {
        "mgpu draws with everything else given up: as the kernel says, and no system call that it needs is refused"
    }

    fn machine(&self) -> Machine {
        Machine { memory: 1536, dom0_memory: 1024, timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        kit.install(files, &kit.program("confined")?)?;
        kit.install_guest(files)?;
        files.dir("rig/empty");
        files.file("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\nmgpu:x:4242:4343::/:/bin/false\n");
        let layers = "limits+landlock+identity+refuse";
        let rows: String = ROWS
            .iter()
            .map(|(attempt, _)| format!("record row-{attempt} confined {layers} process {attempt} /tmp/d\n"))
            .collect();
        Ok(format!(
            "mkdir -m 777 /tmp/d\n\
             {rows}\
             record killed confined kill process socket /tmp/d\n\
             record log-of-rows dmesg\n\
             guest drawing 24 mode=draw seed=3 frames=3 balloon=8 poweroff=1\n\
             mkdir /tmp/rootsown\n\
             record no-user mgpu serve --domid $DOMID --user nobody-knows\n\
             record not-writable mgpu serve --domid $DOMID --pci-root --out /tmp/rootsown\n\
             background serve mgpu serve --domid $DOMID --pci-root --out /results/pictures --user mgpu \
             --chroot /rig/empty --on-violation refuse\n\
             ready serve 20 serving\n\
             cat /proc/$(cat /tmp/serve.pid)/task/*/status >/results/threads\n\
             readlink /proc/$(cat /tmp/serve.pid)/root >/results/root\n\
             xl unpause drawing || say FAILED xl unpause\n\
             ended drawing 90 serve\n\
             kill -USR1 $(cat /tmp/serve.pid)\n\
             ready serve 20 wrote\n\
             finish serve 20 TERM\n\
             record log dmesg\n\
             xl destroy drawing\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for (attempt, wanted) in ROWS {
            let said = run.text(&format!("row-{attempt}.out"));
            let last = said.lines().last().unwrap_or_default();
            let why = run.text(&format!("row-{attempt}.err"));
            let why = why.lines().take(3).collect::<Vec<_>>().join("; ");
            checks.that(last == *wanted, format!("{attempt}: {wanted} ({last}) {why}"));
        }
        // SIGSYS, as the shell says it
        checks.equal("a call that was not foreseen kills", run.status("killed"), Some(128 + 31));
        let log = run.text("log-of-rows.out");
        let socket = log.lines().any(|l| l.contains(REFUSED) && l.contains("syscall=41"));
        checks.that(socket, "the kernel's log says what was refused");

        for (name, says) in [("no-user", "there is no user"), ("not-writable", "chgrp 65536")] {
            checks.equal(&format!("{name}: status"), run.status(name), Some(1));
            let said = run.text(&format!("{name}.err"));
            checks
                .that(said.lines().count() == 1 && said.contains(says), format!("{name}: one line ({said})"));
        }

        checks.succeeded(run, "serve");
        let threads = threads(&run.text("threads"));
        confined(&threads, (4242, 4343), checks);
        for name in ["mgpu", "gpu-rcs", "engine RCS", "vgpu1 frames"] {
            checks.that(threads.iter().any(|t| t["Name"] == name), format!("there is a thread {name}"));
        }
        checks.equal("its root directory", run.text("root").trim(), "/rig/empty");
        checks.that(run.results.keys().any(|k| k.starts_with("pictures/dom")), "it writes a picture");
        let refused: Vec<_> = run
            .text("log.out")
            .lines()
            .filter(|l| l.contains(REFUSED) && l.contains("\"mgpu\""))
            .map(str::to_owned)
            .collect();
        checks.that(refused.is_empty(), format!("none of its system calls is refused {refused:?}"));
        Ok(())
    }
}

/// The `NAME: value` lines of status files, one after another.
pub(super) fn threads(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut all: Vec<BTreeMap<String, String>> = Vec::new();
    for (name, value) in text.lines().filter_map(|l| l.split_once(':')) {
        if name == "Name" {
            all.push(BTreeMap::new());
        }
        if let Some(thread) = all.last_mut() {
            thread.insert(name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    all
}

/// The kernel must show each thread confined, as this user and group.
pub(super) fn confined(threads: &[BTreeMap<String, String>], id: (u32, u32), checks: &mut Checks) {
    checks.that(threads.len() > 1, format!("mgpu has {} threads", threads.len()));
    let (user, group) = (four(id.0), four(id.1));
    let mut fields =
        vec![("Seccomp", "2"), ("NoNewPrivs", "1"), ("Uid", &user), ("Gid", &group), ("Groups", "")];
    fields.extend(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| (set, "0000000000000000")));
    for (field, wanted) in fields {
        let others: Vec<_> = threads
            .iter()
            .filter(|t| t.get(field).map(String::as_str) != Some(wanted))
            .map(|t| format!("{}: {:?}", t["Name"], t.get(field)))
            .collect();
        checks.that(others.is_empty(), format!("{field} of all threads is {wanted} {others:?}"));
    }
    // Layers of the process, and of each thread.
    let filters = |t: &BTreeMap<String, String>| t.get("Seccomp_filters").and_then(|n| n.parse::<u32>().ok());
    let narrow = threads.iter().all(|t| filters(t) == Some(6));
    checks.that(narrow, "every thread has narrowed itself");
}

/// Real, effective, saved, for files.
fn four(id: u32) -> String {
    [id; 4].map(|i| i.to_string()).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\tmgpu\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t\nCapInh:\t0000000000000000\n\
                        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
                        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t6\n";

    fn judged(text: &str) -> Checks {
        let mut checks = Checks::default();
        confined(&threads(text), (7, 8), &mut checks);
        checks
    }

    #[test]
    fn threads_that_are_all_confined_pass() {
        let checks = judged(&GOOD.repeat(2));
        assert!(checks.all_hold(), "{:?}", checks.failed());
    }

    #[test]
    fn one_thread_with_one_privilege_fails() {
        for (good, bad) in [
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7"),
            ("Groups:\t", "Groups:\t0 "),
            ("Seccomp_filters:\t6", "Seccomp_filters:\t3"),
        ] {
            let checks = judged(&format!("{GOOD}{}", GOOD.replace(good, bad)));
            assert_eq!(checks.failed().len(), 1, "{bad}: {:?}", checks.failed());
        }
        assert!(!judged("").all_hold());
        assert!(!judged(GOOD).all_hold(), "the other threads are missing");
    }
}
