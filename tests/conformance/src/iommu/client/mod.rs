//! The soft IOMMU's client from map to release: `pviommu`, the software GPU and a guest's frames, on the model and on Xen.
//!
//! The guest is paused meanwhile, but for the rows of `running`: no vCPU changes a frame between two counts of the
//! host's free frames. Each count is made right before and after what it is about, in one thread: Xen allocates for
//! nobody else then, and the guest's page tables come from a pool that was its own before. So counts are exact.

mod balloon;
mod death;
mod gpu;
mod lab;
mod map;
mod running;

use std::rc::Rc;

pub(super) use self::lab::GUEST_FRAMES;
use self::lab::Lab;
use crate::Row;
use crate::bench::Bench;
use crate::story::Story;

/// What these rows are called together.
const AREA: &str = "client";

/// The tables of a paused guest, and of one that runs.
fn tables() -> [&'static [Story<Lab>]; 3] {
    [map::MAP, balloon::BALLOON, running::RUNNING]
}

/// Runs those.
pub(super) fn run(bench: &Rc<Bench>) -> Vec<Row> {
    tables().into_iter().flatten().map(|row| lab::run(row, bench)).collect()
}

/// Runs what ends the guest.
pub(super) fn run_last(bench: &Rc<Bench>) -> Vec<Row> {
    death::LAST.iter().map(|row| death::run(row, bench)).collect()
}

#[cfg(test)]
mod tests;
