//! Lines that a guest performs itself, with hypercalls and a table of its own: on the model and on Xen the same.
//!
//! A server built with ioreq-server has the ports at which the guest asks when to begin and tells what came of each line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use guest::RamRange;
use guest::grants::sheet::{Line, Sheet};
use guest::grants::{END, LINES, NEXT, RESULT, Seen, Workspace, alone};
use guest::model::ModelCpu;
use guest::rows::PORT;
use ioreq_server::{Access, Device, IoError, Outcome, PioDevice};
use mock_xen::{Config, DomainConfig, Machine, Profile};
use xen_ioreq::{DomId, Gfn, VcpuId};

use super::served::serving;
use crate::Row;
use crate::bench::{Bench, BenchError};
use crate::ioreq::access::AccessError;
use crate::patience::Patience;

/// How often the server looks whether the guest is done.
const MOMENT: Duration = Duration::from_millis(50);
/// RAM of the model's guest: each line uses up some.
const RAM: RamRange = RamRange { first: Gfn(8), frames: 4000 };

/// The ports.
#[derive(Default)]
struct Ports {
    told: Mutex<Vec<u32>>,
    ended: AtomicBool,
}

impl Ports {
    /// How much the guest has told.
    fn told(&self) -> usize {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn seen(&self) -> Vec<Option<Seen>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = told.chunks_exact(2);
        pairs.map(|pair| <[u32; 2]>::try_from(pair).ok().and_then(Seen::of_words)).collect()
    }
}

impl PioDevice for Ports {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        if a.offset != u64::from(NEXT - PORT) {
            return Outcome::Err(IoError::NoRegister);
        }
        Outcome::Ok(if self.ended.load(Ordering::Acquire) { 0 } else { LINES.into() })
    }

    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        let word = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        match a.offset {
            o if o == u64::from(RESULT - PORT) => {
                self.told.lock().unwrap_or_else(PoisonError::into_inner).push(word);
            }
            o if o == u64::from(END - PORT) => self.ended.store(true, Ordering::Release),
            _ => return Outcome::Err(IoError::NoRegister),
        }
        Outcome::Ok(())
    }
}

impl Device for Ports {
    fn name(&self) -> &'static str {
        "the lines' ports"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
}

/// Lets the guest of `bench` run and serves it; what it has told, a line each.
fn serve(bench: &Bench) -> Result<Vec<Option<Seen>>, AccessError> {
    let ports = Arc::new(Ports::default());
    let mut events = serving(bench, ports.clone())?;
    let mut patience = Patience::new(0);
    while !ports.ended.load(Ordering::Acquire) && bench.guest_lives() && patience.lasts(ports.told()) {
        events.turn(Some(MOMENT))?;
    }
    Ok(ports.seen())
}

/// A guest for the lines on a model of released Xen, whose limits are those of the guest on Xen.
fn model() -> Result<Bench, BenchError> {
    let config = Config {
        frames: 8192,
        profile: Profile::Stock,
        max_grant_frames: 2,
        max_maptrack_frames: 1,
        ..Config::default()
    };
    let machine = Machine::new(config)?;
    let frames = RAM.first.0 + RAM.frames;
    let guest = machine.create_domain(&DomainConfig { max_pages: frames + 16, ..DomainConfig::default() })?;
    let fill = |errno| BenchError::Call { what: "the guest's memory", errno };
    machine.populate(guest, Gfn(0), frames).map_err(fill)?;
    Bench::on_model(&machine, guest)
}

fn run(bench: &Bench) -> Result<Vec<Option<Seen>>, AccessError> {
    let Some(machine) = bench.machine() else {
        let seen = serve(bench);
        bench.stand_still().map_err(AccessError::Start)?;
        return seen;
    };
    bench.pause().map_err(AccessError::Start)?;
    let stop = Arc::new(AtomicBool::new(false));
    let vcpu = machine.vcpu(bench.guest, VcpuId(0)).map_err(AccessError::Start)?;
    let mut cpu = ModelCpu::new(vcpu, vec![RAM], stop.clone(), Box::new(|_| {}));
    thread::scope(|scope| {
        // What fails shows as lines that the guest did not come to.
        scope.spawn(move || {
            let mut workspace = Workspace::NEW;
            guest::grants::serve(&mut cpu, &mut workspace, &mut |_| {})
        });
        let seen = serve(bench);
        stop.store(true, Ordering::Release);
        seen
    })
}

/// The rows, and what was seen as a log, a line each.
pub(super) fn rows(on_xen: Option<DomId>) -> Result<(Vec<Row>, String), BenchError> {
    let bench = match on_xen {
        Some(guest) => Bench::on_xen(guest)?,
        None => model()?,
    };
    let seen = run(&bench).unwrap_or_else(|e| {
        log_failure(&e);
        Vec::new()
    });
    let all: Vec<_> = alone().collect();
    Ok((judge(&all, &seen), text(&all, &seen)))
}

fn log_failure(e: &AccessError) {
    eprintln!("conformance: the lines' server: {e}");
}

fn name(sheet: &Sheet, line: &Line) -> String {
    format!("{}, inside: {line}", sheet.parties.words())
}

fn judge(all: &[(&Sheet, &Line)], seen: &[Option<Seen>]) -> Vec<Row> {
    let row = |(n, (sheet, line)): (usize, &(&Sheet, &Line))| {
        let (ok, detail) = match seen.get(n) {
            None => (false, "the guest did not come to it".to_owned()),
            Some(None) => (false, "the guest told what no answer is".to_owned()),
            Some(Some(seen)) if seen.is_of(line) => (true, format!("{seen} [{}]", line.source)),
            Some(Some(seen)) => {
                (false, format!("{seen}, wanted {}, marks {:#x} [{}]", line.want, line.marks, line.source))
            }
        };
        Row { name: name(sheet, line), ok, detail }
    };
    all.iter().enumerate().map(row).collect()
}

/// What was seen, a line each.
fn text(all: &[(&Sheet, &Line)], seen: &[Option<Seen>]) -> String {
    let told = all.iter().zip(seen).map(|((sheet, line), seen)| {
        let answer = seen.map_or_else(|| "no answer".to_owned(), |s| s.to_string());
        format!("{} = {answer}\n", name(sheet, line))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use xen_ioreq::Errno;

    use super::*;

    /// Whatever a guest tells instead of the right answer, or does not tell, fails the row of that name.
    #[test]
    fn each_answer_that_is_wrong_or_missing_fails_its_row() {
        let all: Vec<_> = alone().collect();
        let right: Vec<_> = all.iter().map(|(_, l)| Some(Seen(Ok((l.want, l.marks))))).collect();
        assert!(judge(&all, &right).iter().all(|r| r.ok));
        for n in 0..all.len() {
            let mut wrong = right.clone();
            wrong[n] = Some(Seen(Ok((all[n].1.want, all[n].1.marks ^ 8))));
            let failed: Vec<_> = judge(&all, &wrong).into_iter().filter(|r| !r.ok).map(|r| r.name).collect();
            assert_eq!(failed, [name(all[n].0, all[n].1)]);
            wrong[n] = Some(Seen(Err(Errno::EIO)));
            assert!(!judge(&all, &wrong)[n].ok);
            assert_eq!(judge(&all, &right[..n]).iter().filter(|r| r.ok).count(), n);
        }
    }
}
