//! Which page is what: the driver's objects, one after another in the platform's RAM and in the GGTT slice.
//!
//! A page has a number (its place in that row); frame and GGTT address follow from it, so ballooning a page out and in
//! again changes neither.

use xen_ioreq::{Gfn, PAGE_SIZE};

use crate::context::CONTEXT_PAGES;
use crate::platform::{Platform, RamFault, nth_frame};
use crate::scene::{FRAME_BYTES, Texture};

const PAGE: u64 = PAGE_SIZE as u64;

/// Pages of the ring.
pub const RING_PAGES: u64 = 4;
/// Pages of the batch buffer.
pub const BATCH_PAGES: u64 = 16;
/// Pages of one framebuffer.
pub const FRAME_PAGES: u64 = (FRAME_BYTES as u64).div_ceil(PAGE);
/// Framebuffers: one is shown while the other is drawn.
pub const FRAMES: usize = 2;

/// Number of the first framebuffer's first page.
pub const FIRST_FRAME_PAGE: u64 = 1 + CONTEXT_PAGES + RING_PAGES + BATCH_PAGES;

/// An object: a run of page numbers, and of GGTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Number of the first page.
    pub first: u64,
    /// Length in pages.
    pub pages: u64,
    /// First byte in the GGTT.
    pub gm: u64,
}

/// A part of the GGTT that belongs to this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// What a page is for: tells what must be done again when its content is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Status page, context image or ring: the engine must be set up again.
    Engine,
    /// The batch.
    Batch,
    /// A texture.
    Texture(Texture),
    /// A framebuffer, by index.
    Frame(usize),
}

/// All objects.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Hardware status page.
    pub hwsp: Region,
    /// Context image.
    pub context: Region,
    /// Ring.
    pub ring: Region,
    /// Batch buffer.
    pub batch: Region,
    /// Framebuffers.
    pub frames: [Region; FRAMES],
    /// Textures, in the order of [`Texture::ALL`].
    pub textures: [Region; Texture::ALL.len()],
    /// Number of pages.
    pub pages: u64,
}

struct Cursor {
    page: u64,
    gm: u64,
    end: u64,
}

impl Cursor {
    fn take(&mut self, pages: u64) -> Option<Region> {
        let region = Region { first: self.page, pages, gm: self.gm };
        self.gm = self.gm.checked_add(pages.checked_mul(PAGE)?).filter(|&gm| gm <= self.end)?;
        self.page += pages;
        Some(region)
    }
}

impl Layout {
    /// Lays the objects out; textures go to the slice beyond the aperture where there is one, so that both kinds are
    /// used. `None`: a slice is too small.
    pub fn new(mappable: Slice, nonmappable: Slice) -> Option<Self> {
        let end = mappable.base.checked_add(mappable.size)?;
        let mut c = Cursor { page: 0, gm: mappable.base, end };
        let hwsp = c.take(1)?;
        let context = c.take(CONTEXT_PAGES)?;
        let ring = c.take(RING_PAGES)?;
        let batch = c.take(BATCH_PAGES)?;
        let mut frames = [hwsp; FRAMES];
        for frame in &mut frames {
            *frame = c.take(FRAME_PAGES)?;
        }
        if nonmappable.size > 0 {
            c.gm = nonmappable.base;
            c.end = nonmappable.base.checked_add(nonmappable.size)?;
        }
        let mut textures = [hwsp; Texture::ALL.len()];
        for (region, texture) in textures.iter_mut().zip(Texture::ALL) {
            *region = c.take(u64::from(texture.bytes()).div_ceil(PAGE))?;
        }
        Some(Self { hwsp, context, ring, batch, frames, textures, pages: c.page })
    }

    /// The object of a texture.
    pub fn texture(&self, texture: Texture) -> Region {
        self.textures[texture as usize]
    }

    /// What page number `page` is for, and its GGTT address. `None` beyond the last.
    pub fn page(&self, page: u64) -> Option<(Purpose, u64)> {
        let engine = [self.hwsp, self.context, self.ring].map(|r| (Purpose::Engine, r));
        let frames = [0, 1].map(|i| (Purpose::Frame(i), self.frames[i]));
        let textures = Texture::ALL.map(|t| (Purpose::Texture(t), self.texture(t)));
        let all = engine.into_iter().chain([(Purpose::Batch, self.batch)]).chain(frames).chain(textures);
        all.into_iter().find_map(|(purpose, r)| {
            let inside = page.checked_sub(r.first).filter(|&n| n < r.pages)?;
            Some((purpose, r.gm + inside * PAGE))
        })
    }
}

impl Region {
    /// Copies `bytes` into the object from byte `offset` on, by the CPU.
    pub fn write(
        &self,
        platform: &mut impl Platform,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> Result<(), RamFault> {
        while !bytes.is_empty() {
            let (gpa, room) = self.locate(platform, offset)?;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            platform.ram_write(gpa, now)?;
            offset += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Copies out of it.
    pub fn read(
        &self,
        platform: &mut impl Platform,
        mut offset: u64,
        out: &mut [u8],
    ) -> Result<(), RamFault> {
        let mut left = out;
        while !left.is_empty() {
            let (gpa, room) = self.locate(platform, offset)?;
            let (now, rest) = left.split_at_mut(room.min(left.len()));
            platform.ram_read(gpa, now)?;
            offset += now.len() as u64;
            left = rest;
        }
        Ok(())
    }

    /// Fills it with zeroes.
    pub fn clear(&self, platform: &mut impl Platform) -> Result<(), RamFault> {
        (0..self.pages).try_for_each(|p| self.write(platform, p * PAGE, &[0; PAGE_SIZE]))
    }

    /// Writes a dword at byte `offset`.
    pub fn write32(&self, platform: &mut impl Platform, offset: u64, value: u32) -> Result<(), RamFault> {
        self.write(platform, offset, &value.to_le_bytes())
    }

    /// Reads one.
    pub fn read32(&self, platform: &mut impl Platform, offset: u64) -> Result<u32, RamFault> {
        let mut b = [0; 4];
        self.read(platform, offset, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    /// Guest-physical address of byte `offset`, and the bytes left in its page.
    fn locate(&self, platform: &impl Platform, offset: u64) -> Result<(u64, usize), RamFault> {
        let page = offset / PAGE;
        let gfn = Some(page).filter(|&p| p < self.pages).and_then(|p| frame(platform, self.first + p));
        let inside = offset % PAGE;
        let room = usize::try_from(PAGE - inside).unwrap_or(PAGE_SIZE);
        gfn.map(|gfn| (gfn.addr() + inside, room)).ok_or(RamFault { gpa: offset })
    }
}

/// The frame of page number `page`.
pub fn frame(platform: &impl Platform, page: u64) -> Option<Gfn> {
    nth_frame(platform.ram(), page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Slice = Slice { base: 0x100_0000, size: 64 << 20 };
    const HIGH: Slice = Slice { base: 0x4000_0000, size: 64 << 20 };

    #[test]
    fn every_page_belongs_to_one_object_inside_the_slice() {
        let l = Layout::new(LOW, HIGH).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for page in 0..l.pages {
            let (_, gm) = l.page(page).unwrap();
            assert!(
                (LOW.base..LOW.base + LOW.size).contains(&gm)
                    || (HIGH.base..HIGH.base + HIGH.size).contains(&gm)
            );
            assert!(seen.insert(gm));
        }
        assert_eq!(l.page(l.pages), None);
        assert_eq!(l.frames[0].first, FIRST_FRAME_PAGE);
    }

    #[test]
    fn without_a_high_slice_all_is_in_the_low_one() {
        let l = Layout::new(LOW, Slice { base: 0, size: 0 }).unwrap();
        assert!((0..l.pages).all(|p| l.page(p).unwrap().1 < LOW.base + LOW.size));
    }

    #[test]
    fn a_slice_that_is_too_small_is_refused() {
        assert!(Layout::new(Slice { base: 0, size: 1 << 20 }, HIGH).is_none());
        assert!(Layout::new(LOW, Slice { base: 0x4000_0000, size: PAGE }).is_none());
    }
}
