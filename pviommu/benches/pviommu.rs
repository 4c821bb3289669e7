//! To look closer at what `ratios` measures: allocator, table, soft IOMMU, one invalidation, at many sizes.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use pviommu::{BfnAllocator, BfnBlock, BfnSpace, Client, Config, DeviceFlush, Guest, Mapped, Ports};
use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_cap, IOMMUOP_query_caps, IOMMUOP_unmap_foreign_page, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

/// A hypervisor that agrees to everything, at no cost.
struct Agrees;

impl IommuOp for Agrees {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        for op in ops {
            op.status = if op.subop_id > IOMMUOP_unmap_foreign_page { Errno::ENOSYS.status() } else { 0 };
            if op.subop_id == IOMMUOP_query_caps {
                op.flags = IOMMU_QUERY_map_cap;
            }
        }
        Ok(())
    }
}

struct NoDevice;

impl DeviceFlush for NoDevice {
    fn flush(&self) {}
}

fn guest_with(n: u64) -> (Client, Guest, Vec<Mapped>) {
    let config =
        Config { bfns: BfnSpace::new(Bfn(0)..Bfn(1 << 21)), max_per_guest: u32::MAX, ..Config::default() };
    let client = Client::start(Ports { iommu: Some(Arc::new(Agrees)), foreign: None }, config)
        .expect("an agreeable hypervisor");
    let guest = client.attach(DomId(1), IoServerId(0)).expect("a new guest");
    let gfns: Vec<Gfn> = (0..n).map(Gfn).collect();
    let held = guest.map(&gfns).into_iter().flatten().collect();
    (client, guest, held)
}

fn allocator(c: &mut Criterion) {
    let mut group = c.benchmark_group("alloc+free, a tenth of order 9");
    for live in [1_000usize, 10_000, 100_000, 1_000_000] {
        let space = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + (live as u64) * 128));
        let a = BfnAllocator::new(&space);
        let mut rng = fastrand::Rng::with_seed(1);
        let order = |rng: &mut fastrand::Rng| if rng.u8(0..10) == 0 { 9 } else { 0 };
        let mut blocks: Vec<BfnBlock> = (0..live).filter_map(|_| a.alloc(order(&mut rng))).collect();
        group.bench_function(BenchmarkId::from_parameter(live), |b| {
            b.iter(|| {
                let i = rng.usize(0..blocks.len());
                a.free(blocks.swap_remove(i));
                blocks.extend(a.alloc(order(&mut rng)));
            });
        });
    }
}

fn table(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit: map and put");
    for n in [1_000u64, 1_000_000] {
        let (_client, guest, _held) = guest_with(n);
        let mut rng = fastrand::Rng::with_seed(1);
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| black_box(guest.map_one(Gfn(rng.u64(0..n)))).map(Mapped::put));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("hit: map and put, in batches of 16");
    for n in [1_000u64, 1_000_000] {
        let (_client, guest, _held) = guest_with(n);
        let mut rng = fastrand::Rng::with_seed(1);
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter_batched_ref(
                || std::array::from_fn::<_, 16, _>(|_| Gfn(rng.u64(0..n))),
                |gfns| drop(black_box(guest.map(gfns))),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = c.benchmark_group("hit: map and put, beside threads that do the same");
    for beside in [0, 1, 3] {
        let (_client, guest, _held) = guest_with(1_000);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            for seed in 0..beside {
                let (guest, stop) = (&guest, &stop);
                s.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed + 2);
                    while !stop.load(Ordering::Relaxed) {
                        drop(black_box(guest.map_one(Gfn(rng.u64(0..1_000)))));
                    }
                });
            }
            let mut rng = fastrand::Rng::with_seed(1);
            group.bench_function(BenchmarkId::from_parameter(beside), |b| {
                b.iter(|| black_box(guest.map_one(Gfn(rng.u64(0..1_000)))).map(Mapped::put));
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
    let mut group = c.benchmark_group("one mapping: map, put, quiesce, release");
    for n in [1_000u64, 1_000_000] {
        let (client, guest, _held) = guest_with(n);
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter_batched(
                || guest.map_one(Gfn(n + 1)).ok().and_then(Mapped::put),
                |draining| client.release(client.quiesce(draining, &NoDevice).0),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut group = c.benchmark_group("one notice that names a bus frame");
    for n in [1_000u64, 1_000_000] {
        let (_client, guest, held) = guest_with(n);
        let mut rng = fastrand::Rng::with_seed(1);
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| {
                guest.notice(held[rng.usize(0..held.len())].bfn().0);
                guest.take_draining()
            });
        });
    }
}

criterion_group!(benches, allocator, table);
criterion_main!(benches);
