//! `confined LAYERS THREAD ATTEMPT DIR`: gives up privileges, tries one thing, and prints what came of it: `ok`, or `errno N`.
//!
//! LAYERS are joined by `+`: limits, root, landlock, identity, refuse or kill (filters); `bare` for those that are always
//! there; or `free` for nothing at all. THREAD is `process` (the first thread, before it is narrowed) or a kind of thread.
//! ATTEMPT is a name in `attempts`, or `say` for the line that says what is in force. New files may lie in DIR.

mod attempts;
mod service;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ioreq_server::privilege::{
    Confinement, Filters, Identity, Limits, Syscalls, ThreadKind, Violation, control_socket, files_below,
    narrow, starting_to_serve,
};
use ioreq_server::sources::Control;
use parking_lot::Mutex;
use xen_ioreq::Errno;

/// What is open before privileges are given up.
pub(crate) struct Ground {
    /// Where new files may lie, and the same as a path.
    dir: OwnedFd,
    path: PathBuf,
    /// Stands for the privcmd that is restricted to the guest: it has no ioctls, so what comes through fails with ENOTTY.
    guest: OwnedFd,
    /// Stands for another privcmd.
    other: OwnedFd,
    /// A TCP socket, not connected.
    socket: OwnedFd,
    /// A program.
    program: OwnedFd,
    /// A control socket, and a peer that waits to be accepted.
    control: Mutex<Option<Control>>,
    peer: UnixStream,
}

/// The user that it becomes.
const USER: Identity = Identity { uid: 65543, gid: 65536 };

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [layers, thread, attempt, dir] = args.as_slice() else {
        eprintln!("confined LAYERS THREAD ATTEMPT DIR");
        return ExitCode::FAILURE;
    };
    match run(layers, thread, attempt, Path::new(dir)) {
        Ok(Ok(())) => println!("ok"),
        Ok(Err(errno)) => println!("errno {}", errno.0),
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

type Outcome = Result<(), Errno>;

fn run(
    layers: &str,
    thread: &str,
    attempt: &str,
    dir: &Path,
) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
    let null = || File::options().read(true).write(true).open("/dev/null");
    // The directory is for files that are made later.
    let at = std::env::temp_dir().join(format!("confined-control-{}", std::process::id()));
    let control = Control::bind(&at)?;
    let peer = UnixStream::connect(&at)?;
    std::fs::remove_file(&at)?;
    let ground = Ground {
        dir: File::open(dir)?.into(),
        path: dir.to_owned(),
        guest: null()?.into(),
        other: null()?.into(),
        socket: attempts::tcp_socket()?,
        program: File::open("/bin/true")?.into(),
        control: Mutex::new(Some(control)),
        peer,
    };
    let say = attempt == "say";
    let attempt = attempts::by_name(attempt).ok_or_else(|| format!("no attempt {attempt}"))?;
    if layers != "free" {
        let in_force = confinement(layers, &ground)?.enter()?;
        if say {
            println!("{in_force}");
        }
    }
    let kind = match thread {
        "process" => return Ok(attempt(&ground)),
        "event-loop" => ThreadKind::EventLoop,
        "engine" => ThreadKind::Engine,
        "device" => ThreadKind::Device,
        "maintenance" => ThreadKind::Maintenance,
        "pauser" => ThreadKind::Pauser,
        "viewers" => ThreadKind::Viewers,
        "main" => {
            narrow(ThreadKind::Main)?;
            return Ok(attempt(&ground));
        }
        other => return Err(format!("no thread {other}").into()),
    };
    let ground = std::sync::Arc::new(ground);
    let run = move || -> Result<Outcome, ioreq_server::privilege::FilterError> {
        narrow(kind)?;
        Ok(attempt(&ground))
    };
    let outcome = std::thread::spawn(run).join().map_err(|_| "the thread has panicked")?;
    Ok(outcome?)
}

fn confinement(layers: &str, ground: &Ground) -> Result<Confinement, String> {
    let mut all = Confinement::new();
    for layer in layers.split('+') {
        all = match layer {
            "bare" => all,
            "limits" => all.limits(Limits {
                descriptors: Some(64),
                locked: Some(1 << 20),
                address_space: Some(4 << 30),
                // those of a user who is not ours alone may be more
                threads: layers.contains("identity").then_some(64),
            }),
            "root" => all.root(&ground.path),
            "landlock" => all.writable_below(&ground.path),
            "identity" => all.identity(USER),
            "refuse" => all.filters(filters(Violation::Refuse, ground)),
            "kill" => all.filters(filters(Violation::Kill, ground)),
            other => return Err(format!("no layer {other}")),
        };
    }
    Ok(all)
}

/// What a thread of this kind may do here.
pub(crate) fn needs(kind: ThreadKind, ground: &Ground) -> Syscalls {
    let set = kind.serving(&ground.guest);
    match kind {
        ThreadKind::Main => set.and(&files_below(&ground.dir.as_fd())),
        ThreadKind::EventLoop => set.and(&control_socket()),
        _ => set,
    }
}

fn filters(violation: Violation, ground: &Ground) -> Filters {
    // the model hypervisor's memory
    let model = Syscalls::none().allow(&[libc::SYS_memfd_create, libc::SYS_ftruncate]);
    let filters = Filters::new(violation).starting(&starting_to_serve(&ground.guest)).starting(&model);
    ThreadKind::ALL.into_iter().fold(filters, |f, kind| f.thread(kind, needs(kind, ground)))
}
