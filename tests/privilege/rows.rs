//! The table: what is tried, and what each layer by itself makes of it.
//!
//! A layer `landlock N` is Landlock where the kernel has version N of it or later.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;

use libc::{
    EACCES, EAGAIN, ECONNREFUSED, EFAULT, EINVAL, EMFILE, ENOENT, ENOMEM, ENOSYS, ENOTTY, EPERM, SIGABRT,
    SIGSYS,
};

use super::Out::{self, Errno, Signal, Works};
use super::{Place, Who, say, who_can};

/// An attempt.
struct Row {
    name: &'static str,
    /// What comes of it as root with nothing given up: the attempt is a real one. `None`: better not tried.
    free: Option<Out>,
    /// Layers that refuse it, each alone; and `all` together.
    refused: &'static [(&'static str, Out)],
}

const fn row(name: &'static str, free: Option<Out>, refused: &'static [(&'static str, Out)]) -> Row {
    Row { name, free, refused }
}

/// The filter stops it, and what is listed besides.
macro_rules! filtered {
    ($($layer:literal: $out:expr),*) => {
        &[("refuse", Errno(EPERM)), ("kill", Signal(SIGSYS)), ("all", Signal(SIGSYS)), $(($layer, $out)),*]
    };
}

/// All layers, for root and for others.
const fn all(who: Who) -> &'static str {
    match who {
        Who::Root => "limits+landlock+identity+kill",
        Who::Plain => "limits+landlock+kill",
    }
}

const OUTSIDE: &[(&str, Out)] = &[
    ("root", Errno(ENOENT)),
    ("landlock", Errno(EACCES)),
    // answered rather than killed: a panic's backtrace tries as much
    ("refuse", Errno(EACCES)),
    ("kill", Errno(EACCES)),
    ("all", Errno(EACCES)),
];

const ROWS: &[Row] = &[
    // files
    row("open-outside", Some(Works), OUTSIDE),
    row("open-device", Some(Works), OUTSIDE),
    row("open-own-memory", Some(Works), OUTSIDE),
    row("create-outside", None, OUTSIDE),
    row(
        "climb-out",
        Some(Works),
        &[("landlock", Errno(EACCES)), ("identity", Errno(EACCES)), ("all", Errno(EACCES))],
    ),
    row("read-inside", Some(Works), &[("landlock", Errno(EACCES)), ("all", Errno(EACCES))]),
    row("remove-inside", Some(Works), filtered!("landlock": Errno(EACCES))),
    row("make-device", Some(Works), filtered!("bare": Errno(EPERM), "landlock": Errno(EACCES))),
    // the network
    row("socket", Some(Works), filtered!()),
    row("connect", Some(Errno(ECONNREFUSED)), filtered!("landlock 4": Errno(EACCES))),
    row("abstract-socket", Some(Works), filtered!("landlock 6": Errno(EPERM))),
    // programs and processes
    row("execve", Some(Works), filtered!("root": Errno(ENOENT), "landlock": Errno(EACCES))),
    row("execute-open", Some(Works), filtered!("landlock": Errno(EACCES))),
    row("fork", Some(Works), filtered!()),
    row("threads", Some(Works), &[("limits+identity", Errno(EAGAIN))]),
    row("namespace", None, filtered!("root": Errno(EPERM))),
    row(
        "clone3",
        Some(Errno(EINVAL)),
        &[("refuse", Errno(ENOSYS)), ("kill", Errno(ENOSYS)), ("all", Errno(ENOSYS))],
    ),
    row("ptrace", Some(Works), filtered!("identity": Errno(EPERM), "landlock": Errno(EPERM))),
    row(
        "read-other-memory",
        Some(Errno(EFAULT)),
        filtered!("identity": Errno(EPERM), "landlock": Errno(EPERM)),
    ),
    row("signal-other", Some(Works), filtered!("identity": Errno(EPERM), "landlock 6": Errno(EPERM))),
    row("limits-of-other", Some(Works), filtered!("identity": Errno(EPERM))),
    // identity
    row("setuid", Some(Works), filtered!("identity": Errno(EPERM))),
    row("setgid", Some(Works), filtered!("identity": Errno(EPERM))),
    row("setgroups", Some(Works), filtered!("bare": Errno(EPERM))),
    row("capset", Some(Works), filtered!("bare": Errno(EPERM))),
    row("dumpable", Some(Works), filtered!()),
    row("new-privileges", Some(Errno(EINVAL)), filtered!()),
    row("chroot", Some(Works), filtered!("bare": Errno(EPERM))),
    row("mount", None, filtered!("bare": Errno(EPERM))),
    row("port-io", None, filtered!()),
    // memory and limits
    row("many-descriptors", Some(Works), filtered!("limits": Errno(EMFILE))),
    row("core-limit", Some(Works), filtered!("bare": Errno(EPERM))),
    row("lock-memory", Some(Works), &[("limits", Errno(EAGAIN)), ("all", Errno(EAGAIN))]),
    row("much-memory", Some(Works), &[("limits", Errno(ENOMEM)), ("all", Errno(ENOMEM))]),
    row("executable-memory", Some(Works), filtered!()),
    row("make-executable", Some(Works), filtered!()),
    // Xen: the devices that stand for privcmd know no ioctl at all
    row("hypercall", Some(Errno(ENOTTY)), filtered!()),
    row("hypercall-of-other", Some(Errno(ENOTTY)), filtered!()),
    row("dm-op-of-other", Some(Errno(ENOTTY)), filtered!()),
    row("map-frames-of-other", Some(Errno(ENOTTY)), filtered!()),
    row("privcmd-unknown", Some(Errno(ENOTTY)), filtered!()),
    row("wide-request", Some(Errno(ENOTTY)), filtered!()),
    row("terminal", Some(Errno(ENOTTY)), filtered!()),
    row("bind-virq", Some(Errno(ENOTTY)), filtered!()),
    // the filter itself
    row("x32", None, filtered!()),
    row("every-other-call", None, &[("refuse", Works)]),
    // what must work in spite of all
    row("create-inside", Some(Works), WORKS),
    row("overwrite-inside", Some(Works), WORKS),
    row("thread", Some(Works), WORKS),
    row("dm-op", Some(Errno(ENOTTY)), &[("kill", Errno(ENOTTY)), ("all", Errno(ENOTTY))]),
    row("map-frames", Some(Errno(ENOTTY)), &[("kill", Errno(ENOTTY)), ("all", Errno(ENOTTY))]),
    row("map-resource", Some(Errno(ENOTTY)), &[("kill", Errno(ENOTTY)), ("all", Errno(ENOTTY))]),
];

const WORKS: &[(&str, Out)] = &[
    ("limits", Works),
    ("root", Works),
    ("landlock", Works),
    ("identity", Works),
    ("refuse", Works),
    ("kill", Works),
    ("all", Works),
];

/// Layers that take root.
fn needs_root(layers: &str) -> bool {
    layers.split('+').any(|l| matches!(l, "free" | "root" | "identity"))
}

#[test]
fn each_attempt_meets_what_the_table_says_with_each_layer_alone_and_with_all() {
    let place = Place::new();
    let landlock = place.landlock();
    let name = SocketAddr::from_abstract_name(format!("confined-{}", std::process::id())).expect("a name");
    let _listener = UnixListener::bind_addr(&name).expect("an abstract socket");

    let mut wrong = Vec::new();
    let (mut ran, mut not_root, mut not_landlock) = (Vec::new(), 0, 0);
    for who in [Who::Root, Who::Plain] {
        let here = who_can().contains(&who);
        let mut count = 0;
        for row in ROWS {
            let free = row.free.map(|out| ("free", out));
            for (layer, wanted) in free.iter().chain(row.refused) {
                let (layers, version) = match layer.split_once(' ') {
                    Some((layer, version)) => (layer, version.parse().expect("a version")),
                    None if *layer == "all" => (all(who), 1),
                    None => (*layer, u8::from(*layer == "landlock")),
                };
                match (here, needs_root(layers), who) {
                    // No row as root here; said once.
                    (false, _, _) | (_, true, Who::Plain) => {
                        not_root += usize::from(!here && needs_root(layers));
                        continue;
                    }
                    _ if landlock < version => not_landlock += 1,
                    _ => {
                        count += 1;
                        let found = place.outcome(who, layers, "process", row.name);
                        if found != Ok(*wanted) {
                            wrong.push(format!("{who:?} {layers}: {}: {found:?}, not {wanted:?}", row.name));
                        }
                    }
                }
            }
        }
        ran.push(format!("{count} rows as {who:?}"));
    }
    say(&format!(
        "{}; {not_root} need root; {not_landlock} need a newer Landlock than {landlock}",
        ran.join(", ")
    ));
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_abort_is_an_abort_and_leaves_no_core() {
    let place = Place::new();
    for who in who_can() {
        for layers in ["bare", "limits", all(*who)] {
            let program = place.command(*who, layers, "process", "abort");
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg("ulimit -c $(ulimit -H -c); exec \"$0\" \"$@\"").arg(program.get_program());
            let output = shell.args(program.get_args()).current_dir(&place.files).output().expect("a shell");
            assert_eq!(output.status.signal(), Some(SIGABRT), "{who:?} {layers}: {output:?}");
            assert!(!output.status.core_dumped(), "{who:?} {layers}: a core file");
        }
    }
}
