//! The pages that a server shares with the hypervisor, as raw bytes: the rows' own reading of `ioreq.h`.
//!
//! Nothing here is taken from ioreq-server, so that a mistake there does not hide here. Both sides write these pages at
//! any time: every access is an atomic one, and a request is copied before it is looked at.
#![expect(unsafe_code, reason = "atomics in pages that the hypervisor writes")]

use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use xen_ioreq::abi::ioreq::{
    BUF_READ_POINTER_OFFSET, BUF_SLOTS_OFFSET, Bits, IOREQ_BUFFER_SLOT_NUM, SLOT_BITS_OFFSET, SLOTS_PER_PAGE,
    STATE_IOREQ_READY, STATE_IORESP_READY, buf_ioreq, ioreq,
};
use xen_ioreq::seam::Mapping;
use xen_ioreq::{PAGE_SIZE, Port};
use zerocopy::FromBytes;

/// Bytes of a mapping; valid while that is borrowed. Offsets are those of fields, so aligned and within the page.
#[derive(Clone, Copy)]
struct Bytes<'m>(NonNull<u8>, PhantomData<&'m Mapping>);

impl Bytes<'_> {
    fn at(self, offset: usize) -> *mut u8 {
        self.0.as_ptr().wrapping_add(offset)
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: see the type.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: see the type.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    fn long(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: see the type.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }
}

/// The first byte of a mapping, which others may write as well.
pub(crate) fn first_byte(pages: &Mapping) -> Option<&AtomicU8> {
    // SAFETY: the byte is there as long as the mapping is, and is only ever touched atomically.
    pages.page(0).map(|page| unsafe { AtomicU8::from_ptr(page.as_ptr()) })
}

/// A byte of a mapping of any length, by its place from the first on.
fn nth_byte(pages: &Mapping, at: usize) -> Option<&AtomicU8> {
    let page = Bytes(pages.page(at / PAGE_SIZE)?, PhantomData);
    // SAFETY: the byte is there as long as the mapping is, and is only ever touched atomically.
    Some(unsafe { AtomicU8::from_ptr(page.at(at % PAGE_SIZE)) })
}

/// Copies bytes to the beginning of a mapping. `None`: they do not fit.
pub(crate) fn put_bytes(pages: &Mapping, bytes: &[u8]) -> Option<()> {
    nth_byte(pages, bytes.len().saturating_sub(1))?;
    let mut all = bytes.iter().enumerate();
    all.try_for_each(|(at, byte)| {
        nth_byte(pages, at)?.store(*byte, Ordering::SeqCst);
        Some(())
    })
}

/// Copies them out again.
pub(crate) fn take_bytes(pages: &Mapping, bytes: &mut [u8]) -> Option<()> {
    let mut all = bytes.iter_mut().enumerate();
    all.try_for_each(|(at, byte)| {
        *byte = nth_byte(pages, at)?.load(Ordering::SeqCst);
        Some(())
    })
}

/// A vCPU's slot.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'m>(Bytes<'m>);

impl<'m> Slot<'m> {
    /// All slots of `pages`, which are those of a server from its ring on.
    pub(crate) fn all(pages: &'m Mapping) -> impl Iterator<Item = Self> {
        let page = pages.page(1);
        (0..SLOTS_PER_PAGE).filter_map(move |index| {
            let at = page?.as_ptr().wrapping_add(index * size_of::<ioreq>());
            Some(Self(Bytes(NonNull::new(at)?, PhantomData)))
        })
    }

    /// The first slot of `slots`, which begin with the page of slots.
    pub(crate) fn first(slots: &'m Mapping) -> Option<Self> {
        Some(Self(Bytes(slots.page(0)?, PhantomData)))
    }

    /// The hypervisor's port; 0 where there is no vCPU.
    pub(crate) fn port(&self) -> Port {
        Port(self.0.word(offset_of!(ioreq, vp_eport)).load(Ordering::Acquire))
    }

    /// A copy of the request, if there is one that nobody has taken.
    pub(crate) fn ready(&self) -> Option<ioreq> {
        let bits = self.0.byte(SLOT_BITS_OFFSET).load(Ordering::Acquire);
        (Bits::unpack(bits).state == STATE_IOREQ_READY).then(|| ioreq {
            addr: self.0.long(offset_of!(ioreq, addr)).load(Ordering::Relaxed),
            data: self.0.long(offset_of!(ioreq, data)).load(Ordering::Relaxed),
            count: self.0.word(offset_of!(ioreq, count)).load(Ordering::Relaxed),
            size: self.0.word(offset_of!(ioreq, size)).load(Ordering::Relaxed),
            r#type: self.0.byte(offset_of!(ioreq, r#type)).load(Ordering::Relaxed),
            bits,
            ..Default::default()
        })
    }

    /// Answers a request that was copied.
    pub(crate) fn answer(&self, request: &ioreq, data: u64) {
        self.0.long(offset_of!(ioreq, data)).store(data, Ordering::Relaxed);
        let bits = Bits { state: STATE_IORESP_READY, ..Bits::unpack(request.bits) };
        self.0.byte(SLOT_BITS_OFFSET).store(bits.pack(), Ordering::Release);
    }
}

/// The buffered ring.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'m>(Bytes<'m>);

impl<'m> Ring<'m> {
    /// The ring of `pages`, which are those of a server from its ring on.
    pub(crate) fn of(pages: &'m Mapping) -> Option<Self> {
        Some(Self(Bytes(pages.page(0)?, PhantomData)))
    }

    fn pointers(&self) -> (u32, u32) {
        let both = self.0.long(BUF_READ_POINTER_OFFSET).load(Ordering::Acquire).to_le_bytes();
        let [r0, r1, r2, r3, w0, w1, w2, w3] = both;
        (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([w0, w1, w2, w3]))
    }

    fn entry(&self, at: u32) -> buf_ioreq {
        let index = at % IOREQ_BUFFER_SLOT_NUM;
        let offset = BUF_SLOTS_OFFSET + index as usize * size_of::<buf_ioreq>();
        let bytes = self.0.long(offset).load(Ordering::Relaxed).to_le_bytes();
        buf_ioreq::read_from_bytes(&bytes).unwrap_or_default()
    }

    /// What is between the pointers, as requests.
    pub(crate) fn requests(&self) -> Vec<ioreq> {
        let (read, write) = self.pointers();
        let there = write.wrapping_sub(read).min(IOREQ_BUFFER_SLOT_NUM);
        let mut out = Vec::new();
        let mut at = 0;
        while at < there {
            let first = self.entry(read.wrapping_add(at));
            let mut data = u64::from(first.data);
            at += 1;
            if first.size() == 8 && at < there {
                data |= u64::from(self.entry(read.wrapping_add(at)).data) << 32;
                at += 1;
            }
            let bits = Bits { read: first.read(), ..Default::default() };
            out.push(ioreq {
                addr: first.addr().into(),
                data,
                count: 1,
                size: first.size().into(),
                r#type: first.r#type,
                bits: bits.pack(),
                ..Default::default()
            });
        }
        out
    }

    /// Takes everything out.
    pub(crate) fn empty(&self) {
        let (read, write) = self.pointers();
        self.0.word(BUF_READ_POINTER_OFFSET).fetch_add(write.wrapping_sub(read), Ordering::AcqRel);
    }

    /// Makes it look full, as a server does that takes nothing out.
    pub(crate) fn fill(&self) {
        let (_, write) = self.pointers();
        let read = write.wrapping_sub(IOREQ_BUFFER_SLOT_NUM);
        self.0.word(BUF_READ_POINTER_OFFSET).store(read, Ordering::Release);
    }
}

/// A word of eight bytes of a mapped page: an entry of a grant table of version 1, or half of one of version 2.
pub(crate) fn entry(page: &Mapping, index: usize) -> Option<u64> {
    let bytes = within(page, index, size_of::<u64>())?;
    Some(bytes.long(index * size_of::<u64>()).load(Ordering::Acquire))
}

/// Writes it.
pub(crate) fn set_entry(page: &Mapping, index: usize, word: u64) -> Option<()> {
    let bytes = within(page, index, size_of::<u64>())?;
    bytes.long(index * size_of::<u64>()).store(word, Ordering::Release);
    Some(())
}

/// The status word of an entry of version 2, in the page of those.
pub(crate) fn status_word(page: &Mapping, index: usize) -> Option<u16> {
    let bytes = within(page, index, size_of::<u16>())?;
    let [low, high] = [0, 1].map(|i| bytes.byte(index * 2 + i).load(Ordering::Acquire));
    Some(u16::from_le_bytes([low, high]))
}

/// The first page of a mapping, if it has a value of `size` bytes at this index.
fn within(page: &Mapping, index: usize, size: usize) -> Option<Bytes<'_>> {
    (index < PAGE_SIZE / size).then_some(Bytes(page.page(0)?, PhantomData))
}

/// Reads the first 8 bytes of a page that a device has pinned or somebody mapped.
///
/// # Safety
/// `page` must be 8 mapped bytes, aligned to 8, for the time of the call.
pub(crate) unsafe fn peek(page: NonNull<u8>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(page.as_ptr().cast()) }.load(Ordering::Acquire)
}

/// Writes them.
///
/// # Safety
/// As [`peek`]'s.
pub(crate) unsafe fn poke(page: NonNull<u8>, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { AtomicU64::from_ptr(page.as_ptr().cast()) }.store(value, Ordering::Release);
}
