//! The control socket of `mgpu serve`, and who asks it: a command a line, answered by a line and `ok`, or by `error: WHY`.
//!
//! Bound before anything is given up; served on the thread that looks after the guest, so that an operator costs the guest no
//! access. What a peer may send and leave unread is bounded by [`ioreq_server::sources::Control`].

mod commands;

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
use mediated_gpu::service::{Service, Slot};
use mediated_gpu::vgpu::display::{MAX_SIDE, PIXEL_BYTES, Scanout};
use mio::{Registry, Token};

use self::commands::{accesses, alone, create, destroy, on_vgpu, share, shares, types};
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
    pub(crate) slot: Arc<Slot>,
    pub(crate) since: Instant,
    pub(crate) requests: Arc<Stats>,
    pub(crate) pictures: Option<Arc<Pictures>>,
}

impl Served {
    pub(crate) fn of(service: &Service, since: Instant, pictures: Option<Arc<Pictures>>) -> Self {
        let (domid, slot, requests) = (service.domid().0, service.slot().clone(), service.stats());
        Self { domid, slot, since, requests, pictures }
    }

    /// A line of JSON: which guest, since when, and the figures that are printed at the end.
    fn status(&self) -> String {
        let vgpu = self.slot.vgpu();
        let state = match (self.slot.is_empty(), vgpu.is_paused()) {
            (true, _) => "none",
            (false, true) => "paused",
            (false, false) => "running",
        };
        let mut out = format!(
            "{{\"domid\":{},\"type\":\"{}\",\"state\":\"{state}\",\"seconds\":{}",
            self.domid,
            cli::Type(self.slot.kind()),
            self.since.elapsed().as_secs()
        );
        shares(&vgpu, &mut out);
        for (name, value) in figures(&self.requests.snapshot(), &vgpu.statistics()) {
            // Writing to a String does not fail.
            let _ = write!(out, ",\"{name}\":{value}");
        }
        out + "}"
    }

    /// Where the saved vGPU is.
    fn save(&self) -> Reply {
        let out = self.pictures.as_ref().ok_or("mgpu was started without --out")?;
        let saved = self.slot.save().map_err(|e| e.to_string())?;
        let file = saved.to_bytes().map_err(|e| e.to_string())?;
        out.write_saved(&file).map(|path| path.display().to_string()).map_err(|e| e.to_string())
    }

    /// Where the picture is now.
    fn picture(&self) -> Reply {
        let pictures = self.pictures.as_ref().ok_or("mgpu was started without --out")?;
        let surface = self.slot.vgpu().surface().map_err(|e| e.to_string())?;
        let path = pictures.write(&surface).map_err(|e| e.to_string())?;
        Ok(format!("{} ({} pages ballooned out)", path.display(), surface.missing_pages))
    }

    /// Where the picture is that the words name.
    fn process_picture(&self, words: &[&str]) -> Reply {
        let picture = picture_of(words).ok_or(SURFACE_WORDS)?;
        let pictures = self.pictures.as_ref().ok_or("mgpu was started without --out")?;
        let surface = self.slot.vgpu().process_surface(picture);
        let surface = surface.ok_or("no process that has given the GPU work has memory there")?;
        let path = pictures.write_surface(&surface).map_err(|e| e.to_string())?;
        Ok(format!("{} ({} pages not there)", path.display(), surface.missing_pages))
    }
}

const SURFACE_WORDS: &str = "write ADDRESS WIDTHxHEIGHT [PITCH]: address and pitch in bytes, pixels of 4 bytes, \
    at most 4096 a side";

/// `ADDRESS WIDTHxHEIGHT [PITCH]`: the address hexadecimal or not.
fn picture_of(words: &[&str]) -> Option<Scanout> {
    let (address, size, pitch) = match words {
        [address, size] => (address, size, None),
        [address, size, pitch] => (address, size, Some(pitch.parse().ok()?)),
        _ => return None,
    };
    let address = match address.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => address.parse().ok()?,
    };
    let side = |text: &str| text.parse().ok().filter(|n| (1..=MAX_SIDE).contains(n));
    let (width, height) = size.split_once('x').and_then(|(w, h)| Some((side(w)?, side(h)?)))?;
    let stride = pitch.unwrap_or(width * PIXEL_BYTES);
    (stride >= width * PIXEL_BYTES).then_some(Scanout { width, height, stride, address })
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
        let (status, stop) = (Arc::new(served), Arc::new(AtomicBool::new(false)));
        let (picture, surface) = (status.clone(), status.clone());
        let saving = status.clone();
        let (stopping, slot) = (stop.clone(), status.slot.clone());
        let mut control = control
            .command("status", "which guest, and its figures, as JSON", alone(move || Ok(status.status())))
            .command("picture", "writes what the guest shows to --out", alone(move || picture.picture()))
            .command(
                "surface",
                "ADDRESS WIDTHxHEIGHT [PITCH]: writes a picture from a process's graphics memory to --out",
                move |words: &[&str], _: &LoopHandle| surface.process_picture(words),
            )
            .command(
                "reset",
                "stops the guest's work and resets its vGPU, as its own driver can",
                on_vgpu(&slot, |vgpu| vgpu.reset()),
            )
            .command(
                "pause",
                "lets none of the guest's work begin; answers when none runs",
                on_vgpu(&slot, |vgpu| vgpu.pause()),
            )
            .command("resume", "lets its work go on", on_vgpu(&slot, |vgpu| vgpu.resume()))
            .command(
                "share",
                "weight=N, cap=PERCENT, deadline_ms=N: what it may have of each engine from now on",
                share(&slot),
            )
            .command(
                "save",
                "pauses the vGPU and writes it to --out, for serve --restore; its guest is not to run until then",
                alone(move || saving.save()),
            )
            .command(
                "destroy",
                "takes the vGPU from the guest, whatever it is doing, and goes on serving it",
                destroy(&slot),
            )
            .command(
                "create",
                "[TYPE]: plugs a new vGPU in, of the last one's type unless another is named",
                create(&slot),
            )
            .command("types", "the types of vGPUs, and how many more of each there could be", types(&slot))
            .command(
                "accesses",
                "the registers that the guest has accessed: offset, reads, writes, name",
                accesses(&slot),
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
