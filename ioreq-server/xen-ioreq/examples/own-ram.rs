//! Whether memory that the kernel gives through `/dev/xen/hypercall` is at the machine frames that it is said to be at, and stays
//! there: `own-ram`, in a PV dom0, as root.
//!
//! Each frame is mapped a second time by its number, and what is written through one mapping is read through the other; at first,
//! and after the kernel has moved what it can move.

mod judge;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use judge::Judge;
use xen_ioreq::abi::domctl::XEN_DOMCTL_PFINFO_XTAB;
use xen_ioreq::linux::{OwnRam, OwnRamError, Privcmd};
use xen_ioreq::seam::{ForeignMap as _, Mapping, Prot};
use xen_ioreq::{DomId, Errno, Gfn, Mfn, PAGE_SIZE};

/// Pages: more than one page of the kernel's table tells of.
const PAGES: usize = 1024;
/// How often memory is made scarce and moved.
const ROUNDS: u64 = 4;
/// What a round takes: half of what is free, and not more than this many bytes.
const MOST: usize = 256 << 20;

fn main() -> ExitCode {
    let privcmd = match Privcmd::open() {
        Ok(p) => p,
        Err(e) => {
            eprintln!("own-ram: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut judge = Judge::default();
    let outcome = run(&mut judge, &privcmd);
    judge.is("all steps were made", outcome, Ok(()));
    judge.verdict()
}

fn run(j: &mut Judge, p: &Privcmd) -> Result<(), Errno> {
    let none = OwnRam::take(p, 0).err();
    j.is("no pages", none, Some(OwnRamError::Pages { pages: 0, errno: Errno::EINVAL }));
    let ram = match OwnRam::take(p, PAGES) {
        Ok(ram) => ram,
        Err(e) => {
            j.is("memory of dom0's own", Some(e.to_string()), None);
            return Err(Errno::EIO);
        }
    };
    let (here, frames) = ram.into_mapping();
    let different: HashSet<Gfn> = frames.iter().copied().collect();
    j.is("pages at frames of their own", (here.pages(), different.len()), (PAGES, PAGES));
    let mfns: Vec<Mfn> = frames.iter().map(|f| Mfn(f.0)).collect();
    let types = p.page_types(DomId(0), mfns.get(..512).unwrap_or_default())?;
    let of_dom0 = types.iter().filter(|t| **t != XEN_DOMCTL_PFINFO_XTAB).count();
    j.is("Xen says that they are dom0's", of_dom0, 512);
    j.is("pages that are not zero", (0..PAGES).filter(|i| word(&here, *i) != Some(0)).count(), 0);
    j.is("pages that show elsewhere", elsewhere(p, &here, &frames, 0)?, 0);
    // The other way round: written at the frame, read in the page.
    let there = p.map_foreign_together(DomId::SELF, &frames, Prot::ReadWrite)?.mapping;
    (0..PAGES).for_each(|i| put(&there, i, 0x5eed_0000 + i as u64));
    drop(there);
    let wrong = (0..PAGES).filter(|i| word(&here, *i) != Some(0x5eed_0000 + *i as u64)).count();
    j.is("pages that show something else than their frames", wrong, 0);
    // A neighbour's frame shows that a wrong number is seen.
    let mut wrong = frames.clone();
    wrong.rotate_left(1);
    j.is("pages that show at their neighbours' frames", PAGES - elsewhere(p, &here, &wrong, 7)?, 0);

    let movable = ordinary();
    let before = numbers(&movable)?;
    for round in 1..=ROUNDS {
        squeeze()?;
        j.is("pages that show elsewhere after memory was moved", elsewhere(p, &here, &frames, round)?, 0);
    }
    let moved = numbers(&movable)?.iter().zip(&before).filter(|(a, b)| a != b).count();
    println!("of {} ordinary pages {moved} were moved", before.len());
    drop(here);
    let again = OwnRam::take(p, PAGES);
    j.that("given back, as many can be had again", again.is_ok());
    Ok(())
}

/// Writes to each page and reads at its frame, mapped anew: how many show something else.
fn elsewhere(p: &Privcmd, here: &Mapping, frames: &[Gfn], round: u64) -> Result<usize, Errno> {
    let there = p.map_foreign_together(DomId::SELF, frames, Prot::Read)?;
    let value = |i: usize| (round + 1) << 32 | i as u64;
    (0..frames.len()).for_each(|i| put(here, i, value(i)));
    Ok((0..frames.len()).filter(|i| word(&there.mapping, *i) != Some(value(*i))).count())
}

#[expect(unsafe_code, reason = "access to mapped pages")]
fn word(pages: &Mapping, page: usize) -> Option<u64> {
    // SAFETY: a mapped page, and its last quadword.
    pages.page(page).map(|p| unsafe { p.as_ptr().add(PAGE_SIZE - 8).cast::<u64>().read_volatile() })
}

#[expect(unsafe_code, reason = "access to mapped pages")]
fn put(pages: &Mapping, page: usize, value: u64) {
    if let Some(p) = pages.page(page) {
        // SAFETY: a page that is mapped for writing, and its last quadword.
        unsafe { p.as_ptr().add(PAGE_SIZE - 8).cast::<u64>().write_volatile(value) };
    }
}

/// Ordinary memory, for comparison: half of what was taken, so that there are holes to move into.
fn ordinary() -> Vec<Box<[u8]>> {
    let all = (0..4096).map(|_| vec![1u8; PAGE_SIZE].into_boxed_slice()).collect::<Vec<_>>();
    all.into_iter().enumerate().filter(|(i, _)| i % 2 == 0).map(|(_, page)| page).collect()
}

/// The kernel's number of each.
fn numbers(pages: &[Box<[u8]>]) -> Result<Vec<u64>, Errno> {
    let failed = |e: std::io::Error| Errno(e.raw_os_error().unwrap_or(Errno::EIO.0));
    let pagemap = fs::File::open("/proc/self/pagemap").map_err(failed)?;
    let number = |page: &[u8]| {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, (page.as_ptr().addr() / PAGE_SIZE * 8) as u64).map_err(failed)?;
        Ok(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
    };
    pages.iter().map(|page| number(page)).collect()
}

/// Makes memory scarce, and has the kernel move together what it can.
fn squeeze() -> Result<(), Errno> {
    let failed = |e: std::io::Error| Errno(e.raw_os_error().unwrap_or(Errno::EIO.0));
    let info = fs::read_to_string("/proc/meminfo").map_err(failed)?;
    let free =
        info.lines().find_map(|l| l.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok());
    let taken = (free.unwrap_or(0usize) * 1024 / 2).min(MOST);
    let memory = vec![1u8; taken];
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(failed)?;
    fs::write("/proc/sys/vm/compact_memory", "1").map_err(failed)?;
    drop(std::hint::black_box(memory));
    fs::write("/proc/sys/vm/compact_memory", "1").map_err(failed)
}
