//! A vGPU's registers and engines as a file holds them, and the way back, which believes nothing.
//!
//! What runs is not there: a vGPU is saved when none of its work does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{BANNED, PORT_WRITES, Submission, VirtualEngine, WAITING};
use super::registers::{REGISTER_BYTES, RegisterFile};
use super::slice::Slice;
use super::state::State;
use super::{VgpuId, interrupts};
use crate::gen8::context::Descriptor;

/// The state of a vGPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedState {
    /// Those that are not 0, in order: byte offset and value.
    registers: Vec<(u32, u32)>,
    engines: [SavedEngine; 4],
    /// How long it has been on: its timestamps go on from there.
    on_for: Duration,
}

/// One engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SavedEngine {
    /// Writes to the port that make no whole submission yet.
    port: Vec<u32>,
    /// Submissions that wait: elements 0 and 1. The first is on the engine if that is the active one, and not banned.
    waiting: Vec<(u64, Option<u64>)>,
    /// The context that the guest believes is on the engine.
    active: Option<u32>,
    banned: Vec<u64>,
    hung: bool,
}

/// A file's state that no vGPU can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A register that is not there, or not where it should be.
    #[error("register {0:#x} is not in its place")]
    Register(u32),
    /// More than an engine can hold.
    #[error("an engine holds too much: {0}")]
    Engine(&'static str),
}

impl State {
    /// All of it. Nothing of the vGPU's runs.
    pub(crate) fn save(&self) -> SavedState {
        let registers = (0..REGISTER_BYTES).step_by(4).map(|at| (at, self.file.get(at))).filter(|r| r.1 != 0);
        SavedState {
            registers: registers.collect(),
            engines: std::array::from_fn(|n| {
                self.engines.get(n).map(VirtualEngine::save).unwrap_or_default()
            }),
            on_for: self.on_for(),
        }
    }

    /// A vGPU in that state, with this slice: what it says of itself in PVINFO is made anew.
    pub(crate) fn restore(id: VgpuId, slice: Slice, saved: &SavedState) -> Result<Self, StateError> {
        let mut state = Self::new(id, slice);
        state.file = RegisterFile::restore(id, &slice, &saved.registers)?;
        for (engine, saved) in state.engines.iter_mut().zip(&saved.engines) {
            *engine = VirtualEngine::restore(saved)?;
        }
        state.go_on_from(saved.on_for);
        Ok(state)
    }

    /// Whether something is pending that the guest is told by an MSI.
    pub(crate) fn interrupt_due(&self) -> bool {
        interrupts::line(&self.file)
    }
}

impl RegisterFile {
    fn restore(id: VgpuId, slice: &Slice, registers: &[(u32, u32)]) -> Result<Self, StateError> {
        let mut file = Self::empty();
        let mut next = 0;
        for (at, value) in registers {
            if *at < next || *at >= REGISTER_BYTES || !at.is_multiple_of(4) {
                return Err(StateError::Register(*at));
            }
            next = at + 4;
            file.set(*at, *value);
        }
        file.set_pvinfo(id, slice);
        Ok(file)
    }
}

impl VirtualEngine {
    fn save(&self) -> SavedEngine {
        let raw = |s: &Submission| (s.first.0, s.second.map(|d| d.0));
        SavedEngine {
            port: self.port.iter().take(self.written).copied().collect(),
            waiting: self.resumed.iter().chain(&self.waiting).map(raw).collect(),
            active: self.active,
            banned: self.banned.iter().copied().collect(),
            hung: self.hung,
        }
    }

    fn restore(saved: &SavedEngine) -> Result<Self, StateError> {
        let mut engine = Self::default();
        if saved.port.len() >= PORT_WRITES {
            return Err(StateError::Engine("writes to its port"));
        }
        for (to, from) in engine.port.iter_mut().zip(&saved.port) {
            *to = *from;
        }
        engine.written = saved.port.len();
        if saved.waiting.len() > WAITING {
            return Err(StateError::Engine("submissions"));
        }
        for (first, second) in &saved.waiting {
            let (first, second) = (Descriptor(*first), second.map(Descriptor));
            if !first.valid() || second.is_some_and(|d| !d.valid()) {
                return Err(StateError::Engine("a submission that is not valid"));
            }
            engine.waiting.push_back(Submission { first, second });
        }
        if saved.banned.len() > BANNED {
            return Err(StateError::Engine("banned contexts"));
        }
        engine.banned = saved.banned.iter().copied().collect();
        (engine.active, engine.hung) = (saved.active, saved.hung);
        let first = engine.waiting.front().map(|s| s.first);
        if first.is_some_and(|d| saved.active == Some(d.id()) && !engine.is_banned(d.lrca())) {
            engine.resumed = engine.waiting.pop_front();
        }
        Ok(engine)
    }
}
