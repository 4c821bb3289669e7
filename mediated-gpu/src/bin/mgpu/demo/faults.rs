//! `--faults`: what goes wrong below the program while the guests draw, as an operator writes it.
//!
//! A plan is rules with commas between them, a rule `PLACE:FAULT:1/N`: at one occurrence in N of that place, by the
//! demo's seed. The verdict of the demo stays as strict as without.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mock_xen::{Fault, FaultPlan, Rule, Site, When};
use xen_ioreq::Errno;
use xen_ioreq::abi::iommu_op::{IOMMUOP_map_foreign_page, IOMMUOP_unmap_foreign_page};

/// What `--faults` without a plan means.
pub(crate) const USUAL: &str = "map:EIO:1/50,unmap:EIO:1/100,flush:late:1/100,flush:delay=1ms:1/20,\
    notice:full:1/10,notice:delay=1ms:1/20,foreign:delay=1ms:1/50";

/// Places by the names that a plan has for them.
const PLACES: &[(&str, Site)] = &[
    ("map", Site::IommuOp(Some(IOMMUOP_map_foreign_page))),
    ("unmap", Site::IommuOp(Some(IOMMUOP_unmap_foreign_page))),
    ("call", Site::IommuCall),
    ("flush", Site::IotlbFlush),
    ("notice", Site::Notice),
    ("foreign", Site::ForeignMap),
];

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faults(Vec<Rule>);

/// A plan that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadPlan(String);

impl Faults {
    /// For the model.
    pub(crate) fn plan(&self, seed: u64) -> FaultPlan {
        FaultPlan { rules: self.0.clone(), seed }
    }
}

impl FromStr for Faults {
    type Err = BadPlan;

    fn from_str(s: &str) -> Result<Self, BadPlan> {
        s.split(',').map(|text| rule(text.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn rule(text: &str) -> Result<Rule, BadPlan> {
    let bad = |what: &str| BadPlan(format!("{text:?}: {what}"));
    let [place, fault, rate]: [&str; 3] = text
        .split(':')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| bad("write PLACE:FAULT:1/N, as in map:EIO:1/50"))?;
    let known = || PLACES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (_, site) = PLACES
        .iter()
        .find(|(name, _)| *name == place)
        .ok_or_else(|| bad(&format!("a place is one of {}", known())))?;
    let one_in = rate.strip_prefix("1/").and_then(|n| n.parse().ok()).filter(|n: &u32| *n > 0);
    let when = When::OneIn(one_in.ok_or_else(|| bad("a rate is 1/N, N from 1 on"))?);
    let fault = match (fault, *site) {
        ("late", Site::IotlbFlush) => Fault::Error(Errno::EIO),
        ("full", Site::Notice) => Fault::Error(Errno::EAGAIN),
        (name, site) => match name.strip_prefix("delay=").map(delay) {
            Some(Some(time)) => Fault::Delay(time),
            Some(None) => return Err(bad("a delay is whole milliseconds up to a second, as in delay=5ms")),
            None if matches!(site, Site::IotlbFlush | Site::Notice) => {
                return Err(bad("a flush is late, a notice finds the ring full, and either has a delay"));
            }
            None => Fault::Error(errno(name).ok_or_else(|| bad("a fault is an errno, as EIO, or a delay"))?),
        },
    };
    Ok(Rule { site: *site, when, fault })
}

fn delay(text: &str) -> Option<Duration> {
    let ms: u64 = text.strip_suffix("ms")?.parse().ok()?;
    (ms <= 1000).then(|| Duration::from_millis(ms))
}

fn errno(name: &str) -> Option<Errno> {
    Errno::ALL.iter().find(|(n, _)| *n == name).map(|(_, value)| Errno(*value))
}

impl fmt::Display for BadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPlan {}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(plan: &str) -> String {
        plan.parse::<Faults>().expect_err("a bad plan").to_string()
    }

    #[test]
    fn the_usual_plan_and_each_kind_of_rule_are_understood() {
        let usual: Faults = USUAL.parse().expect("the usual plan");
        assert_eq!(usual.plan(7).rules.len(), 7);
        let plan: Faults = "map:ENOMEM:1/3, flush:late:1/1,notice:delay=20ms:1/2".parse().expect("a plan");
        let map = Site::IommuOp(Some(IOMMUOP_map_foreign_page));
        assert_eq!(
            plan.0,
            [
                Rule { site: map, when: When::OneIn(3), fault: Fault::Error(Errno::ENOMEM) },
                Rule { site: Site::IotlbFlush, when: When::OneIn(1), fault: Fault::Error(Errno::EIO) },
                Rule {
                    site: Site::Notice,
                    when: When::OneIn(2),
                    fault: Fault::Delay(Duration::from_millis(20))
                },
            ]
        );
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (plan, word) in [
            ("", "PLACE:FAULT"),
            ("map:EIO", "PLACE:FAULT"),
            ("gpu:EIO:1/2", "one of map, unmap"),
            ("map:EIO:2/3", "1/N"),
            ("map:EIO:1/0", "1/N"),
            ("map:late:1/2", "errno"),
            ("flush:EIO:1/2", "late"),
            ("notice:delay=2s:1/2", "milliseconds"),
            ("notice:delay=2000ms:1/2", "milliseconds"),
        ] {
            assert!(says(plan).contains(word), "{plan:?}: {}", says(plan));
        }
    }
}
