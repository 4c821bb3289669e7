//! A guest of the demo: a domain, a vCPU's thread that runs the driver, and the service that answers it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use guest::RamRange;
use guest::model::{MOMENT, ModelCpu};
use guest::run::{self, Report};
use guest::scene;
use mediated_gpu::mediator::{Share, Snapshot, Usage};
use mediated_gpu::physical::Engine;
use mediated_gpu::service::Service;
use mediated_gpu::service::SlotError;
use xen_ioreq::{DomId, VcpuId};

use super::judge::{self, Harm};
use super::world::{GUEST_FRAMES, OPTIONS, RAM, World};
use crate::{Error, cli, picture};

/// Rounds of a hostile guest between two looks at whether to stop.
const HOSTILE_ROUNDS: u32 = 16;

/// What the guest's thread came back with.
enum Outcome {
    Drew(Report),
    Harmed,
    Failed(String),
}

/// A guest that draws.
pub(crate) struct Running {
    domid: DomId,
    seed: u64,
    hostile: bool,
    service: Service,
    thread: JoinHandle<Outcome>,
    frames: Arc<AtomicU32>,
    usage: Option<Usage>,
    harm: Harm,
    pub(crate) stop: Arc<AtomicBool>,
}

/// A guest that has come to its end.
pub(crate) struct Done {
    pub(crate) domid: DomId,
    pub(crate) hostile: bool,
    pub(crate) report: Report,
    pub(crate) requests: ioreq_server::Snapshot,
    pub(crate) vgpu: Snapshot,
    /// Its part of the blitter, of 1, while it drew.
    pub(crate) part: f64,
    /// What it did, if it is hostile, with all vGPUs that it had.
    pub(crate) harm: Harm,
    /// Its last picture as the host saw it, `scene::WIDTH` by `scene::HEIGHT`.
    pub(crate) picture: Option<Vec<u32>>,
}

impl Running {
    /// Builds the domain, serves it, and lets it go.
    pub(crate) fn start(world: &World, args: &cli::Demo, number: u16, hostile: bool) -> Result<Self, Error> {
        let domid = DomId(number);
        let service = world.serve(domid)?;
        service.vgpu().set_share(args.share(number));

        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let vcpu = world.machine.vcpu(domid, VcpuId(0))?;
        let ram = vec![RamRange { first: RAM, frames: GUEST_FRAMES }];
        let counter = frames.clone();
        let progress = Box::new(move |r: &Report| counter.store(r.frames_drawn, Ordering::Relaxed));
        let mut cpu = ModelCpu::new(vcpu, ram, stop.clone(), progress);
        let ended = stop.clone();
        let config = driver(args);
        let thread = std::thread::Builder::new().name(format!("vcpu-{number}")).spawn(move || {
            if hostile {
                harm(&mut cpu, config.seed ^ u64::from(number), &ended)
            } else {
                draw(&mut cpu, &config)
            }
        })?;
        Ok(Self {
            domid,
            seed: args.seed,
            hostile,
            service,
            thread,
            frames,
            usage: None,
            harm: Harm::default(),
            stop,
        })
    }

    /// Whether its thread has come to an end by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The time of drawing is over: takes note of its part of the blitter.
    pub(crate) fn note_part(&mut self) {
        self.usage = Some(self.service.vgpu().usage(Engine::Bcs));
    }

    /// As an operator does: takes a hostile guest's vGPU away, whatever it is doing, or gives it a new one. Whether it has one then.
    pub(crate) fn unplug(&mut self, share: Share) -> Result<bool, SlotError> {
        let slot = self.service.slot();
        let plugged = slot.is_empty();
        if plugged {
            slot.create(OPTIONS.kind)?;
            slot.vgpu().set_share(share);
        } else {
            self.harm.add(&slot.destroy()?);
            self.harm.unplugged += 1;
        }
        Ok(plugged)
    }

    /// Whether it means harm.
    pub(crate) fn is_hostile(&self) -> bool {
        self.hostile
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.domid.0
    }

    /// A few words.
    pub(crate) fn progress(&self) -> String {
        if self.hostile {
            return format!("{} hostile", self.domid);
        }
        let v = self.service.vgpu().statistics();
        format!(
            "{} {} frames, {} invalidations",
            self.domid,
            self.frames.load(Ordering::Relaxed),
            v.invalidations
        )
    }

    /// Waits for the guest's last picture, writes it, checks it, and takes the guest down.
    pub(crate) fn finish(
        self,
        world: &World,
        args: &cli::Demo,
        problems: &mut Vec<String>,
    ) -> Result<Done, Error> {
        let Self { domid, seed, hostile, service, thread, usage, mut harm, .. } = self;
        let mut problem = |what: String| problems.push(format!("{domid}: {what}"));
        let (mut report, mut picture) = (Report::default(), None);
        match thread.join() {
            Ok(Outcome::Drew(drawn)) => {
                report = drawn;
                account(&report, &mut problem);
                picture = show(domid, seed, &service, &args.out, &mut problem)?;
            }
            Ok(Outcome::Harmed) => {}
            Ok(Outcome::Failed(why)) => problem(why),
            Err(_) => problem("its thread panicked".into()),
        }
        if let Some(why) = service.lost() {
            problem(why.to_string());
        }
        service.vgpu().settle();
        usage
            .and_then(|usage| judge::share(usage, args.schedule, hostile))
            .into_iter()
            .for_each(&mut problem);
        judge::notices(&service.vgpu().statistics()).filter(|_| !hostile).into_iter().for_each(&mut problem);
        let requests = service.requests();
        let plugged = !service.slot().is_empty();
        let vgpu = service.stop();
        if plugged {
            harm.add(&vgpu);
        }
        world.machine.destroy_domain(domid)?;
        let part = usage.map_or(0.0, |u| u.had.as_secs_f64() / u.of.as_secs_f64().max(1e-9));
        Ok(Done { domid, hostile, report, requests, vgpu, part, harm, picture })
    }
}

/// How those draw that mean well. Each is patient enough for all others to have had the engine up to their deadlines first.
fn driver(args: &cli::Demo) -> run::Config {
    let usual = run::Config { seed: args.seed, frames: None, ..run::Config::default() };
    let all = Duration::from_millis(args.schedule.deadline_ms) * u32::from(args.guests);
    let moments = u32::try_from(all.as_nanos() / MOMENT.as_nanos()).unwrap_or(u32::MAX);
    run::Config {
        balloon: args.balloon.into(),
        patience: usual.patience.saturating_add(if args.hostile > 0 { moments } else { 0 }),
        ..usual
    }
}

fn draw(cpu: &mut ModelCpu, config: &run::Config) -> Outcome {
    let mut buffer = vec![0; scene::PIXELS];
    match run::run(cpu, config, &mut buffer) {
        Ok(report) => Outcome::Drew(report),
        Err(e) => Outcome::Failed(match cpu.lost() {
            Some(lost) => format!("{e} ({lost})"),
            None => e.to_string(),
        }),
    }
}

/// A hostile guest does what it can until the end; whatever becomes of it is its own affair.
fn harm(cpu: &mut ModelCpu, seed: u64, stop: &AtomicBool) -> Outcome {
    let mut round = 0;
    while !stop.load(Ordering::Acquire) && cpu.lost().is_none() {
        if let Err(e) = guest::hostile::run(cpu, seed.wrapping_add(round), HOSTILE_ROUNDS) {
            log::debug!("the hostile guest does not come up any more: {e}");
        }
        round += 1;
    }
    Outcome::Harmed
}

/// Whether every frame and every page of the guest's is accounted for.
fn account(report: &Report, problem: &mut impl FnMut(String)) {
    if report.frames_drawn == 0 {
        problem("no frame was drawn".into());
    }
    if report.checks == 0 || report.checks_failed > 0 {
        problem(format!("{} of {} frames differ from the reference", report.checks_failed, report.checks));
    }
    if report.ballooned_in != report.ballooned_out {
        problem(format!("{} pages went out, {} came back", report.ballooned_out, report.ballooned_in));
    }
}

/// Writes the picture, as the host sees it, and compares it with what it must be.
fn show(
    domid: DomId,
    seed: u64,
    service: &Service,
    out: &Path,
    problem: &mut impl FnMut(String),
) -> Result<Option<Vec<u32>>, Error> {
    let surface = match service.vgpu().surface() {
        Ok(surface) => surface,
        Err(e) => {
            problem(e.to_string());
            return Ok(None);
        }
    };
    let pixels = picture::pixels(&surface);
    picture::write(&out.join(format!("dom{}.png", domid.0)), surface.width, surface.height, &pixels)?;
    let mut wanted = vec![0; scene::PIXELS];
    scene::reference(seed, domid.0, scene::FINAL, &mut wanted);
    let differ = wanted.iter().zip(&pixels).filter(|(a, b)| (*a ^ *b) & 0xff_ffff != 0).count();
    if differ > 0 || pixels.len() != wanted.len() {
        problem(format!("{differ} of {} pixels of its picture are wrong", wanted.len()));
    }
    if surface.missing_pages > 0 {
        problem(format!("{} pages of its picture are missing", surface.missing_pages));
    }
    Ok((pixels.len() == scene::PIXELS).then_some(pixels))
}
