//! Tries shared pages by gntalloc and gntdev on the Xen it runs on: `grants-on-xen`, in dom0, as root; dom0 grants to itself.
//!
//! One line a fact, then `N passed, N failed`; exit status 1 if any failed.

#[path = "../../ioreq-server/xen-ioreq/examples/judge/mod.rs"]
mod judge;

use std::error::Error;
use std::process::ExitCode;

use judge::Judge;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stubdom::grants::{Ended, GrantError, Granter, LinuxGranter, LinuxMapper, Mapper};
use stubdom::xenstore::{Permission, Store, StoreError, Transaction};
use xen_ioreq::abi::grant_table::{GNTST_bad_gntref, GNTST_okay};
use xen_ioreq::linux::{CopyEnd, Evtchn, GrantCopy, UnmapNotify};
use xen_ioreq::seam::{EventChannels, Prot};
use xen_ioreq::{DomId, Errno, GrantRef, PAGE_SIZE, Port};

/// dom0 by its number: Xen does not take `DOMID_SELF` here.
const ME: DomId = DomId(0);
const NOBODY: DomId = DomId(0x6000);
const NOTHING: UnmapNotify = UnmapNotify { clear_byte: None, send_event: None };

fn main() -> ExitCode {
    let mut judge = Judge::default();
    let outcome = sharing(&mut judge)
        .and_then(|()| refusals(&mut judge))
        .and_then(|()| copies(&mut judge))
        .and_then(|()| ends(&mut judge))
        .and_then(|()| store(&mut judge));
    judge.is("all steps were made", outcome.map_err(|e| e.to_string()), Ok(()));
    judge.verdict()
}

type Outcome = Result<(), Box<dyn Error>>;

fn errno<T>(result: Result<T, GrantError>) -> Option<Errno> {
    match result.err()? {
        GrantError::Grant { errno, .. } | GrantError::Map { errno, .. } => Some(errno),
        GrantError::Open(_) | GrantError::Refused { .. } => None,
    }
}

fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").map(|m| m.lines().count()).unwrap_or(0)
}

fn sharing(j: &mut Judge) -> Outcome {
    let (granter, mapper) = (LinuxGranter::open()?, LinuxMapper::open()?);
    j.that(
        "neither side has revokable grants",
        granter.revokable().is_none() && mapper.revokable().is_none(),
    );
    let granted = granter.grant(ME, 3, Prot::ReadWrite, NOTHING)?;
    let mut refs = granted.refs().to_vec();
    j.is("three pages have three references", refs.len(), 3);
    j.that("beyond the reserved ones", refs.iter().all(|r| r.0 >= 8));
    let mut bytes = vec![1; 3 * PAGE_SIZE];
    granted.read(0, &mut bytes)?;
    j.that("new pages are zeros", bytes.iter().all(|b| *b == 0));
    let mapping = mapper.map(ME, &refs, Prot::ReadWrite, NOTHING)?;
    j.is("all are mapped side by side", mapping.len(), 3 * PAGE_SIZE);
    granted.write(PAGE_SIZE - 2, b"over the end")?;
    let mut seen = [0; 12];
    mapping.read(PAGE_SIZE - 2, &mut seen)?;
    j.is("what the granter writes the mapper reads", &seen, b"over the end");
    mapping.write(2 * PAGE_SIZE, b"and back")?;
    let mut seen = [0; 8];
    granted.read(2 * PAGE_SIZE, &mut seen)?;
    j.is("and back", &seen, b"and back");
    refs.reverse();
    let read_only = mapper.map(ME, &refs, Prot::Read, NOTHING)?;
    read_only.read(0, &mut seen)?;
    j.is("mapped again, in another order, for reading", &seen, b"and back");
    j.that("a mapping for reading is not written", read_only.write(0, b"x").is_err());
    j.that("nor one beyond its end", mapping.write(3 * PAGE_SIZE - 1, b"xx").is_err());
    let before = maps();
    for _ in 0..200 {
        drop(mapper.map(ME, &refs, Prot::ReadWrite, NOTHING)?);
    }
    j.is("200 mappings that went leave nothing behind", maps(), before);
    drop(mapping);
    j.is("ended grants are the kernel's affair", granted.end().ok(), Some(Ended::LeftToKernel));
    read_only.read(0, &mut seen)?;
    j.is("who still maps a page still reads it", &seen, b"and back");
    Ok(())
}

fn refusals(j: &mut Judge) -> Outcome {
    let (granter, mapper) = (LinuxGranter::open()?, LinuxMapper::open()?);
    let granted = granter.grant(ME, 1, Prot::Read, NOTHING)?;
    let refs = granted.refs();
    j.that("granted for reading: mapped for reading", mapper.map(ME, refs, Prot::Read, NOTHING).is_ok());
    let refused = errno(mapper.map(ME, refs, Prot::ReadWrite, NOTHING));
    j.is("granted for reading: not for writing", refused, Some(Errno::EINVAL));
    let stranger = granter.grant(NOBODY, 1, Prot::ReadWrite, NOTHING)?;
    let refused = errno(mapper.map(ME, stranger.refs(), Prot::Read, NOTHING));
    j.is("granted to somebody else", refused, Some(Errno::EINVAL));
    let before = maps();
    for grants in [[refs.first().copied().unwrap_or_default(), GrantRef(0x7000)]; 50] {
        let refused = errno(mapper.map(ME, &grants, Prot::Read, NOTHING));
        if refused != Some(Errno::EINVAL) {
            j.is("one of two is no reference", refused, Some(Errno::EINVAL));
        }
    }
    j.is("50 failed mappings leave nothing behind", maps(), before);
    j.is("no grants", errno(mapper.map(ME, &[], Prot::Read, NOTHING)), Some(Errno::EINVAL));
    j.is("no such domain", errno(mapper.map(NOBODY, refs, Prot::Read, NOTHING)), Some(Errno::EINVAL));
    j.is("no pages", errno(granter.grant(ME, 0, Prot::Read, NOTHING)), Some(Errno::EINVAL));
    j.is(
        "more pages than the driver gives",
        errno(granter.grant(ME, 5000, Prot::Read, NOTHING)),
        Some(Errno::ENOSPC),
    );
    let no_port = UnmapNotify { clear_byte: None, send_event: Some(Port(4000)) };
    j.is(
        "a notice through nobody's port",
        errno(granter.grant(ME, 1, Prot::Read, no_port)),
        Some(Errno::EINVAL),
    );
    let many = (0..20).filter(|_| granter.grant(ME, 500, Prot::Read, NOTHING).is_ok()).count();
    j.is("20 times 500 pages, of 1024 that may be at a time", many, 20);
    Ok(())
}

fn page(gref: GrantRef, offset: u16, local: CopyEnd<'_>) -> GrantCopy<'_> {
    GrantCopy { domid: ME, gref, offset, local, status: 1 }
}

fn copies(j: &mut Judge) -> Outcome {
    let (granter, mapper) = (LinuxGranter::open()?, LinuxMapper::open()?);
    let granted = granter.grant(ME, 2, Prot::ReadWrite, NOTHING)?;
    let [first, second] = *granted.refs() else { return Err("two references".into()) };
    granted.write(100, b"from the page")?;
    let mut got = [0; 13];
    let mut batch = [
        page(first, 100, CopyEnd::To(&mut got)),
        page(second, 4090, CopyEnd::From(b"to the")),
        page(GrantRef(0x7000), 0, CopyEnd::From(b"nowhere")),
        page(second, 0, CopyEnd::From(b"and on")),
    ];
    mapper.device().copy(&mut batch)?;
    let statuses = batch.map(|c| c.status);
    j.is(
        "copies have statuses of their own",
        statuses,
        [GNTST_okay, GNTST_okay, GNTST_bad_gntref, GNTST_okay],
    );
    j.is("copied from a page", &got, b"from the page");
    let (mut end, mut start) = ([0; 6], [0; 6]);
    granted.read(2 * PAGE_SIZE - 6, &mut end)?;
    granted.read(PAGE_SIZE, &mut start)?;
    j.is("copied to a page", (&end, &start), (b"to the", b"and on"));
    let crossing = mapper.device().copy(&mut [page(first, 4090, CopyEnd::From(b"too long"))]);
    j.is("a copy that crosses the page's end", crossing, Err(Errno::EINVAL));
    let long = mapper.device().copy(&mut [page(first, 0, CopyEnd::From(&[0; PAGE_SIZE + 1]))]);
    j.is("a copy of more than a page", long, Err(Errno::EINVAL));
    Ok(())
}

/// Whether an event comes; takes it.
fn woken(events: &Evtchn, port: Port) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(events.pollable(), PollFlags::IN)];
    let came = poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).is_ok_and(|n| n == 1);
    while events.pending(&mut [Port(0)])? > 0 {
        events.unmask(&[port])?;
    }
    Ok(came)
}

/// What the kernel does for the other side when a page goes.
fn ends(j: &mut Judge) -> Outcome {
    let (granter, mapper) = (LinuxGranter::open()?, LinuxMapper::open()?);
    let (granters, mappers) = (Evtchn::open()?, Evtchn::open()?);
    let at_granter = granters.bind_unbound(ME)?;
    let at_mapper = mappers.bind_interdomain(ME, at_granter)?;
    for (events, port) in [(&granters, at_granter), (&mappers, at_mapper)] {
        // Binding may set a port pending.
        while events.pending(&mut [Port(0)])? > 0 {
            events.unmask(&[port])?;
        }
    }
    let on_end = |clear_byte, port| UnmapNotify { clear_byte: Some(clear_byte), send_event: Some(port) };
    let granted = granter.grant(ME, 1, Prot::ReadWrite, on_end(20, at_granter))?;
    granted.write(0, &[0xaa; 64])?;
    let mapping = mapper.map(ME, granted.refs(), Prot::ReadWrite, on_end(21, at_mapper))?;
    drop(mapping);
    let mut bytes = [0; 4];
    granted.read(19, &mut bytes)?;
    j.that("the granter gets an event when the mapping goes", woken(&granters, at_granter)?);
    granted.read(19, &mut bytes)?;
    j.is("and finds one byte cleared", bytes, [0xaa, 0xaa, 0, 0xaa]);
    let mapping = mapper.map(ME, granted.refs(), Prot::ReadWrite, NOTHING)?;
    drop(granted);
    j.that("the mapper gets an event when the pages go", woken(&mappers, at_mapper)?);
    mapping.read(19, &mut bytes)?;
    j.is("and finds one byte cleared, in a page that is still there", bytes, [0xaa, 0, 0, 0xaa]);
    Ok(())
}

fn store(j: &mut Judge) -> Outcome {
    let mut store = Store::open()?;
    let none = Transaction::NONE;
    j.is("XenStore knows this domain", store.domid()?, ME);
    store.write(none, "data/grants/a", b"17")?;
    j.is("a number written", store.read_number(none, "data/grants/a")?, 17);
    j.is("by its whole path", store.read(none, "/local/domain/0/data/grants/a")?, b"17".to_vec());
    store.transact(|s, tx| {
        s.write(tx, "data/grants/b", b"x")?;
        s.set_permissions(tx, "data/grants/b", &[Permission::Owner(ME), Permission::Read(NOBODY)])
    })?;
    j.is("a node written in a transaction", store.read(none, "data/grants/b")?, b"x".to_vec());
    let undone = store.transact(|s, tx| {
        s.write(tx, "data/grants/c", b"x")?;
        s.read(tx, "data/grants/not-there").map(drop)
    });
    j.that("a transaction whose work fails", undone.is_err());
    store.remove(none, "data/grants/a")?;
    let gone =
        |r: Result<Vec<u8>, StoreError>| matches!(r, Err(StoreError::Refused { errno: Errno::ENOENT, .. }));
    j.that("it is undone", gone(store.read(none, "data/grants/c")));
    j.that("a removed node is gone", gone(store.read(none, "data/grants/a")));
    store.remove(none, "data/grants")?;
    Ok(())
}
