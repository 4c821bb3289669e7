//! The GPU below the mediator, as gen8 shows itself: a register file, a GGTT, engines, interrupts, reset.
//!
//! The mediator owns it alone. Addresses in the GGTT are bus frames.

mod delegate;

use std::time::Duration;

use xen_ioreq::Bfn;

/// An engine (command streamer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    /// Render, MMIO base 0x2000.
    Rcs,
    /// Blitter, MMIO base 0x22000.
    Bcs,
    /// Video, MMIO base 0x12000.
    Vcs,
    /// Video enhancement, MMIO base 0x1a000.
    Vecs,
}

/// An interrupt of an engine, after masking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// MI_USER_INTERRUPT or a notify bit.
    User(Engine),
    /// A context switch: the CSB has a new entry.
    ContextSwitch(Engine),
    /// The engine met a command or an address that it cannot execute and stopped. It stays so until reset.
    Error(Engine),
}

/// One entry of the context status buffer: status bits (low dword) and the context id (high dword).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsbEntry {
    /// b0 idle to active, b1 preempted, b2 element switch, b3 active to idle, b4 complete, b15 lite restore.
    pub status: u32,
    /// Upper dword of the context's descriptor.
    pub context_id: u32,
}

/// What takes the GPU's interrupts. Called on the GPU's own threads: be quick, take no lock that is held while
/// calling into the GPU. Several interrupts of a kind that come close together may arrive as one, and one that
/// was on its way may still arrive after a reset: look at what it stands for, do not count.
pub trait InterruptSink: Send + Sync {
    /// An interrupt was raised.
    fn interrupt(&self, irq: Interrupt);
}

/// A physical GPU, or one that behaves like it.
pub trait PhysicalGpu: Send + Sync {
    /// Reads a register at a byte offset in BAR0 (below the GTT). Unknown ones read as all-ones.
    fn read32(&self, offset: u32) -> u32;
    /// Writes a register.
    fn write32(&self, offset: u32, value: u32);
    /// Entries of the GGTT.
    fn ggtt_entries(&self) -> u32;
    /// Writes a GGTT entry: a bus frame, or `None` for not present. Takes effect for certain only
    /// after [`ggtt_flush`](Self::ggtt_flush).
    fn ggtt_write(&self, index: u32, bfn: Option<Bfn>);
    /// Reads a GGTT entry back.
    fn ggtt_read(&self, index: u32) -> Option<Bfn>;
    /// Invalidates the translation caches. When it returns, no access through an older entry is in flight or will
    /// ever happen: every pin taken through one has been given back. It does not wait for work to end. The caller
    /// holds no lock that the [`BusMaster`](crate::bus::BusMaster) takes.
    fn ggtt_flush(&self);
    /// Submits up to two contexts to an engine's execlist port (ELSP): descriptors as 64-bit values
    /// ([`Descriptor`](crate::gen8::context::Descriptor)), element 0 first. The context images and rings they name
    /// must be of the mediator's making. A submission that comes while another runs goes on with the running
    /// context if that is its element 0 (lite restore), preempts it at its next arbitration point, or follows it;
    /// the context status entries tell which. On an engine that has stopped it waits for the reset, which
    /// forgets it.
    fn submit(&self, engine: Engine, first: u64, second: Option<u64>);
    /// Takes the context status entries that have come since the last call, oldest first.
    fn take_csb(&self, engine: Engine) -> Vec<CsbEntry>;
    /// Whether the engine executes nothing and has nothing to execute. One that stopped with an error is not idle
    /// before its reset.
    fn is_idle(&self, engine: Engine) -> bool;
    /// Stops an engine at once, forgets its submissions and its translations. When it returns the engine touches
    /// memory no more, nor is any pin of its left. What the context status entries told before stays to be
    /// taken. `Err` if it did not stop within `deadline`.
    fn reset_engine(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed>;
    /// Whether the blitter has XY_FAST_COPY_BLT, a command of gen9's.
    fn has_fast_copy(&self) -> bool {
        false
    }
    /// Where interrupts go. At most one sink; set before the first submission.
    fn set_interrupt_sink(&self, sink: std::sync::Arc<dyn InterruptSink>);
}

/// An engine did not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine {engine:?} did not stop within {deadline:?}")]
pub struct ResetFailed {
    /// The engine.
    pub engine: Engine,
    /// The time it was given.
    pub deadline: Duration,
}
