//! One direction of a channel, as its writer and as its reader see it.
//!
//! Each keeps its own index to itself and only shows it to the peer; the peer's is read once, held against what it was and
//! the ring's size, and used from the copy. Who finds too little asks to be told and looks again, so that a change between the
//! look and the request is not missed.

use xen_ioreq::abi::libxenvchan::{VCHAN_NOTIFY_READ, VCHAN_NOTIFY_WRITE};

use crate::shared::SharedBytes;
use crate::sync::atomic::{AtomicU32, Ordering};

/// The peer showed an index that goes back or beyond the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadIndex;

/// Where one direction lies.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    page: SharedBytes,
    /// Offset of the reader's index in the page.
    cons: usize,
    /// Offset of the writer's index.
    prod: usize,
    /// As many bytes as a power of two.
    data: SharedBytes,
    size: u32,
}

impl Ring {
    /// `indices`: offsets of the reader's and the writer's index in `page`. `data`: a power of two of bytes, at most 2^31.
    pub(crate) fn new(page: SharedBytes, indices: (usize, usize), data: SharedBytes) -> Self {
        let size = u32::try_from(data.len()).ok().filter(|n| n.is_power_of_two());
        let size = size.expect("the layout gives rings of a power of two");
        Self { page, cons: indices.0, prod: indices.1, data, size }
    }

    fn cons(&self) -> &AtomicU32 {
        self.page.u32(self.cons)
    }

    fn prod(&self) -> &AtomicU32 {
        self.page.u32(self.prod)
    }

    /// Where index `at` is, and how many of `len` bytes lie before the end of the ring.
    fn split(&self, at: u32, len: usize) -> (usize, usize) {
        let start = at & (self.size - 1);
        ((start as usize), len.min((self.size - start) as usize))
    }
}

/// By which each side asks the other to be told of a change.
#[derive(Clone, Debug)]
pub(crate) struct Notify {
    page: SharedBytes,
    /// Offset of the byte in which we ask.
    ours: usize,
    /// Offset of the byte in which the peer asks.
    peers: usize,
}

impl Notify {
    pub(crate) fn new(page: SharedBytes, ours: usize, peers: usize) -> Self {
        Self { page, ours, peers }
    }

    /// Asks to be told.
    pub(crate) fn ask(&self, what: u8) {
        // Both sides change the byte, so one sees the other: either this request is seen, or the index that was shown before it.
        self.page.u8(self.ours).fetch_or(what, Ordering::AcqRel);
    }

    /// Whether the peer wants to be told, which it then has to ask anew.
    fn asked(&self, what: u8) -> bool {
        self.page.u8(self.peers).fetch_and(!what, Ordering::AcqRel) & what != 0
    }
}

/// The writer's end.
#[derive(Debug)]
pub(crate) struct Producer {
    ring: Ring,
    notify: Notify,
    prod: u32,
    /// The reader's index when last looked at; never further from `prod` than the ring is long.
    cons: u32,
}

impl Producer {
    /// Goes on from these indices. Errors: they are further apart than the ring is long.
    pub(crate) fn new(ring: Ring, notify: Notify, cons: u32, prod: u32) -> Result<Self, BadIndex> {
        let fits = prod.wrapping_sub(cons) <= ring.size;
        fits.then_some(Self { ring, notify, prod, cons }).ok_or(BadIndex)
    }

    pub(crate) fn size(&self) -> usize {
        self.ring.size as usize
    }

    fn look(&mut self) -> Result<usize, BadIndex> {
        let cons = self.ring.cons().load(Ordering::Acquire);
        let used = self.prod.wrapping_sub(cons);
        if used > self.prod.wrapping_sub(self.cons) {
            return Err(BadIndex);
        }
        self.cons = cons;
        Ok((self.ring.size - used) as usize)
    }

    /// Bytes for which there is room. If that is less than `want`, the reader has been asked to tell when it has read.
    pub(crate) fn room(&mut self, want: usize) -> Result<usize, BadIndex> {
        let room = self.look()?;
        if room >= want {
            return Ok(room);
        }
        self.notify.ask(VCHAN_NOTIFY_READ);
        self.look()
    }

    /// Writes what fits of `data` into the room that was last found: how many bytes, and whether to tell the reader.
    pub(crate) fn put(&mut self, data: &[u8]) -> (usize, bool) {
        let room = (self.ring.size - self.prod.wrapping_sub(self.cons)) as usize;
        let data = data.get(..room).unwrap_or(data);
        let (at, first) = self.ring.split(self.prod, data.len());
        let (first, rest) = data.split_at(first);
        self.ring.data.write(at, first);
        self.ring.data.write(0, rest);
        #[expect(clippy::cast_possible_truncation, reason = "at most the ring's size")]
        let len = data.len() as u32;
        self.prod = self.prod.wrapping_add(len);
        self.ring.prod().store(self.prod, Ordering::Release);
        (data.len(), self.notify.asked(VCHAN_NOTIFY_WRITE))
    }
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Consumer {
    ring: Ring,
    notify: Notify,
    cons: u32,
    /// The writer's index when last looked at; never further from `cons` than the ring is long.
    prod: u32,
}

impl Consumer {
    /// Goes on from these indices. Errors: they are further apart than the ring is long.
    pub(crate) fn new(ring: Ring, notify: Notify, cons: u32, prod: u32) -> Result<Self, BadIndex> {
        let fits = prod.wrapping_sub(cons) <= ring.size;
        fits.then_some(Self { ring, notify, cons, prod }).ok_or(BadIndex)
    }

    pub(crate) fn size(&self) -> usize {
        self.ring.size as usize
    }

    fn look(&mut self) -> Result<usize, BadIndex> {
        let prod = self.ring.prod().load(Ordering::Acquire);
        let ready = prod.wrapping_sub(self.cons);
        if ready > self.ring.size || ready < self.prod.wrapping_sub(self.cons) {
            return Err(BadIndex);
        }
        self.prod = prod;
        Ok(ready as usize)
    }

    /// Bytes that are there. If that is less than `want`, the writer has been asked to tell when it has written.
    pub(crate) fn ready(&mut self, want: usize) -> Result<usize, BadIndex> {
        let ready = self.look()?;
        if ready >= want {
            return Ok(ready);
        }
        self.notify.ask(VCHAN_NOTIFY_WRITE);
        self.look()
    }

    /// Reads what was last found into `out`: how many bytes, and whether to tell the writer.
    pub(crate) fn get(&mut self, out: &mut [u8]) -> (usize, bool) {
        let len = out.len().min(self.prod.wrapping_sub(self.cons) as usize);
        let out = out.get_mut(..len).unwrap_or_default();
        let (at, first) = self.ring.split(self.cons, len);
        let (first, rest) = out.split_at_mut(first);
        self.ring.data.read(at, first);
        self.ring.data.read(0, rest);
        #[expect(clippy::cast_possible_truncation, reason = "at most the ring's size")]
        let taken = len as u32;
        self.cons = self.cons.wrapping_add(taken);
        self.ring.cons().store(self.cons, Ordering::Release);
        (len, self.notify.asked(VCHAN_NOTIFY_READ))
    }
}
