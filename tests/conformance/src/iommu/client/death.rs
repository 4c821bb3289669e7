//! The last row of a guest: it is destroyed while the client has frames of it.

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use pviommu::EVERYTHING;

use super::AREA;
use super::lab::{Lab, ram, rams};
use crate::Row;
use crate::bench::Bench;
use crate::patience::Patience;
use crate::story::Fact::{Frames, Is};
use crate::story::{Story, stories};

stories! {
/// Frames count from when nobody else holds any of the guest's.
#[rustfmt::skip]
LAST: Lab;

a_destroyed_guest_is_listed_until_the_client_releases_its_last_frame ["seen: a foreign mapping kept past the domain's death leaves a zombie"] => [Is("dying", 1), Is("frames left", 4), Is("the GPU reads", 7), Is("cannot be mapped", 1), Is("withdrawn", 4), Is("released", 3), Frames("release of all but one", 3), Is("frames left", 1), Is("released at last", 1), Is("gone", 1)], |l| {
    let mapped = l.show_each(&rams(4))?;
    l.gpu.store(2, 0, 7)?;
    l.stage.bench.destroy()?;
    l.is("dying", l.stage.bench.frames_of_the_dying().is_some());
    // The daemons of console and xenstore have a page each, and let go of it when they hear of this.
    until(l, |left| left == Some(4));
    l.is("frames left", l.stage.bench.frames_of_the_dying().unwrap_or(0));
    l.start_over_without_guest()?;
    let read = l.gpu.load(2, 0)?;
    l.is("the GPU reads", read);
    l.is("cannot be mapped", l.guest.map_one(ram(9)).is_err());
    l.guest.notice(EVERYTHING);
    let mut draining = l.guest.take_draining()?;
    l.count("withdrawn", draining.iter().filter(|d| d.ends_use()).count());
    (0..4).for_each(|n| l.gpu.point(n, None));
    drop(mapped);
    let last = draining.pop();
    let (released, _) = l.release(draining)?;
    l.count("released", released);
    l.frames("release of all but one")?;
    l.is("frames left", l.stage.bench.frames_of_the_dying().unwrap_or(0));
    let (released, _) = l.release(last)?;
    l.count("released at last", released);
    until(l, |left| left.is_none());
    l.is("gone", l.stage.bench.frames_of_the_dying().is_none());
}
}

/// Runs a row after which the bench has no guest.
pub(super) fn run(row: &Story<Lab>, bench: &Rc<Bench>) -> Row {
    let (facts, ended) = match Lab::new(bench) {
        Ok(mut lab) => {
            let ended = (row.tell)(&mut lab);
            (lab.take_facts(), ended.and(lab.end()))
        }
        Err(e) => (Vec::new(), Err(e)),
    };
    row.judge(AREA, &facts, ended.err())
}

/// Waits until the guest's frames are so: dom0's own tools unmap theirs, and Xen forgets a domain that nobody holds. A row that has waited in vain shows it by what it notes next.
fn until(l: &Lab, so: impl Fn(Option<u64>) -> bool) {
    let left = || l.stage.bench.frames_of_the_dying();
    let mut patience = Patience::new(left());
    while !so(left()) && patience.lasts(left()) {
        thread::sleep(Duration::from_millis(5));
    }
}
