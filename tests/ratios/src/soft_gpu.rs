//! The software GPU's fill, copy and tiled copies of 4 MiB surfaces, against `memset` and `memcpy` of the same bytes.
//!
//! One submission a surface, [`IN_FLIGHT`] of them in flight, the thread that submits asleep meanwhile; a round runs from the
//! first submission until the last surface is done. The `-alone` figures have each surface waited for before the next is
//! submitted. The surfaces' pages lie scattered over memory as a guest's do, the peer has one contiguous buffer. The blitter has a
//! helper, as there is nothing else to do here.

use std::hint::black_box;

use mediated_gpu::gen8::blt::{
    Depth, FastDepth, FastSurface, FastTiling, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XyFastCopyBlt,
    XySrcCopyBlt,
};
use mediated_gpu::physical::Engine;
use mediated_gpu::soft::rig::{Rig, Stopped};
use mediated_gpu::soft::{ClockKind, SoftGpuConfig};

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &[
    "soft-fill",
    "soft-fill-alone",
    "soft-copy",
    "soft-copy-alone",
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
/// Surfaces in a round: what its begin and its end cost is little beside them.
const TIMES: u32 = 32;
/// Submissions in flight.
const IN_FLIGHT: u32 = 4;
const BYTES: usize = 4 << 20;
const PITCH: i16 = 4096;
/// 1024 lines of 1024 pixels of 4 bytes.
const WHOLE: Rect = Rect { x1: 0, y1: 0, x2: 1024, y2: 1024 };

/// How surfaces are given to the GPU.
#[derive(Clone, Copy)]
enum Given {
    Queued,
    OneByOne,
}

/// A round of the GPU's: the seconds of all surfaces.
fn round(rig: &mut Rig, given: Given, commands: &dyn Fn(u32) -> Vec<u32>) -> Result<f64, Stopped> {
    let mut done = Ok(());
    let took = seconds(|| {
        done = match given {
            Given::Queued => (0..TIMES)
                .try_for_each(|i| rig.queue(&commands(i), IN_FLIGHT))
                .and_then(|()| rig.wait_queued(0)),
            Given::OneByOne => (0..TIMES).try_for_each(|i| rig.run(&commands(i))),
        };
    });
    done.map(|()| took)
}

/// Measures one figure.
fn figure(
    name: &'static str,
    target: Target,
    rig: &mut Rig,
    (given, commands): (Given, &dyn Fn(u32) -> Vec<u32>),
    (peer_name, peer): (&str, &mut dyn FnMut(u32)),
) -> Result<Figure, String> {
    let mut failed = None;
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || {
            round(rig, given, commands).unwrap_or_else(|e| {
                failed = Some(e.to_string());
                f64::NAN
            })
        },
        || seconds(|| (0..TIMES).for_each(&mut *peer)),
    );
    if let Some(why) = failed {
        return Err(why);
    }
    // interleave gives ours / peer in seconds; as a speed it is the other way round.
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let gib = |s: f64| f64::from(TIMES) * BYTES as f64 / s / (1u64 << 30) as f64;
    let detail = format!("{:.2} GiB/s, {peer_name} {:.2} GiB/s", gib(ours), gib(peer));
    Ok(Figure { name, ratio: 1.0 / ratio, target, detail })
}

/// Measures all.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let base = Rig::FREE;
    let second = base + BYTES as u64;
    let config = SoftGpuConfig { helpers: 1, clock: ClockKind::Counted, ..SoftGpuConfig::default() };
    let mut rig = Rig::with(Engine::Bcs, 2 * BYTES as u64, config).map_err(|e| e.to_string())?;
    let fill = |i| XyColorBlt::fill(base, PITCH, WHOLE, 0x0101_0101 * (i & 0xff)).encode().to_vec();
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
    let copy = |_| blt.encode().to_vec();

    let (mut set, mut to, from) = (vec![1u8; BYTES], vec![1u8; BYTES], vec![2u8; BYTES]);
    let mut memset = |i: u32| black_box(&mut set).fill(black_box(i.to_le_bytes()[0]));
    let mut memcpy = |_| black_box(&mut to).copy_from_slice(black_box(&from));
    let mut figures = Vec::new();
    for (name, target, given) in [
        ("soft-fill", Target::AtLeast(0.8), Given::Queued),
        ("soft-fill-alone", Target::Told, Given::OneByOne),
    ] {
        figures.push(figure(name, target, &mut rig, (given, &fill), ("memset", &mut memset))?);
    }
    for (name, target, given) in [
        ("soft-copy", Target::AtLeast(0.8), Given::Queued),
        ("soft-copy-alone", Target::Told, Given::OneByOne),
    ] {
        figures.push(figure(name, target, &mut rig, (given, &copy), ("memcpy", &mut memcpy))?);
    }
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
        let commands = |_| blt.encode().to_vec();
        let (target, given) = (Target::AtLeast(0.4), Given::Queued);
        figures.push(figure(name, target, &mut rig, (given, &commands), ("memcpy", &mut memcpy))?);
    }
    // What was measured must have happened.
    let last = XyColorBlt::fill(base, PITCH, WHOLE, 0x5a5a_5a5a).encode();
    rig.run(&last).and_then(|()| rig.run(&copy(0))).map_err(|e| e.to_string())?;
    if rig.read32(second + BYTES as u64 - 4) != 0x5a5a_5a5a {
        return Err("the copy's last pixel is wrong".into());
    }
    Ok(figures)
}
