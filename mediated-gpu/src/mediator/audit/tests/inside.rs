//! Whatever a guest puts into ring and batch, what comes out stays inside, by a second table of what reaches where.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_passes_stays_inside(ring_dwords in commands(6), body in commands(20)) {
        let mut pages = Pages::default();
        pages.put(BATCH, &[0; 4096]);
        pages.put(BATCH, &body);
        for engine in [Engine::Bcs, Engine::Rcs] {
            if let Ok(audited) = audit_on(engine, &pages, &ring_dwords) {
                for commands in [&audited.ring, &audited.batches] {
                    check(engine, commands);
                }
            }
        }
    }
}

/// Up to `most` commands: whole ones with fields that often make sense, whole ones with any, and dwords of no command.
fn commands(most: usize) -> impl Strategy<Value = Vec<u32>> {
    let headers = vec![
        MI_NOOP,
        MI_USER_INTERRUPT,
        0x0680_0082, // MI_PREDICATE
        0x0080_000f, // MI_SET_PREDICATE
        0x0d00_0001, // MI_MATH
        0x0e40_c002, // MI_SEMAPHORE_WAIT
        0x1040_0002, // MI_STORE_DATA_IMM
        0x1000_0002,
        0x1060_0003,
        0x10a0_0001, // MI_STORE_DATA_INDEX
        0x1100_0001, // MI_LOAD_REGISTER_IMM
        0x1100_0003,
        0x1240_0002, // MI_STORE_REGISTER_MEM
        0x1300_4002, // MI_FLUSH_DW
        0x1320_4002,
        0x1300_c003,
        0x14c0_0002, // MI_LOAD_REGISTER_MEM
        0x1500_0001, // MI_LOAD_REGISTER_REG
        0x1760_0003, // MI_COPY_MEM_MEM
        0x17c0_0701, // MI_ATOMIC
        0x17c4_0703,
        0x17cc_2705,
        0x1880_0001, // MI_BATCH_BUFFER_START
        0x18c0_0001,
        0x1b60_0002, // MI_CONDITIONAL_BATCH_BUFFER_END
        0x40c0_0001, // XY_SETUP_CLIP_BLT
        0x5080_0008, // XY_FAST_COPY_BLT
        0x5090_4008,
        0x5430_0005, // XY_COLOR_BLT
        0x5430_0805,
        0x54f0_0008, // XY_SRC_COPY_BLT
        0x54f0_8808,
        0x7a00_0004, // PIPE_CONTROL
    ];
    let whole = (prop::sample::select(headers), prop::collection::vec(field(), 16), bits()).prop_map(
        |(header, fields, flip)| {
            let length = cmd::decode(header).map_or(1, |d| d.dwords as usize);
            [&[header ^ flip], &fields[..length - 1]].concat()
        },
    );
    let one = prop_oneof![6 => whole, 1 => prop::collection::vec(any::<u32>(), 1..3)];
    (prop::collection::vec(one, 0..most), any::<bool>()).prop_map(|(commands, end)| {
        let mut dwords = commands.concat();
        dwords.extend(end.then_some(MI_BATCH_BUFFER_END));
        dwords
    })
}

/// Bits that are turned over in a header: mostly none.
fn bits() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(0), 1 => (0u32..32).prop_map(|n| 1 << n)]
}

fn field() -> impl Strategy<Value = u32> {
    let addresses = vec![
        OWN as u32,
        OWN as u32 + 4,
        BATCH as u32,
        BATCH as u32 + 16,
        FOREIGN as u32,
        SLICE.low.base as u32 - 8,
        SLICE.low.end() as u32 - 8,
        SLICE.low.end() as u32 - 0x1000,
        SLICE.high.base as u32,
    ];
    let registers = vec![0x22200, 0x22600, 0x2600, 0x2418, 0x22080, 0x22358, 0x7300];
    prop_oneof![
        5 => prop::sample::select(addresses),
        3 => Just(0),
        2 => 0u32..0x20,
        2 => prop::sample::select(registers),
        2 => prop::sample::select(vec![0x03f0_0040, 0x03cc_0080, 0x0300_0080, 0x0008_0008, 0x0020_0020]),
        1 => any::<u32>(),
    ]
}

/// A second look at what came out, with another table of what reaches where.
fn check(engine: Engine, commands: &[u32]) {
    let mut rest = commands;
    while let Some(&header) = rest.first() {
        let decoded = cmd::decode(header).unwrap();
        let (c, after) = rest.split_at(decoded.dwords as usize);
        rest = after;
        let inside = |lo: u32, hi: u32, len: u64| {
            let addr = u64::from(hi) << 32 | u64::from(lo);
            assert!(SLICE.contains(addr, len), "{c:x?}");
        };
        let written = |register: u32| {
            let own = register & !0xfff == engine.mmio_base() & !0xfff;
            let rel = register - (engine.mmio_base() & !0xfff) - (engine.mmio_base() & 0xfff);
            assert!(own && matches!(rel, 0x200 | 0x214 | 0x400..0x420 | 0x600..0x680), "{c:x?}");
        };
        match (header >> 29, header >> 23 & 0x3f) {
            (0, 0x00 | 0x01 | 0x05 | 0x08 | 0x0a | 0x0c | 0x1a) => {}
            (0, 0x20) => inside(c[1], c[2], 4 * (c.len() as u64 - 3)),
            (0, 0x22) => c[1..].iter().step_by(2).for_each(|register| written(*register)),
            (0, 0x29) => {
                written(c[1]);
                inside(c[2], c[3], 4);
            }
            (0, 0x2a) => written(c[2]),
            (0, 0x1c | 0x24 | 0x36) => inside(c[2], c[3], 4),
            (0, 0x2e) => {
                inside(c[1], c[2], 4);
                inside(c[3], c[4], 4);
            }
            (0, 0x2f) => inside(c[1], c[2], if header >> 19 & 3 == 0 { 4 } else { 8 }),
            (0, 0x26) if header >> 14 & 3 == 0 => {}
            (0, 0x26) => inside(c[1] & !4, c[2], 4),
            (0, 0x31) => {
                let addr = u64::from(c[2]) << 32 | u64::from(c[1]);
                assert!((BASE..BASE + LIMIT as u64).contains(&addr) && addr % 64 == 0, "{c:x?}");
            }
            (3, _) if c[1] >> 14 & 3 == 0 => {}
            (3, _) => inside(c[2], c[3], 8),
            (2, _) => blit(c),
            _ => panic!("{c:x?} came out"),
        }
    }
}

/// Every corner of a blit's rectangles, pixel by pixel, with each kind of tiles that the command may mean.
fn blit(c: &[u32]) {
    let half = |d: u32, n: u32| i64::from((d >> (16 * n)) as u16 as i16);
    let fast = c[0] >> 22 & 0x7f == 0x42;
    let bytes = match (fast, c[1] >> 24 & 7) {
        (_, _) if c.len() == 3 => return,
        (true, n) => [1, 2, 0, 4, 8, 16][n as usize],
        (false, n) => [1, 2, 2, 4][n as usize & 3],
    };
    let (w, h) = (half(c[3], 0) - half(c[2], 0), half(c[3], 1) - half(c[2], 1));
    assert!(w > 0 && h > 0 && bytes > 0);
    let surface = |tiled: u32, lo: u32, hi: u32, pitch: i64, x: i64, y: i64| {
        let kinds: &[u32] = match (fast, tiled) {
            (_, 0) => &[0],
            (true, kind) => &[kind],
            (false, _) => &[1, 2],
        };
        let base = (u64::from(hi) << 32 | u64::from(lo)) as i64;
        for kind in kinds {
            for (x, y) in
                [(x, y), (x + w - 1, y), (x, y + h - 1), (x + w - 1, y + h - 1), (x + w / 2, y + h / 2)]
            {
                for byte in [x * bytes, x * bytes + bytes - 1] {
                    let at = base + address(*kind, pitch, byte, y);
                    assert!(at >= 0 && SLICE.contains(at as u64, 1), "{c:x?}: {at:#x}");
                }
            }
        }
    };
    let (to, from) = if fast { (c[0] >> 13 & 3, c[0] >> 20 & 3) } else { (c[0] >> 11 & 1, c[0] >> 15 & 1) };
    surface(to, c[4], c[5], half(c[1], 0), half(c[2], 0), half(c[2], 1));
    if c.len() == 10 {
        surface(from, c[8], c[9], half(c[7], 0), half(c[6], 0), half(c[6], 1));
    }
}

/// Where byte `x` of line `y` lies: linear, in X-major or Y-major tiles. Pitches of tiles are told in dwords.
fn address(kind: u32, pitch: i64, x: i64, y: i64) -> i64 {
    let (wide, high) = match kind {
        0 => return y * pitch + x,
        1 => (512, 8),
        _ => (128, 32),
    };
    let tile = y.div_euclid(high) * (4 * pitch / wide) + x.div_euclid(wide);
    let (x, y) = (x.rem_euclid(wide), y.rem_euclid(high));
    4096 * tile + if kind == 1 { y * 512 + x } else { x / 16 * 512 + y * 16 + x % 16 }
}
