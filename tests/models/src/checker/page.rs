//! Memory that the hypervisor and the emulator share, as pages at real addresses behind which loom's cells lie.
//!
//! Where accesses of different sizes meet (the pointers of a ring, read as one), the eight bytes are one cell; elsewhere each
//! address has its own, so that nothing is seen together that is only side by side.
#![expect(unsafe_code, reason = "addresses that nobody follows: accesses go to the cells")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::seam::{Mapping, MappingOwner};

use super::atomic::{Cell, Word, take_cell};

/// How the words of a memory lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Each address has one width.
    Apart,
    /// Accesses of different widths meet in the same eight bytes.
    Mixed,
}

/// Pages of zeros, until the end of the execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    pages: usize,
}

/// What lies behind a memory.
struct Backing {
    memory: Memory,
    kind: Words,
    /// By address and width. Boxed: references to them are handed out.
    words: BTreeMap<(usize, u32), Box<Word>>,
    /// Of mixed words, by address / 8.
    cells: BTreeMap<usize, Arc<Cell>>,
    /// Nobody reads or writes it; it keeps the addresses.
    _bytes: Vec<u8>,
}

thread_local!(static ALL: RefCell<Vec<Backing>> = const { RefCell::new(Vec::new()) });

/// Forgets the memory of earlier executions.
pub(super) fn forget() {
    ALL.take();
}

/// The word at an address. It lives until the next execution.
pub(super) fn word(address: usize, bits: u32) -> *const Word {
    ALL.with_borrow_mut(|all| {
        let backing =
            all.iter_mut().find(|b| b.memory.contains(address)).expect("an address of shared memory");
        assert!(address.is_multiple_of(bits as usize / 8), "an aligned access");
        let Backing { kind, words, cells, .. } = backing;
        let word = words.entry((address, bits)).or_insert_with(|| {
            Box::new(match kind {
                Words::Apart => Word::whole(take_cell()),
                Words::Mixed => {
                    let cell = cells.entry(address / 8).or_insert_with(take_cell).clone();
                    Word::part(cell, u32::try_from(address % 8 * 8).expect("less than 64"), bits)
                }
            })
        });
        &raw const **word
    })
}

impl Memory {
    pub(crate) fn new(pages: usize, kind: Words) -> Self {
        let mut bytes = vec![0u8; (pages + 1) * PAGE_SIZE];
        let skip = bytes.as_ptr().align_offset(PAGE_SIZE);
        let base = bytes.get_mut(skip..).and_then(|b| b.first_mut()).map(NonNull::from);
        let memory = Self { base: base.expect("one page more than asked for"), pages };
        let backing = Backing { memory, kind, words: BTreeMap::new(), cells: BTreeMap::new(), _bytes: bytes };
        ALL.with_borrow_mut(|all| all.push(backing));
        memory
    }

    fn contains(&self, address: usize) -> bool {
        let base = self.base.as_ptr().addr();
        (base..base + self.pages * PAGE_SIZE).contains(&address)
    }

    pub(crate) fn page(&self, index: usize) -> Option<NonNull<u8>> {
        let page = self.base.as_ptr().wrapping_add(index * PAGE_SIZE);
        if index < self.pages { NonNull::new(page) } else { None }
    }

    /// All pages, as who maps them sees them.
    pub(crate) fn mapping(&self) -> Mapping {
        Mapping::new(self.base, self.pages, Arc::new(Kept))
    }
}

/// The execution keeps the pages.
struct Kept;

// SAFETY: pages last until the execution ends, whoever releases them.
unsafe impl MappingOwner for Kept {
    fn release(&self, _first: usize, _count: usize) {}
}
