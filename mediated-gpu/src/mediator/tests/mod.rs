//! The mediator on the software GPU, over a hypervisor small enough to be obviously right.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test that fails may panic"
)]

mod appended;
mod behind;
mod contexts;
mod frames;
mod lent;
mod life;
mod process;
mod registers;
mod rig;
mod saved;
mod shares;
mod shown;
mod table;
mod telling;
mod values;
mod world;
