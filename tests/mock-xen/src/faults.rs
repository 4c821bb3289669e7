//! Faults on demand: at which places, at which of their occurrences, what goes wrong.
//!
//! A plan is a list of rules; the same plan against the same calls makes the same faults. Where several rules agree on
//! an occurrence, the first one decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use xen_ioreq::Errno;

/// A place where something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Site {
    /// Any call of a domain's process: `iommu_op`, `dm_op`, `memory_op`, mappings for its CPU and their end.
    Call,
    /// The hypercall `iommu_op`.
    IommuCall,
    /// One operation of it: of this sub-operation, or of any.
    IommuOp(Option<u16>),
    /// The flush of the IOTLB that follows operations that unmapped something.
    IotlbFlush,
    /// The hypercall `memory_op`.
    MemoryCall,
    /// The hypercall `grant_table_op`.
    GrantCall,
    /// The hypercall `dm_op`.
    DmOp,
    /// Operations on a paused domain, in one call.
    PausedDmOp,
    /// A mapping for the CPU, of guest frames or of a resource.
    ForeignMap,
    /// The end of such a mapping.
    ForeignUnmap,
    /// The notice about a frame's end, before it is sent.
    Notice,
}

/// Which occurrences of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Each.
    Always,
    /// Only this one, counted from 1 since the plan was made.
    Nth(u64),
    /// From this one on.
    From(u64),
    /// One in so many, at random by the plan's seed.
    OneIn(u32),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Refused with this error, and nothing is done. At [`Site::IotlbFlush`]: the flush is late, so the call
    /// ends in this error, and what it unmapped stays within reach of devices, and held, until the domain's next flush. At
    /// [`Site::Notice`]: the buffered ring takes no notice, so that it goes the synchronous way.
    Error(Errno),
    /// It takes so long.
    Delay(Duration),
    /// The process that calls is killed: see [`Killed`].
    Kill(Moment),
}

/// When in a call a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before it reaches the hypervisor.
    Before,
    /// After so many operations of an `iommu_op`; as [`Moment::After`] for other calls.
    Within(u64),
    /// When it has been done, before its result is seen.
    After,
}

/// The payload of the panic by which the thread of a killed process leaves.
///
/// By then the kernel has done what it does for a dead process: its CPU mappings and ports are gone, its IOREQ servers and
/// what it mapped for devices are not. Whatever else the process does (its destructors) has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed;

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub site: Site,
    /// At which occurrence.
    pub when: When,
    /// What.
    pub fault: Fault,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
    /// For [`When::OneIn`].
    pub seed: u64,
}

impl FaultPlan {
    /// A plan of one rule.
    pub fn one(site: Site, when: When, fault: Fault) -> Self {
        Self { rules: vec![Rule { site, when, fault }], seed: 0 }
    }
}

#[derive(Default)]
struct Active {
    plan: FaultPlan,
    /// Occurrences that each rule has seen.
    seen: Vec<AtomicU64>,
}

/// The plan in force.
#[derive(Default)]
pub(crate) struct Faults {
    armed: AtomicBool,
    active: RwLock<Arc<Active>>,
    met: AtomicU64,
}

impl Faults {
    pub(crate) fn inject(&self, plan: FaultPlan) {
        let armed = !plan.rules.is_empty();
        let seen = plan.rules.iter().map(|_| AtomicU64::new(0)).collect();
        *self.active.write() = Arc::new(Active { plan, seen });
        self.armed.store(armed, Ordering::Release);
    }

    /// Faults that were made.
    pub(crate) fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }

    /// What goes wrong at this occurrence of any of these places.
    pub(crate) fn at(&self, sites: &[Site]) -> Option<Fault> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let active = self.active.read().clone();
        let mut found = None;
        for (i, (rule, seen)) in active.plan.rules.iter().zip(&active.seen).enumerate() {
            if !sites.contains(&rule.site) {
                continue;
            }
            let nth = seen.fetch_add(1, Ordering::Relaxed) + 1;
            let now = match rule.when {
                When::Always => true,
                When::Nth(n) => nth == n,
                When::From(n) => nth >= n,
                When::OneIn(n) => {
                    mix(active.plan.seed ^ (i as u64) << 56 ^ nth).is_multiple_of(u64::from(n.max(1)))
                }
            };
            if now && found.is_none() {
                found = Some(rule.fault);
            }
        }
        if found.is_some() {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// As [`at`](Self::at) where only an error or a delay makes sense; the delay is over when this returns.
    pub(crate) fn check(&self, sites: &[Site]) -> Result<(), Errno> {
        match self.at(sites) {
            Some(Fault::Error(e)) => Err(e),
            Some(Fault::Delay(time)) => {
                crate::sync::sleep(time);
                Ok(())
            }
            Some(Fault::Kill(_)) | None => Ok(()),
        }
    }
}

/// Every bit of the number reaches every bit of the result (splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: &[(Site, When)]) -> Faults {
        let fault = Fault::Error(Errno::EIO);
        let rules = rules.iter().map(|&(site, when)| Rule { site, when, fault }).collect();
        let f = Faults::default();
        f.inject(FaultPlan { rules, seed: 5 });
        f
    }

    fn hits(f: &Faults, sites: &[Site]) -> Vec<bool> {
        (0..6).map(|_| f.check(sites).is_err()).collect()
    }

    #[test]
    fn a_rule_meets_the_occurrences_that_it_names_and_no_other_place() {
        let f = faults(&[(Site::Call, When::Nth(2)), (Site::IotlbFlush, When::From(5))]);
        assert_eq!(hits(&f, &[Site::Notice]), [false; 6]);
        assert_eq!(hits(&f, &[Site::IommuCall, Site::Call]), [false, true, false, false, false, false]);
        assert_eq!(hits(&f, &[Site::IotlbFlush]), [false, false, false, false, true, true]);
        assert_eq!(f.met(), 3);
        f.inject(FaultPlan::default());
        assert_eq!(hits(&f, &[Site::Call]), [false; 6]);
    }

    #[test]
    fn a_rule_for_any_sub_operation_and_one_for_this_count_on_their_own() {
        let f = faults(&[(Site::IommuOp(None), When::Nth(3)), (Site::IommuOp(Some(4)), When::Nth(1))]);
        assert!(f.check(&[Site::IommuOp(None), Site::IommuOp(Some(5))]).is_ok());
        assert!(f.check(&[Site::IommuOp(None), Site::IommuOp(Some(4))]).is_err());
        assert!(f.check(&[Site::IommuOp(None), Site::IommuOp(Some(4))]).is_err());
        assert!(f.check(&[Site::IommuOp(None), Site::IommuOp(Some(4))]).is_ok());
    }

    #[test]
    fn chance_is_about_as_frequent_as_asked_for_and_the_same_in_every_run() {
        let run = || {
            let f = faults(&[(Site::Call, When::OneIn(10))]);
            (0..10_000).filter(|_| f.check(&[Site::Call]).is_err()).count()
        };
        assert!((800..1200).contains(&run()));
        assert_eq!(run(), run());
    }
}
