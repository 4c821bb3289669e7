//! A client's life, ended at each of its calls: before it, in the middle, after it. The next client finds every frame, or
//! says which ones it cannot know of.

mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Once};

use mock_xen::{Caller, Fault, FaultPlan, Iommu, Killed, Machine, Moment, Profile, Site, When};
use pviommu::{
    BfnSpace, Client, Config, DeviceFlush, Draining, EVERYTHING, Guest, Mapped, Reclaimed, Uncertain,
};
use tempfile::TempDir;
use world::{DOM0, Device, FRAMES, KINDS, Kind, Toolstack, machine, own_pages, ports};
use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

/// What the guests do while nobody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// They balloon out everything.
    Out,
    /// They balloon out everything, and in again: other frames are there now.
    Swap,
    /// They die.
    Death,
}

const MEANWHILE: [Meanwhile; 4] = [Meanwhile::Nothing, Meanwhile::Out, Meanwhile::Swap, Meanwhile::Death];
const MOMENTS: [Moment; 4] = [Moment::Before, Moment::Within(1), Moment::Within(5), Moment::After];

/// A machine with two guests that outlive the client.
struct Host {
    machine: Arc<Machine>,
    toolstack: Toolstack,
    guests: [(DomId, IoServerId); 2],
    /// Frames that are free or the guests'.
    frames: u64,
    _dir: TempDir,
    config: Config,
}

/// A process.
struct Process {
    caller: Arc<Caller>,
    client: Client,
    device: Device,
}

impl Host {
    fn new(kind: Kind) -> Self {
        Self::with(kind, |ledger| Config { ledger: Some(ledger), ..Config::default() })
    }

    fn with(kind: Kind, config: impl Fn(PathBuf) -> Config) -> Self {
        let dir = TempDir::new().unwrap();
        let bfns = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + 256));
        let config = Config { bfns, ..config(dir.path().join("ledger")) };
        let machine = machine(kind);
        let toolstack = Toolstack::new(&machine);
        let guests = [toolstack.guest(), toolstack.guest()];
        let frames = machine.free_frames() + 2 * FRAMES;
        Self { machine, toolstack, guests, frames, _dir: dir, config }
    }

    fn start(&self, caller: &Arc<Caller>) -> Process {
        let client = Client::start(ports(caller), self.config.clone()).unwrap();
        let device = Device::new(&self.machine, &client);
        Process { caller: caller.clone(), client, device }
    }

    fn is_alive(&self, domid: DomId) -> bool {
        self.machine.domain_info(domid).is_some_and(|d| !d.dying)
    }

    fn present(&self, domid: DomId) -> impl Iterator<Item = Gfn> {
        (0..FRAMES).map(Gfn).filter(move |g| self.machine.references(domid, *g).is_ok())
    }

    /// Frames that nobody can reach any more and that are not free.
    fn missing(&self) -> u64 {
        let guests: usize = self.guests.iter().map(|(d, _)| self.present(*d).count()).sum();
        self.frames - self.machine.free_frames() - u64::try_from(guests).unwrap()
    }

    /// Gives the first guest back what the life before has taken from it.
    fn refill(&self) {
        let (domid, _) = self.guests[0];
        let hole = |gfn: &Gfn| self.machine.references(domid, *gfn).is_err();
        (0..FRAMES).map(Gfn).filter(hole).for_each(|gfn| self.toolstack.populate(domid, gfn));
    }

    fn pass_time(&self, meanwhile: Meanwhile) {
        for (domid, _) in self.guests.into_iter().filter(|(d, _)| self.is_alive(*d)) {
            let gfns: Vec<Gfn> = self.present(domid).collect();
            match meanwhile {
                Meanwhile::Nothing => {}
                Meanwhile::Death => self.machine.destroy_domain(domid).unwrap(),
                Meanwhile::Out => gfns.iter().for_each(|g| self.toolstack.balloon_out(domid, *g)),
                Meanwhile::Swap => gfns.iter().for_each(|g| {
                    self.toolstack.balloon_out(domid, *g);
                    self.toolstack.populate(domid, *g);
                }),
            }
        }
    }
}

impl Process {
    fn attach(&self, host: &Host, which: usize) -> Guest {
        let (domid, server) = host.guests[which];
        self.client.attach(domid, server).unwrap()
    }

    /// Carries a guest's notices out: its holders let go, and what can be released is.
    fn settle(&self, guest: &Guest, held: &mut Vec<Mapped>, stale: Vec<Draining>) {
        let gone: BTreeSet<Bfn> = stale.iter().filter(|d| d.ends_use()).map(Draining::bfn).collect();
        held.retain(|m| !gone.contains(&m.bfn()));
        self.release(stale);
        let rest = guest.take_draining().unwrap();
        self.release(rest);
    }

    fn release(&self, draining: impl IntoIterator<Item = Draining>) {
        let (quiesced, held) = self.client.quiesce(draining, &self.device);
        assert!(held.is_empty(), "{held:?}");
        assert!(self.client.release(quiesced).failed.is_empty());
    }

    /// Everything that a client does.
    fn live(&self, host: &Host) {
        let own = own_pages(&self.client, &self.caller, 3);
        let [first, second] = [0, 1].map(|which| self.attach(host, which));
        let domid = first.domid();
        let map = |guest: &Guest, gfns: std::ops::Range<u64>| -> Vec<Mapped> {
            guest.map(&gfns.map(Gfn).collect::<Vec<_>>()).into_iter().map(Result::unwrap).collect()
        };
        let mut held = map(&first, 0..12);
        let others = map(&second, 0..4);
        held.iter().chain(&others).for_each(|m| self.device.write(m.bfn(), 1));
        if host.config.swap_mfn {
            // Such a device keeps no translations.
            self.device.flush();
        }
        held.push(first.lookup(Gfn(3)).unwrap());
        let last: Vec<Draining> = held.drain(8..11).filter_map(Mapped::put).collect();
        self.release(last);

        // A page goes, and its notice says which; two go, and it does not.
        host.toolstack.balloon_out(domid, Gfn(1));
        first.notice(held[1].bfn().0);
        let stale = first.take_draining().unwrap();
        self.settle(&first, &mut held, stale);
        [2, 20].into_iter().for_each(|g| host.toolstack.balloon_out(domid, Gfn(g)));
        first.notice(EVERYTHING);
        let stale = first.take_draining().unwrap();
        self.settle(&first, &mut held, stale);
        // Frames are swapped, and nothing is said.
        for gfn in [3, 4, 5].map(Gfn) {
            host.toolstack.balloon_out(domid, gfn);
            host.toolstack.populate(domid, gfn);
        }
        first.doubt(first.bus_frame(Gfn(3)).unwrap());
        let stale = first.take_draining().unwrap();
        self.settle(&first, &mut held, stale);
        let stale = first.sweep(100).unwrap();
        self.settle(&first, &mut held, stale);
        // Back, among holes; and of what is idle some is used again.
        let again = first.map(&[1, 2, 3, 4, 5, 13, 14, 100].map(Gfn));
        held.extend(again.into_iter().flatten());
        let idle: Vec<Draining> = held.drain(..2).filter_map(Mapped::put).collect();
        held.push(first.map_one(Gfn(0)).unwrap());
        self.release(idle);

        self.device.flush();
        host.machine.destroy_domain(second.domid()).unwrap();
        let dead = second.die();
        drop(others);
        self.release(dead);
        self.client.release_own(own, &self.device).unwrap();
        let rest: Vec<Draining> = held.into_iter().filter_map(Mapped::put).collect();
        self.release(rest);
        let rest = first.take_draining().unwrap();
        self.release(rest);
        assert!(first.is_empty() && second.is_empty());
    }
}

/// A process killed at its `nth` call; whether it came that far.
fn killed(host: &mut Host, nth: u64, moment: Moment) -> bool {
    let caller = Arc::new(host.machine.caller(DOM0).unwrap());
    host.machine.inject(FaultPlan::one(Site::Call, When::Nth(nth), Fault::Kill(moment)));
    let ended = catch_unwind(AssertUnwindSafe(|| host.start(&caller))).map(|process| {
        let ended = catch_unwind(AssertUnwindSafe(|| process.live(host)));
        // Its device dies with it, or is reset by whoever comes next.
        process.device.flush();
        ended
    });
    // It was a call of the toolstack's: the client is killed between two of its own.
    caller.kill();
    host.machine.inject(FaultPlan::default());
    host.toolstack = Toolstack::new(&host.machine);
    match ended {
        Ok(Ok(())) => false,
        Ok(Err(e)) | Err(e) if e.is::<Killed>() => true,
        Ok(Err(e)) | Err(e) => resume_unwind(e),
    }
}

/// What is not known for certain of guests' frames, and of own ones.
fn uncertain(reclaimed: &Reclaimed) -> (Vec<(DomId, Gfn, bool)>, u64) {
    let mut lookups = Vec::new();
    let mut own = 0;
    for u in &reclaimed.uncertain {
        match *u {
            Uncertain::Lookup { domid, gfn, found } => lookups.push((domid, gfn, found)),
            Uncertain::Own { .. } => own += 1,
        }
    }
    (lookups, own)
}

/// What all runs came to.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    mappings: u64,
    own: u64,
    missing: u64,
    uncertain: u64,
}

/// One life that ends at a call, and the next one. `None`: the life was over before.
fn run(mut host: Host, nth: u64, moment: Moment, meanwhile: Meanwhile, sum: &mut Sum) -> Option<()> {
    let kind = (host.machine.config().profile, host.machine.config().iommu);
    let what = format!("{kind:?}, call {nth}, {moment:?}, meanwhile {meanwhile:?}");
    let came = killed(&mut host, nth, moment);
    host.pass_time(meanwhile);
    let caller = Arc::new(host.machine.caller(DOM0).unwrap());
    let process = host.start(&caller);
    let mut reclaimed = Reclaimed::default();
    for server in host.guests.map(|(_, server)| server).into_iter().collect::<BTreeSet<_>>() {
        let this = process.client.reclaim(server, &process.device).unwrap();
        reclaimed.mappings += this.mappings;
        reclaimed.own += this.own;
        reclaimed.kept.extend(this.kept);
        reclaimed.uncertain.extend(this.uncertain);
        reclaimed.damaged += this.damaged;
    }
    assert_eq!((reclaimed.kept.len(), reclaimed.damaged), (0, 0), "{what}");
    let (lookups, own) = uncertain(&reclaimed);
    let missing = host.missing();
    // Back, or known. What the guests left alone is back whatever happened to it.
    let unknown =
        lookups.iter().filter(|(_, _, found)| !found || meanwhile == Meanwhile::Swap).count() as u64;
    assert!(missing <= unknown + own, "{what}: {missing} frames are missing, {reclaimed}");
    if moment == Moment::Before || (meanwhile == Meanwhile::Nothing && own == 0) {
        assert_eq!(missing, 0, "{what}: {reclaimed}");
    }
    for (domid, _) in host.guests {
        let referred: Vec<Gfn> =
            host.present(domid).filter(|g| host.machine.references(domid, *g) != Ok(1)).collect();
        assert_eq!(referred, [], "{what}: {domid}");
    }
    host.machine.assert_clean();
    // The new one lives as if nothing had been, and what was missing is all that is.
    if meanwhile == Meanwhile::Nothing && host.guests.iter().all(|(d, _)| host.is_alive(*d)) {
        host.refill();
        process.live(&host);
        assert_eq!(host.missing(), missing, "{what}");
    }
    drop(process);
    caller.kill();
    for (domid, _) in host.guests.into_iter().filter(|(d, _)| host.is_alive(*d)) {
        host.machine.destroy_domain(domid).unwrap();
    }
    let left = host.missing();
    // That hypervisor gives everything of a dead domain back; of own pages nobody can know.
    assert_eq!(left, if kind.0 == Profile::Xs { 0 } else { missing }, "{what}");
    host.machine.assert_clean();
    sum.runs += 1;
    sum.mappings += reclaimed.mappings;
    sum.own += reclaimed.own;
    sum.missing += missing;
    sum.uncertain += unknown + own;
    came.then_some(())
}

/// Nobody needs to read that a process was killed.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Killed>() {
                hook(info);
            }
        }));
    });
}

fn every_call_of_a_life(kind: Kind) -> Sum {
    every_call(|| Host::new(kind))
}

fn every_call(host: impl Fn() -> Host) -> Sum {
    quiet();
    let mut sum = Sum::default();
    for moment in MOMENTS {
        for meanwhile in MEANWHILE {
            let calls =
                (1..).take_while(|nth| run(host(), *nth, moment, meanwhile, &mut sum).is_some()).count();
            assert!(calls > 20, "a life of {calls} calls");
        }
    }
    sum
}

#[test]
fn no_mapping_is_lost_where_we_choose_bus_frames() {
    for iommu in [Iommu::On, Iommu::OneToOne] {
        let sum = every_call_of_a_life((Profile::Draft, iommu));
        assert!(sum.mappings > 0 && sum.own > 0, "{sum:?}");
    }
}

#[test]
fn no_mapping_is_lost_where_frames_are_swapped_out_from_under_them() {
    let host = || {
        Host::with(KINDS[0], |ledger| Config { swap_mfn: true, ledger: Some(ledger), ..Config::default() })
    };
    let sum = every_call(host);
    assert!(sum.mappings > 0 && sum.own > 0, "{sum:?}");
}

#[test]
fn no_mapping_is_lost_where_the_hypervisor_tells_bus_frames() {
    for iommu in [Iommu::Passthrough, Iommu::Absent] {
        let sum = every_call_of_a_life((Profile::Draft, iommu));
        assert!(sum.mappings > 0 && sum.missing > 0, "{sum:?}");
    }
}

#[test]
fn no_mapping_is_lost_on_a_shipped_hypervisor_and_nothing_that_it_does_not_survive_is_sent() {
    for iommu in [Iommu::OneToOne, Iommu::Passthrough, Iommu::Absent] {
        let sum = every_call_of_a_life((Profile::Xs, iommu));
        assert!(sum.mappings > 0 && sum.missing > 0, "{sum:?}");
    }
}

#[test]
fn no_mapping_is_lost_that_was_one_of_the_process() {
    let sum = every_call_of_a_life((Profile::Stock, Iommu::On));
    assert_eq!((sum.mappings, sum.missing, sum.uncertain), (0, 0, 0), "they end with it");
}

/// That the tests above would notice.
#[test]
fn without_a_ledger_what_was_looked_up_and_ballooned_out_is_lost() {
    quiet();
    for kind in KINDS.into_iter().filter(|k| matches!(k.1, Iommu::Absent)) {
        let mut host = Host::with(kind, |_| Config::default());
        assert!(killed(&mut host, 12, Moment::After));
        host.pass_time(Meanwhile::Out);
        let caller = Arc::new(host.machine.caller(DOM0).unwrap());
        let process = host.start(&caller);
        let reclaimed = process.client.reclaim(IoServerId(0), &process.device).unwrap();
        assert_eq!(reclaimed, Reclaimed::default());
        assert!(host.missing() > 0, "{kind:?}");
    }
}

#[test]
fn a_ledger_leads_from_life_to_life_however_often_they_end() {
    quiet();
    let told = |kind: &Kind| matches!(kind.1, Iommu::Passthrough | Iommu::Absent) || kind.0 == Profile::Xs;
    for kind in KINDS.into_iter().filter(told) {
        let mut host = Host::new(kind);
        // Nobody reclaims in between.
        for nth in [7, 9, 8, 11] {
            assert!(killed(&mut host, nth, Moment::After));
            host.refill();
        }
        let caller = Arc::new(host.machine.caller(DOM0).unwrap());
        let process = host.start(&caller);
        let reclaimed = process.client.reclaim(IoServerId(0), &process.device).unwrap();
        assert!(reclaimed.mappings >= 12, "{kind:?}: {reclaimed}");
        assert_eq!(host.missing(), 0, "{kind:?}: {reclaimed}");
        host.machine.assert_clean();
    }
}
