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
pub use self::lab::{ClientRow, Fact};
use crate::Row;
use crate::bench::Bench;

/// What these rows are called together.
const AREA: &str = "client";

/// The tables of a paused guest.
pub fn tables() -> [&'static [ClientRow]; 2] {
    [map::MAP, balloon::BALLOON]
}

/// Runs those, then lets the guest run for its own.
pub(super) fn run(bench: &Rc<Bench>) -> Vec<Row> {
    let mut rows: Vec<Row> = tables().into_iter().flatten().map(|row| row.run(AREA, bench)).collect();
    rows.push(running::row(AREA, bench));
    rows
}

/// Runs what ends the guest.
pub(super) fn run_last(bench: &Rc<Bench>) -> Vec<Row> {
    vec![death::row(AREA, bench)]
}

#[cfg(test)]
mod tests;
