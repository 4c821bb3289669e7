//! Whose turn it is on one engine: the policies, as arithmetic on times that the caller tells.
//!
//! A turn is not interrupted, so what somebody had too much of it owes: who was heavy waits, and who was kept waiting is made
//! up for it. Promises shares over time, not at each moment. Knows no threads, no clock and no GPU.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::vgpu::VgpuId;
use crate::vgpu::slice::VgpuType;

/// A whole engine, in the unit of rates: parts in a million.
const WHOLE: i128 = 1_000_000;
/// Weights that are a whole engine under [`Policy::FixedShare`]: as i915's `gvt/vgpu.c` has them, V4_1 is all of it.
pub const WHOLE_WEIGHT: u32 = 16;
/// How the time of each engine is divided, by the names that operators of vGPUs know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever has work runs, by turns, as much as its weight; what an idle vGPU leaves is for the others.
    #[default]
    BestEffort,
    /// Each of N vGPUs that are not paused may use one Nth, and no more. What one leaves stays unused.
    EqualShare,
    /// Each vGPU may use its weight in [`WHOLE_WEIGHT`], and no more, whoever comes or goes. With more weights than that, its
    /// weight in their sum.
    FixedShare,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BestEffort => "best-effort",
            Self::EqualShare => "equal-share",
            Self::FixedShare => "fixed-share",
        })
    }
}

/// What one vGPU is to have of each engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its part, compared with the others': at least 1. [`Policy::EqualShare`] has no weights.
    pub weight: u32,
    /// The most that it may have, in percent of an engine: 1 to 100, under every policy.
    pub cap: u32,
    /// How long a context of its may be on an engine. `None`: what is said for all.
    pub deadline: Option<Duration>,
}

impl Share {
    /// The longest deadline.
    pub const LONGEST_DEADLINE: Duration = Duration::from_secs(60);
    /// What somebody who was kept waiting can be made up for at most.
    pub const MADE_UP: Duration = Duration::from_secs(1);

    /// The nearest that makes sense.
    pub(crate) fn sane(self) -> Self {
        let deadline = self.deadline.map(|d| d.min(Self::LONGEST_DEADLINE));
        Self { weight: self.weight.max(1), cap: self.cap.clamp(1, 100), deadline }
    }

    /// What a vGPU of this type has unless it is told otherwise.
    pub fn of(kind: VgpuType) -> Self {
        Self { weight: kind.weight(), cap: 100, deadline: None }
    }
}

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This one.
    Run(VgpuId),
    /// Nobody before this time, although somebody has work.
    At(Duration),
    /// Nobody has work.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    share: Share,
    /// Has work, waiting or running.
    busy: bool,
    /// Not counted, and never next.
    paused: bool,
    /// Nanoseconds that it has had, each divided by its weight.
    virtual_time: u128,
    /// Nanoseconds that it may have before it must wait, in millionths; below 0 it owes.
    credit: i128,
    /// How long it has had work, waiting or running.
    wanted: Duration,
}

/// The accounts of one engine.
#[derive(Debug)]
pub(super) struct Shares {
    policy: Policy,
    slice: Duration,
    accounts: BTreeMap<VgpuId, Account>,
    /// Up to when credits have been given.
    now: Duration,
    /// Who has the engine, and how long this time.
    holder: Option<(VgpuId, Duration)>,
    /// Virtual time of who is furthest behind: who comes now does not begin at the beginning.
    floor: u128,
    /// Accounts that are not paused, and their weights.
    present: (i128, i128),
}

impl Shares {
    pub(super) fn new(policy: Policy, slice: Duration) -> Self {
        let (accounts, now) = (BTreeMap::new(), Duration::ZERO);
        Self { policy, slice, accounts, now, holder: None, floor: 0, present: (0, 0) }
    }

    /// A vGPU comes, or its share changes.
    pub(super) fn set(&mut self, id: VgpuId, share: Share, now: Duration) {
        self.pass(now);
        let share = share.sane();
        let credit = nanos(self.slice);
        let virtual_time = self.floor;
        let wanted = Duration::ZERO;
        let fresh = Account { share, busy: false, paused: false, virtual_time, credit, wanted };
        self.accounts.entry(id).and_modify(|a| a.share = share).or_insert(fresh);
        self.count();
    }

    /// A vGPU goes.
    pub(super) fn remove(&mut self, id: VgpuId, now: Duration) {
        self.pass(now);
        self.accounts.remove(&id);
        self.count();
    }

    /// A vGPU is paused, or not any more.
    pub(super) fn pause(&mut self, id: VgpuId, paused: bool, now: Duration) {
        self.pass(now);
        if let Some(a) = self.accounts.get_mut(&id) {
            a.paused = paused;
        }
        self.count();
    }

    /// A vGPU has work, or has none any more.
    pub(super) fn set_busy(&mut self, id: VgpuId, busy: bool, now: Duration) {
        self.pass(now);
        let policy = self.policy;
        if let Some(a) = self.accounts.get_mut(&id) {
            if busy && !a.busy {
                // What it left unused is gone, but for a slice: so a driver that reads its results first loses nothing.
                let least = self.floor.saturating_sub(weighed(policy, a.share, self.slice));
                a.virtual_time = a.virtual_time.max(least);
            }
            a.busy = busy;
        }
    }

    /// A vGPU has had the engine for so long.
    pub(super) fn charge(&mut self, id: VgpuId, time: Duration, now: Duration) {
        self.pass(now);
        let policy = self.policy;
        let Some(a) = self.accounts.get_mut(&id) else { return };
        a.credit -= nanos(time);
        a.virtual_time += weighed(policy, a.share, time);
        self.floor = self.floor.max(a.virtual_time.min(self.least_waiting(id)));
        let before = self.holder.filter(|(holder, _)| *holder == id).map_or(Duration::ZERO, |(_, had)| had);
        self.holder = Some((id, before + time));
    }

    /// Who is next. Who has the engine keeps it for a slice, if it has work and credit.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        self.pass(now);
        let in_slice = self.holder.filter(|(_, had)| *had < self.slice).map(|(id, _)| id);
        let mut soonest: Option<Duration> = None;
        let mut best: Option<(u128, VgpuId)> = None;
        for (id, a) in self.accounts.iter().filter(|(_, a)| a.busy && !a.paused) {
            match self.wait(a) {
                Some(wait) => soonest = Some(soonest.map_or(wait, |s| s.min(wait))),
                None if in_slice == Some(*id) => return Next::Run(*id),
                None => best = Some(best.map_or((a.virtual_time, *id), |b| b.min((a.virtual_time, *id)))),
            }
        }
        match (best, soonest) {
            (Some((_, id)), _) => {
                self.holder = Some((id, Duration::ZERO));
                Next::Run(id)
            }
            (None, Some(wait)) => Next::At(now + wait),
            (None, None) => Next::Nobody,
        }
    }

    /// Whether nobody else has work, and this one need not wait for any: then whatever is next is its.
    pub(super) fn is_alone(&self, id: VgpuId) -> bool {
        let own = self.accounts.get(&id).is_some_and(|a| !a.paused && self.rate(a.share).is_none());
        own && !self.accounts.iter().any(|(other, a)| *other != id && a.busy && !a.paused)
    }

    /// The most that a vGPU may have, in parts in a million. `None`: there is no limit, or no such vGPU.
    pub(super) fn limit(&self, id: VgpuId) -> Option<u32> {
        let rate = self.accounts.get(&id).and_then(|a| self.rate(a.share))?;
        u32::try_from(rate).ok()
    }

    /// How long a vGPU has had work, up to now.
    pub(super) fn wanted(&mut self, id: VgpuId, now: Duration) -> Duration {
        self.pass(now);
        self.accounts.get(&id).map_or(Duration::ZERO, |a| a.wanted)
    }

    /// How long an account must wait before it may have the engine.
    fn wait(&self, a: &Account) -> Option<Duration> {
        let rate = self.rate(a.share)?;
        let missing = 1 - a.credit;
        let wait = (missing + rate - 1).checked_div(rate).filter(|_| missing > 0)?;
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// What an account earns, in parts in a million of the time that passes. `None`: it needs none.
    fn rate(&self, share: Share) -> Option<i128> {
        let cap = WHOLE / 100 * i128::from(share.cap);
        let (present, weights) = self.present;
        let rate = match self.policy {
            Policy::BestEffort if share.cap >= 100 => return None,
            Policy::BestEffort => WHOLE,
            Policy::EqualShare => WHOLE / present.max(1),
            Policy::FixedShare => WHOLE * i128::from(share.weight) / weights.max(WHOLE_WEIGHT.into()),
        };
        Some(rate.min(cap).max(1))
    }

    fn count(&mut self) {
        let present = self.accounts.values().filter(|a| !a.paused);
        self.present = present.fold((0, 0), |(n, all), a| (n + 1, all + i128::from(a.share.weight)));
    }

    /// Gives everybody what it has earned up to now. Who has no work earns a slice's worth at most.
    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        if passed.is_zero() {
            return;
        }
        let nanos_passed = i128::try_from(passed.as_nanos()).unwrap_or(0);
        let rates: Vec<_> = self.accounts.values().map(|a| self.rate(a.share)).collect();
        for (a, rate) in self.accounts.values_mut().zip(rates) {
            let most = nanos(if a.busy && !a.paused { Share::MADE_UP } else { self.slice }).max(a.credit);
            a.wanted += if a.busy && !a.paused { passed } else { Duration::ZERO };
            a.credit = a.credit.saturating_add(nanos_passed * rate.unwrap_or(0)).min(most);
        }
    }

    /// The least virtual time of those that have work, but for one.
    fn least_waiting(&self, but: VgpuId) -> u128 {
        let others = self.accounts.iter().filter(|(id, a)| **id != but && a.busy && !a.paused);
        others.map(|(_, a)| a.virtual_time).min().unwrap_or(u128::MAX)
    }
}

/// In the unit of credits.
fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / WHOLE).saturating_mul(WHOLE)
}

/// Time as virtual time: the heavier, the slower it passes.
fn weighed(policy: Policy, share: Share, time: Duration) -> u128 {
    let weight = if policy == Policy::EqualShare { 1 } else { share.weight };
    time.as_nanos() * u128::from(WHOLE_WEIGHT) * 1000 / u128::from(weight)
}

#[cfg(test)]
mod tests;
