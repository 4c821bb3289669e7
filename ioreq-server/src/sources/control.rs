//! A Unix socket by which an operator asks a loop what it does and tells it to stop: a command a line.
//!
//! The answer is lines of text, then a line `ok`, or `error: WHY`. Only the user who runs the program, and root, can connect.
//! A peer that sends without reading, or without end, costs a bounded amount of memory and time.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use slab::Slab;

use super::EventSource;
use crate::event_loop::LoopHandle;
use crate::guest::Progress;

/// Peers at a time; further ones are turned away.
const MAX_PEERS: usize = 16;
/// Bytes of a line.
const MAX_LINE: usize = 1024;
/// Commands of one peer before others have their turn.
const COMMANDS: usize = 16;

/// The text of an answer, or why there is none.
pub type Reply = Result<String, String>;

type Command = Box<dyn FnMut(&[&str], &LoopHandle) -> Reply + Send>;

struct Known {
    help: &'static str,
    run: Command,
}

/// The socket. Knows `help`, `guests`, `stats [DOMID]` and `stop`; [`command`](Self::command) teaches it more.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use std::os::unix::net::UnixStream;
///
/// use ioreq_server::GuestLoop;
/// use ioreq_server::sources::Control;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("ioreq-server-doc-{}", std::process::id()));
/// let control = Control::bind(&path)?.command("echo", "TEXT: says it again", |words, _| Ok(words.join(" ")));
/// let mut serving = GuestLoop::new()?;
/// serving.add_source(Box::new(control))?;
/// let thread = std::thread::spawn(move || serving.run());
///
/// let mut peer = UnixStream::connect(&path)?;
/// peer.write_all(b"echo hello world\nstop\n")?;
/// let lines: Vec<_> = BufReader::new(peer).lines().take(3).collect::<Result<_, _>>()?;
/// assert_eq!(lines, ["hello world", "ok", "ok"]);
/// thread.join().expect("the loop does not panic")?;
/// # Ok(())
/// # }
/// ```
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// The file that is ours at that path.
    inode: (u64, u64),
    commands: BTreeMap<String, Known>,
    peers: Slab<Peer>,
    /// Where peers that come later are registered.
    registered: Option<(Registry, Token)>,
}

/// A peer and what is on its way to and from it.
struct Peer {
    stream: UnixStream,
    /// Read, up to a line's length and one byte more.
    input: Vec<u8>,
    output: Vec<u8>,
    /// It sends no more.
    ended: bool,
}

enum Pumped {
    /// It waits for the peer.
    Waiting,
    /// There are further commands.
    More,
    /// The peer is done, or broke the rules.
    Over,
}

impl Control {
    /// A socket at `path`. A socket that is there and that nobody listens to is replaced; anything else there is an
    /// error.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let listener = match listen(&path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_abandoned(&path) => {
                std::fs::remove_file(&path)?;
                listen(&path)?
            }
            other => other?,
        };
        let inode = inode(&path)?;
        let mut control =
            Self { listener, path, inode, commands: BTreeMap::new(), peers: Slab::new(), registered: None };
        control.learn("guests", "the guests: domid and server", Box::new(|_, handle| Ok(guests(handle))));
        control.learn("stats", "[DOMID]: counters of a guest, or of all", Box::new(stats));
        let stop = |_: &[&str], handle: &LoopHandle| {
            handle.stop();
            Ok(String::new())
        };
        control.learn("stop", "ends the loop", Box::new(stop));
        Ok(control)
    }

    /// Teaches it a command, in place of one of the same name if there is one. `help` is what the command `help` says of it.
    /// `run` gets the words after the name; it is called on the loop's thread, which meanwhile serves nobody.
    #[must_use]
    pub fn command(
        mut self,
        name: &'static str,
        help: &'static str,
        run: impl FnMut(&[&str], &LoopHandle) -> Reply + Send + 'static,
    ) -> Self {
        self.learn(name, help, Box::new(run));
        self
    }

    fn learn(&mut self, name: &'static str, help: &'static str, run: Command) {
        self.commands.insert(name.to_owned(), Known { help, run });
    }

    fn accept(&mut self) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // It went away before it was accepted.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) =>
                {
                    continue;
                }
                // Out of descriptors, say. Who waits is accepted when the next one comes.
                Err(e) => {
                    log::warn!("control socket: accepting a peer: {e}");
                    return;
                }
            };
            if self.peers.len() >= MAX_PEERS {
                log::warn!("control socket: {MAX_PEERS} peers already; another is turned away");
                continue;
            }
            let both = Interest::READABLE | Interest::WRITABLE;
            if let Some((registry, token)) = &self.registered
                && let Err(e) = registry.register(&mut stream, *token, both)
            {
                log::warn!("control socket: a peer: {e}");
                continue;
            }
            self.peers.insert(Peer { stream, input: Vec::new(), output: Vec::new(), ended: false });
        }
    }
}

/// Binds and listens; the file is nobody else's from its first moment.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the socket's own mode, less the umask.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, i32::try_from(MAX_PEERS).unwrap_or(i32::MAX))?;
    Ok(UnixListener::from_std(fd.into()))
}

/// Whether there is a socket left by a process that is gone.
fn is_abandoned(path: &Path) -> bool {
    // Connecting to a plain file is refused too.
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && StdStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn guests(handle: &LoopHandle) -> String {
    handle.guests().iter().fold(String::new(), |mut out, g| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{} {}", g.domid.0, g.server.0);
        out
    })
}

fn stats(words: &[&str], handle: &LoopHandle) -> Reply {
    let only = match words {
        [] => None,
        [domid] => Some(domid.parse::<u16>().map_err(|_| format!("{domid} is not a domain's number"))?),
        _ => return Err("stats takes one domain's number, or none".into()),
    };
    let mut out = String::new();
    for guest in handle.guests().iter().filter(|g| only.is_none_or(|only| g.domid.0 == only)) {
        for (name, value) in guest.stats.snapshot().iter() {
            let _ = writeln!(out, "{} {} {name} {value}", guest.domid.0, guest.server.0);
        }
    }
    match only {
        Some(domid) if out.is_empty() => Err(format!("there is no guest {domid} here")),
        _ => Ok(out),
    }
}

fn answer(commands: &mut BTreeMap<String, Known>, line: &str, handle: &LoopHandle) -> Reply {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let Some((name, rest)) = words.split_first() else { return Ok(String::new()) };
    if *name == "help" {
        let known = commands.iter().map(|(name, known)| format!("{name} {}\n", known.help));
        return Ok(known.chain(["help this\n".to_owned()]).collect());
    }
    match commands.get_mut(*name) {
        // A mistake in a command must not cost the guests of the loop anything, nor the other commands.
        Some(known) => catch_unwind(AssertUnwindSafe(|| (known.run)(rest, handle)))
            .unwrap_or_else(|_| Err(format!("{name} panicked"))),
        None => Err(format!("no such command: {}; try help", name.escape_default())),
    }
}

impl Peer {
    /// Writes what it can take, reads what it sends, carries commands out.
    fn pump(&mut self, commands: &mut BTreeMap<String, Known>, handle: &LoopHandle) -> io::Result<Pumped> {
        for _ in 0..COMMANDS {
            // Who does not read its answers is asked for no further commands.
            if !self.flush()? {
                return Ok(Pumped::Waiting);
            }
            let Some(line) = self.line()? else {
                return Ok(if self.ended { Pumped::Over } else { Pumped::Waiting });
            };
            let reply = match std::str::from_utf8(&line) {
                Ok(line) => answer(commands, line, handle),
                Err(_) => Err("not UTF-8".into()),
            };
            self.output.extend(
                match reply {
                    Ok(text) if text.is_empty() || text.ends_with('\n') => format!("{text}ok\n"),
                    Ok(text) => format!("{text}\nok\n"),
                    Err(why) => format!("error: {}\n", why.replace('\n', " ")),
                }
                .into_bytes(),
            );
        }
        self.flush()?;
        Ok(Pumped::More)
    }

    /// `false`: the peer must read first.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// The next line, without its end; the last one may lack one.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.input.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.input.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end"));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.input);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            let mut chunk = [0; MAX_LINE];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(n) => self.input.extend(chunk.iter().take(n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

impl EventSource for Control {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)?;
        self.registered = Some((registry.try_clone()?, token));
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.registered = None;
        // Peers go with it.
        self.peers.clear();
        registry.deregister(&mut self.listener)
    }

    fn ready(&mut self, handle: &LoopHandle) -> io::Result<Progress> {
        self.accept();
        let mut progress = Progress::Idle;
        let commands = &mut self.commands;
        self.peers.retain(|_, peer| match peer.pump(commands, handle) {
            Ok(Pumped::Waiting) => true,
            Ok(Pumped::More) => {
                progress = Progress::More;
                true
            }
            Ok(Pumped::Over) => false,
            Err(e) => {
                log::info!("control socket: a peer is dropped: {e}");
                false
            }
        });
        Ok(progress)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Somebody may have put another one in its place.
        if inode(&self.path).is_ok_and(|now| now == self.inode)
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::debug!("removing {}: {e}", self.path.display());
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("path", &self.path)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
