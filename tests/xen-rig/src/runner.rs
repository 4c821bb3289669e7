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
use crate::qemu::Qemu;
use crate::scenario::{Checks, Run, Scenario, judge_run};

/// The disk on which results leave dom0.
const DISK_BYTES: u64 = 64 << 20;

/// dom0 hands out what results there are this long before the machine is switched off.
const LAST_MINUTE: Duration = Duration::from_secs(15);

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
        let disk = dir.join("results.img");
        File::create(&disk).and_then(|f| f.set_len(DISK_BYTES)).at(&disk)?;

        let start = Instant::now();
        let qemu = Qemu {
            root: &self.kit.unpacked.qemu,
            images: &self.kit.images,
            dir: &dir,
            initrd: "initrd",
            disk: "results.img",
        };
        let log_path = self.logs.join(format!("{name}.log"));
        let mut log_file = File::create(&log_path).at(&log_path)?;
        let mut log_error = None;
        let (log, end) = qemu.boot(&scenario.machine(), |line| {
            let written = writeln!(log_file, "{}", crate::log::render(line));
            log_error = log_error.take().or(written.err());
            say(&crate::log::render(line));
        })?;
        if let Some(error) = log_error {
            return Err(error).at(&log_path);
        }
        let took = start.elapsed();

        let mut checks = Checks::default();
        judge_run(&log, end, scenario.guests_may_die(), &mut checks);
        let mut run = Run { log, end, results: BTreeMap::new() };
        match read_results(&disk) {
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
        Ok(Report { name, checks, log: log_path, took })
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
    fn an_empty_disk_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, vec![0; 4096]).unwrap();
        assert!(read_results(&disk).is_err());
    }
}
