//! The guest itself gives frames back that the client has mapped, and its notice comes by an IOREQ server of ours.
//!
//! Here the guest runs: it performs `guest::rows::Table::Give` and reports the answer of each row to a port of the server. That
//! report is not answered before the row's work is done, so the vCPU stands still whenever frames are counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest::rows::{END, NEXT, RESULT, Table};
use ioreq_server::bus::Window;
use ioreq_server::device::Region;
use ioreq_server::{
    Access, BufferedMode, Bus, Deferred, Device, Guest, GuestLoop, Invalidation, IoError, Notices, OnError,
    Outcome, PioDevice, Server, Space,
};
use pviommu::{EVERYTHING, Mapped};
use xen_ioreq::{Errno, Gfn};

use super::lab::Lab;
use crate::bench::Hypervisor;
use crate::patience::Patience;
use crate::running;
use crate::story::Fact::{Frames, Is};
use crate::story::{Failed, stories};

/// What the GPU stores in what will be given.
const MARK: u32 = 0x6d61_726b;
/// The dword in which it does; the guest's rows leave it alone.
const MARKED: u32 = 100;
/// Frames of the guest's scratch RAM that the rows give, and how many.
const GIVEN: (u64, u64) = (5, 2);
const MOMENT: Duration = Duration::from_millis(50);

/// What the server has been told.
enum Event {
    /// The next row's answer. The guest waits until this is answered.
    Answer(u64, Deferred),
    /// All rows are done.
    End,
}

/// The device at [`RESULT`] and [`END`], and who hears of notices.
struct Watch {
    hypervisor: Arc<dyn Hypervisor>,
    guest: pviommu::Guest,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: bool,
    low: Option<u64>,
    events: Vec<Event>,
    notices: Vec<Result<u64, Errno>>,
}

impl Watch {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Free frames of the host at each notice since the last call.
    fn take_notices(&self) -> Result<Vec<u64>, Errno> {
        self.with(|s| std::mem::take(&mut s.notices)).into_iter().collect()
    }
}

impl Device for Watch {
    fn name(&self) -> &'static str {
        "the rows' reports"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for Watch {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        if a.offset != u64::from(NEXT - RESULT) {
            return Outcome::Err(IoError::NoRegister);
        }
        // This table once, and then nothing more.
        let again = self.with(|s| std::mem::replace(&mut s.asked, true));
        Outcome::Ok(if again { 0 } else { Table::Give as u64 })
    }

    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        if a.offset == u64::from(END - RESULT) {
            self.with(|s| s.events.push(Event::End));
            return Outcome::Ok(());
        }
        self.with(|s| match s.low.take() {
            None => {
                s.low = Some(value);
                Outcome::Ok(())
            }
            Some(low) => {
                let (promise, defer) = Deferred::new();
                s.events.push(Event::Answer(value << 32 | low, promise));
                Outcome::Defer(defer)
            }
        })
    }
}

impl Notices for Watch {
    fn invalidate(&self, what: Invalidation) {
        // Recorded at once, and the vCPU goes on when this returns.
        self.guest.notice(match what {
            Invalidation::All => EVERYTHING,
            Invalidation::Frame(bfn) => bfn.0,
        });
        let free = self.hypervisor.physinfo().map(|i| i.free_pages);
        self.with(|s| s.notices.push(free));
    }
}

stories! {
/// The same on any hypervisor: a call that gives many frames may be told more than once, so that is no number here.
#[rustfmt::skip]
RUNNING: Lab;

what_the_guest_gives_itself_is_the_hosts_when_the_client_releases_it ["the promise; seen: the notice comes after the removal, before the guest's next instruction"] => [
    Frames("map of what will be given", 0), Is("told of giving two", 1), Frames("before the notice was answered", 0), Is("withdrawn", 2), Is("old contents for the GPU", MARK as u64), Is("released", 2), Frames("release", 2),
    Is("told of giving a hole", 0), Is("told of taking two", 0), Frames("take", 0), Is("the GPU read of the new frame", 0x6463_6261), Is("told of the rest", 1), Is("rows with another answer than they must have", 0),
], |l| {
    let bench = l.stage.bench.clone();
    running::run(&bench, || serve(l))??;
    // The server has gone, and what it cost is back.
    l.start_over()?;
}
}

fn serve(lab: &mut Lab) -> Result<(), Failed> {
    let bench = lab.stage.bench.clone();
    let server = Server::create(&bench.connection()?, bench.guest, BufferedMode::Atomic)?.map()?;
    let bus = Bus::new(server.claims());
    let watch = Arc::new(Watch {
        hypervisor: bench.hypervisor.clone(),
        guest: lab.guest.clone(),
        state: Mutex::default(),
    });
    let device = bus.attach(watch.clone());
    let ports =
        Window { space: Space::Pio, start: RESULT.into(), last: u64::from(END) + 3, region: Region(0) };
    bus.map(device, ports)?;
    let mut events = GuestLoop::new()?;
    events.set_patience(Duration::ZERO);
    events.add(Guest::new(server.enable()?, bus, watch.clone(), OnError::AllOnes))?;
    // What the server costs is not what is counted here.
    lab.start_over()?;
    let mut report = Report { at: 0, wrong: 0, scratch: Gfn(0), mapped: Vec::new() };
    bench.unpause()?;
    let mut patience = Patience::new(0);
    let mut done = false;
    while !done {
        events.turn(Some(MOMENT))?;
        let gave_up = !bench.guest_lives() || !patience.lasts(report.at);
        for event in watch.with(|s| std::mem::take(&mut s.events)) {
            match event {
                Event::Answer(answer, promise) => {
                    report.answer(lab, &watch, answer)?;
                    promise.answer(Ok(0));
                }
                Event::End => {
                    report.end(lab, &watch)?;
                    done = true;
                }
            }
        }
        if gave_up && !done {
            return Err(format!("the guest did not come beyond row {}", report.at).into());
        }
    }
    drop(report);
    // Settled before the server goes, which gives frames back too.
    lab.settle()
}

/// What is done when the guest reports a row.
struct Report {
    at: usize,
    wrong: usize,
    scratch: Gfn,
    mapped: Vec<Mapped>,
}

impl Report {
    fn answer(&mut self, lab: &mut Lab, watch: &Watch, answer: u64) -> Result<(), Failed> {
        let row = Table::Give.rows().get(self.at).ok_or("more answers than rows")?;
        self.at += 1;
        self.wrong += usize::from(row.expect.is_some_and(|e| e != answer));
        match row.name {
            "scratch_ram" => self.scratch = Gfn::of_addr(answer),
            "fill_what_is_given" => {
                let (first, count) = GIVEN;
                self.mapped =
                    lab.show(&(0..count).map(|n| Gfn(self.scratch.0 + first + n)).collect::<Vec<_>>())?;
                (0..2).try_for_each(|n| lab.gpu.store(n, MARKED, MARK))?;
                // Of what was done to the guest while it was paused.
                watch.take_notices()?;
                lab.frames("map of what will be given")?;
            }
            "give_two_frames" => {
                // For one call Xen may tell more than once: it is told again after each interruption.
                let free = watch.take_notices()?;
                lab.is("told of giving two", !free.is_empty());
                lab.frames_then("before the notice was answered", free.first().copied().unwrap_or(0));
                let draining = lab.guest.take_draining()?;
                lab.count("withdrawn", draining.iter().filter(|d| d.ends_use()).count());
                let old = lab.gpu.load(1, MARKED as usize)?;
                lab.is("old contents for the GPU", old);
                (0..2).for_each(|n| lab.gpu.point(n, None));
                self.mapped.clear();
                let (released, _) = lab.release(draining)?;
                lab.count("released", released);
                lab.frames("release")?;
            }
            "give_a_hole" => lab.count("told of giving a hole", watch.take_notices()?.len()),
            "take_two_frames" => {
                lab.count("told of taking two", watch.take_notices()?.len());
                lab.frames("take")?;
            }
            "load_of_what_was_taken" => {
                self.mapped = lab.show(&[Gfn(self.scratch.0 + GIVEN.0)])?;
                let read = lab.gpu.load(0, 0)?;
                lab.is("the GPU read of the new frame", read);
            }
            // Puts frames over two that are there.
            "take_over_two_frames_that_are_there" => lab.lose(2),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, lab: &mut Lab, watch: &Watch) -> Result<(), Failed> {
        lab.is("told of the rest", !watch.take_notices()?.is_empty());
        lab.count(
            "rows with another answer than they must have",
            self.wrong + (Table::Give.rows().len() - self.at),
        );
        self.mapped.clear();
        Ok(())
    }
}
