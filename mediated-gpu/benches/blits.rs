//! Fills and copies of the software GPU beside memset and memcpy of the same bytes.
//!
//! `cargo bench -p mediated-gpu --bench blits`. The figures that the project promises are `ratios`'.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mediated_gpu::gen8::blt::{Depth, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use mediated_gpu::physical::Engine;
use mediated_gpu::soft::rig::Rig;

const BYTES: u32 = 4 << 20;
/// Blits of one submission: a driver batches them too, and waking an engine is not what is looked at.
const BATCH: u32 = 8;

fn copy(dst: u64, src: u64, pitch: i16, rect: Rect) -> XySrcCopyBlt {
    let surface = |base| Surface { base, pitch, tiled: false };
    XySrcCopyBlt {
        write_alpha: true,
        write_rgb: true,
        depth: Depth::Bpp32,
        rop: ROP_SRCCOPY,
        clip: false,
        dst: surface(dst),
        rect,
        src: surface(src),
        src_x: 0,
        src_y: 0,
    }
}

fn blits(c: &mut Criterion) {
    let mut rig = Rig::new(Engine::Bcs, 3 * u64::from(BYTES)).expect("threads");
    let (a, b) = (Rig::FREE, Rig::FREE + u64::from(BYTES));
    let mut group = c.benchmark_group("4 MiB");
    group.throughput(Throughput::Bytes((BATCH * BYTES).into()));

    // Written before, so that every page is there.
    let mut memory = vec![1u8; 4 * BYTES as usize];
    let (to, from) = memory.split_at_mut(2 * BYTES as usize);
    let n = BYTES as usize;
    group.bench_function("memset", |x| {
        x.iter(|| (0..BATCH).for_each(|_| black_box(&mut to[..n]).fill(black_box(0x5a))));
    });
    group.bench_function("memset, half lines", |x| {
        let mut lines = || to.chunks_mut(4096).for_each(|l| black_box(&mut l[..2048]).fill(black_box(0x5a)));
        x.iter(|| (0..BATCH).for_each(|_| lines()));
    });
    group.bench_function("memcpy", |x| {
        x.iter(|| (0..BATCH).for_each(|_| black_box(&mut to[..n]).copy_from_slice(black_box(&from[..n]))));
    });
    group.bench_function("memcpy, half lines", |x| {
        let copy = |l: &mut [u8]| {
            let (left, right) = l.split_at_mut(2048);
            black_box(left).copy_from_slice(black_box(right));
        };
        x.iter(|| (0..BATCH).for_each(|_| to.chunks_mut(4096).for_each(copy)));
    });

    let whole = Rect { x1: 0, y1: 0, x2: 1024, y2: 1024 };
    // The same bytes as twice as many half lines, with a gap after each.
    let half = Rect { x1: 0, y1: 0, x2: 512, y2: 2048 };
    let shifted = copy(a + 64, b, 4096, Rect { y2: 1023, ..whole });
    for (name, commands) in [
        ("fill, whole lines", XyColorBlt::fill(a, 4096, whole, 0x1122_3344).encode().to_vec()),
        ("fill, half lines", XyColorBlt::fill(a, 4096, half, 0x1122_3344).encode().to_vec()),
        ("copy, whole lines", copy(a, b, 4096, whole).encode().to_vec()),
        ("copy, half lines of one surface", copy(a, a + 2048, 4096, half).encode().to_vec()),
        ("copy, pages at different offsets", shifted.encode().to_vec()),
    ] {
        let commands: Vec<u32> = (0..BATCH).flat_map(|_| commands.clone()).collect();
        group.bench_function(name, |x| x.iter(|| rig.run(&commands).expect("runs")));
    }
    group.finish();
}

criterion_group!(benches, blits);
criterion_main!(benches);
