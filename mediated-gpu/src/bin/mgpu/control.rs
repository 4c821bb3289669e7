//! The control socket of `mgpu serve`, and who asks it: a command a line, answered by a line and `ok`, or by `error: WHY`.
//!
//! Bound before anything is given up; served on the thread that looks after the guest, so that an operator costs the guest no
//! access. What a peer may send and leave unread is bounded by [`ioreq_server::sources::Control`].

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ioreq_server::sources::{Control, EventSource as _, Reply};
use ioreq_server::{LoopHandle, Progress, Stats};
use mediated_gpu::mediator::Vgpu;
use mediated_gpu::service::Service;
use mio::{Registry, Token};

use crate::pictures::Pictures;
use crate::serve::figures;
use crate::{Error, cli};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds the socket.
pub(crate) fn bind(path: &Path) -> Result<Control, Error> {
    Control::bind(path).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            format!("--control {}: something is there: another mgpu, or a file: remove it", path.display())
                .into()
        }
        _ => format!("--control {}: {e}", path.display()).into(),
    })
}

/// What an operator is told about.
pub(crate) struct Served {
    pub(crate) domid: u16,
    pub(crate) kind: cli::Type,
    pub(crate) since: Instant,
    pub(crate) vgpu: Arc<Vgpu>,
    pub(crate) requests: Arc<Stats>,
    pub(crate) pictures: Option<Arc<Pictures>>,
}

impl Served {
    pub(crate) fn of(
        service: &Service,
        kind: cli::Type,
        since: Instant,
        pictures: Option<Arc<Pictures>>,
    ) -> Self {
        let (domid, vgpu, requests) = (service.domid().0, service.vgpu().clone(), service.stats());
        Self { domid, kind, since, vgpu, requests, pictures }
    }

    /// A line of JSON: which guest, since when, and the figures that are printed at the end.
    fn status(&self) -> String {
        let mut out = format!(
            "{{\"domid\":{},\"type\":\"{}\",\"seconds\":{}",
            self.domid,
            self.kind,
            self.since.elapsed().as_secs()
        );
        for (name, value) in figures(&self.requests.snapshot(), &self.vgpu.statistics()) {
            // Writing to a String does not fail.
            let _ = write!(out, ",\"{name}\":{value}");
        }
        out + "}"
    }

    /// Where the picture is now.
    fn picture(&self) -> Reply {
        let pictures = self.pictures.as_ref().ok_or("mgpu was started without --out")?;
        let surface = self.vgpu.surface().map_err(|e| e.to_string())?;
        let path = pictures.write(&surface).map_err(|e| e.to_string())?;
        Ok(format!("{} ({} pages ballooned out)", path.display(), surface.missing_pages))
    }
}

/// The socket, with what it knows of `mgpu`, in the poll of the thread that serves it.
pub(crate) struct Operator {
    control: Control,
    /// Commands such as `stats` ask it.
    guests: LoopHandle,
    stop: Arc<AtomicBool>,
    more: bool,
}

impl Operator {
    /// Answers from here on, on the poll of `registry`.
    pub(crate) fn start(
        control: Control,
        served: Served,
        guests: LoopHandle,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let (status, reset) = (Arc::new(served), Arc::new(AtomicBool::new(false)));
        let (picture, reset_of, stop) = (status.clone(), status.clone(), reset);
        let stopping = stop.clone();
        let mut control = control
            .command("status", "which guest, and its figures, as JSON", alone(move || Ok(status.status())))
            .command("picture", "writes what the guest shows to --out", alone(move || picture.picture()))
            .command(
                "reset",
                "stops the guest's work and resets its vGPU, as its own driver can",
                alone(move || {
                    reset_of.vgpu.reset();
                    Ok(String::new())
                }),
            )
            .command(
                "stop",
                "takes the vGPU from the guest and ends mgpu",
                alone(move || {
                    stopping.store(true, Ordering::Relaxed);
                    Ok(String::new())
                }),
            );
        control.register(registry, token)?;
        Ok(Self { control, guests, stop, more: false })
    }

    /// The socket fired, or there was more to do.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        self.more = self.control.ready(&self.guests)? == Progress::More;
        Ok(())
    }

    /// Whether [`serve`](Self::serve) is to be called again without waiting.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// Whether somebody has told mgpu to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A command that takes no words.
fn alone(mut command: impl FnMut() -> Reply + Send) -> impl FnMut(&[&str], &LoopHandle) -> Reply + Send {
    move |words, _| if words.is_empty() { command() } else { Err("takes nothing after it".into()) }
}

/// `mgpu ask`: sends a command and prints the answer. Ends with status 1 if that is an error.
pub(crate) fn ask(args: &cli::Ask) -> Result<ExitCode, Error> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", args.socket.display());
    let mut peer = UnixStream::connect(&args.socket)
        .map_err(|e| format!("{} (is it the --control of a running mgpu serve?)", say(&e)))?;
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.write_all(format!("{}\n", args.command.join(" ")).as_bytes()).map_err(|e| say(&e))?;
    for line in BufReader::new(peer).lines() {
        match line.map_err(|e| say(&e))? {
            ok if ok == "ok" => return Ok(ExitCode::SUCCESS),
            line => match line.strip_prefix("error: ") {
                Some(why) => return Err(why.into()),
                None => println!("{line}"),
            },
        }
    }
    Err(say(&"it ended without an answer").into())
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
