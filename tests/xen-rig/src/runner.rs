//! Runs scenarios: assembles the image, boots, collects log and results, judges.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::cpio::Tree;
use crate::error::{At as _, Error, Result};
use crate::kit::Kit;
use crate::log::Log;
use crate::qemu::{End, Qemu};
use crate::scenario::{Checks, Run, Scenario, judge_run};

/// The disk on which results leave dom0.
const DISK_BYTES: u64 = 64 << 20;
const DISK: &str = "results.img";

/// dom0 hands out what results there are this long before the machine is switched off.
const LAST_MINUTE: Duration = Duration::from_secs(25);
/// What dom0 says then.
const OUT_OF_TIME: &str = "RIG: FAILED out of time";

/// What came of one scenario.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub name: &'static str,
    /// What was checked and measured.
    pub checks: Checks,
    /// The serial log.
    pub log: PathBuf,
    /// Boot to power-off.
    pub took: Duration,
    /// The emulated machine had stopped, and this is what came of a second boot.
    pub stood_still: bool,
    /// If it failed: what was said last and by whom, for those who see no more than the report.
    pub last_words: Vec<String>,
}

impl Report {
    /// Whether everything that was checked held.
    pub fn passed(&self) -> bool {
        self.checks.all_hold()
    }
}

/// A rig that is ready to boot. Only one at a time works in a target directory.
#[derive(Debug)]
pub struct Rig {
    kit: Kit,
    logs: PathBuf,
    _lock: File,
}

impl Rig {
    /// Fetches and unpacks what is not there yet; waits for another rig that works in this target directory.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set_up(say: &dyn Fn(&str)) -> Result<Self> {
        let work = crate::host::Places::find()?.work;
        let lock = work.join("lock");
        let file = File::create(&lock).at(&lock)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            say("waiting for another rig to end");
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(std::io::Error::from)
                .at(&lock)?;
        }
        let kit = Kit::gather(say)?;
        let logs = work.join("logs");
        fs::create_dir_all(&logs).at(&logs)?;
        Ok(Self { kit, logs, _lock: file })
    }

    /// Boots and judges one scenario.
    ///
    /// # Errors
    /// Something that does not build, or QEMU that does not start.
    pub fn run(&self, scenario: &dyn Scenario, say: &dyn Fn(&str)) -> Result<Report> {
        let name = scenario.name();
        let dir = self.kit.places.work.join("runs").join(name);
        fs::create_dir_all(&dir).at(&dir)?;
        let mut files = Tree::new();
        let script = scenario.prepare(&self.kit, &mut files)?;
        files.file("rig/scenario", 0o644, script);
        let limit = scenario.machine().timeout.saturating_sub(LAST_MINUTE).as_secs();
        files.file("rig/limit", 0o644, limit.to_string());
        self.write_initrd(&dir.join("initrd"), &files)?;
        let start = Instant::now();
        let mut booted = self.boot(scenario, &dir, say)?;
        let stood_still = stands_still(&booted.0, booted.1);
        if stood_still {
            let (log, kept) = (self.log(name), self.logs.join(format!("{name}.stood-still.log")));
            fs::rename(&log, &kept).at(&log)?;
            say(&format!("{name}: the machine stood still, its log is {}; booting it again", kept.display()));
            booted = self.boot(scenario, &dir, say)?;
        }
        let (log, end) = booted;
        let took = start.elapsed();

        let mut checks = Checks::default();
        judge_run(&log, end, scenario.guests_may_die(), &mut checks);
        let mut run = Run { log, end, results: BTreeMap::new() };
        match read_results(&dir.join(DISK)) {
            Ok(results) => run.results = results,
            Err(error) => checks.that(false, format!("results come out of dom0: {error}")),
        }
        run.keep(&dir.join("results"))?;
        if checks.all_hold() {
            scenario.judge(&self.kit, &run, &mut checks)?;
        } else {
            let stderr = fs::read_to_string(dir.join("qemu.stderr")).unwrap_or_default();
            if let Some(said) = stderr.lines().rev().find(|l| !l.trim().is_empty()) {
                checks.that(false, format!("QEMU says nothing on stderr: {said}"));
            }
        }
        let last_words = if checks.all_hold() { Vec::new() } else { last_words(&run) };
        Ok(Report { name, checks, log: self.log(name), took, stood_still, last_words })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn boot(&self, scenario: &dyn Scenario, dir: &Path, say: &dyn Fn(&str)) -> Result<(Log, End)> {
        let disk = dir.join(DISK);
        File::create(&disk).and_then(|f| f.set_len(DISK_BYTES)).at(&disk)?;
        let (root, images) = (&self.kit.unpacked.qemu, &self.kit.images);
        let qemu = Qemu { root, images, dir, initrd: "initrd", disk: DISK };
        let path = self.log(scenario.name());
        let mut file = File::create(&path).at(&path)?;
        let mut error = None;
        let booted = qemu.boot(&scenario.machine(), |line| {
            let written = writeln!(file, "{}", crate::log::render(line));
            error = error.take().or(written.err());
            say(&crate::log::render(line));
        })?;
        error.map_or(Ok(booted), Err).at(&path)
    }

    fn write_initrd(&self, path: &Path, files: &Tree) -> Result<()> {
        let mut out = File::create(path).at(path)?;
        for tree in [&self.kit.base, files] {
            let archive = tree.archive().map_err(|file| Error::Image {
                path: file.into(),
                what: "too large for an initramfs".into(),
            })?;
            out.write_all(&archive).at(path)?;
        }
        Ok(())
    }
}

/// Whether the emulated machine itself stopped, as it did when QEMU forgot an interrupt of Xen's timer: then nothing runs
/// any more, not even dom0's watchdog, which speaks before the time is up.
fn stands_still(log: &Log, end: End) -> bool {
    end == End::TimedOut && log.find(OUT_OF_TIME).is_none() && log.crash(true).is_none()
}

/// So many lines of each log are its last words.
const LAST_LINES: usize = 8;

/// The last lines of the machine, of each guest, and of what each program wrote to its standard error.
fn last_words(run: &Run) -> Vec<String> {
    let told = |name: &&String| name.starts_with("guest-") || name.ends_with(".err");
    let results = run.results.keys().filter(told).map(|name| (name.as_str(), run.text(name)));
    std::iter::once(("the machine", run.log.render()))
        .chain(results)
        .flat_map(|(whose, said)| {
            // a hypervisor that tells of its own affairs is not what a guest stopped at
            let mut lines: Vec<_> =
                said.lines().filter(|l| !l.trim().is_empty() && !l.contains("(XEN)")).collect();
            lines.drain(..lines.len().saturating_sub(LAST_LINES));
            lines.into_iter().map(|line| format!("{whose}: {}", line.trim_end())).collect::<Vec<_>>()
        })
        .collect()
}

/// The files of the tar archive that dom0 wrote to the raw disk.
fn read_results(disk: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut results = BTreeMap::new();
    for entry in tar::Archive::new(File::open(disk)?).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            results.insert(name, bytes);
        }
    }
    if results.is_empty() {
        return Err(std::io::Error::other("the disk holds no archive"));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_a_disk_longer_than_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, "./info.status", b"0\n\n".as_slice()).unwrap();
        let mut bytes = archive.into_inner().unwrap();
        bytes.resize(1 << 20, 0);
        fs::write(&disk, bytes).unwrap();
        let results = read_results(&disk).unwrap();
        assert_eq!(results.get("info.status").map(Vec::as_slice), Some(b"0\n\n".as_slice()));
    }

    #[test]
    fn a_machine_stands_still_only_if_nobody_in_it_says_why() {
        use std::os::unix::process::ExitStatusExt as _;
        let log = |last: &str| {
            let mut log = Log::default();
            log.push(Duration::ZERO, b"RIG: user space after 5 s");
            log.push(Duration::from_secs(9), last.as_bytes());
            log
        };
        assert!(stands_still(&log("(d1) GUEST: frames"), End::TimedOut));
        assert!(!stands_still(&log("RIG: FAILED out of time"), End::TimedOut));
        assert!(!stands_still(&log("(XEN) Panic on CPU 0:"), End::TimedOut));
        let exited = End::Exited(std::process::ExitStatus::from_raw(0));
        assert!(!stands_still(&log("(d1) GUEST: frames"), exited));
    }

    #[test]
    fn the_last_words_are_the_last_lines_of_all_who_spoke() {
        let mut log = Log::default();
        log.push(Duration::from_secs(7), b"RIG: FAILED out of time");
        log.push(Duration::from_secs(8), b"(XEN) of its own affairs");
        let guest: String = (0..20).map(|n| format!("line {n}\r\n")).collect();
        let results =
            [("guest-stock.log", guest.as_str()), ("server.err", "it failed\n\n"), ("server.out", "pio 3\n")];
        let results = results.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
        let said = last_words(&Run { log, end: End::TimedOut, results });
        assert_eq!(said.len(), 1 + LAST_LINES + 1);
        assert_eq!(said[0], "the machine:    7.000 RIG: FAILED out of time");
        assert_eq!(
            (said[1].as_str(), said[8].as_str()),
            ("guest-stock.log: line 12", "guest-stock.log: line 19")
        );
        assert_eq!(said[9], "server.err: it failed");
    }

    #[test]
    fn an_empty_disk_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, vec![0; 4096]).unwrap();
        assert!(read_results(&disk).is_err());
    }
}
