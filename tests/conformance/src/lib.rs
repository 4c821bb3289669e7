//! The interfaces as tables of rows: each row is one fact that can be wrong, and says so by its name.

pub mod abi;
pub mod bench;
pub mod case;
pub mod grants;
pub mod iommu;
pub mod ioreq;
mod patience;
mod running;
mod shared;
mod story;

pub use bench::On;

/// One fact and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was looked at.
    pub name: String,
    /// Whether it is as expected.
    pub ok: bool,
    /// What was seen; of a row that holds, the value.
    pub detail: String,
}
