//! A vCPU's thread that draws, or does harm, until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use guest::DriverError;
use guest::hostile::{self, HostileReport};
use guest::model::{ModelCpu, Progress};
use guest::run::{self, Config, Report};
use guest::scene::PIXELS;
use xen_ioreq::DomId;

use crate::World;

/// How a vCPU's thread is told to stop, and how far it is.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    /// Set: the run comes to its end.
    pub stop: Arc<AtomicBool>,
    frames: Arc<AtomicU32>,
}

impl Switch {
    /// Frames drawn so far.
    pub fn frames(&self) -> u32 {
        self.frames.load(Ordering::Acquire)
    }

    pub(crate) fn progress(&self) -> Progress {
        let frames = self.frames.clone();
        Box::new(move |r: &Report| frames.store(r.frames_drawn, Ordering::Release))
    }
}

/// A guest that draws.
#[derive(Debug)]
pub struct Drawing {
    /// The guest.
    pub domid: DomId,
    /// Its switch.
    pub switch: Switch,
    thread: JoinHandle<Drawn>,
}

/// What a guest that drew came back with.
#[derive(Debug)]
pub struct Drawn {
    /// What the driver says.
    pub result: Result<Report, DriverError>,
    /// Its vCPU, to go on with.
    pub cpu: ModelCpu,
}

impl Drawing {
    /// Lets a domain's vCPU draw.
    pub fn start(world: &World, domid: DomId, config: Config) -> Self {
        let switch = Switch::default();
        let cpu = world.cpu(domid, &switch);
        Self::on(cpu, domid, switch, config)
    }

    /// The same with a vCPU that there is already.
    pub fn on(mut cpu: ModelCpu, domid: DomId, switch: Switch, config: Config) -> Self {
        let thread = std::thread::spawn(move || {
            let result = run::run(&mut cpu, &config, &mut vec![0; PIXELS]);
            Drawn { result, cpu }
        });
        Self { domid, switch, thread }
    }

    /// Waits until so many frames are drawn.
    #[track_caller]
    pub fn reach(&self, frames: u32) {
        crate::until("frames", || self.switch.frames() >= frames || self.thread.is_finished());
        assert!(self.switch.frames() >= frames, "the guest came to its end before");
    }

    /// Tells it to stop, and waits.
    #[track_caller]
    pub fn stop(self) -> Drawn {
        self.switch.stop.store(true, Ordering::Release);
        self.finish()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn finish(self) -> Drawn {
        crate::join("a vCPU", self.thread)
    }
}

impl Drawn {
    /// The report of a run in which every frame was right and every page came back.
    #[track_caller]
    pub fn flawless(&self) -> Report {
        let report = self.result.unwrap_or_else(|e| panic!("{e} ({:?})", self.cpu.lost()));
        assert!(report.checks > 0 && report.checks_failed == 0, "wrong pictures: {report:?}");
        assert_eq!(report.ballooned_in, report.ballooned_out, "{report:?}");
        report
    }
}

/// A guest that does harm.
#[derive(Debug)]
pub struct Harming {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(HostileReport, ModelCpu)>,
}

impl Harming {
    /// Lets a domain's vCPU do at least `rounds` of harm, and go on until told to stop.
    pub fn start(world: &World, domid: DomId, seed: u64, rounds: u32) -> Self {
        let switch = Switch::default();
        let stop = switch.stop.clone();
        let mut cpu = world.cpu(domid, &switch);
        let go_on = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sum = HostileReport::default();
            for n in 0.. {
                // It may have broken its own device so far that it does not come up any more.
                if let Ok(r) = hostile::run(&mut cpu, seed.wrapping_add(n << 32), rounds) {
                    sum.rounds += r.rounds;
                    sum.submissions += r.submissions;
                    sum.honest += r.honest;
                    sum.finished += r.finished;
                    sum.lost += r.lost;
                }
                if go_on.load(Ordering::Acquire) {
                    break;
                }
            }
            (sum, cpu)
        });
        Self { stop, thread }
    }

    /// Tells it to stop, and waits.
    #[track_caller]
    pub fn stop(self) -> (HostileReport, ModelCpu) {
        self.stop.store(true, Ordering::Release);
        crate::join("a hostile vCPU", self.thread)
    }
}
