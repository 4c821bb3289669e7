//! The mediator's own reads and writes of memory that the GPU reaches too: by bus frame, a page at a time.
//!
//! A pin is held for one copy and no longer. Guests and the GPU write the same bytes at any time, so bytes are
//! copied by atomic accesses; an aligned dword or quadword is never torn.
#![expect(unsafe_code, reason = "copies from and to pages that others write")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use pviommu::{SoftIommu, View};
use xen_ioreq::{Bfn, PAGE_SIZE};

use crate::bus::{BusMaster, DmaAccess, DmaFault, Pin};

/// Quadwords of a line of the cache, which are compared together, and their bytes.
pub(crate) const LINE: usize = 8;
const LINE_BYTES: usize = 8 * LINE;

/// Memory, by bus frame.
#[derive(Clone)]
pub(crate) struct Memory(Arc<dyn BusMaster>);

impl Memory {
    pub(crate) fn new(bus: Arc<dyn BusMaster>) -> Self {
        Self(bus)
    }

    /// Copies from a page. What lies beyond its end is not copied.
    pub(crate) fn read(&self, bfn: Bfn, offset: usize, buf: &mut [u8]) -> Result<(), DmaFault> {
        self.with_page(bfn, DmaAccess::Read, |page| page.read(offset, buf))
    }

    /// Copies to a page. What lies beyond its end is not copied.
    pub(crate) fn write(&self, bfn: Bfn, offset: usize, data: &[u8]) -> Result<(), DmaFault> {
        self.with_page(bfn, DmaAccess::Write, |page| page.write(offset, data))
    }

    /// The quadwords of a page that are not as they are in `known`, lines from the page's first on: place and value. Each is
    /// read once.
    pub(crate) fn changed(&self, bfn: Bfn, known: &[[u64; LINE]]) -> Result<Vec<(usize, u64)>, DmaFault> {
        self.with_page(bfn, DmaAccess::Read, |page| {
            let mut changed = Vec::new();
            for (line, known) in known.iter().enumerate() {
                let Some(now) = page.line(line) else { break };
                // Most are as they were. In registers: what was just stored by quadwords is not loaded by more at once.
                let differ = now.iter().zip(known).fold(0, |differ, (now, known)| differ | (now ^ known));
                if differ != 0 {
                    let places = (line * LINE..).zip(now).zip(known);
                    changed.extend(places.filter(|((_, now), known)| now != *known).map(|(there, _)| there));
                }
            }
            changed
        })
    }

    fn with_page<R>(&self, bfn: Bfn, access: DmaAccess, f: impl FnOnce(Page) -> R) -> Result<R, DmaFault> {
        let pin = self.0.pin(bfn, access)?;
        let result = f(Page(pin.ptr));
        self.0.unpin(pin);
        Ok(result)
    }
}

/// A pinned page: lives only within `with_page`.
struct Page(NonNull<u8>);

impl Page {
    fn byte(&self, at: usize) -> Option<&AtomicU8> {
        // SAFETY: a pin is valid for 4096 bytes until it is given back, which is after `self` has gone; others
        // access the page at any time, so it is touched atomically only.
        (at < PAGE_SIZE).then(|| unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(at)) })
    }

    /// The quadword at `at`, which is a multiple of 8.
    fn quad(&self, at: usize) -> Option<&AtomicU64> {
        // SAFETY: as above; a page is aligned to 4096 bytes, so the quadword is aligned too.
        (at.is_multiple_of(8) && at < PAGE_SIZE)
            .then(|| unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(at).cast()) })
    }

    /// The quadwords of a line of the cache, each read once.
    fn line(&self, line: usize) -> Option<[u64; LINE]> {
        // SAFETY: as above, all of a line; an array of atomics is laid out as their values are.
        let quads: &[AtomicU64; LINE] = (line < PAGE_SIZE / LINE_BYTES)
            .then(|| unsafe { &*self.0.as_ptr().add(line * LINE_BYTES).cast() })?;
        Some(std::array::from_fn(|i| u64::from_le(quads[i].load(Ordering::Relaxed))))
    }

    fn read(&self, offset: usize, buf: &mut [u8]) {
        let (head, rest) = buf.split_at_mut(to_aligned(offset).min(buf.len()));
        self.read_bytes(offset, head);
        let mut at = offset + head.len();
        let mut quads = rest.chunks_exact_mut(8);
        for chunk in &mut quads {
            let Some(quad) = self.quad(at) else { return };
            chunk.copy_from_slice(&quad.load(Ordering::Relaxed).to_le_bytes());
            at += 8;
        }
        self.read_bytes(at, quads.into_remainder());
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let (head, rest) = data.split_at(to_aligned(offset).min(data.len()));
        self.write_bytes(offset, head);
        let mut at = offset + head.len();
        let mut quads = rest.chunks_exact(8);
        for chunk in &mut quads {
            let (Some(quad), Ok(bytes)) = (self.quad(at), chunk.try_into()) else { return };
            quad.store(u64::from_le_bytes(bytes), Ordering::Release);
            at += 8;
        }
        self.write_bytes(at, quads.remainder());
    }

    /// Fewer than 8 bytes within one quadword: read together.
    fn read_bytes(&self, at: usize, buf: &mut [u8]) {
        let Some(quad) = self.quad(at - at % 8).filter(|_| !buf.is_empty()) else { return };
        let bytes = quad.load(Ordering::Relaxed).to_le_bytes();
        for (to, from) in buf.iter_mut().zip(bytes.iter().skip(at % 8)) {
            *to = *from;
        }
    }

    /// Fewer than 8 bytes: an aligned dword is written whole, others byte by byte.
    fn write_bytes(&self, at: usize, data: &[u8]) {
        let mut at = at;
        let mut rest = data;
        while let Some((first, after)) = rest.split_first() {
            if let (0, Some((dword, after))) = (at % 4, rest.split_first_chunk::<4>()) {
                self.dword(at, u32::from_le_bytes(*dword));
                rest = after;
                at += 4;
                continue;
            }
            if let Some(byte) = self.byte(at) {
                byte.store(*first, Ordering::Release);
            }
            rest = after;
            at += 1;
        }
    }

    fn dword(&self, at: usize, value: u32) {
        if at < PAGE_SIZE {
            // SAFETY: as in `byte`; `at` is a multiple of 4.
            let dword = unsafe { std::sync::atomic::AtomicU32::from_ptr(self.0.as_ptr().add(at).cast()) };
            dword.store(value, Ordering::Release);
        }
    }
}

/// Bytes up to the next quadword.
fn to_aligned(offset: usize) -> usize {
    offset.wrapping_neg() % 8
}

/// On stock Xen the software GPU and the mediator reach memory through the soft IOMMU.
impl BusMaster for SoftIommu {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let pin = SoftIommu::pin(self, bfn).map_err(|_| DmaFault { bfn, access })?;
        Ok(Pin { ptr: pin.ptr, bfn, token: pin.token })
    }

    fn unpin(&self, pin: Pin) {
        SoftIommu::unpin(self, pin.token);
    }
}

/// Where the GPU is a physical one the mediator sees by itself what is on the bus.
impl BusMaster for View {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let pin = View::pin(self, bfn).map_err(|_| DmaFault { bfn, access })?;
        Ok(Pin { ptr: pin.ptr, bfn, token: pin.token })
    }

    fn unpin(&self, pin: Pin) {
        View::unpin(self, pin.token);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[repr(align(4096))]
    struct Aligned([u8; PAGE_SIZE]);

    proptest! {
        #[test]
        fn copies_are_those_of_a_slice(offset in 0usize..PAGE_SIZE, data in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut memory = Box::new(Aligned([0xee; PAGE_SIZE]));
            let page = Page(NonNull::new(memory.0.as_mut_ptr()).unwrap());
            page.write(offset, &data);
            let end = (offset + data.len()).min(PAGE_SIZE);
            let mut back = vec![0x11; data.len()];
            page.read(offset, &mut back);
            prop_assert_eq!(&back[..end - offset], &data[..end - offset]);
            prop_assert!(back[end - offset..].iter().all(|b| *b == 0x11));
            let mut whole = vec![0; PAGE_SIZE];
            page.read(0, &mut whole);
            let lines: Vec<u64> = (0..).map_while(|line| page.line(line)).flatten().collect();
            let read: Vec<u64> = whole.as_chunks().0.iter().map(|q| u64::from_le_bytes(*q)).collect();
            prop_assert_eq!(lines, read);
            prop_assert!(whole[..offset].iter().chain(&whole[end..]).all(|b| *b == 0xee));
        }
    }
}
