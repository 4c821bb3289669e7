//! What a vGPU has done, for its operator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// A number that only statistics read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($name:ident: $doc:literal,)*) => {
        /// The counters of one vGPU.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $(pub(crate) $name: Counter,)*
            latencies: Latencies,
        }

        /// The counters at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $(#[doc = $doc] pub $name: u64,)*
            /// From a notice's arrival to its frame's release, in microseconds: median.
            pub invalidation_median_us: u64,
            /// The same, 99th percentile.
            pub invalidation_p99_us: u64,
            /// The same, worst.
            pub invalidation_max_us: u64,
        }

        impl Stats {
            /// The counters now.
            pub(crate) fn snapshot(&self) -> Snapshot {
                let [median, p99, max] = self.latencies.get();
                Snapshot {
                    $($name: self.$name.get(),)*
                    invalidation_median_us: median,
                    invalidation_p99_us: p99,
                    invalidation_max_us: max,
                }
            }
        }
    };
}

stats! {
    mmio_accesses: "Accesses to BAR0, registers and table.",
    aperture_accesses: "Accesses to BAR2.",
    pte_writes: "Entries of the table that the guest wrote, whole or in part.",
    mappings: "References taken to guest frames since the vGPU was made.",
    live_mappings: "Entries that lead to a guest frame now.",
    live_process_mappings: "References that the tables of its contexts hold now.",
    tracked_tables: "Pages with tables of its contexts that are tracked now, and not compared.",
    table_writes: "Writes of the guest's to such pages, which are not tracked any more then.",
    map_failures: "Entries that were to lead to a frame that is not there.",
    flushes: "Flushes of the GPU's translations on this vGPU's account.",
    notices: "Invalidations that were announced.",
    invalidations: "Announced invalidations that were carried out.",
    revoked: "Entries that were pointed at scratch by them.",
    sweeps: "Times that some of the mappings were asked about although nobody had announced anything.",
    released: "Mappings given back to the hypervisor.",
    replaced: "Pages that were mapped afresh behind their bus frame, and whose predecessors are gone.",
    submissions: "Contexts submitted to the GPU.",
    completions: "Contexts that ran to their tail.",
    busy_us: "Microseconds that its work has had engines, all together.",
    dropped: "Submissions thrown away before they were looked at.",
    refusals: "Contexts that the audit refused.",
    gpu_errors: "Contexts on which the GPU stopped with an error.",
    overruns: "Contexts that were stopped at their deadline.",
    resets: "Resets of a physical engine on this vGPU's account.",
    guest_resets: "Resets that the guest asked for, per engine.",
    interrupts: "MSIs sent.",
    held: "Times that something was held for more to come, or for its time, before the guest was told.",
    unknown_registers: "Accesses to registers that nobody knows.",
    foreign_accesses: "Accesses to graphics memory or entries outside the slice.",
}

impl Stats {
    /// A number that changes whenever its guest works with it: submits, maps, or gives memory back.
    pub(crate) fn work(&self) -> u64 {
        let parts = [&self.submissions, &self.pte_writes, &self.mappings, &self.notices];
        parts.into_iter().map(Counter::get).fold(0, u64::wrapping_add)
    }

    /// A notice has been carried out, so long after it came.
    pub(crate) fn invalidated(&self, after: Duration) {
        self.invalidations.add(1);
        self.latencies.record(after);
    }
}

/// Highest latency told apart, in microseconds.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Latencies in microseconds, to two digits. The histogram is made when there is something to put in it.
#[derive(Debug, Default)]
struct Latencies(Mutex<Option<Histogram<u64>>>);

impl Latencies {
    fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
        let mut histogram = self.0.lock();
        if histogram.is_none() {
            *histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).ok();
        }
        if let Some(histogram) = histogram.as_mut() {
            histogram.saturating_record(us);
        }
    }

    /// Median, 99th percentile, worst.
    fn get(&self) -> [u64; 3] {
        match self.0.lock().as_ref() {
            Some(h) => [h.value_at_quantile(0.5), h.value_at_quantile(0.99), h.max()],
            None => [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_in_microseconds() {
        let stats = Stats::default();
        assert_eq!(stats.snapshot().invalidation_max_us, 0);
        for ms in [1, 1, 1, 50] {
            stats.invalidated(Duration::from_millis(ms));
        }
        let s = stats.snapshot();
        assert_eq!(s.invalidations, 4);
        assert!((990..=1010).contains(&s.invalidation_median_us), "{s:?}");
        assert!((49_500..=50_500).contains(&s.invalidation_max_us), "{s:?}");
    }
}
