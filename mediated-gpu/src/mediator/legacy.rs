//! What a vGPU leaves to the next one of the same guest, when its device model was killed or has ended while the guest went on:
//! where the guest had put the function, and where the frames of its table are. All else is as after a reset.
//!
//! It passes through a file, so it is read as what a stranger may have written: at worst it is nonsense about its own guest.

use xen_ioreq::seam::{ForeignMap, Prot};
use xen_ioreq::{DomId, Gfn};

use super::place::OWN_FRAMES;

/// Bytes of a configuration space.
const CONFIG: usize = 256;
/// The first byte: how the rest is written.
const VERSION: u8 = 1;
/// Guest frame numbers end below this.
const FRAMES_END: u64 = 1 << 40;

/// What a vGPU leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// The first of the table's frames: here, or here if they were being moved.
    pub table: Vec<Gfn>,
    /// The function's configuration space.
    pub config: Option<[u8; CONFIG]>,
}

impl Legacy {
    /// As bytes: the version, the number of places, each as 8 bytes (little-endian), the configuration space if there is one.
    pub fn to_bytes(&self) -> Vec<u8> {
        let places = self.table.iter().take(2);
        let mut out = vec![VERSION, places.len().to_le_bytes()[0]];
        out.extend(places.flat_map(|gfn| gfn.0.to_le_bytes()));
        out.extend(self.config.iter().flatten());
        out
    }

    /// From bytes; `None` if they are nothing that [`to_bytes`](Self::to_bytes) gives. No bytes: nothing was left.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = match bytes.split_first() {
            None => return Some(Self::default()),
            Some((&VERSION, rest)) => rest,
            Some(_) => return None,
        };
        let (&places, rest) = rest.split_first().filter(|(n, _)| **n <= 2)?;
        let (table, config) = rest.split_at_checked(usize::from(places) * 8)?;
        let table: Vec<Gfn> = table.as_chunks().0.iter().map(|b| Gfn(u64::from_le_bytes(*b))).collect();
        let config = if config.is_empty() { None } else { Some(config.try_into().ok()?) };
        table.iter().all(|gfn| gfn.0 < FRAMES_END).then_some(Self { table, config })
    }

    /// Where the table's frames are in fact, if all of them are there that hold nothing but entries.
    pub fn find_table(&self, memory: &impl ForeignMap, domid: DomId) -> Option<Gfn> {
        self.table.iter().copied().find(|first| {
            let all: Vec<Gfn> = (0..u64::from(OWN_FRAMES)).map(|i| Gfn(first.0 + i)).collect();
            memory
                .map_foreign(domid, &all, Prot::Read)
                .is_ok_and(|pages| (0..all.len()).all(|page| pages.error(page).is_none()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn legacy() -> impl Strategy<Value = Legacy> {
        let table = prop::collection::vec((0..FRAMES_END).prop_map(Gfn), 0..=2);
        let config = prop::option::of(any::<[u8; 32]>());
        (table, config).prop_map(|(table, config)| Legacy {
            table,
            config: config.map(|c| std::array::from_fn(|i| c[i % 32].wrapping_add(i.to_le_bytes()[0]))),
        })
    }

    proptest! {
        #[test]
        fn any_legacy_is_read_as_it_was_written(legacy in legacy()) {
            prop_assert_eq!(Legacy::from_bytes(&legacy.to_bytes()), Some(legacy));
        }

        #[test]
        fn any_bytes_are_refused_or_are_exactly_what_we_would_write(
            legacy in legacy(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            len in any::<prop::sample::Index>(),
            cut: bool,
        ) {
            let mut bytes = legacy.to_bytes();
            for (at, byte) in changes {
                *at.get_mut(&mut bytes) = byte;
            }
            if cut {
                bytes.truncate(len.index(bytes.len() + 1));
            }
            if let Some(read) = Legacy::from_bytes(&bytes) {
                prop_assert!(bytes.is_empty() && read == Legacy::default() || read.to_bytes() == bytes);
            }
        }
    }

    #[test]
    fn it_fits_into_the_note_of_a_record() {
        let most = Legacy { table: vec![Gfn(1), Gfn(2)], config: Some([7; CONFIG]) };
        assert!(most.to_bytes().len() <= ioreq_server::record::NOTE_MAX);
    }

    #[test]
    fn nothing_was_left_by_nobody() {
        assert_eq!(Legacy::from_bytes(&[]), Some(Legacy::default()));
    }
}
