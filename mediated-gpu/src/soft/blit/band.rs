//! Copies and fills of many bytes at once.
//!
//! All pages of some bands are looked up together, then drawn in without another look, in an order that suits both sides, each
//! band by one thread. What does not fit (a page that leads nowhere, a column of a tile that is not whole) is left to the
//! caller, who does it piece by piece.

use std::ops::Range;

use super::super::page::{self, Page};
use super::super::stream::turned;
use super::super::strip::{self, Strip};
use super::super::team::Team;
use super::super::tlb::Tlb;
use super::action::Action;
use super::{Job, Side, checked};
use crate::bus::DmaAccess;
use crate::gen8::tiling::Tiling;
use smallvec::SmallVec;
use xen_ioreq::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

/// Bytes of a band's lines, at most: a page of a linear surface, or as many tiles as fill a step.
pub(super) const WIDTH: u64 = PAGE_SIZE as u64;
/// Lines of a band, at most: of a Y-major tile, or of four X-major ones.
pub(super) const HEIGHT: i64 = 32;
/// Bytes of a Y-major tile's line.
const CELL: usize = page::LINE;
/// Pieces that are worth to be told of: the CPU sees by itself what comes after a shorter one.
const TOLD: usize = 256;
/// Lines of a band that take no memory from the heap: a row of whole tiles has one.
const FEW: usize = 1;

/// Where a line of one side lies.
#[derive(Clone, Copy)]
struct Line {
    /// The page that it begins in, among those asked for. It goes on in the ones after that.
    page: usize,
    /// Its first byte within what a page has of a line.
    first: usize,
    /// Where a page's part of the line begins in the page.
    base: usize,
}

/// Where the lines of one side lie in the pages that were asked for.
struct Plane {
    /// Bytes that a page has of a line, as a power of two.
    shift: u32,
    lines: SmallVec<[Line; FEW]>,
}

impl Plane {
    /// Adds the pages of this side to `asked`, where those of its band begin at `band`. `None`: one lies before address 0.
    fn new(
        side: Side,
        columns: &Range<u64>,
        rows: impl Iterator<Item = u64>,
        access: DmaAccess,
        band: usize,
        asked: &mut Vec<(u64, DmaAccess)>,
    ) -> Option<Self> {
        let tiling = side.layout.tiling();
        let (wide, high) = match tiling {
            Tiling::Linear => (WIDTH, 1),
            tiled => (tiled.tile().0.into(), tiled.tile().1.into()),
        };
        let shift = wide.trailing_zeros();
        let mut last = None;
        let mut lines = SmallVec::with_capacity(rows.size_hint().0);
        for y in rows {
            let addr = checked(side.address(columns.start, y)).ok()?;
            let line = side.y.wrapping_add_unsigned(y);
            let (row, in_tile) = (line.div_euclid(high), line.rem_euclid(high).cast_unsigned());
            let first = match tiling {
                Tiling::Linear => addr & PAGE_MASK,
                _ => side.x.wrapping_add_unsigned(columns.start).cast_unsigned() & (wide - 1),
            };
            let base = match tiling {
                Tiling::Linear => 0,
                Tiling::X => in_tile * wide,
                Tiling::Y => in_tile * 16,
            };
            let page = match last {
                Some((of, page)) if tiling != Tiling::Linear && of == row => page,
                _ => {
                    let begin = asked.len() - band;
                    let pages = ((first + (columns.end - columns.start) - 1) >> shift) + 1;
                    asked.extend((0..pages).map(|n| ((addr & !PAGE_MASK) + (n << PAGE_SHIFT), access)));
                    begin
                }
            };
            last = Some((row, page));
            lines.push(Line { page, first: in_band(first), base: in_band(base) });
        }
        Some(Self { shift, lines })
    }

    /// The line's first byte.
    #[inline]
    fn start(&self, line: usize) -> Place {
        let Line { page, first, base } = self.lines[line];
        Place { page, at: base + first, base, room: (1 << self.shift) - first }
    }

    /// The beginning of the next line, or of this one if it is the last.
    #[inline]
    fn below(&self, line: usize) -> Place {
        self.start((line + 1).min(self.lines.len() - 1))
    }

    /// `n` bytes further on, at most to the end of the page's part.
    #[inline]
    fn step(&self, place: &mut Place, n: usize) {
        (place.at, place.room) = (place.at + n, place.room - n);
        if place.room == 0 {
            *place = Place { page: place.page + 1, at: place.base, room: 1 << self.shift, ..*place };
        }
    }

    /// The same, over as many ends of a page's part as there are. It may come to lie beyond the line's pages.
    #[inline]
    fn skip(&self, place: &mut Place, n: usize) {
        let mut left = n;
        while left > 0 {
            let here = left.min(place.room);
            self.step(place, here);
            left -= here;
        }
    }
}

/// A place in a line that lies in rows.
#[derive(Clone, Copy)]
struct Place {
    /// The page, among those asked for.
    page: usize,
    /// The offset in it.
    at: usize,
    /// Where its part of the line begins.
    base: usize,
    /// How many bytes of the line follow there.
    room: usize,
}

/// How a band is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Both sides have the same tiles, which are copied whole.
    Tiles,
    /// Cells of a Y-major tile's lines, to or from lines of another kind.
    Columns(strip::Way),
    /// Lines, in pieces that end where a page does on either side.
    Rows,
}

/// A band that can be drawn.
pub(super) struct Band {
    way: Way,
    /// Bytes of its lines.
    width: usize,
    /// Bytes of the rectangle's lines that lie before it.
    before: usize,
    dst: Plane,
    src: Option<Plane>,
    /// Its pages among those of all bands.
    pages: Range<usize>,
}

/// Bands that are drawn in one go, no two of them in the same bytes.
#[derive(Default)]
pub(super) struct Bands {
    bands: Vec<Band>,
    asked: Vec<(u64, DmaAccess)>,
}

impl Bands {
    pub(super) fn len(&self) -> usize {
        self.bands.len()
    }

    /// Forgets all, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.bands.clear();
        self.asked.clear();
    }

    /// Adds the band of these columns and rows of a rectangle, all rows in one row of Y-major tiles. It may be narrower: gives
    /// the bytes of its lines. `None`: there is no such band, or not for this action.
    pub(super) fn add(
        &mut self,
        job: Job,
        action: &Action,
        columns: Range<u64>,
        rows: Range<u64>,
    ) -> Option<u64> {
        let before = self.asked.len();
        let band = Band::new(job, columns, rows, &mut self.asked).filter(|band| action.draws(band));
        match band {
            Some(band) => {
                let width = band.width as u64;
                self.bands.push(band);
                Some(width)
            }
            None => {
                self.asked.truncate(before);
                None
            }
        }
    }

    /// Looks their pages up and draws them. `false`: nothing is done.
    pub(super) fn draw(&self, action: &Action, tlb: &mut Tlb, team: &mut Team) -> bool {
        let Some(pages) = tlb.together(&self.asked) else { return false };
        // The pages are held until all have drawn.
        team.each(self.bands.len(), &|n| {
            let band = |n: usize| self.bands.get(n).map(|band| (band, &pages[band.pages.clone()]));
            if let Some((here, own)) = band(n) {
                action.draw(here, own, band(n + 1));
            }
        });
        true
    }
}

impl Band {
    /// Whether bands are likely to be possible: where Y-major tiles are one side, cells of theirs are whole, and the other side
    /// has each of them in one piece.
    pub(super) fn fits(dst: Side, src: Side) -> bool {
        let cell = i64::from(Tiling::Y.tile().0);
        let whole = |s: Side| match s.layout.tiling() {
            Tiling::Linear => s.address(0, 0) % cell == 0 && i64::from(s.layout.pitch()) % cell == 0,
            _ => s.x % cell == 0,
        };
        match (dst.layout.tiling(), src.layout.tiling()) {
            (Tiling::Y, Tiling::Y) => whole(dst) && whole(src) && congruent(dst, src),
            (Tiling::Y, _) | (_, Tiling::Y) => whole(dst) && whole(src),
            _ => true,
        }
    }

    /// Adds its pages to `asked`, some of them even if there is no such band.
    fn new(
        job: Job,
        columns: Range<u64>,
        rows: Range<u64>,
        asked: &mut Vec<(u64, DmaAccess)>,
    ) -> Option<Self> {
        let Job { dst, src, .. } = job;
        let to = dst.layout.tiling();
        let from = src.map_or(Tiling::Linear, |src| src.layout.tiling());
        let (wide, high) = to.tile();
        let starts = |s: Side| {
            let (x, y) = (s.x.wrapping_add_unsigned(columns.start), s.y.wrapping_add_unsigned(rows.start));
            x % i64::from(wide) == 0 && y % i64::from(high) == 0
        };
        let width = columns.end - columns.start;
        let whole = to == from
            && to != Tiling::Linear
            && (rows.end - rows.start).is_multiple_of(high.into())
            && width >= wide.into()
            && starts(dst)
            && src.is_some_and(starts);
        let cells = |n: u64, of: u64| n - n % of;
        let (way, width) = match (to, from) {
            _ if whole => (Way::Tiles, cells(width, wide.into())),
            (Tiling::Y, Tiling::Y) => return None,
            (Tiling::Y, _) => (Way::Columns(strip::Way::ToTiles), cells(width, CELL as u64)),
            (_, Tiling::Y) => (Way::Columns(strip::Way::FromTiles), cells(width, CELL as u64)),
            _ => (Way::Rows, width),
        };
        if width == 0 {
            return None;
        }
        let before = usize::try_from(columns.start).ok()?;
        let (columns, begin) = (columns.start..columns.start + width, asked.len());
        let step = if way == Way::Tiles { high as usize } else { 1 };
        let mut plane =
            |side, access| Plane::new(side, &columns, rows.clone().step_by(step), access, begin, asked);
        let dst = plane(dst, DmaAccess::Write)?;
        let src = match src {
            Some(src) => Some(plane(src, DmaAccess::Read)?),
            None => None,
        };
        Some(Self { way, width: usize::try_from(width).ok()?, before, dst, src, pages: begin..asked.len() })
    }

    /// Whether its lines lie in rows.
    pub(super) fn in_rows(&self) -> bool {
        self.way == Way::Rows
    }

    /// Copies it, if it has a source. `next`: the band that is copied after this one, and its pages.
    pub(super) fn copy(&self, pages: &[Page<'_>], next: Option<(&Self, &[Page<'_>])>) {
        let Some(src) = &self.src else { return };
        match self.way {
            Way::Tiles => {
                let (to, from) = pages.split_at(pages.len() / 2);
                for (n, (tile, source)) in to.iter().zip(from).enumerate() {
                    let ahead = [to, from].map(|side| side.get(n + 1).map(|page| page.ahead(0)));
                    tile.stream_from(0, source, 0, PAGE_SIZE, ahead);
                }
            }
            Way::Columns(way) => self.columns(pages, way, next),
            Way::Rows => self.rows(pages, src),
        }
    }

    /// Fills a band of lines in rows with a colour, whose four bytes repeat from the rectangle's first on.
    pub(super) fn fill(&self, pages: &[Page<'_>], color: u32) {
        for line in 0..self.dst.lines.len() {
            let (mut to, mut done) = (self.dst.start(line), 0);
            while done < self.width {
                let (here, n) = (to, to.room.min(self.width - done));
                let color = turned(color, self.before + done);
                self.dst.step(&mut to, n);
                done += n;
                let next = if done < self.width { to } else { self.dst.below(line) };
                pages[here.page].fill(here.at, n, color, Some(pages[next.page].ahead(next.at)));
            }
        }
    }

    /// Between lines in rows. While one is copied the CPU is told of the one below it: it lies in other pages, or so far on in this
    /// one that it is not foreseen.
    fn rows(&self, pages: &[Page<'_>], src: &Plane) {
        let long = self.width.min(1 << self.dst.shift).min(1 << src.shift) >= TOLD;
        for line in 0..self.dst.lines.len() {
            let (mut to, mut from, mut left) = (self.dst.start(line), src.start(line), self.width);
            let (mut to_below, mut from_below) = (self.dst.below(line), src.below(line));
            while left > 0 {
                let (d, s, n) = (to, from, to.room.min(from.room).min(left));
                self.dst.step(&mut to, n);
                src.step(&mut from, n);
                left -= n;
                if !long {
                    pages[d.page].copy_from(d.at, &pages[s.page], s.at, n);
                    continue;
                }
                let ahead = [to_below, from_below].map(|p| pages.get(p.page).map(|page| page.ahead(p.at)));
                pages[d.page].stream_from(d.at, &pages[s.page], s.at, n, ahead);
                self.dst.skip(&mut to_below, n);
                src.skip(&mut from_below, n);
            }
        }
    }

    /// Between Y-major tiles and lines in rows. `next`: the band that is drawn after this one, and its pages.
    fn columns(&self, pages: &[Page<'_>], way: strip::Way, next: Option<(&Self, &[Page<'_>])>) {
        let Some(mut beside) = Beside::new(self, pages, way) else { return };
        let after = next.and_then(|(band, pages)| Beside::new(band, pages, way));
        let after = after.and_then(|mut beside| Some((beside.tiles.first()?, beside.next()?)));
        let mut strip = beside.next();
        while let Some(here) = strip {
            let (tiles, rest) = beside.tiles.split_at(here.tiles());
            beside.tiles = rest;
            strip = beside.next();
            let then = rest.first().zip(strip.as_ref());
            let then = then.or(after.as_ref().map(|(tile, strip)| (*tile, strip)));
            here.copy(tiles, beside.offset, way, then);
        }
    }
}

/// What lies beside Y-major tiles, strip by strip.
struct Beside<'a> {
    plain: &'a Plane,
    pages: &'a [Page<'a>],
    /// Where each line goes on.
    places: SmallVec<[Place; strip::LINES]>,
    /// The tiles that are not done.
    tiles: &'a [Page<'a>],
    /// Where the first line begins in each of them.
    offset: usize,
    /// Tiles for which there has been no strip.
    left: usize,
}

impl<'a> Beside<'a> {
    /// `None`: it has no tiles.
    fn new(band: &'a Band, pages: &'a [Page<'a>], way: strip::Way) -> Option<Self> {
        let src = band.src.as_ref()?;
        let (tiled, plain) = match way {
            strip::Way::ToTiles => (&band.dst, src),
            strip::Way::FromTiles => (src, &band.dst),
        };
        // All of a band's lines are in one row of tiles.
        let &Line { page, base: offset, .. } = tiled.lines.first()?;
        let left = band.width / CELL;
        let tiles = pages.get(page..page + left)?;
        let places = (0..plain.lines.len()).map(|line| plain.start(line)).collect();
        Some(Self { plain, pages, places, tiles, offset, left })
    }

    /// As many tiles' bytes as all lines have in one piece.
    fn next(&mut self) -> Option<Strip<'a>> {
        let room = self.places.iter().map(|p| p.room / CELL).min()?;
        let tiles = room.max(1).min(self.left);
        if tiles == 0 {
            return None;
        }
        self.left -= tiles;
        let pages = self.pages;
        let strip = Strip::new(tiles, self.places.iter().map(|p| (&pages[p.page], p.at)));
        self.places.iter_mut().for_each(|p| self.plain.step(p, tiles * CELL));
        Some(strip)
    }
}

/// Whether two surfaces of one tiling have their tiles at the same places of the rectangle.
fn congruent(a: Side, b: Side) -> bool {
    let (wide, high) = a.layout.tiling().tile();
    (a.x - b.x) % i64::from(wide) == 0 && (a.y - b.y) % i64::from(high) == 0
}

/// Something within a page.
fn in_band(n: u64) -> usize {
    n.min(WIDTH) as usize
}
