//! Memory that a keeper keeps: `kept [xen] [wait]`, as root. With `xen` it is memory of a PV dom0's own at known frames, else shared
//! memory. A line for each fact and a verdict; with `wait` also the keeper's number, until somebody kills this process.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use integration::until;
use mediated_gpu::vfio::{DmaMemory, keep_memory};
use xen_ioreq::PAGE_SIZE;
use xen_ioreq::linux::{OwnRam, Privcmd};
use xen_ioreq::seam::Mapping;

const PAGES: usize = 16;
const VALUE: [u8; 8] = *b"kept me?";

type Error = Box<dyn std::error::Error>;

/// Whichever it is.
enum Memory {
    Shared(DmaMemory),
    Own(Mapping),
}

impl Memory {
    fn address(&self, page: usize) -> usize {
        match self {
            Self::Shared(memory) => memory.page(page),
            Self::Own(mapping) => mapping.page(page),
        }
        .map_or(0, |p| p.as_ptr().addr())
    }

    /// Where a process has no page of ours, as far as this can be seen from here.
    fn missing(&self, keeper: u32) -> Result<Vec<usize>, Error> {
        match self {
            // What is written after it was started is there.
            Self::Shared(memory) => {
                let theirs = fs::File::open(format!("/proc/{keeper}/mem"))?;
                let is_missing = |page: &usize| {
                    memory.write(page * PAGE_SIZE, &VALUE);
                    let mut seen = [0; VALUE.len()];
                    let read = theirs.read_exact_at(&mut seen, self.address(*page) as u64);
                    read.is_err() || seen != VALUE
                };
                Ok((0..PAGES).filter(is_missing).collect())
            }
            // A device's memory is not read so, but its frames are told.
            Self::Own(_) => {
                let [ours, theirs] = ["self".to_owned(), keeper.to_string()]
                    .map(|process| fs::File::open(format!("/proc/{process}/pagemap")));
                let (ours, theirs) = (ours?, theirs?);
                let entry = |map: &fs::File, page: usize| {
                    let mut entry = [0; 8];
                    let at = self.address(page) / PAGE_SIZE * entry.len();
                    map.read_exact_at(&mut entry, at as u64)?;
                    Ok::<_, io::Error>(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
                };
                let is_missing = |page: &usize| match (entry(&ours, *page), entry(&theirs, *page)) {
                    (Ok(ours), Ok(theirs)) => ours == 0 || ours != theirs,
                    _ => true,
                };
                Ok((0..PAGES).filter(is_missing).collect())
            }
        }
    }
}

fn main() -> Result<ExitCode, Error> {
    let has = |word| std::env::args().any(|a| a == word);
    let memory = match has("xen") {
        true => Memory::Own(OwnRam::take(&Privcmd::open()?, PAGES)?.into_mapping().0),
        false => Memory::Shared(DmaMemory::new(PAGES)?),
    };
    let _file = fs::File::open("/proc/self/exe")?;
    let keeper = keep_memory()?;
    let descriptors = || fs::read_dir(format!("/proc/{keeper}/fd")).map_or(usize::MAX, Iterator::count);
    until("the keeper has closed what it has inherited", || descriptors() == 0);
    println!("ok     the keeper has no descriptors");
    let missing = memory.missing(keeper)?;
    let good = missing.is_empty();
    println!("{} the keeper has the same pages, but for {missing:?}", if good { "ok    " } else { "FAILED" });
    // Where there are threads none of them may be copied in the middle of something.
    let late = std::thread::spawn(keep_memory).join().map_err(|_| "a panic")?;
    println!(
        "{} nothing is kept for a process with threads: {late:?}",
        if late.is_err() { "ok    " } else { "FAILED" }
    );
    let failed = u32::from(!good) + u32::from(late.is_ok());
    println!("{} passed, {failed} failed", 3 - failed);
    if has("wait") {
        println!("keeper {keeper}");
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
