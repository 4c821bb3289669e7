//! What grants say of frames, counted anew: each mapping against the references of its frame, each pin against a mapping, each
//! mark in an entry against a pin, each place where a frame is shown against the mapping that showed it.

use std::collections::{BTreeMap, BTreeSet};

use xen_ioreq::abi::grant_table::{GTF_reading, GTF_writing};
use xen_ioreq::{DomId, Gfn, Mfn};

use super::host;
use super::maptrack::Tracked;
use super::pins::{Pins, Side};
use super::space::Shown;
use crate::domain::Domain;
use crate::frames::{Access, GrantUse, Uses};
use crate::machine::Machine;

#[derive(Default)]
struct Sums {
    frames: BTreeMap<Mfn, Uses>,
    /// Per granter and reference.
    pins: BTreeMap<(DomId, u32), Pins>,
}

impl Sums {
    fn add(&mut self, tracked: &Tracked) {
        let mut uses = vec![];
        uses.extend(tracked.host.map(|_| (tracked.frame, GrantUse::Host)));
        uses.extend(tracked.device.map(|_| (tracked.frame, GrantUse::Device)));
        uses.extend(tracked.stand_in.map(|mfn| (mfn, GrantUse::StandIn)));
        for (mfn, kind) in uses {
            self.frames.entry(mfn).or_default().count(kind, Access::of(tracked.readonly));
        }
        if tracked.revoked {
            return;
        }
        let pins = self.pins.entry((tracked.granter, tracked.reference)).or_default();
        for (there, side) in [(tracked.host.is_some(), Side::Host), (tracked.device.is_some(), Side::Device)]
        {
            if there {
                pins.add(side, tracked.readonly);
            }
        }
    }
}

/// What does not add up, one line each. The domains do nothing meanwhile.
pub(crate) fn audit(machine: &Machine, domains: &[std::sync::Arc<Domain>]) -> Vec<String> {
    let (mut sums, mut wrong) = (Sums::default(), Vec::new());
    for d in domains {
        let live = d.grants.track.lock().live();
        for (handle, tracked) in &live {
            sums.add(tracked);
            places(d, *handle, tracked, &live, &mut wrong);
        }
        strays(d, &live, &mut wrong);
    }
    machine.frames(|t| {
        for i in 0..machine.config().frames as u64 {
            let mfn = Mfn(i);
            let (have, wanted) = (t.granted(mfn), sums.frames.get(&mfn).copied().unwrap_or_default());
            if have != wanted {
                wrong.push(format!("mfn {mfn}: grants hold it {have:?}, mappings say {wanted:?}"));
            }
        }
    });
    for d in domains {
        pins(machine, d, &mut sums, &mut wrong);
    }
    for ((d, reference), pins) in sums.pins {
        if pins.any() && !domains.iter().any(|x| x.id == d) {
            wrong.push(format!("{d}: reference {reference} is mapped and the domain is not there"));
        }
    }
    wrong
}

/// A mapping is shown where it says.
fn places(d: &Domain, handle: u32, tracked: &Tracked, live: &[(u32, Tracked)], wrong: &mut Vec<String>) {
    let shown = Shown { handle, frame: tracked.frame, readonly: tracked.readonly };
    if let Some(address) = tracked.host
        && !host::shows(d, address, shown)
        // What a domain maps over another mapping it cannot unmap by its address any more; its end does.
        && !live.iter().any(|(h, t)| *h != handle && t.host == tracked.host)
    {
        wrong.push(format!("{}: handle {handle} is not where it was mapped", d.id));
    }
    if let Some((bfn, table)) = tracked.device.zip(d.bus.as_deref()).filter(|_| d.controls_bus)
        && table.lookup(bfn).map(|t| t.mfn) != Some(tracked.frame)
    {
        wrong.push(format!("{}: handle {handle} does not lead devices to its frame", d.id));
    }
}

/// Nothing is shown in a translated domain that is not mapped.
fn strays(d: &Domain, live: &[(u32, Tracked)], wrong: &mut Vec<String>) {
    let places: BTreeSet<Gfn> = live.iter().filter_map(|(_, t)| t.host).map(Gfn::of_addr).collect();
    for gfn in d.p2m.read().granted() {
        if !places.contains(&gfn) {
            wrong.push(format!("{}: gfn {gfn} shows a grant that is not mapped", d.id));
        }
    }
}

/// Pins are mappings, and marks are pins.
fn pins(machine: &Machine, d: &Domain, sums: &mut Sums, wrong: &mut Vec<String>) {
    let table = d.grants.table.read();
    for (reference, act) in table.known() {
        let act = act.lock();
        let wanted = sums.pins.remove(&(d.id, reference)).unwrap_or_default();
        if act.pins != wanted || act.copies != 0 || act.revoking {
            wrong.push(format!("{}: reference {reference}: {act:?}, mappings say {wanted:?}", d.id));
        }
        let Some(entry) = table.entry(machine.memory(), reference) else { continue };
        let marks = entry.marks();
        let due = match (act.pins.any(), act.pins.writing()) {
            (false, _) => 0,
            (true, false) => GTF_reading,
            (true, true) => GTF_reading | GTF_writing,
        };
        // A transfer's flags are in the same bits; a granter may have written there itself.
        if entry.grants_access() && marks != due {
            wrong.push(format!("{}: reference {reference} is marked {marks:#x}, not {due:#x}", d.id));
        }
    }
}
