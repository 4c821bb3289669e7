//! What the engines share: registers, ports, the clock, the way out for interrupts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use super::port::Port;
use super::regs::Registers;
use crate::gen8::cmd::split;
use crate::gen8::regs::TIMESTAMP_NS;
use crate::physical::{Engine, Interrupt, InterruptSink};

/// Where timestamps come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClockKind {
    /// Time since the GPU was made, in ticks of 80 ns.
    #[default]
    Wall,
    /// One tick each time it is read: the same work gives the same memory, timestamps included.
    Counted,
}

pub(super) enum Clock {
    Wall(Instant),
    Counted(AtomicU64),
}

impl Clock {
    pub(super) fn new(kind: ClockKind) -> Self {
        match kind {
            ClockKind::Wall => Self::Wall(Instant::now()),
            ClockKind::Counted => Self::Counted(AtomicU64::new(0)),
        }
    }

    pub(super) fn ticks(&self) -> u64 {
        match self {
            Self::Wall(start) => {
                u64::try_from(start.elapsed().as_nanos() / u128::from(TIMESTAMP_NS)).unwrap_or(u64::MAX)
            }
            Self::Counted(n) => n.fetch_add(1, Ordering::Relaxed),
        }
    }
}

pub(super) struct Device {
    pub(super) regs: Registers,
    pub(super) clock: Clock,
    pub(super) sink: RwLock<Option<Arc<dyn InterruptSink>>>,
    ports: [Port; 4],
}

impl Device {
    pub(super) fn new(clock: ClockKind) -> Self {
        Self {
            regs: Registers::new(),
            clock: Clock::new(clock),
            sink: RwLock::new(None),
            ports: std::array::from_fn(|_| Port::default()),
        }
    }

    pub(super) fn port(&self, engine: Engine) -> &Port {
        &self.ports[engine.index()]
    }

    /// The timestamp's lower or upper dword.
    pub(super) fn timestamp(&self, upper: bool) -> u32 {
        split(self.clock.ticks())[usize::from(upper)]
    }

    /// Calls the sink. No lock of the GPU's may be held.
    pub(super) fn deliver(&self, irqs: &[Interrupt]) {
        // Cloned, so that a sink that is slow or sets another sink keeps no lock.
        let sink = self.sink.read().clone();
        if let Some(sink) = sink {
            for &irq in irqs {
                sink.interrupt(irq);
            }
        }
    }
}
