//! What one guest sees: a gen8 GPU of its own, as a state machine.
//!
//! [`slice`](mod@slice) is its share of graphics memory, `registers` its register file, `interrupts` what it is told and how,
//! `events` and `moderation` when, `shown` what it may read as memory, `engine` its execlist ports, `saved` all of it for a
//! file, [`config`] its PCI function, [`display`] the picture it shows. Nothing here reaches memory or the physical GPU.

pub mod config;
pub mod display;
mod engine;
mod events;
mod interrupts;
mod moderation;
#[cfg(test)]
mod probe_tests;
mod registers;
pub(crate) mod saved;
pub(crate) mod shown;
pub mod slice;
mod state;

pub(crate) use engine::{Submission, Turn};
pub(crate) use events::{Event, Telling};
pub(crate) use state::{Effect, EngineError, State, StatusEntry};

/// A vGPU's number, from 1, as PVINFO tells it to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgpuId(pub u32);

impl std::fmt::Display for VgpuId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vgpu{}", self.0)
    }
}
