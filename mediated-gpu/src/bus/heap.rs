//! A bus master over plain memory of this process: for tests, benches and figures, with a small oracle of its own.
#![expect(unsafe_code, reason = "frames are shared memory, handed out as raw pointers")]

use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use xen_ioreq::{Bfn, PAGE_SIZE};

use super::{BusMaster, DmaAccess, DmaFault, Pin};

#[repr(C, align(4096))]
struct Bytes(UnsafeCell<[u8; PAGE_SIZE]>);

struct Frame {
    pins: AtomicU32,
    retired: AtomicBool,
    read_only: AtomicBool,
}

/// Bus frames 0 to n - 1, each a page of this process. It counts pins, and frames can be taken away.
pub struct HeapBus {
    bytes: Box<[Bytes]>,
    frames: Box<[Frame]>,
}

// SAFETY: the bytes are touched through raw pointers only, by whoever shares them; the rest is atomic.
unsafe impl Sync for HeapBus {}

impl fmt::Debug for HeapBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapBus")
            .field("frames", &self.frames.len())
            .field("pins", &self.live_pins())
            .finish()
    }
}

impl HeapBus {
    /// `frames` frames of zeros.
    pub fn new(frames: usize) -> Self {
        let frame = |_| Frame {
            pins: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
        };
        Self {
            bytes: (0..frames).map(|_| Bytes(UnsafeCell::new([0; PAGE_SIZE]))).collect(),
            frames: (0..frames).map(frame).collect(),
        }
    }

    fn frame(&self, bfn: Bfn) -> Option<&Frame> {
        self.frames.get(usize::try_from(bfn.0).ok()?)
    }

    fn ptr(&self, bfn: Bfn) -> Option<NonNull<u8>> {
        NonNull::new(self.bytes.get(usize::try_from(bfn.0).ok()?)?.0.get().cast())
    }

    /// The bytes from `offset`, as its owner's CPU would reach them.
    ///
    /// # Panics
    /// If they are not all in that frame.
    fn span(&self, bfn: Bfn, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "{offset:#x}+{len:#x} leaves the frame");
        let Some(ptr) = self.ptr(bfn) else { panic!("there is no frame {bfn}") };
        // SAFETY: within the frame's bytes.
        unsafe { ptr.as_ptr().add(offset) }
    }

    /// Reads as the owner's CPU. Panics if the bytes are not all in that frame.
    pub fn read(&self, bfn: Bfn, offset: usize, to: &mut [u8]) {
        let from = self.span(bfn, offset, to.len());
        // SAFETY: both spans hold that many bytes; a private buffer is in no frame.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) }
    }

    /// Writes as the owner's CPU. Panics if the bytes are not all in that frame.
    pub fn write(&self, bfn: Bfn, offset: usize, from: &[u8]) {
        let to = self.span(bfn, offset, from.len());
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Pins that live on a frame.
    pub fn pins(&self, bfn: Bfn) -> u32 {
        self.frame(bfn).map_or(0, |f| f.pins.load(Ordering::SeqCst))
    }

    /// Pins that live on any frame.
    pub fn live_pins(&self) -> u64 {
        self.frames.iter().map(|f| u64::from(f.pins.load(Ordering::SeqCst))).sum()
    }

    /// Takes a frame away: to pin it faults from now on. Gives the pins that still live, which a device that keeps
    /// its promises has given back: 0.
    pub fn retire(&self, bfn: Bfn) -> u32 {
        if let Some(f) = self.frame(bfn) {
            f.retired.store(true, Ordering::SeqCst);
        }
        self.pins(bfn)
    }

    /// Makes a frame read-only, or writable again.
    pub fn set_read_only(&self, bfn: Bfn, read_only: bool) {
        if let Some(f) = self.frame(bfn) {
            f.read_only.store(read_only, Ordering::SeqCst);
        }
    }
}

impl BusMaster for HeapBus {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let fault = DmaFault { bfn, access };
        let (frame, ptr) = self.frame(bfn).zip(self.ptr(bfn)).ok_or(fault)?;
        // Counted first: of a pin and a retirement at one time, at least one sees the other.
        frame.pins.fetch_add(1, Ordering::SeqCst);
        let refused = frame.retired.load(Ordering::SeqCst)
            || (access == DmaAccess::Write && frame.read_only.load(Ordering::SeqCst));
        if refused {
            frame.pins.fetch_sub(1, Ordering::SeqCst);
            return Err(fault);
        }
        Ok(Pin { ptr, bfn, token: 0 })
    }

    fn unpin(&self, pin: Pin) {
        if let Some(f) = self.frame(pin.bfn) {
            f.pins.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_is_counted_until_it_is_given_back() {
        let bus = HeapBus::new(2);
        let pins = [DmaAccess::Read, DmaAccess::Write].map(|a| bus.pin(Bfn(1), a).expect("a frame"));
        assert_eq!((bus.pins(Bfn(0)), bus.pins(Bfn(1)), bus.live_pins()), (0, 2, 2));
        assert_eq!(bus.retire(Bfn(1)), 2, "taken away while a device still reaches it");
        pins.into_iter().for_each(|p| bus.unpin(p));
        assert_eq!(bus.live_pins(), 0);
    }

    #[test]
    fn frame_that_is_retired_read_only_or_not_there_faults() {
        let bus = HeapBus::new(2);
        bus.retire(Bfn(0));
        bus.set_read_only(Bfn(1), true);
        for (bfn, access) in [
            (Bfn(0), DmaAccess::Read),
            (Bfn(1), DmaAccess::Write),
            (Bfn(2), DmaAccess::Read),
            (Bfn(u64::MAX), DmaAccess::Read),
        ] {
            assert_eq!(bus.pin(bfn, access).map(|_| ()), Err(DmaFault { bfn, access }));
        }
        assert_eq!(bus.live_pins(), 0, "a refused pin is none");
    }

    #[test]
    fn bytes_written_are_read_in_that_frame_only() {
        let bus = HeapBus::new(2);
        bus.write(Bfn(1), 4094, &[7, 8]);
        let (mut there, mut elsewhere) = ([0; 2], [9; 2]);
        bus.read(Bfn(1), 4094, &mut there);
        bus.read(Bfn(0), 4094, &mut elsewhere);
        assert_eq!((there, elsewhere), ([7, 8], [0, 0]));
    }
}
