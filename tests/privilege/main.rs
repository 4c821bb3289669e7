//! What a device model gives up is gone, and what it keeps works: a program gives up its privileges, tries one thing, and
//! ends; one row an attempt, with the error or the signal that it must meet.
//!
//! As root every row runs, and those that need no root once more as a plain user; as a plain user the latter only. What did
//! not run, and why, is said on stderr.

mod alive;
mod rows;
mod threads;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What comes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    /// It works.
    Works,
    /// It is refused.
    Errno(i32),
    /// The process is killed.
    Signal(i32),
}

/// Who starts the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Plain,
}

/// Users as whom rows can run here.
fn who_can() -> &'static [Who] {
    let uid = fs::metadata("/proc/self").map(|m| m.uid()).expect("a /proc");
    if uid == 0 { &[Who::Root, Who::Plain] } else { &[Who::Plain] }
}

/// Says something that the test harness does not swallow.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "privilege: {text}");
}

/// A directory for one row, and the program where everybody can start it.
struct Place {
    _dir: tempfile::TempDir,
    program: PathBuf,
    /// Where new files may lie. `there.png` is there.
    files: PathBuf,
}

/// The user that a plain row runs as when the tests run as root.
const NOBODY: u32 = 65534;

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("confined").tempdir_in("/tmp").expect("a directory");
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        };
        open(dir.path(), 0o755);
        let program = dir.path().join("confined");
        // By another process: a descriptor of ours that can write to it could be inherited by what other tests start
        // just then, and the kernel does not start a program that somebody can write to.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_confined")).arg(&program).status();
        assert!(copied.expect("cp").success(), "a copy of the program");
        open(&program, 0o755);
        let files = dir.path().join("files");
        fs::create_dir(&files).expect("a directory");
        open(&files, 0o777);
        let place = Self { program, files, _dir: dir };
        place.refresh();
        place
    }

    /// As it was at first.
    fn refresh(&self) {
        for entry in fs::read_dir(&self.files).expect("readable") {
            fs::remove_file(entry.expect("an entry").path()).expect("removable");
        }
        let there = self.files.join("there.png");
        fs::write(&there, "a picture").expect("writable");
        fs::set_permissions(&there, fs::Permissions::from_mode(0o666)).expect("permissions");
    }

    fn command(&self, who: Who, layers: &str, thread: &str, attempt: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([layers, thread, attempt]).arg(&self.files).current_dir(&self.files);
        command.stdin(Stdio::null());
        if who == Who::Plain && who_can().contains(&Who::Root) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self, who: Who, layers: &str, thread: &str, attempt: &str) -> Output {
        self.refresh();
        self.command(who, layers, thread, attempt).output().expect("the program starts")
    }

    fn outcome(&self, who: Who, layers: &str, thread: &str, attempt: &str) -> Result<Out, String> {
        let output = self.run(who, layers, thread, attempt);
        let said = String::from_utf8_lossy(&output.stdout);
        if let Some(signal) = output.status.signal() {
            return Ok(Out::Signal(signal));
        }
        match said.trim_end().rsplit('\n').next().unwrap_or_default() {
            "ok" => Ok(Out::Works),
            last => match last.strip_prefix("errno ").and_then(|e| e.parse().ok()) {
                Some(errno) if errno > 0 => Ok(Out::Errno(errno)),
                // execve that works: the program it became says nothing and succeeds.
                _ if last.is_empty() && output.status.success() => Ok(Out::Works),
                _ => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
            },
        }
    }

    /// Version of Landlock's interface here, 0 if there is none.
    fn landlock(&self) -> u8 {
        let line = self.run(Who::Plain, "landlock", "process", "say").stdout;
        let line = String::from_utf8_lossy(&line);
        let version = line.split_once(", landlock ").and_then(|(_, rest)| rest.split(' ').next());
        version.and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}
