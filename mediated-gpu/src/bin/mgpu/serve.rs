//! `mgpu serve`: a guest of the Xen that this runs on gets a vGPU, until it is gone or SIGTERM comes.
//!
//! What handles the guest's requests has descriptors that are restricted to that guest, and has given up what else the
//! process could do (`sandbox`) before the guest can reach it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ioreq_server::devices::BochsDisplay;
use ioreq_server::privilege::{Identity, ThreadKind, narrow};
use ioreq_server::sources::Control;
use ioreq_server::{Connection, OnError};
use mediated_gpu::mediator::{Config as MediatorConfig, Mediator, Snapshot, TABLE_FRAMES};
use mediated_gpu::saved::{MOST_BYTES, SavedGuest};
use mediated_gpu::service::{Options, Service};
use mediated_gpu::vgpu::display::SurfaceError;
use mediated_gpu::vnc::{Listener, View};
use mio::{Events, Interest, Poll, Token};
use pviommu::Ports;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;
use xen_ioreq::DomId;
use xen_ioreq::abi::domctl::{XEN_DOMINF_dying, XEN_DOMINF_hvm_guest, xen_domctl_getdomaininfo};
use xen_ioreq::linux::{Evtchn, Privcmd};

use crate::control::{self, Operator, Served};
use crate::ground::Ground;
use crate::pictures::Pictures;
use crate::sandbox::{self, Keeps};
use crate::show::Show;
use crate::table::Limit;
use crate::{Error, cli, lines, state, table};

/// How often the guest is looked after.
const LOOK: Duration = Duration::from_millis(500);

const SIGNALS: Token = Token(0);
const CONTROL: Token = Token(1);

pub(crate) fn run(args: &cli::Serve) -> Result<ExitCode, Error> {
    let domid = DomId(args.domid);
    let raw = Arc::new(Privcmd::open()?);
    let known = check_guest(&raw, domid)?;
    let most = known.max_pages;
    let console_frames = if args.console { BochsDisplay::FRAMES } else { 0 };
    let guest_pages = most.saturating_add((TABLE_FRAMES + console_frames).into());
    let record = state::open(args, &known)?;
    let guest = Privcmd::open()?.restrict(domid);
    let guest = Arc::new(guest.map_err(|(_, e)| format!("privcmd cannot be restricted to {domid}: {e}"))?);
    let events = Evtchn::open_blocking()?.restrict(domid);
    let events = Arc::new(events.map_err(|(_, e)| format!("evtchn cannot be restricted to {domid}: {e}"))?);

    let ports = Ports { iommu: Some(raw.clone()), foreign: Some(guest.clone()) };
    let (client, ground) = Ground::take(args, ports, &raw)?;
    let saved = args.restore.as_deref().map(read_saved).transpose()?;
    let kind = saved.as_ref().map_or(args.kind.0, SavedGuest::kind);
    // A predecessor that gave it its table has made room for it, too.
    let mut limit = Limit::found(domid, most);
    let mut give = || {
        let given = table::give(&raw, domid, most);
        let given = given.inspect_err(|e| log::warn!("each write to the translation table will trap: {e}"));
        let (first, made) = given.ok()?;
        limit = made;
        Some(first)
    };
    let give = || if args.trap_table || saved.is_some() { None } else { give() };
    let table = state::table(record.as_deref(), &*guest, domid, give)?;
    let has_table = table.or(saved.as_ref().and_then(SavedGuest::table)).is_some();
    let mut limit = if has_table { limit } else { Limit::none(domid, most) };
    let console = args.console.then(|| table::give_console(&raw, domid, &mut limit)).transpose()?;
    let mut reasons = Reasons::new()?;
    let control = args.control.as_deref().map(control::bind).transpose()?;
    let viewers = args.vnc.as_ref().map(|at| Listener::bind(at).map_err(|e| format!("--vnc {at}: {e}")));
    let viewers = viewers.transpose()?;
    let identity = sandbox::identity(&args.sandbox, domid)?;
    let open = |out| Pictures::open(out, domid, identity);
    let pictures = args.out.as_deref().map(open).transpose()?.map(Arc::new);
    let mut viewed = args.viewer.map(|viewer| Show::open(domid, DomId(viewer))).transpose()?;
    let (iommu, controlled) = (client.soft().is_none(), control.is_some());
    let us = identity.unwrap_or_else(Identity::current);
    let keeps = Keeps {
        guest_pages,
        raw: &raw,
        guest: &guest,
        iommu,
        device: ground.device(),
        pictures: pictures.as_deref(),
        record: record.as_deref(),
        controlled,
        viewed: viewed.as_ref(),
    };
    println!("{}", sandbox::enter(&args.sandbox, identity, keeps)?);
    pictures.as_ref().map_or(Ok(()), |p| p.check(us))?;

    let below = ground.below(&client, record.as_deref())?;
    let config = args.schedule.config();
    let aperture = config.aperture.max(kind.size().low.next_power_of_two());
    let config = MediatorConfig { aperture, ..config };
    let mediator = Arc::new(Mediator::new(below, config)?);
    let options = Options {
        kind,
        pci_root: args.pci_root,
        table,
        registers: !args.trap_registers,
        console,
        track_tables: (!args.no_track_tables).then_some(args.track_after),
        on_error: OnError::CrashGuest,
    };
    let conn = Connection::new(guest, events).with_pauses(raw.clone());
    let service = match (&saved, &record) {
        (Some(saved), record) => {
            Service::restore(&conn, &client, &mediator, domid, options, saved, record.as_ref())?
        }
        (None, Some(record)) => Service::succeed(&conn, &client, &mediator, domid, options, record)?,
        (None, None) => Service::start(&conn, &client, &mediator, domid, options)?,
    };
    if saved.is_none() {
        service.vgpu().set_share(args.share());
    }
    if let Some(control) = control {
        let served = Served::of(&service, Instant::now(), pictures.clone());
        reasons.hear(control, served, &service)?;
    }
    let slot = service.slot().clone();
    let view = viewers.map(|listener| View::start(listener, Arc::new(move || slot.vgpu().surface().ok())));
    let view = view.transpose()?;
    narrow(ThreadKind::Main)?;
    println!("serving {domid}: {}, {}", cli::Type(kind), client.mode());

    let pictures = pictures.as_deref();
    let end = reasons.wait(&raw, limit, &service, pictures, viewed.as_mut())?;
    let show = show(&service, pictures);
    drop(viewed);
    let requests = service.requests();
    drop(view);
    let vgpu = service.stop();
    println!("{domid}: {end}");
    print!("{}", summary(&requests, &vgpu));
    show?;
    Ok(ExitCode::SUCCESS)
}

/// A vGPU that was saved.
fn read_saved(path: &Path) -> Result<SavedGuest, Error> {
    let say = |e: &dyn std::fmt::Display| format!("--restore {}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| say(&e))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|e| say(&e))?;
    SavedGuest::from_bytes(&bytes).map_err(|e| say(&e).into())
}

/// The guest as the hypervisor knows it, if it is there.
fn info(raw: &Privcmd, domid: DomId) -> Result<Option<xen_domctl_getdomaininfo>, Error> {
    let found = raw.domains(domid, 1).map_err(|e| format!("getdomaininfolist: {e}: run in dom0 as root"))?;
    Ok(found.into_iter().find(|d| d.domain == domid.0))
}

fn check_guest(raw: &Privcmd, domid: DomId) -> Result<xen_domctl_getdomaininfo, Error> {
    match info(raw, domid)? {
        None => Err(format!("there is no domain {}: `xl list` shows those there are", domid.0).into()),
        Some(d) if d.flags & XEN_DOMINF_dying != 0 => Err(format!("domain {} is dying", domid.0).into()),
        Some(d) if d.flags & XEN_DOMINF_hvm_guest == 0 => Err(format!(
            "domain {} is a PV guest, which has no device model: use type=\"pvh\" or \"hvm\"",
            domid.0
        )
        .into()),
        Some(d) => Ok(d),
    }
}

/// What ends the program, or makes it write a picture.
struct Reasons {
    poll: Poll,
    signals: Signals,
    operator: Option<Operator>,
}

impl Reasons {
    /// Catches signals from here on.
    fn new() -> Result<Self, Error> {
        let poll = Poll::new()?;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        Ok(Self { poll, signals, operator: None })
    }

    /// Hears an operator, too.
    fn hear(&mut self, control: Control, served: Served, service: &Service) -> Result<(), Error> {
        let guests = service.handle().clone();
        self.operator = Some(Operator::start(control, served, guests, self.poll.registry(), CONTROL)?);
        Ok(())
    }

    /// Waits for a reason to end, and says it. Writes a picture at SIGUSR1.
    fn wait(
        mut self,
        raw: &Privcmd,
        mut limit: Limit,
        service: &Service,
        out: Option<&Pictures>,
        mut viewed: Option<&mut Show>,
    ) -> Result<String, Error> {
        let mut events = Events::with_capacity(4);
        loop {
            let more = self.operator.as_ref().is_some_and(Operator::has_more);
            if let Err(e) = self.poll.poll(&mut events, Some(if more { Duration::ZERO } else { LOOK }))
                && e.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(e.into());
            }
            if let Some(operator) = &mut self.operator
                && (more || events.iter().any(|e| e.token() == CONTROL))
            {
                operator.serve()?;
                if operator.is_stopping() {
                    return Ok("stopped by an operator".into());
                }
            }
            for signal in self.signals.pending() {
                match signal {
                    SIGUSR1 => {
                        if let Err(e) = show(service, out) {
                            log::warn!("{e}");
                        }
                    }
                    _ => return Ok("stopped by a signal".into()),
                }
            }
            if let Some(viewed) = &mut viewed
                && !more
            {
                viewed.update(&service.vgpu());
            }
            lines::tell();
            if let Some(why) = service.lost() {
                return Err(why.into());
            }
            match info(raw, service.domid())? {
                Some(d) if d.flags & XEN_DOMINF_dying == 0 => {
                    limit.keep(raw, d.max_pages);
                }
                _ => return Ok("the guest is gone".into()),
            }
        }
    }
}

/// Writes what the guest shows.
fn show(service: &Service, out: Option<&Pictures>) -> Result<(), Error> {
    let Some(out) = out else { return Ok(()) };
    if let Some(console) = service.console() {
        match console.picture() {
            Ok(picture) => println!("wrote {}", out.write_console(&picture)?.display()),
            Err(e) => log::warn!("{}: no picture of its console: {e}", service.domid()),
        }
    }
    let surface = match service.vgpu().surface() {
        // A driver that has no display, such as i915 here, never does.
        Err(off @ SurfaceError::Off) => {
            println!("{off}");
            return Ok(());
        }
        surface => surface?,
    };
    if surface.missing_pages > 0 {
        log::warn!("{}: {} pages of the picture are ballooned out", service.domid(), surface.missing_pages);
    }
    println!("wrote {}", out.write(&surface)?.display());
    Ok(())
}

/// A line a figure: its name and its value.
fn summary(requests: &ioreq_server::Snapshot, vgpu: &Snapshot) -> String {
    use std::fmt::Write;
    figures(requests, vgpu).iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name} {value}");
        out
    })
}

/// What is counted, by the names that `status` and the end have for it.
pub(crate) fn figures(requests: &ioreq_server::Snapshot, vgpu: &Snapshot) -> [(&'static str, u64); 28] {
    [
        ("pio", requests.pio),
        ("mmio", requests.mmio),
        ("pci", requests.pci),
        ("invalidate", requests.invalidate),
        ("unclaimed", requests.unclaimed),
        ("ram_writes", requests.ram_writes),
        ("pauses", requests.pauses),
        ("tracked_tables", vgpu.tracked_tables),
        ("table_writes", vgpu.table_writes),
        ("pte_writes", vgpu.pte_writes),
        ("mappings", vgpu.mappings),
        ("submissions", vgpu.submissions),
        ("completions", vgpu.completions),
        ("refusals", vgpu.refusals),
        ("busy_us", vgpu.busy_us),
        ("overruns", vgpu.overruns),
        ("resets", vgpu.resets),
        ("interrupts", vgpu.interrupts),
        ("held", vgpu.held),
        ("notices", vgpu.notices),
        ("revoked", vgpu.revoked),
        ("replaced", vgpu.replaced),
        ("released", vgpu.released),
        ("invalidation_median_us", vgpu.invalidation_median_us),
        ("invalidation_p99_us", vgpu.invalidation_p99_us),
        ("unknown_registers", vgpu.unknown_registers),
        ("foreign_accesses", vgpu.foreign_accesses),
        ("log_lines_left_out", lines::left_out()),
    ]
}
