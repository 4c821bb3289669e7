//! Round trips on real Xen against a minimal blocking C loop: measured by the rig, in one boot, in rounds in turn.

use crate::harness::{Figure, Target};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["xen-pio", "xen-mmio"];

/// Boots the rig's `speed` scenario.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let reports = xen_rig::run(&["speed"], &|line| eprintln!("{line}")).map_err(|e| e.to_string())?;
    let checks = &reports.first().ok_or("the rig ran nothing")?.checks;
    if let Some(why) = checks.failed().first() {
        return Err(why.clone());
    }
    let value = |name: String| checks.figures().iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    NAMES
        .iter()
        .zip(["pio", "mmio"])
        .map(|(&name, phase)| {
            let of = |what: &str| {
                value(format!("{phase} {what}")).ok_or(format!("no {phase} {what} was measured"))
            };
            let (ours, peer) = (of("round trips/s, ours")?, of("round trips/s, C")?);
            let detail = format!("{ours:.0} round trips/s, C loop {peer:.0}");
            Ok(Figure { name, ratio: of("ratio")?, target: Target::AtLeast(1.0), detail })
        })
        .collect()
}
