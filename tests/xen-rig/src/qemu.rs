//! One boot of Xen, or of Linux alone, under QEMU's software emulation: starts it, reads its serial line, ends it in time.

#![expect(unsafe_code, reason = "a hook between fork and exec, so that QEMU never outlives the rig")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{At as _, Result};
use crate::images::Images;
use crate::log::{Line, Log};

/// Xen's scheduler: the default one gives a trapped access of a one-CPU machine whole slices of waiting.
const SCHEDULER: &str = "sched=credit sched_credit_tslice_ms=1 sched_ratelimit_us=100";

/// With lazy switching, a guest's vector registers show up in dom0's programs under this QEMU, which then crash or draw
/// wrongly (seen in half of the runs of a guest that takes interrupts).
const FPU: &str = "spec-ctrl=eager-fpu";

/// A clock that interrupts a hundred times a second. QEMU changes a CPU's pending interrupts at each exit of a guest
/// without the lock under which others raise them, so one is now and then forgotten: seen as the local APIC's one-shot
/// timer in its IRR while the guest runs on for ever. The next interrupt of any kind makes QEMU look again.
const CLOCK: &str = "clocksource=pit";

/// What dom0's Linux does without, since an emulated processor takes seconds for it at every boot: tests of its ciphers, a search of its
/// own page tables, detours against other processors' bugs.
const QUICK: &str = "cryptomgr.notests rodata=off mitigations=off";

/// Once Xen or dom0 has crashed, what they still say is worth this long.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What runs on the machine, below the programs of a scenario.
#[derive(Clone, Copy, Debug)]
pub enum Below {
    /// Xen, with Linux as its dom0.
    Xen,
    /// Linux alone.
    Linux {
        /// Devices that the machine has besides, as QEMU's `-device` takes them.
        devices: &'static [&'static str],
        /// What more the kernel is told.
        command_line: &'static str,
    },
}

/// The machine that is booted.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// What runs on it.
    pub below: Below,
    /// All memory, MiB.
    pub memory: u32,
    /// What dom0 has of it, MiB.
    pub dom0_memory: u32,
    /// CPUs.
    pub cpus: u32,
    /// After this long the machine is switched off.
    pub timeout: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self { below: Below::Xen, memory: 1024, dom0_memory: 512, cpus: 1, timeout: Duration::from_secs(600) }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended by itself: dom0 powered the machine off, or Xen panicked.
    Exited(ExitStatus),
    /// It took too long and was killed.
    TimedOut,
}

/// What QEMU is started with.
#[derive(Clone, Debug)]
pub(crate) struct Qemu<'a> {
    /// The unpacked QEMU packages.
    pub(crate) root: &'a Path,
    /// Hypervisor and dom0 kernel.
    pub(crate) images: &'a Images,
    /// Where the run's files are; QEMU's working directory.
    pub(crate) dir: &'a Path,
    /// dom0's initramfs, in `dir`.
    pub(crate) initrd: &'a str,
    /// The disk for results, in `dir`.
    pub(crate) disk: &'a str,
}

impl Qemu<'_> {
    /// Boots, and stays until the machine is off. `each` sees every line as it comes.
    ///
    /// # Errors
    /// QEMU could not be started.
    pub(crate) fn boot(&self, machine: &Machine, mut each: impl FnMut(&Line)) -> Result<(Log, End)> {
        let mut command = self.command(machine)?;
        let start = Instant::now();
        let mut child = Running(command.spawn().at(command.get_program())?);
        let lines = reader(child.0.stdout.take());
        let mut log = Log::default();
        let mut deadline = start + machine.timeout;
        let mut crashed = false;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(raw) => {
                    let line = log.push(start.elapsed(), &raw);
                    each(line);
                    if !crashed && line.is_fatal() {
                        crashed = true;
                        deadline = deadline.min(Instant::now() + LAST_WORDS);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.0.wait().at(command.get_program())?;
                    return Ok((log, End::Exited(status)));
                }
                Err(RecvTimeoutError::Timeout) => return Ok((log, End::TimedOut)),
            }
        }
    }

    fn command(&self, machine: &Machine) -> Result<Command> {
        let usr = self.root.join("usr");
        let libraries = [usr.join("lib/x86_64-linux-gnu"), self.root.join("lib/x86_64-linux-gnu")];
        let libraries: Vec<String> = libraries.iter().map(|d| d.display().to_string()).collect();
        let errors = self.dir.join("qemu.stderr");
        let dom0 = machine.dom0_memory;

        let mut command = Command::new(usr.join("bin/qemu-system-x86_64"));
        command
            .current_dir(self.dir)
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .env("QEMU_MODULE_DIR", usr.join("lib/x86_64-linux-gnu/qemu"))
            // SMAP under QEMU 7.2 kills a PV dom0.
            .args(["-accel", "tcg", "-machine", "q35", "-cpu", "max,-smap"])
            .args(["-m", &format!("{}M", machine.memory), "-smp", &machine.cpus.to_string()])
            .args(["-nodefaults", "-display", "none", "-vga", "none", "-serial", "stdio", "-monitor", "none"])
            .arg("-no-reboot");
        for data in ["share/qemu", "share/seabios"] {
            command.arg("-L").arg(usr.join(data));
        }
        command.args(["-drive", &format!("file={},format=raw,if=virtio", self.disk)]);
        // Names without commas or spaces, which the list of modules could not hold.
        link(&self.images.vmlinux, &self.dir.join("vmlinux"))?;
        match machine.below {
            Below::Xen => {
                link(&self.images.xen, &self.dir.join("xen"))?;
                command
                    .args(["-kernel", "xen"])
                    .args(["-initrd", &format!("vmlinux console=hvc0 loglevel=4 {QUICK},{}", self.initrd)])
                    .arg("-append")
                    .arg(format!(
                        "com1=115200,8n1 console=com1 dom0_mem={dom0}M,max:{dom0}M loglvl=all guest_loglvl=all {SCHEDULER} {FPU} {CLOCK}"
                    ));
            }
            Below::Linux { devices, command_line } => {
                for device in devices {
                    command.args(["-device", device]);
                }
                command
                    .args(["-kernel", "vmlinux", "-initrd", self.initrd])
                    .args(["-append", &format!("console=ttyS0 loglevel=4 {QUICK} {command_line}")]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&errors).at(&errors)?);
        // SAFETY: prctl is a system call without memory effects in this process, so it may run between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let kill = Some(rustix::process::Signal::KILL);
                Ok(rustix::process::set_parent_process_death_signal(kill)?)
            });
        }
        Ok(command)
    }
}

/// Kills QEMU when the run is left, whichever way.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine; nothing else can be done about it here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reader(stdout: Option<ChildStdout>) -> mpsc::Receiver<Vec<u8>> {
    let (to, lines) = mpsc::channel();
    if let Some(stdout) = stdout {
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                if to.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
    }
    lines
}

fn link(from: &PathBuf, to: &Path) -> Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to).at(to)?;
    }
    std::os::unix::fs::symlink(from, to).at(to)
}
