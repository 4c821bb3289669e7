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

/// Names of the figures of fills.
pub(crate) const FILLS: &[&str] = &["soft-fill", "soft-fill-alone"];
/// Of copies.
pub(crate) const COPIES: &[&str] = &["soft-copy", "soft-copy-alone"];
/// Of copies between tilings.
pub(crate) const TILINGS: &[&str] =
    &["soft-to-x", "soft-from-x", "soft-to-y", "soft-from-y", "soft-x-to-y", "soft-y-to-y"];

/// XY_FAST_COPY_BLT between tilings: destination and source, in the order of [`TILINGS`].
const TILED: [(FastTiling, FastTiling); 6] = [
    (FastTiling::X, FastTiling::Linear),
    (FastTiling::Linear, FastTiling::X),
    (FastTiling::Y, FastTiling::Linear),
    (FastTiling::Linear, FastTiling::Y),
    (FastTiling::Y, FastTiling::X),
    (FastTiling::Y, FastTiling::Y),
];

const ROUNDS: usize = 41;
/// Surfaces in a round: what its begin and its end cost is little beside them. The first two or three are out of the caches, since
/// the other side had them for some milliseconds: on both sides they take as long as ten others.
const TIMES: u32 = 128;
/// Submissions in flight.
const IN_FLIGHT: u32 = 4;
const BYTES: usize = 4 << 20;
/// Graphics addresses of the two surfaces.
const FIRST: u64 = Rig::FREE;
const SECOND: u64 = FIRST + BYTES as u64;
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

/// A fill of the surface at `base` with four bytes of `value`.
fn fill(base: u64, value: u32) -> Vec<u32> {
    XyColorBlt::fill(base, PITCH, WHOLE, 0x0101_0101 * value).encode().to_vec()
}

/// A copy of the first surface to the second.
fn copy() -> Vec<u32> {
    let at = |base| Surface { base, pitch: PITCH, tiled: false };
    let blt = XySrcCopyBlt {
        write_alpha: true,
        write_rgb: true,
        depth: Depth::Bpp32,
        rop: ROP_SRCCOPY,
        clip: false,
        dst: at(SECOND),
        rect: WHOLE,
        src: at(FIRST),
        src_x: 0,
        src_y: 0,
    };
    blt.encode().to_vec()
}

/// The same between tilings.
fn tiled_copy(to: FastTiling, from: FastTiling) -> Vec<u32> {
    let surface = |base, tiling| {
        let pitch = if tiling == FastTiling::Linear { PITCH } else { PITCH / 4 };
        FastSurface { base, pitch, tiling }
    };
    let blt = XyFastCopyBlt {
        depth: FastDepth::Bpp32,
        dst: surface(SECOND, to),
        rect: WHOLE,
        src: surface(FIRST, from),
        src_x: 0,
        src_y: 0,
    };
    blt.encode().to_vec()
}

/// A GPU with two surfaces.
fn rig() -> Result<Rig, String> {
    let config = SoftGpuConfig { helpers: 1, clock: ClockKind::Counted, ..SoftGpuConfig::default() };
    Rig::with(Engine::Bcs, 2 * BYTES as u64, config).map_err(|e| e.to_string())
}

/// Whether what is measured happens: the last pixel is right after it.
fn draws(rig: &mut Rig, commands: &[Vec<u32>], surface: u64, value: u32) -> Result<(), String> {
    for commands in commands {
        rig.run(commands).map_err(|e| e.to_string())?;
    }
    match rig.read32(surface + BYTES as u64 - 4) {
        pixel if pixel == 0x0101_0101 * value => Ok(()),
        pixel => Err(format!("the last pixel is {pixel:#x}")),
    }
}

/// Measures one kind of blit, with several in flight and one by one.
fn both(
    names: &[&'static str],
    rig: &mut Rig,
    commands: &dyn Fn(u32) -> Vec<u32>,
    (peer_name, peer): (&str, &mut dyn FnMut(u32)),
) -> Result<Vec<Figure>, String> {
    let targets = [(Target::AtLeast(0.8), Given::Queued), (Target::Told, Given::OneByOne)];
    let one = |(name, (target, given)): (&&'static str, _)| {
        figure(name, target, rig, (given, commands), (peer_name, &mut *peer))
    };
    names.iter().zip(targets).map(one).collect()
}

/// Measures fills.
pub(crate) fn fills() -> Result<Vec<Figure>, String> {
    let mut rig = rig()?;
    let mut set = vec![1u8; BYTES];
    let mut memset = |i: u32| black_box(&mut set).fill(black_box(i.to_le_bytes()[0]));
    let figures = both(FILLS, &mut rig, &|i| fill(FIRST, i & 0xff), ("memset", &mut memset))?;
    draws(&mut rig, &[fill(FIRST, 0x5a)], FIRST, 0x5a)?;
    Ok(figures)
}

/// `memcpy` of so many bytes.
fn memcpy() -> impl FnMut(u32) {
    let (mut to, from) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    move |_| black_box(&mut to).copy_from_slice(black_box(&from))
}

/// Measures copies.
pub(crate) fn copies() -> Result<Vec<Figure>, String> {
    let (mut rig, mut memcpy) = (rig()?, memcpy());
    let figures = both(COPIES, &mut rig, &|_| copy(), ("memcpy", &mut memcpy))?;
    draws(&mut rig, &[fill(FIRST, 0x5a), copy()], SECOND, 0x5a)?;
    Ok(figures)
}

/// Measures copies between tilings.
pub(crate) fn tilings() -> Result<Vec<Figure>, String> {
    let (mut rig, mut memcpy) = (rig()?, memcpy());
    let mut figures = Vec::new();
    for (name, (to, from)) in TILINGS.iter().zip(TILED) {
        let (target, commands) = (Target::AtLeast(0.4), |_| tiled_copy(to, from));
        figures.push(figure(name, target, &mut rig, (Given::Queued, &commands), ("memcpy", &mut memcpy))?);
        // The last pixel of a surface is its last one in every tiling.
        draws(&mut rig, &[fill(FIRST, 0x5a), tiled_copy(to, from)], SECOND, 0x5a)?;
        draws(&mut rig, &[fill(FIRST, 0x5b), tiled_copy(to, from)], SECOND, 0x5b)?;
    }
    Ok(figures)
}
