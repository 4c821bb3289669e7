//! Which registers a guest accesses, and how often: each access is a trap, so that these are where time can be saved.
//!
//! Counts so many registers one by one, the first that are accessed, and the rest together: a guest that goes through all of
//! them costs no more memory.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::gen8::regs;

/// Registers that are counted one by one.
const MOST: usize = 1024;

/// Accesses to a register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterAccesses {
    /// Its byte offset in BAR0; `None`: all that are not counted one by one.
    pub offset: Option<u32>,
    /// Its name, with its engine's, where it has one.
    pub name: String,
    /// Reads of it, or of a part.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The counts of one vGPU.
#[derive(Debug, Default)]
pub(super) struct Accesses(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Reads and writes by the dword's offset.
    each: BTreeMap<u32, [u64; 2]>,
    rest: [u64; 2],
}

impl Accesses {
    /// One more access to the register at an offset.
    pub(super) fn add(&self, offset: u32, write: bool) {
        let mut counts = self.0.lock();
        let Counts { each, rest } = &mut *counts;
        let at = offset & !3;
        let room = each.len() < MOST;
        let count = match each.get_mut(&at) {
            Some(count) => count,
            None if room => each.entry(at).or_default(),
            None => rest,
        };
        let [reads, writes] = count;
        *(if write { writes } else { reads }) += 1;
    }

    /// The counts now, the most accessed first.
    pub(super) fn get(&self) -> Vec<RegisterAccesses> {
        let counts = self.0.lock();
        let line = |offset, name, [reads, writes]: [u64; 2]| RegisterAccesses { offset, name, reads, writes };
        let mut all: Vec<_> = counts.each.iter().map(|(at, n)| line(Some(*at), name(*at), *n)).collect();
        if counts.rest != [0, 0] {
            all.push(line(None, "others".into(), counts.rest));
        }
        all.sort_by_key(|r| std::cmp::Reverse(r.reads.saturating_add(r.writes)));
        all
    }
}

/// What a register is called.
fn name(offset: u32) -> String {
    match regs::lookup(offset) {
        Some(regs::Register { def, engine: Some(e), .. }) => format!("{} {}", e.name(), def.name),
        Some(regs::Register { def, .. }) => def.name.to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_counted_by_register_and_the_most_frequent_comes_first() {
        let accesses = Accesses::default();
        for (offset, write) in
            [(0x22230, true), (0x44200, false), (0x44200, true), (0x44203, true), (0x50000, false)]
        {
            accesses.add(offset, write);
        }
        let all = accesses.get();
        let first =
            RegisterAccesses { offset: Some(0x44200), name: "GEN8_MASTER_IRQ".into(), reads: 1, writes: 2 };
        assert_eq!(all.first(), Some(&first));
        let named = |offset| all.iter().find(|r| r.offset == Some(offset)).map(|r| r.name.as_str());
        assert_eq!((named(0x22230), named(0x50000)), (Some("BCS RING_ELSP"), Some("")));
    }

    #[test]
    fn a_guest_that_goes_through_all_registers_is_counted_in_bounds() {
        let accesses = Accesses::default();
        (0..0x20_0000).step_by(4).for_each(|offset| accesses.add(offset, offset & 4 != 0));
        let all = accesses.get();
        assert_eq!(all.len(), MOST + 1);
        assert_eq!(all.iter().map(|r| r.reads + r.writes).sum::<u64>(), 0x8_0000);
        assert_eq!(all.first().map(|r| r.offset), Some(None), "most are none of those");
    }
}
