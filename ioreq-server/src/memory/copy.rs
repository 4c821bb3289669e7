//! Copies out of and into a mapped page, which the guest may write at the same time: atomic accesses only, as wide as the
//! alignment allows, each byte read or written once.
#![expect(unsafe_code, reason = "pages that the guest writes at any time are reached through raw pointers")]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::seam::MappedPage;

use crate::device::Width;

/// Bytes of the widest access.
const WORD: usize = size_of::<u64>();

/// A mapped page. Offsets and lengths that leave it are cut: `false` or `None` then, and nothing was done.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    base: NonNull<u8>,
    mapped: PhantomData<&'a MappedPage>,
}

impl<'a> Page<'a> {
    pub(crate) fn of(page: &'a MappedPage) -> Self {
        Self { base: page.ptr(), mapped: PhantomData }
    }

    fn u8_at(&self, offset: usize) -> &'a AtomicU8 {
        debug_assert!(offset < PAGE_SIZE);
        // SAFETY: inside the page, which is mapped for 'a; an AtomicU8 has no alignment to keep.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) }
    }

    fn u64_at(&self, offset: usize) -> &'a AtomicU64 {
        debug_assert!(offset.is_multiple_of(WORD) && offset < PAGE_SIZE);
        // SAFETY: inside the page, which starts aligned, and at a multiple of 8 in it.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Splits what lies from `offset` on into bytes before the first aligned word, words, and bytes after the last.
    fn parts(offset: usize, len: usize) -> Option<(usize, usize)> {
        if offset > PAGE_SIZE || len > PAGE_SIZE - offset {
            return None;
        }
        let head = (offset.next_multiple_of(WORD) - offset).min(len);
        Some((head, (len - head) / WORD))
    }

    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some((head, words)) = Self::parts(offset, out.len()) else { return false };
        let (first, rest) = out.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(words * WORD);
        for (i, b) in first.iter_mut().enumerate() {
            *b = self.u8_at(offset + i).load(Ordering::Relaxed);
        }
        let at = offset + head;
        for (i, word) in middle.chunks_exact_mut(WORD).enumerate() {
            word.copy_from_slice(&self.u64_at(at + i * WORD).load(Ordering::Relaxed).to_ne_bytes());
        }
        let at = at + words * WORD;
        for (i, b) in last.iter_mut().enumerate() {
            *b = self.u8_at(at + i).load(Ordering::Relaxed);
        }
        true
    }

    /// The page must have been mapped for writing.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> bool {
        let Some((head, words)) = Self::parts(offset, data.len()) else { return false };
        let (first, rest) = data.split_at(head);
        let (middle, last) = rest.split_at(words * WORD);
        for (i, b) in first.iter().enumerate() {
            self.u8_at(offset + i).store(*b, Ordering::Relaxed);
        }
        let at = offset + head;
        for (i, word) in middle.chunks_exact(WORD).enumerate() {
            let mut bytes = [0; WORD];
            bytes.copy_from_slice(word);
            self.u64_at(at + i * WORD).store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        let at = at + words * WORD;
        for (i, b) in last.iter().enumerate() {
            self.u8_at(at + i).store(*b, Ordering::Relaxed);
        }
        true
    }

    fn holds(offset: usize, width: Width) -> bool {
        offset.is_multiple_of(width.bytes() as usize) && offset < PAGE_SIZE
    }

    /// One access at an aligned offset; what the guest wrote before what is read is visible after it.
    pub(crate) fn load(&self, offset: usize, width: Width) -> Option<u64> {
        if !Self::holds(offset, width) {
            return None;
        }
        // SAFETY: aligned, so inside the page, which is mapped for 'a.
        let at = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as above, and the guest's CPU accesses memory atomically too.
        Some(unsafe {
            match width {
                Width::Byte => AtomicU8::from_ptr(at).load(Ordering::Acquire).into(),
                Width::Word => AtomicU16::from_ptr(at.cast()).load(Ordering::Acquire).into(),
                Width::Dword => AtomicU32::from_ptr(at.cast()).load(Ordering::Acquire).into(),
                Width::Qword => AtomicU64::from_ptr(at.cast()).load(Ordering::Acquire),
            }
        })
    }

    /// One access at an aligned offset with the low bytes of `value`; what was written before it is visible to who sees
    /// it. The page must have been mapped for writing.
    #[expect(clippy::cast_possible_truncation, reason = "the low bytes of the value")]
    pub(crate) fn store(&self, offset: usize, width: Width, value: u64) -> bool {
        if !Self::holds(offset, width) {
            return false;
        }
        // SAFETY: as in `load`.
        let at = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as in `load`.
        unsafe {
            match width {
                Width::Byte => AtomicU8::from_ptr(at).store(value as u8, Ordering::Release),
                Width::Word => AtomicU16::from_ptr(at.cast()).store(value as u16, Ordering::Release),
                Width::Dword => AtomicU32::from_ptr(at.cast()).store(value as u32, Ordering::Release),
                Width::Qword => AtomicU64::from_ptr(at.cast()).store(value, Ordering::Release),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Pages;

    proptest! {
        #[test]
        fn any_copy_is_what_a_copy_byte_by_byte_would_be(
            before in proptest::collection::vec(any::<u8>(), PAGE_SIZE),
            data in proptest::collection::vec(any::<u8>(), 0..80),
            offset in prop_oneof![0usize..40, PAGE_SIZE - 90..=PAGE_SIZE + 1],
        ) {
            let pages = Pages::new(1);
            pages.write(0, &before);
            let mapped = pages.mapping().into_pages();
            let page = Page::of(&mapped[0]);
            let fits = offset + data.len() <= PAGE_SIZE;
            prop_assert_eq!(page.write(offset, &data), fits);
            let mut naive = before;
            if fits {
                naive[offset..offset + data.len()].copy_from_slice(&data);
            }
            prop_assert!(pages.read::<PAGE_SIZE>(0)[..] == naive[..]);
            let mut back = vec![0; data.len()];
            prop_assert_eq!(page.read(offset, &mut back), fits);
            prop_assert!(!fits || back == data);
        }

        #[test]
        fn an_item_is_loaded_and_stored_whole_where_it_is_aligned(
            offset in prop_oneof![0usize..20, PAGE_SIZE - 10..PAGE_SIZE + 20],
            width in prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Dword), Just(Width::Qword)],
            value: u64,
        ) {
            let pages = Pages::new(2);
            let mapped = pages.mapping().into_pages();
            let page = Page::of(&mapped[0]);
            let good = offset % width.bytes() as usize == 0 && offset < PAGE_SIZE;
            prop_assert_eq!(page.store(offset, width, value), good);
            prop_assert_eq!(page.load(offset, width), good.then_some(value & width.mask()));
            let mut naive = [0; 8];
            if good {
                naive[..width.bytes() as usize].copy_from_slice(&value.to_le_bytes()[..width.bytes() as usize]);
            }
            prop_assert_eq!(pages.read::<8>(offset), naive);
        }
    }
}
