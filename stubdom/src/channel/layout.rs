//! Where the two rings of a channel lie, from the sizes wanted or from the page of a server that is not trusted.

use std::mem::offset_of;
use std::ops::Range;

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::abi::libxenvchan::{VCHAN_GRANTS, ring_shared, vchan_interface};

/// A ring of 1 KiB, 1 KiB into the shared page.
const SMALL: u16 = 10;
/// A ring of 2 KiB, 2 KiB into the shared page.
const LARGE: u16 = 11;
/// The smallest ring with pages of its own.
const PAGED: u16 = 12;
/// 1 MiB: the references of two such rings still fit the shared page.
const LARGEST: u16 = 20;

/// Most bytes of a ring.
pub const MAX_RING: usize = 1 << LARGEST;

/// Bytes of a reference in the shared page.
const REF: usize = size_of::<u32>();

/// Why a channel cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// a ring has at most 1 MiB
    #[error("a ring of {0} bytes: at most {MAX_RING}")]
    TooLarge(usize),
    /// the shared page names a ring that cannot be
    #[error("the shared page says rings of 2^{left} and 2^{right} bytes, which cannot be")]
    Impossible {
        /// log2 of the size of the ring from client to server.
        left: u16,
        /// log2 of the size of the other.
        right: u16,
    },
    /// the shared page has indices further apart than the ring is long
    #[error("the shared page has indices that are further apart than the ring is long")]
    Indices,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From client to server.
    Left,
    /// From server to client.
    Right,
}

/// Where the bytes of a ring lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the shared page.
    InPage(Range<usize>),
    /// In as many pages of its own; their references lie at these bytes of the shared page.
    Own { pages: usize, refs: Range<usize> },
}

/// log2 of both sizes, of which it is known that they go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    left: u16,
    right: u16,
}

impl Layout {
    /// The rings that libxenvchan would make for sizes of at least so many bytes: inside the shared page where they fit there.
    pub(crate) fn of_sizes(left: usize, right: usize) -> Result<Self, LayoutError> {
        if let Some(&size) = [left, right].iter().find(|&&size| size > MAX_RING) {
            return Err(LayoutError::TooLarge(size));
        }
        let own = |size: usize| (PAGED..LARGEST).find(|order| size <= 1 << order).unwrap_or(LARGEST);
        let (small, large) = (1 << SMALL, 1 << LARGE);
        let (left, right) = match (left, right) {
            (l, r) if l <= small && r <= large => (SMALL, LARGE),
            (l, r) if l <= large && r <= small => (LARGE, SMALL),
            (l, r) if l <= large => (LARGE, own(r)),
            (l, r) if r <= large => (own(l), LARGE),
            (l, r) => (own(l), own(r)),
        };
        Ok(Self { left, right })
    }

    /// Rings of these orders, as a server says; refused if they overlap each other or the references.
    pub(crate) fn of_orders(left: u16, right: u16) -> Result<Self, LayoutError> {
        let layout = Self { left, right };
        let known = |order| (SMALL..=LARGEST).contains(&order);
        let first_ring = [left, right].into_iter().filter(|o| *o < PAGED).map(|o| 1 << o).min();
        let apart = left != right || left >= PAGED;
        let refs_end =
            || VCHAN_GRANTS + (layout.pages(Direction::Left) + layout.pages(Direction::Right)) * REF;
        if known(left) && known(right) && apart && refs_end() <= first_ring.unwrap_or(PAGE_SIZE) {
            Ok(layout)
        } else {
            Err(LayoutError::Impossible { left, right })
        }
    }

    pub(crate) fn order(self, direction: Direction) -> u16 {
        match direction {
            Direction::Left => self.left,
            Direction::Right => self.right,
        }
    }

    /// Size of a ring in bytes.
    #[cfg(test)]
    pub(crate) fn size(self, direction: Direction) -> u32 {
        1 << self.order(direction)
    }

    /// Pages of a ring's own.
    pub(crate) fn pages(self, direction: Direction) -> usize {
        match self.order(direction) {
            order if order >= PAGED => 1 << (order - PAGED),
            _ => 0,
        }
    }

    pub(crate) fn place(self, direction: Direction) -> Place {
        let pages = self.pages(direction);
        if pages == 0 {
            // The small ring lies at its own size, and so does the large one.
            let size = 1 << self.order(direction);
            return Place::InPage(size..2 * size);
        }
        let before = if direction == Direction::Right { self.pages(Direction::Left) } else { 0 };
        let first = VCHAN_GRANTS + before * REF;
        Place::Own { pages, refs: first..first + pages * REF }
    }
}

/// Offsets of the indices of a direction in the shared page: reader's, writer's.
pub(crate) fn indices(direction: Direction) -> (usize, usize) {
    let ring = match direction {
        Direction::Left => offset_of!(vchan_interface, left),
        Direction::Right => offset_of!(vchan_interface, right),
    };
    (ring + offset_of!(ring_shared, cons), ring + offset_of!(ring_shared, prod))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn orders(left: usize, right: usize) -> (u16, u16) {
        let layout = Layout::of_sizes(left, right).expect("not too large");
        (layout.order(Direction::Left), layout.order(Direction::Right))
    }

    #[test]
    fn rings_that_fit_the_shared_page_lie_in_it_and_others_have_whole_pages() {
        assert_eq!(orders(0, 0), (10, 11));
        assert_eq!(orders(1024, 2048), (10, 11));
        assert_eq!(orders(2048, 1024), (11, 10));
        assert_eq!(orders(2048, 2048), (11, 12));
        assert_eq!(orders(2048, 5000), (11, 13));
        assert_eq!(orders(5000, 2048), (13, 11));
        assert_eq!(orders(4096, 4097), (12, 13));
        assert_eq!(orders(MAX_RING, MAX_RING), (20, 20));
        assert_eq!(Layout::of_sizes(MAX_RING + 1, 0), Err(LayoutError::TooLarge(MAX_RING + 1)));
    }

    #[test]
    fn orders_of_a_server_that_overlap_or_do_not_exist_are_refused() {
        for (left, right) in [(10, 10), (11, 11), (9, 11), (11, 21), (0, 0), (u16::MAX, 12), (12, 4)] {
            assert_eq!(Layout::of_orders(left, right), Err(LayoutError::Impossible { left, right }));
        }
        // 256 references end at byte 1048, in the small ring; before the large one there is room.
        assert!(Layout::of_orders(10, 20).is_err() && Layout::of_orders(20, 10).is_err());
        assert!(Layout::of_orders(10, 19).is_ok() && Layout::of_orders(11, 20).is_ok());
    }

    /// The bytes of the shared page that something claims, by going through all of it.
    fn claims(layout: Layout) -> Option<Vec<u8>> {
        let mut page = vec![0u8; PAGE_SIZE];
        let mut claim = |range: Range<usize>| {
            page.get_mut(range)?.iter_mut().try_for_each(|b| {
                *b += 1;
                (*b == 1).then_some(())
            })
        };
        claim(0..VCHAN_GRANTS)?;
        for direction in [Direction::Left, Direction::Right] {
            match layout.place(direction) {
                Place::InPage(range) => claim(range)?,
                Place::Own { refs, pages } => {
                    assert_eq!(refs.len(), pages * REF);
                    assert_eq!(pages * PAGE_SIZE, layout.size(direction) as usize);
                    claim(refs)?;
                }
            }
        }
        Some(page)
    }

    #[test]
    fn of_all_orders_exactly_those_are_taken_whose_parts_do_not_overlap() {
        for (left, right) in (SMALL..=LARGEST).flat_map(|l| (SMALL..=LARGEST).map(move |r| (l, r))) {
            let apart = claims(Layout { left, right }).is_some();
            assert_eq!(Layout::of_orders(left, right).is_ok(), apart, "2^{left} and 2^{right}");
        }
    }

    proptest! {
        #[test]
        fn what_a_server_lays_out_a_client_takes_and_it_is_large_enough(
            left in 0..=MAX_RING, right in 0..=MAX_RING,
        ) {
            let layout = Layout::of_sizes(left, right).expect("not too large");
            prop_assert_eq!(Layout::of_orders(layout.left, layout.right), Ok(layout));
            prop_assert!(layout.size(Direction::Left) as usize >= left);
            prop_assert!(layout.size(Direction::Right) as usize >= right);
        }
    }
}
