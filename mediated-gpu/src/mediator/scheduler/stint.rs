//! What runs for a vGPU from the choice of it on: which contexts, in which order, and which of them are on the engine.

use std::collections::VecDeque;
use std::time::Duration;

use crate::gen8::context::Descriptor;
use crate::mediator::guest::Vgpu;
use crate::mediator::shadow::Tables;
use crate::mediator::workload::Prepared;
use crate::vgpu::{Submission, Turn};

/// What became of a context on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Error,
    Overrun,
    Stopped,
}

/// What happened on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The context is there no more.
    Ended(End),
    /// There is something that could follow it.
    More,
}

/// A context of the guest's that is to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) descriptor: Descriptor,
    pub(super) epoch: u64,
    /// The turn that begins with it.
    pub(super) opens: Option<Turn>,
    /// Another one of the same submission comes after it.
    pub(super) more: bool,
}

impl Job {
    /// Those of a turn.
    pub(super) fn all(turn: Turn) -> impl Iterator<Item = Self> {
        let Turn { submission: Submission { first, second }, epoch, .. } = turn;
        let more = second.is_some();
        let first = Self { descriptor: first, epoch, opens: Some(turn), more };
        let second = second.map(|descriptor| Self { descriptor, epoch, opens: None, more: false });
        std::iter::once(first).chain(second)
    }

    /// Whether the context that runs goes on with it.
    pub(super) fn goes_on(&self) -> bool {
        self.opens.is_some_and(|turn| turn.begun)
    }
}

/// One that is on the engine, or behind the one that is.
pub(super) struct Placed<'v> {
    pub(super) job: Job,
    pub(super) prepared: Prepared,
    pub(super) tables: Option<Tables<'v>>,
    /// In which area it stands.
    pub(super) area: usize,
    /// Time that its context had had when the one before it ended, if that was the same.
    pub(super) had: Option<u32>,
}

/// What runs for a vGPU, from the choice of it on.
pub(super) struct Stint<'v> {
    pub(super) vgpu: &'v Vgpu,
    /// When what runs began.
    pub(super) began: Duration,
    /// What is to run, in this order.
    pub(super) jobs: VecDeque<Job>,
    /// What stands behind the context that runs.
    pub(super) behind: Option<Placed<'v>>,
    /// What has begun last, or is to be the first.
    pub(super) last: (Descriptor, u64),
    /// Something has begun.
    pub(super) begun: bool,
}

impl Stint<'_> {
    /// What was taken and has not begun.
    pub(super) fn taken(&self) -> impl Iterator<Item = &Job> {
        self.behind.as_ref().map(|placed| &placed.job).into_iter().chain(&self.jobs)
    }

    /// Whether something else than the context that runs was taken: what comes now comes after that.
    pub(super) fn has_other(&self) -> bool {
        self.taken().any(|job| job.opens.is_some() && !job.goes_on())
    }
}
