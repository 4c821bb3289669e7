//! The software GPU's fill, copy and tiled copies of 4 MiB surfaces, against `memset` and `memcpy` of the same bytes.
//!
//! One submission a surface; the surface's pages lie scattered over memory as a guest's do, the peer has one
//! contiguous buffer. The GPU's time runs from the submission until its engine is idle.

use std::hint::black_box;

use mediated_gpu::gen8::blt::{
    Depth, FastDepth, FastSurface, FastTiling, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XyFastCopyBlt,
    XySrcCopyBlt,
};
use mediated_gpu::physical::Engine;
use mediated_gpu::soft::rig::Rig;

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &[
    "soft-fill",
    "soft-copy",
    "soft-to-x",
    "soft-from-x",
    "soft-to-y",
    "soft-from-y",
    "soft-x-to-y",
    "soft-y-to-y",
];

/// XY_FAST_COPY_BLT between tilings: destination and source.
const TILED: [(&str, FastTiling, FastTiling); 6] = [
    ("soft-to-x", FastTiling::X, FastTiling::Linear),
    ("soft-from-x", FastTiling::Linear, FastTiling::X),
    ("soft-to-y", FastTiling::Y, FastTiling::Linear),
    ("soft-from-y", FastTiling::Linear, FastTiling::Y),
    ("soft-x-to-y", FastTiling::Y, FastTiling::X),
    ("soft-y-to-y", FastTiling::Y, FastTiling::Y),
];

const ROUNDS: usize = 41;
/// Surfaces in a round.
const TIMES: u32 = 8;
const BYTES: usize = 4 << 20;
const PITCH: i16 = 4096;
/// 1024 lines of 1024 pixels of 4 bytes.
const WHOLE: Rect = Rect { x1: 0, y1: 0, x2: 1024, y2: 1024 };

fn figure(name: &'static str, least: f64, peer_name: &str, (ratio, ours, peer): (f64, f64, f64)) -> Figure {
    // interleave gives ours / peer in seconds; as a speed it is the other way round.
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let gib = |s: f64| f64::from(TIMES) * BYTES as f64 / s / (1u64 << 30) as f64;
    let detail = format!("{:.2} GiB/s, {peer_name} {:.2} GiB/s", gib(ours), gib(peer));
    Figure { name, ratio: 1.0 / ratio, target: Target::AtLeast(least), detail }
}

/// Measures both.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let base = Rig::FREE;
    let second = base + BYTES as u64;
    let mut rig = Rig::new(Engine::Bcs, 2 * BYTES as u64).map_err(|e| e.to_string())?;
    let mut failed = None;
    let mut on_gpu = |commands: &dyn Fn(u32) -> Vec<u32>| {
        seconds(|| {
            for i in 0..TIMES {
                if let Err(e) = rig.run(&commands(i)) {
                    failed = Some(e.to_string());
                }
            }
        })
    };
    let fill = |i| XyColorBlt::fill(base, PITCH, WHOLE, 0x0101_0101 * (i & 0xff)).encode().to_vec();
    let copy = |_| {
        let at = |base| Surface { base, pitch: PITCH, tiled: false };
        let blt = XySrcCopyBlt {
            write_alpha: true,
            write_rgb: true,
            depth: Depth::Bpp32,
            rop: ROP_SRCCOPY,
            clip: false,
            dst: at(second),
            rect: WHOLE,
            src: at(base),
            src_x: 0,
            src_y: 0,
        };
        blt.encode().to_vec()
    };

    let mut to = vec![1u8; BYTES];
    let from = vec![2u8; BYTES];
    let fills = interleave(
        ROUNDS,
        || on_gpu(&fill),
        || {
            seconds(|| {
                for i in 0..TIMES {
                    black_box(&mut to).fill(black_box(i.to_le_bytes()[0]));
                }
            })
        },
    );
    let copies = interleave(
        ROUNDS,
        || on_gpu(&copy),
        || {
            seconds(|| {
                for _ in 0..TIMES {
                    black_box(&mut to).copy_from_slice(black_box(&from));
                }
            })
        },
    );
    let mut figures =
        vec![figure("soft-fill", 0.8, "memset", fills), figure("soft-copy", 0.8, "memcpy", copies)];
    for (name, dst, src) in TILED {
        let surface = |base, tiling| {
            let pitch = if tiling == FastTiling::Linear { PITCH } else { PITCH / 4 };
            FastSurface { base, pitch, tiling }
        };
        let blt = XyFastCopyBlt {
            depth: FastDepth::Bpp32,
            dst: surface(second, dst),
            rect: WHOLE,
            src: surface(base, src),
            src_x: 0,
            src_y: 0,
        };
        let measured = interleave(
            ROUNDS,
            || on_gpu(&|_| blt.encode().to_vec()),
            || {
                seconds(|| {
                    for _ in 0..TIMES {
                        black_box(&mut to).copy_from_slice(black_box(&from));
                    }
                })
            },
        );
        figures.push(figure(name, 0.4, "memcpy", measured));
    }
    if let Some(why) = failed {
        return Err(why);
    }
    // What was measured must have happened.
    let last = XyColorBlt::fill(base, PITCH, WHOLE, 0x5a5a_5a5a).encode();
    rig.run(&last).and_then(|()| rig.run(&copy(0))).map_err(|e| e.to_string())?;
    if rig.read32(second + BYTES as u64 - 4) != 0x5a5a_5a5a {
        return Err("the copy's last pixel is wrong".into());
    }
    Ok(figures)
}
