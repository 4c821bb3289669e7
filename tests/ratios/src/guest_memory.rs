//! The cache of mapped guest memory: what a hit costs with a hundred thousand pages kept, and a notice when there is nothing
//! to let go.

use std::hint::black_box;
use std::sync::Arc;

use ioreq_server::{Connection, GuestMemory};
use mock_xen::{Config, DomainConfig, Machine};
use xen_ioreq::{DomId, Gfn, PAGE_SIZE};

use crate::harness::{Figure, Target, interleave, median, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["cache-hit", "cache-hit-any", "cache-notice"];

const ROUNDS: usize = 31;
/// Accesses in a round, to addresses that are drawn anew.
const ACCESSES: usize = 1 << 12;
const FEW: u64 = 100;
const MANY: u64 = 100_000;

/// A guest whose first pages are all in the cache.
struct Kept {
    memory: GuestMemory,
    pages: u64,
    rng: fastrand::Rng,
}

impl Kept {
    fn new(machine: &Arc<Machine>, pages: u64) -> Result<Self, String> {
        let say = |e: &dyn std::fmt::Display| e.to_string();
        let config = DomainConfig { max_pages: pages, ..DomainConfig::default() };
        let domid = machine.create_domain(&config).map_err(|e| say(&e))?;
        machine.populate(domid, Gfn(0), pages).map_err(|e| say(&e))?;
        let dom0 = Arc::new(machine.caller(DomId(0)).map_err(|e| say(&e))?);
        let conn = Connection::new(dom0.clone(), dom0);
        // The capacity is rounded down to a power of two, and a set of four takes some pages more than others.
        let capacity = usize::try_from(pages).map_err(|e| say(&e))? * 4;
        let kept = Self {
            memory: conn.guest_memory(domid).cached(capacity),
            pages,
            rng: fastrand::Rng::with_seed(9),
        };
        for page in 0..pages {
            kept.memory.write(page * PAGE_SIZE as u64, &page.to_le_bytes()).map_err(|e| say(&e))?;
        }
        Ok(kept)
    }

    /// Reads the number that each page begins with, of any of the first `among` pages. Seconds, or `NaN` if one was wrong or
    /// not in the cache.
    fn hits(&mut self, among: u64) -> f64 {
        let pages: Vec<u64> = (0..ACCESSES).map(|_| self.rng.u64(..among)).collect();
        let before = self.memory.cache_stats();
        let mut wrong = 0;
        let took = seconds(|| {
            for page in &pages {
                let mut number = [0; 8];
                let read = self.memory.read(page * PAGE_SIZE as u64, &mut number);
                wrong += u32::from(read.is_err() || u64::from_le_bytes(number) != *page);
            }
        });
        let after = self.memory.cache_stats();
        if wrong == 0 && after.maps == before.maps && after.hits - before.hits == ACCESSES as u64 {
            took
        } else {
            f64::NAN
        }
    }

    /// Says so often that something has changed, when nothing has been mapped since it was said last.
    fn notices(&self) -> f64 {
        seconds(|| (0..ACCESSES).for_each(|_| black_box(&self.memory).invalidate()))
    }
}

/// The limit that the machine's memory sets: loads from as many pages in no order, each of which must wait for the one before.
struct Walk {
    /// At the beginning of each page, where the next is.
    memory: Vec<[u32; PAGE_SIZE / 4]>,
    at: u32,
}

impl Walk {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let mut order: Vec<u32> = (0..).take(usize::try_from(MANY).unwrap_or(0)).collect();
        rng.shuffle(&mut order);
        let mut memory = vec![[1; PAGE_SIZE / 4]; order.len()];
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            memory[*from as usize][0] = *to;
        }
        Self { memory, at: 0 }
    }

    fn loads(&mut self) -> f64 {
        seconds(|| (0..ACCESSES).for_each(|_| self.at = black_box(&self.memory)[self.at as usize][0]))
    }
}

fn ns(seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let times = ACCESSES as f64;
    seconds / times * 1e9
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let frames = usize::try_from(MANY + FEW).map_err(|e| e.to_string())? + 4096;
    let machine = Machine::new(Config { frames, ..Config::default() }).map_err(|e| e.to_string())?;
    let (mut few, mut many) = (Kept::new(&machine, FEW)?, Kept::new(&machine, MANY)?);

    let (ratio, m, f) = interleave(ROUNDS, || many.hits(FEW), || few.hits(FEW));
    let detail =
        format!("8 bytes from one of 10^2 pages: {:.0} ns with 10^5 kept, {:.0} ns with 10^2", ns(m), ns(f));
    let hit = Figure { name: "cache-hit", ratio, target: Target::AtMost(1.5), detail };

    let (kept, mut walk) = (many.pages, Walk::new(&mut many.rng));
    let mut all = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let (m, f, l) = (many.hits(kept), few.hits(FEW), walk.loads());
        all.iter_mut().zip([(m - f) / l, ns(m), ns(f), ns(l)]).for_each(|(all, value)| all.push(value));
    }
    let [ratio, m, f, l] = all.map(|mut values| median(&mut values));
    let detail = format!(
        "8 bytes from any page: {m:.0} ns with 10^5 kept, {f:.0} ns with 10^2; more by so many random loads of {l:.0} ns"
    );
    let any = Figure { name: "cache-hit-any", ratio, target: Target::AtMost(3.0), detail };

    // The first notice unmaps them all; the others find nothing.
    many.memory.invalidate();
    let (ratio, m, f) = interleave(ROUNDS, || many.notices(), || few.hits(FEW));
    let detail = format!(
        "a notice when nothing was mapped since the last, room for 10^5 pages: {:.1} ns, a hit {:.1} ns",
        ns(m),
        ns(f)
    );
    let notice = Figure { name: "cache-notice", ratio, target: Target::AtMost(1.0), detail };
    Ok(vec![hit, any, notice])
}
