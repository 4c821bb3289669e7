//! The raw hypercall in a process of its own: a broker holds the unrestricted descriptor, the process that handles guests
//! has a socket to it and nothing else to lose.
//!
//! The broker passes on what is about the domains that it was told of, and nothing that the hypervisor cannot bear. It
//! remembers what is mapped, so that frames come back when its client is killed, at whatever moment.
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

mod book;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps,
    IOMMUOP_readable, IOMMUOP_swap_mfn, IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, IOMMUOP_writeable,
    pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno};
use zerocopy::{FromZeros, IntoBytes};

use self::book::{Book, unmapped};
use crate::error::{Operation, StartError};
use crate::ledger::Ledger;
use crate::mapping::DeviceFlush;
use crate::mode::Choice;
use crate::reclaim::{self, Kept, Reclaimed};
use crate::wire::{Answer, BATCH, NOT_DONE, Peer, Wire, answer};

/// Messages: a number (operations, or the errno of the call as 0 or a positive number), then the operations. Both ends
/// are on one host, so numbers are as the host has them.
type Word = u32;

/// The broker's side.
pub struct Broker {
    wire: Wire,
    choice: Choice,
    book: Book,
}

impl Broker {
    /// Asks the hypervisor what it is. It must have `iommu_op`.
    pub fn new(hypervisor: Arc<dyn IommuOp>) -> Result<Self, StartError> {
        let wire = Wire(hypervisor);
        let choice = Choice::ask(&wire)?.ok_or(StartError::NothingToMapWith)?;
        Ok(Self { wire, choice, book: Book::default() })
    }

    /// The same with a ledger at `path` (see [`Config::ledger`](crate::Config::ledger)), so that what clients have mapped is
    /// known to the next broker if this one is killed. Begin with [`release_left`](Self::release_left).
    pub fn with_ledger(hypervisor: Arc<dyn IommuOp>, path: &Path) -> Result<Self, StartError> {
        let ledger =
            Ledger::open(path).map_err(|error| StartError::Ledger { path: path.to_owned(), error })?;
        Ok(Self { book: Book::new(Some(ledger)), ..Self::new(hypervisor)? })
    }

    /// Serves a client until it goes. `may` says which domains' frames it may have, `DomId::SELF`
    /// those of the domain that we are in. An error means that the client broke
    /// the protocol, or died in the middle of a message.
    pub fn serve(&mut self, client: &UnixStream, may: &dyn Fn(DomId) -> bool) -> io::Result<()> {
        let (mut from, mut to) = (client, client);
        loop {
            let mut word = [0; size_of::<Word>()];
            match from.read(&mut word[..1])? {
                0 => return Ok(()),
                _ => from.read_exact(&mut word[1..])?,
            }
            let count = usize::try_from(Word::from_ne_bytes(word)).unwrap_or(usize::MAX);
            if count > BATCH {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("a batch of {count} operations")));
            }
            let mut ops = vec![pv_iommu_op::new_zeroed(); count];
            from.read_exact(ops.as_mut_bytes())?;
            let rc = self.pass_on(&mut ops, may);
            to.write_all(&rc.map_or_else(|e| e.0.unsigned_abs(), |()| 0).to_ne_bytes())?;
            to.write_all(ops.as_bytes())?;
        }
    }

    /// Mappings that clients have left, own pages included.
    pub fn left(&self) -> usize {
        self.book.len()
    }

    /// Gives back what dead clients have left, and what the ledger says of an earlier broker's, after a flush of the device,
    /// whose entries must be gone. What the hypervisor refuses is kept for the next call.
    pub fn release_left(&mut self, device: &(impl DeviceFlush + ?Sized)) -> Reclaimed {
        let mut out = Reclaimed::default();
        device.flush();
        if let Err(e) = self.release_earlier(&mut out) {
            log::warn!("what an earlier broker has left is not all given back: {e}");
        }
        for ((domid, ioserver), bfns) in self.book.by_peer() {
            let answers = self.wire.unmap_foreign(Peer { domid, ioserver }, bfns.iter().copied());
            let gone = sort_out(Operation::UnmapForeignPage, bfns, answers, &mut out.mappings, &mut out.kept);
            self.book.gone((domid, ioserver), gone);
        }
        let own = self.book.own();
        let answers = self.wire.unmap_own(own.iter().copied());
        let gone = sort_out(Operation::UnmapPage, own, answers, &mut out.own, &mut out.kept);
        self.book.own_gone(gone);
        out
    }

    fn release_earlier(&self, out: &mut Reclaimed) -> Result<(), Errno> {
        let Some(ledger) = self.book.ledger() else { return Ok(()) };
        // Its own servers are named there; none of ours could stand in for one that has gone.
        reclaim::lookups(&self.wire, ledger, None, out)?;
        match self.choice {
            Choice::Map { .. } => reclaim::own_pages(&self.wire, ledger, out),
            Choice::Lookup { .. } => Ok(()),
        }
    }

    /// Sends what may be sent, in one call, and writes the answers where they belong.
    fn pass_on(&mut self, ops: &mut [pv_iommu_op], may: &dyn Fn(DomId) -> bool) -> Result<(), Errno> {
        let mut places = Vec::with_capacity(ops.len());
        let mut passed = Vec::with_capacity(ops.len());
        for (i, op) in ops.iter_mut().enumerate() {
            match self.check(op, may) {
                Ok(()) => {
                    places.push(i);
                    passed.push(pv_iommu_op { status: NOT_DONE, ..*op });
                }
                Err(e) => op.status = e.status(),
            }
        }
        if passed.is_empty() {
            return Ok(());
        }
        let announced = self.book.announce(&passed)?;
        let rc = self.wire.0.iommu_op(&mut passed);
        let answers: Vec<Answer> = passed.iter().map(|op| answer(op, rc)).collect();
        self.book.settle(announced, &passed, &answers);
        for (i, op) in places.into_iter().zip(passed) {
            if let Some(place) = ops.get_mut(i) {
                *place = op;
            }
        }
        rc
    }

    /// What is not known to be right does not pass: single frames, the flags that are defined for the sub-operation, the
    /// domains that the client may have, and mappings that were made through here.
    fn check(&self, op: &pv_iommu_op, may: &dyn Fn(DomId) -> bool) -> Result<(), Errno> {
        let maps = matches!(self.choice, Choice::Map { .. });
        let access = IOMMUOP_readable | IOMMUOP_writeable;
        let flags = match op.subop_id {
            IOMMUOP_query_caps => 0,
            IOMMUOP_map_page | IOMMUOP_lookup_foreign_page => access,
            IOMMUOP_map_foreign_page => access | IOMMUOP_swap_mfn,
            IOMMUOP_unmap_page | IOMMUOP_unmap_foreign_page => 0,
            // Answered as the hypervisor does, which may come to know more of them.
            _ => return Err(if maps { Errno::ENOSYS } else { Errno::ENODEV }),
        };
        match op.subop_id {
            _ if op.order() != 0 => Err(Errno::ENOSPC),
            _ if op.flags & !flags != 0 => Err(Errno::EINVAL),
            IOMMUOP_map_foreign_page | IOMMUOP_lookup_foreign_page if !may(DomId(op.domid)) => {
                Err(Errno::EPERM)
            }
            IOMMUOP_map_page if !may(DomId::SELF) => Err(Errno::EPERM),
            // The hypervisor that was shipped panics on the first, and lets go of frames in use on the last.
            IOMMUOP_map_foreign_page | IOMMUOP_map_page | IOMMUOP_unmap_page if !maps => Err(Errno::EPERM),
            IOMMUOP_unmap_foreign_page if !self.book.has(&unmapped(op)) => Err(Errno::ENOENT),
            IOMMUOP_unmap_page if !self.book.has_own(Bfn(op.bfn)) => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }
}

/// Of unmaps: what is gone. Counts them and adds what was refused.
fn sort_out(
    op: Operation,
    bfns: Vec<Bfn>,
    answers: Vec<Answer>,
    count: &mut u64,
    kept: &mut Vec<Kept>,
) -> Vec<Bfn> {
    let mut gone = Vec::with_capacity(bfns.len());
    for (bfn, answer) in bfns.into_iter().zip(answers) {
        match answer {
            Answer::Refused(errno) | Answer::NotDone(errno) if !answer.is_gone() => {
                kept.push(Kept { op, bfn, errno });
            }
            _ => {
                *count += 1;
                gone.push(bfn);
            }
        }
    }
    gone
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("choice", &self.choice)
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

/// The client's side: an [`IommuOp`] that asks a broker. EIO once the broker has gone.
#[derive(Debug)]
pub struct Brokered(Mutex<Option<UnixStream>>);

impl Brokered {
    /// Over a socket at whose other end is [`Broker::serve`].
    pub fn new(broker: UnixStream) -> Self {
        Self(Mutex::new(Some(broker)))
    }
}

impl IommuOp for Brokered {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        let mut guard = self.0.lock();
        let Some(broker) = guard.as_mut() else { return Err(Errno::EIO) };
        for batch in ops.chunks_mut(BATCH) {
            match call(broker, batch) {
                Ok(rc) => rc?,
                Err(e) => {
                    log::error!("the broker of iommu_op has gone: {e}");
                    // What would come next in the stream is not known.
                    *guard = None;
                    return Err(Errno::EIO);
                }
            }
        }
        Ok(())
    }
}

/// One question, one answer.
fn call(broker: &mut UnixStream, ops: &mut [pv_iommu_op]) -> io::Result<Result<(), Errno>> {
    let count = Word::try_from(ops.len()).map_err(|_| ErrorKind::InvalidInput)?;
    broker.write_all(&count.to_ne_bytes())?;
    broker.write_all(ops.as_bytes())?;
    let mut word = [0; size_of::<Word>()];
    broker.read_exact(&mut word)?;
    broker.read_exact(ops.as_mut_bytes())?;
    Ok(match i32::try_from(Word::from_ne_bytes(word)) {
        Ok(0) => Ok(()),
        Ok(errno) => Err(Errno(errno)),
        Err(_) => Err(Errno::EIO),
    })
}

#[cfg(test)]
mod tests;
