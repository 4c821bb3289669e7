//! What `i915-paint` draws in a guest, and how dom0 gets to see it.

use super::{Checks, said};
use crate::scenario::Run;
use crate::screen::Picture;

/// What `mgpu serve` lets a picture take, in ms: it is drawn by an emulated processor that others share, on a host that others may
/// share.
pub(super) const DEADLINE_MS: u32 = 20_000;

/// As in `c/i915-paint.c`.
const SIZE: (usize, usize) = (512, 256);
const TILE: usize = 32;
/// Where the copy is: what dom0 asks mgpu for.
const COPY: &str = "0x7f0000000000 512x256";

/// Lines of dom0's script that take a picture of what the guest shows, and then tell it to shut down.
pub(super) fn taken(guest: &str, control: &str) -> String {
    taken_as(guest, "", &format!("{guest}-surface"), control)
}

/// The same of what this painter of the guest's shows, recorded by another name.
pub(super) fn taken_as(guest: &str, painter: &str, record: &str, control: &str) -> String {
    format!(
        "spoke {guest} 60 '{painter} shows '\n\
         record {record} mgpu ask {control} surface {COPY}\n\
         xl shutdown {guest}\n"
    )
}

/// No picture that the guest painted was wrong to it, and the last one is [shown](shown).
pub(super) fn right(run: &Run, log: &str, guest: &str, name: &str, pictures: &str, checks: &mut Checks) {
    all_right(log, name, checks);
    shown(run, guest, name, pictures, checks);
}

/// No picture that the guest painted was wrong to it.
pub(super) fn all_right(log: &str, name: &str, checks: &mut Checks) {
    let painted = said(log, &format!("{name} pictures ")).unwrap_or_default();
    checks.that(painted.ends_with(" wrong 0"), format!("every picture is right ({painted})"));
}

/// The picture of which the guest says that it shows it is there, pixel by pixel.
pub(super) fn shown(run: &Run, guest: &str, name: &str, pictures: &str, checks: &mut Checks) {
    shown_as(run, guest, name, &format!("{guest}-surface"), pictures, checks);
}

/// The same of one [recorded](taken_as) by another name.
pub(super) fn shown_as(
    run: &Run,
    guest: &str,
    name: &str,
    record: &str,
    pictures: &str,
    checks: &mut Checks,
) {
    checks.succeeded(run, record);
    let said_where = run.text(&format!("{record}.out"));
    let whole = said_where.trim_end().ends_with("(0 pages not there)");
    checks.that(whole, format!("all of the picture is there ({})", said_where.trim_end()));
    let file = said_where.split(' ').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let png = run.results.get(&format!("{pictures}/{file}"));
    let picture = png.map(|png| Picture::from_png(png));
    let number = said(&run.text(&format!("guest-{guest}.log")), &format!("{name} shows "))
        .and_then(|n| n.parse().ok());
    let what = "the picture in dom0 is what the guest's blitter was told to draw, all pixels";
    match (picture, number) {
        (Some(Ok(picture)), Some(number)) => {
            checks.that(picture.size() == SIZE, "the picture has its size");
            let wrong = difference(&picture, number);
            checks.equal(what, wrong, None);
        }
        (picture, number) => {
            checks.that(false, format!("{what} ({:?}, number {number:?})", picture.map(|p| p.err())))
        }
    }
}

/// The first pixel that is not as in picture `number`.
fn difference(picture: &Picture, number: usize) -> Option<(usize, usize)> {
    let (columns, rows) = (SIZE.0 / TILE, SIZE.1 / TILE);
    let places = (0..SIZE.1).flat_map(|y| (0..SIZE.0).map(move |x| (x, y)));
    places.zip(picture.pixels()).find_map(|((x, y), pixel)| {
        // Each tile has gone to the opposite place.
        let (column, row) = (columns - 1 - x / TILE, rows - 1 - y / TILE);
        let wanted = [15 + 16 * column, 31 + 32 * row, (37 * number + column * row) & 0xff];
        (wanted != pixel.map(usize::from)).then_some((x, y))
    })
}
