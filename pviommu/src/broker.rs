//! The raw hypercall in a process of its own: a broker holds the unrestricted descriptor, the process that handles guests
//! has a socket to it and nothing else to lose.
//!
//! The broker passes on what is about the domains that it was told of, and nothing that the hypervisor cannot bear. It
//! remembers what is mapped, so that frames come back when its client is killed, at whatever moment.
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;
use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_unmap_foreign_page,
    IOMMUOP_unmap_page, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, IoServerId};
use zerocopy::{FromZeros, IntoBytes};

use crate::error::StartError;
use crate::mapping::DeviceFlush;
use crate::mode::Choice;
use crate::wire::{Answer, BATCH, NOT_DONE, Peer, Wire, answer};

/// Messages: a number (operations, or the errno of the call as 0 or a positive number), then the operations. Both ends
/// are on one host, so numbers are as the host has them.
type Word = u32;

/// The broker's side.
pub struct Broker {
    wire: Wire,
    choice: Choice,
    /// Foreign mappings that a client has made and not undone.
    mapped: BTreeSet<(Bfn, IoServerId)>,
    /// The same for own pages.
    own: BTreeSet<Bfn>,
}

impl Broker {
    /// Asks the hypervisor what it is. It must have `iommu_op`.
    pub fn new(hypervisor: Arc<dyn IommuOp>) -> Result<Self, StartError> {
        let wire = Wire(hypervisor);
        let choice = Choice::ask(&wire)?.ok_or(StartError::NothingToMapWith)?;
        Ok(Self { wire, choice, mapped: BTreeSet::new(), own: BTreeSet::new() })
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
        self.mapped.len() + self.own.len()
    }

    /// Gives back what dead clients have left, after a flush of the device, whose entries must be gone. How many it
    /// was; what the hypervisor refuses is kept for the next call.
    pub fn release_left(&mut self, device: &(impl DeviceFlush + ?Sized)) -> usize {
        if self.left() == 0 {
            return 0;
        }
        device.flush();
        let before = self.left();
        let servers: BTreeSet<IoServerId> = self.mapped.iter().map(|(_, ioserver)| *ioserver).collect();
        for ioserver in servers {
            let bfns: Vec<Bfn> = self.mapped.iter().filter(|m| m.1 == ioserver).map(|m| m.0).collect();
            let answers =
                self.wire.unmap_foreign(Peer { domid: DomId::INVALID, ioserver }, bfns.iter().copied());
            for (bfn, _) in bfns.into_iter().zip(answers).filter(|(_, answer)| answer.is_gone()) {
                self.mapped.remove(&(bfn, ioserver));
            }
        }
        let own: Vec<Bfn> = self.own.iter().copied().collect();
        let answers = self.wire.unmap_own(own.iter().copied());
        for (bfn, _) in own.into_iter().zip(answers).filter(|(_, answer)| answer.is_gone()) {
            self.own.remove(&bfn);
        }
        before - self.left()
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
        let rc = if passed.is_empty() { Ok(()) } else { self.wire.0.iommu_op(&mut passed) };
        for (i, op) in places.into_iter().zip(passed) {
            self.remember(&op, answer(&op, rc));
            if let Some(place) = ops.get_mut(i) {
                *place = op;
            }
        }
        rc
    }

    fn check(&self, op: &pv_iommu_op, may: &dyn Fn(DomId) -> bool) -> Result<(), Errno> {
        let maps = matches!(self.choice, Choice::Map { .. });
        match op.subop_id {
            IOMMUOP_map_foreign_page | IOMMUOP_lookup_foreign_page if !may(DomId(op.domid)) => {
                Err(Errno::EPERM)
            }
            IOMMUOP_map_page if !may(DomId::SELF) => Err(Errno::EPERM),
            // The hypervisor that was shipped panics on the first, and lets go of frames in use on the last.
            IOMMUOP_map_foreign_page | IOMMUOP_map_page | IOMMUOP_unmap_page if !maps => Err(Errno::EPERM),
            IOMMUOP_unmap_foreign_page if !self.mapped.contains(&unmapped(op)) => Err(Errno::ENOENT),
            IOMMUOP_unmap_page if !self.own.contains(&Bfn(op.bfn)) => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }

    /// Keeps the book. What may or may not have been done counts as mapped: unmapping it is no mistake.
    fn remember(&mut self, op: &pv_iommu_op, answer: Answer) {
        let refused = matches!(answer, Answer::Refused(_));
        match op.subop_id {
            IOMMUOP_map_foreign_page if !refused => {
                self.mapped.insert((Bfn(op.bfn), IoServerId(op.ioserver)));
            }
            IOMMUOP_lookup_foreign_page => {
                if let Answer::Done(bfn) | Answer::Unsure(bfn, _) = answer {
                    self.mapped.insert((bfn, IoServerId(op.ioserver)));
                }
            }
            IOMMUOP_map_page if !refused => {
                self.own.insert(Bfn(op.bfn));
            }
            IOMMUOP_unmap_foreign_page if answer.is_gone() => {
                self.mapped.remove(&unmapped(op));
            }
            IOMMUOP_unmap_page if answer.is_gone() => {
                self.own.remove(&Bfn(op.bfn));
            }
            _ => {}
        }
    }
}

/// What an unmap_foreign_page names.
fn unmapped(op: &pv_iommu_op) -> (Bfn, IoServerId) {
    (Bfn(op.bfn), IoServerId(op.unmap_ioserver()))
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
