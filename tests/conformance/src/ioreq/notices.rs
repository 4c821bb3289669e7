//! `IOREQ_TYPE_INVALIDATE` as released Xen sends it: how many a server gets for what the guest or the toolstack did, and
//! when.
//!
//! The guest runs and asks for a table of rows every few milliseconds, which is the clock here: a notice that is on its
//! way has arrived when the guest has asked some more times. Two servers listen; only the first has ranges.

use std::rc::Rc;

use guest::rows::{END, NEXT, RESULT, Table};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::abi::dm_op::XEN_DMOP_IO_RANGE_PORT;
use xen_ioreq::abi::ioreq::{
    Bits, HVM_IOREQSRV_BUFIOREQ_ATOMIC, HVM_IOREQSRV_BUFIOREQ_OFF, IOREQ_TYPE_INVALIDATE, IOREQ_TYPE_PIO,
    ioreq,
};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation as DECREASE, XENMEM_populate_physmap as POPULATE};
use xen_ioreq::seam::Mapping;
use xen_ioreq::{Errno, Gfn, Port};

use super::Stage;
use crate::Row;
use crate::bench::{Bench, HOLE, RAM};
use crate::patience::Patience;
use crate::running;
use crate::shared::{Ring, Slot};
use crate::story::Fact::Is;
use crate::story::{Fact, Failed, Story, stories};

const AREA: &str = "notice";
/// Times that the guest asks until what was on its way is there.
const ROUND: usize = 3;
/// Moments of 20 ms for which a guest is watched that must stand still. A guest that does is never mistaken for one
/// that does not, however long this is.
const STILL: usize = 10;

/// What a server has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// A notice, answered: which server's.
    Told(usize),
    /// The guest asked for a table.
    Asked,
    /// The guest reported a row's answer.
    Answer(u64),
    /// The guest has done its table.
    End,
}

/// A server and its one vCPU's slot.
struct Side {
    id: u16,
    slots: Mapping,
    /// With the ring in front, if there is one.
    ring: Option<Mapping>,
    port: Port,
    /// Notices are left unanswered.
    holds: bool,
    gone: bool,
}

impl Side {
    /// The notice that is left unanswered, if there is one.
    fn held(&self) -> Option<ioreq> {
        Slot::first(&self.slots)?.ready().filter(|r| r.r#type == IOREQ_TYPE_INVALIDATE)
    }
}

/// Two servers of a guest, and what they have heard.
pub(super) struct Ears {
    stage: Stage,
    sides: Vec<Side>,
    /// The number of the table that the guest gets when it asks next.
    table: u64,
    /// The guest's question is left unanswered: its vCPU stands in its own access.
    parks: bool,
    parked: bool,
    low: Option<u64>,
    notes: Vec<Note>,
    /// Notices of another form than Xen's.
    odd: usize,
    facts: Vec<Fact>,
}

impl Ears {
    fn new(bench: &Rc<Bench>) -> Result<Self, Failed> {
        let mut stage = Stage::new(bench);
        let guest = stage.guest();
        let mut sides = Vec::new();
        for mode in [HVM_IOREQSRV_BUFIOREQ_ATOMIC, HVM_IOREQSRV_BUFIOREQ_OFF] {
            let id = u16::try_from(stage.create(mode)?)?;
            let has_ring = mode != HVM_IOREQSRV_BUFIOREQ_OFF;
            // Both before it is enabled: then their ports are written.
            let ring = has_ring.then(|| stage.pages(guest, id, 0, 1)).transpose()?;
            let slots = stage.pages(guest, id, 1, 1)?;
            stage.set_state(id, 1)?;
            let remote = Slot::first(&slots).ok_or("no slot")?.port();
            let port = stage.bind(guest, remote)?;
            // A vCPU that waited for a server that has gone stands until something is sent to it.
            stage.bench.events.notify(port)?;
            sides.push(Side { id, slots, ring, port, holds: false, gone: false });
        }
        let (table, parks, parked, odd) = (0, false, false, 0);
        let (notes, facts) = (Vec::new(), Vec::new());
        let ears = Self { stage, sides, table, parks, parked, low: None, notes, odd, facts };
        ears.serve_ports(0)?;
        Ok(ears)
    }

    /// Claims the ports of the rows for a server.
    fn serve_ports(&self, side: usize) -> Result<(), Failed> {
        let id = self.sides.get(side).ok_or("no such server")?.id;
        self.stage.map(id, XEN_DMOP_IO_RANGE_PORT, RESULT.into(), u64::from(END) + 3)?;
        Ok(())
    }

    /// Destroys a server, whatever it owes.
    fn destroy(&mut self, side: usize) -> Result<(), Failed> {
        let side = self.sides.get_mut(side).ok_or("no such server")?;
        side.gone = true;
        self.stage.destroy(side.id)?;
        Ok(())
    }

    /// Shows that the guest does not go on before an event for its vCPU comes through that server's port.
    fn stands_until_an_event_of(&mut self, side: usize) -> Result<(), Failed> {
        let before = self.asked();
        for _ in 0..STILL {
            self.turn()?;
        }
        self.is("asked by itself", (self.asked() - before) as u64);
        self.stage.bench.events.notify(self.sides.get(side).ok_or("no such server")?.port)?;
        self.until("the guest to go on", |e| e.asked() > before)?;
        self.is("asked after an event", 1u64);
        Ok(())
    }

    /// Takes in what has come, or waits a moment for it.
    fn turn(&mut self) -> Result<(), Failed> {
        let events = self.stage.bench.events.clone();
        let mut fds = [PollFd::from_borrowed_fd(events.pollable(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).map_err(Errno::from)?;
        let mut ports = [Port(0); 8];
        let n = events.pending(&mut ports)?;
        for side in 0..self.sides.len() {
            self.look(side)?;
        }
        Ok(events.unmask(ports.get(..n).unwrap_or_default())?)
    }

    fn look(&mut self, index: usize) -> Result<(), Failed> {
        let side = self.sides.get(index).ok_or("no such server")?;
        if side.gone {
            return Ok(());
        }
        let slot = Slot::first(&side.slots).ok_or("no slot")?;
        let Some(request) = slot.ready() else { return Ok(()) };
        let answer = match (request.r#type, Bits::unpack(request.bits).read) {
            (IOREQ_TYPE_INVALIDATE, _) if side.holds => return Ok(()),
            (IOREQ_TYPE_INVALIDATE, _) => {
                self.odd += usize::from(!is_xens(&request));
                self.notes.push(Note::Told(index));
                0
            }
            (IOREQ_TYPE_PIO, true) if request.addr == u64::from(NEXT) => {
                self.parked = self.parks;
                if self.parks {
                    return Ok(());
                }
                self.notes.push(Note::Asked);
                std::mem::take(&mut self.table)
            }
            (IOREQ_TYPE_PIO, false) if request.addr == u64::from(END) => {
                self.notes.push(Note::End);
                0
            }
            (IOREQ_TYPE_PIO, false) => {
                match self.low.take() {
                    None => self.low = Some(request.data),
                    Some(low) => self.notes.push(Note::Answer(request.data << 32 | low & 0xffff_ffff)),
                }
                0
            }
            (other, _) => return Err(format!("a request of type {other} that nobody expects").into()),
        };
        slot.answer(&request, answer);
        Ok(self.stage.bench.events.notify(side.port)?)
    }

    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) -> Result<(), Failed> {
        let mut patience = Patience::new(());
        while !so(self) {
            if !patience.lasts(()) || !self.stage.bench.guest_lives() {
                return Err(format!("waited in vain for {what}").into());
            }
            self.turn()?;
        }
        Ok(())
    }

    fn asked(&self) -> usize {
        self.notes.iter().filter(|n| **n == Note::Asked).count()
    }

    /// Waits until whatever was on its way to the servers has arrived.
    fn come_by(&mut self) -> Result<(), Failed> {
        let enough = self.asked() + ROUND;
        self.until("the guest to come by", |e| e.asked() >= enough)
    }

    /// The same, and forgets it.
    fn settle(&mut self) -> Result<(), Failed> {
        self.come_by()?;
        self.notes.clear();
        Ok(())
    }

    fn told(&self, side: usize) -> u64 {
        self.notes.iter().filter(|n| **n == Note::Told(side)).count() as u64
    }

    /// Waits until all has arrived and notes how many notices each server got.
    fn count(&mut self) -> Result<(), Failed> {
        self.come_by()?;
        self.is("first server", self.told(0));
        self.is("second server", self.told(1));
        Ok(())
    }

    fn is(&mut self, what: &'static str, n: impl Into<u64>) {
        self.facts.push(Is(what, n.into()));
    }

    /// The toolstack takes or gives frames, one hypercall; all of them.
    fn reserve(&self, cmd: u32, gfns: &[Gfn]) -> Result<(), Failed> {
        let done = self.stage.reserve(cmd, self.stage.guest(), gfns)?;
        if done == gfns.len() as u64 { Ok(()) } else { Err(format!("{done} extents done").into()) }
    }

    fn hold(&mut self, sides: std::ops::Range<usize>, holds: bool) {
        self.sides.iter_mut().take(sides.end).skip(sides.start).for_each(|s| s.holds = holds);
    }

    /// Has the guest do its table; how often each server was told of each row.
    fn perform(&mut self) -> Result<Vec<[u64; 2]>, Failed> {
        self.table = Table::Give as u64;
        self.until("the guest's table", |e| e.notes.contains(&Note::End))?;
        let mut rows = Vec::new();
        let mut told = [0; 2];
        let mut wrong = Vec::new();
        for note in &self.notes {
            match *note {
                Note::Told(0) => told[0] += 1,
                Note::Told(_) => told[1] += 1,
                Note::Answer(answer) => {
                    let row = Table::Give.rows().get(rows.len()).ok_or("more answers than rows")?;
                    if row.expect.is_some_and(|e| e != answer) {
                        wrong.push(row.name);
                    }
                    rows.push(std::mem::take(&mut told));
                }
                Note::Asked | Note::End => {}
            }
        }
        if wrong.is_empty() && rows.len() == Table::Give.rows().len() {
            Ok(rows)
        } else {
            Err(format!("{} rows, of which {wrong:?} have a wrong answer", rows.len()).into())
        }
    }
}

impl Drop for Ears {
    /// Nobody wakes a vCPU that waits for a server which has gone: what is in the slots is answered after no more can come.
    fn drop(&mut self) {
        for side in &self.sides {
            // Of one that has gone there is nothing left to do; the guest may be gone, too.
            let _ = self.stage.set_state(side.id, 0);
            if let Some((slot, request)) = Slot::first(&side.slots).and_then(|s| Some((s, s.ready()?))) {
                slot.answer(&request, 0);
            }
            let _ = self.stage.bench.events.notify(side.port);
        }
    }
}

/// Whether a notice is a write of 4 bytes of all-ones at address 0 with no repetitions, as Xen sends it.
fn is_xens(r: &ioreq) -> bool {
    let bits = Bits::unpack(r.bits);
    (r.size, r.count, r.addr, r.data) == (4, 0, 0, u64::MAX) && !(bits.read || bits.df || bits.data_is_ptr)
}

/// The second and third of the frames that rows may take.
const SECOND: Gfn = Gfn(RAM.0 + 1);
const THIRD: Gfn = Gfn(RAM.0 + 2);

stories! {
/// Of a guest that has never run.
#[rustfmt::skip]
FRESH: Ears;

what_was_taken_before_the_guest_ever_ran_is_not_told ["p2m.c: only of a domain whose creation is finished"] => [Is("first server", 0), Is("second server", 0), Is("afterwards", 1)], |e| {
    e.reserve(DECREASE, &[RAM, SECOND])?;
    e.stage.bench.unpause()?;
    e.count()?;
    e.reserve(DECREASE, &[THIRD])?;
    e.come_by()?;
    e.is("afterwards", e.told(0));
}
}

stories! {
/// Of one that runs and asks.
#[rustfmt::skip]
NOTICES: Ears;

what_the_guest_gives_is_told_to_every_server_before_it_goes_on ["seen: guest decrease_reservation"] => [Is("calls that gave", 5), Is("told of to both alike", 5), Is("told of other calls", 0), Is("of another form", 0), Is("in the ring", 0)], |e| {
    let told = e.perform()?;
    let gives = |name: &str| name.starts_with("give_") && name != "give_a_hole";
    // Once a call and once more each time that Xen interrupts it: how often is no fact of the interface.
    let alike = |t: &&[u64; 2]| t[0] == t[1] && t[0] > 0;
    let (mut gave, mut both, mut others) = (0u64, 0u64, 0u64);
    for (row, told) in Table::Give.rows().iter().zip(&told) {
        if gives(row.name) {
            gave += 1;
            both += u64::from(alike(&told));
        } else {
            others += told[0] + told[1];
        }
    }
    e.is("calls that gave", gave);
    e.is("told of to both alike", both);
    e.is("told of other calls", others);
    e.is("of another form", e.odd as u64);
    let ring = e.sides.first().and_then(|s| s.ring.as_ref()).and_then(Ring::of).ok_or("no ring")?;
    let buffered = ring.requests().len() as u64;
    e.is("in the ring", buffered);
}
what_the_toolstack_takes_is_told_once_to_each_server_when_the_guest_comes_by ["seen: toolstack decrease_reservation"] => [Is("first server", 1), Is("second server", 1), Is("of another form", 0)], |e| {
    e.reserve(DECREASE, &[RAM])?;
    e.count()?;
    e.is("of another form", e.odd as u64);
}
three_frames_taken_by_one_call_are_told_to_both_servers_and_no_frame_twice ["seen: coalesced"] => [Is("told to both alike", 1), Is("more often than frames", 0)], |e| {
    e.reserve(DECREASE, &[RAM, SECOND, THIRD])?;
    e.come_by()?;
    // Once, and once more each time that Xen interrupts the call and the guest comes by.
    let told = [e.told(0), e.told(1)];
    e.is("told to both alike", u64::from(told[0] == told[1] && told[0] > 0));
    e.is("more often than frames", told[0].saturating_sub(3));
}
three_calls_while_the_vcpu_stands_in_an_access_are_told_once ["seen: coalesced, right after its pending port I/O"] => [Is("told meanwhile", 0), Is("first server", 1), Is("second server", 1)], |e| {
    e.parks = true;
    e.until("the guest to ask", |e| e.parked)?;
    for gfn in [RAM, SECOND, THIRD] {
        e.reserve(DECREASE, &[gfn])?;
    }
    e.turn()?;
    e.is("told meanwhile", e.told(0) + e.told(1));
    e.parks = false;
    e.count()?;
}
two_calls_while_the_guest_is_paused_are_told_once_when_it_is_unpaused ["seen: not while paused, right after unpause"] => [Is("told meanwhile", 0), Is("first server", 1), Is("second server", 1)], |e| {
    e.stage.bench.pause()?;
    // What it had sent before is out of the way, so that it has nothing to be told after it.
    e.turn()?;
    e.reserve(DECREASE, &[RAM])?;
    e.reserve(DECREASE, &[SECOND])?;
    e.turn()?;
    e.is("told meanwhile", e.told(0) + e.told(1));
    e.stage.bench.unpause()?;
    e.count()?;
}
a_call_after_notices_that_nobody_has_answered_is_told_anew ["seen: a second round afterwards"] => [Is("first server", 2), Is("second server", 2)], |e| {
    e.hold(0..2, true);
    e.reserve(DECREASE, &[RAM])?;
    e.until("both notices", |e| e.sides.iter().all(|s| s.held().is_some()))?;
    e.reserve(DECREASE, &[SECOND])?;
    e.hold(0..2, false);
    e.count()?;
}
what_takes_nothing_is_not_told ["seen: populate, a hole, populate over populated"] => [Is("frames of the hole", 0), Is("first server", 0), Is("second server", 0)], |e| {
    e.reserve(DECREASE, &[RAM])?;
    e.settle()?;
    e.reserve(POPULATE, &[RAM])?;
    e.reserve(POPULATE, &[RAM])?;
    let nothing = e.stage.reserve(DECREASE, e.stage.guest(), &[HOLE])?;
    e.is("frames of the hole", nothing);
    e.count()?;
}
a_server_that_is_disabled_is_not_told ["ioreq.c: enabled servers"] => [Is("first server", 1), Is("second server", 0)], |e| {
    let second = e.sides.get(1).map_or(u16::MAX, |s| s.id);
    e.stage.set_state(second, 0)?;
    e.reserve(DECREASE, &[RAM])?;
    e.count()?;
}
a_vcpu_that_waits_for_a_notices_answer_when_that_server_goes_stands_until_its_next_event ["seen: nobody wakes it"] => [Is("asked by itself", 0), Is("asked after an event", 1), Is("first server", 0)], |e| {
    // Only the one server is told, so that no answer of the other's is an event.
    let first = e.sides.first().map_or(u16::MAX, |s| s.id);
    e.stage.set_state(first, 0)?;
    e.hold(1..2, true);
    e.reserve(DECREASE, &[RAM])?;
    e.until("the notice", |e| e.sides.get(1).is_some_and(|s| s.held().is_some()))?;
    e.stage.set_state(first, 1)?;
    e.destroy(1)?;
    e.stands_until_an_event_of(0)?;
    e.is("first server", e.told(0));
}
a_vcpu_that_waits_for_an_access_when_its_server_goes_stands_until_its_next_event ["seen: nobody wakes it"] => [Is("asked by itself", 0), Is("asked after an event", 1)], |e| {
    e.parks = true;
    e.until("the guest to ask", |e| e.parked)?;
    e.destroy(0)?;
    e.parks = false;
    e.serve_ports(1)?;
    e.stands_until_an_event_of(1)?;
}
}

/// Runs the row of a guest that has never run; lets the guest run for it.
pub(super) fn run_fresh(bench: &Rc<Bench>) -> Vec<Row> {
    run_table(FRESH, true, bench)
}

/// Runs the others, each with servers of its own, while the guest runs.
pub(super) fn run(bench: &Rc<Bench>) -> Vec<Row> {
    run_table(NOTICES, false, bench)
}

fn run_table(table: &[Story<Ears>], fresh: bool, bench: &Rc<Bench>) -> Vec<Row> {
    let one = |row: &Story<Ears>| {
        let told =
            running::run(bench, || tell(row, fresh, bench)).map_err(Failed::from).and_then(|told| told);
        let (facts, ended) = told.unwrap_or_else(|e| (Vec::new(), Err(e)));
        row.judge(AREA, &facts, ended.err())
    };
    table.iter().map(one).collect()
}

/// Facts seen, and how it ended.
type Told = (Vec<Fact>, Result<(), Failed>);

fn tell(row: &Story<Ears>, fresh: bool, bench: &Rc<Bench>) -> Result<Told, Failed> {
    let mut ears = Ears::new(bench)?;
    if !fresh {
        bench.unpause()?;
        // What was done to the guest before is no fact of this row.
        ears.settle()?;
    }
    let ended = (row.tell)(&mut ears);
    Ok((std::mem::take(&mut ears.facts), ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::model_guest;
    use crate::ioreq::stock_machine;

    fn bench() -> Rc<Bench> {
        let machine = stock_machine().expect("a machine");
        let guest = model_guest(&machine, 64, 1).expect("a guest");
        Rc::new(Bench::on_model(&machine, guest).expect("a bench"))
    }

    fn one_more(rows: &[Story<Ears>]) -> Vec<Story<Ears>> {
        let wrong = |row: &Story<Ears>| {
            let mut want = row.want.to_vec();
            if let Some(Is(_, n)) = want.last_mut() {
                *n += 1;
            }
            Story { want: want.leak(), ..*row }
        };
        rows.iter().map(wrong).collect()
    }

    #[test]
    fn a_row_that_expects_one_notice_more_or_less_fails() {
        let bench = bench();
        let judged =
            [run_table(&one_more(FRESH), true, &bench), run_table(&one_more(NOTICES), false, &bench)];
        for row in judged.concat() {
            assert!(!row.ok && row.detail.contains(", wanted "), "{row:?}");
        }
    }
}
