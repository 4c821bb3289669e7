//! What a blit does to each byte of a piece: a piece lies within one page on either side.

use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

use super::super::page::{self, Page};
use super::super::rop::Rop;
use super::super::stream::{Ahead, turned};
use super::super::tlb::{Fault, Tlb};
use super::band::Band;
use crate::bus::DmaAccess;

/// Bytes of a Y-major tile's line: as many as a piece in columns can have.
const COLUMNS: usize = page::LINE;

/// Where a piece lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Address of its first byte.
    pub(super) addr: u64,
    /// In the columns of a Y-major tile; else its bytes follow each other.
    pub(super) columns: bool,
}

impl Place {
    fn offset(self) -> usize {
        (self.addr & PAGE_MASK) as usize
    }

    fn read(self, page: &Page<'_>, to: &mut [u8]) {
        if self.columns { page.read_columns(self.offset(), to) } else { page.read(self.offset(), to) }
    }

    fn fill(self, page: &Page<'_>, color: u32, len: usize, ahead: Option<Ahead>) {
        if self.columns {
            let mut bytes = [0; COLUMNS];
            bytes.as_chunks_mut().0.fill(color.to_le_bytes());
            page.write_columns(self.offset(), &bytes[..len]);
        } else {
            page.fill(self.offset(), len, color, ahead);
        }
    }

    fn write(self, page: &Page<'_>, from: &[u8]) {
        if self.columns { page.write_columns(self.offset(), from) } else { page.write(self.offset(), from) }
    }
}

enum Kind {
    /// Becomes the colour: its four bytes again and again.
    Fill(u32),
    Copy,
    Rop {
        rop: Rop,
        pattern: u32,
        mask: u32,
    },
}

/// What needs no look at what was there.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    /// Becomes the colour, whose four bytes repeat from a line's first on.
    Fill(u32),
    /// Becomes the source.
    Copy,
}

/// What happens to the bytes, with room for a piece of source and one of destination.
pub(super) struct Action {
    kind: Kind,
    source: Vec<u8>,
    destination: Vec<u8>,
}

impl Action {
    /// Of colour and destination. Pattern and mask repeat every four bytes of a line.
    pub(super) fn fill(rop: Rop, pattern: u32, mask: u32) -> Self {
        if rop == Rop::PATCOPY && mask == u32::MAX {
            return Self { kind: Kind::Fill(pattern), source: Vec::new(), destination: Vec::new() };
        }
        Self::rop(rop, pattern, mask)
    }

    /// Of source and destination.
    pub(super) fn copy(rop: Rop, mask: u32) -> Self {
        if rop == Rop::SRCCOPY && mask == u32::MAX {
            return Self { kind: Kind::Copy, source: vec![0; PAGE_SIZE], destination: Vec::new() };
        }
        Self::rop(rop, 0, mask)
    }

    fn rop(rop: Rop, pattern: u32, mask: u32) -> Self {
        let kind = Kind::Rop { rop, pattern, mask };
        Self { kind, source: vec![0; PAGE_SIZE], destination: vec![0; PAGE_SIZE] }
    }

    /// Whether bytes are copied and nothing else.
    pub(super) fn copies(&self) -> bool {
        matches!(self.kind, Kind::Copy)
    }

    /// Draws a band that it [draws](Self::draws), in its pages. `next`: the one after it, and its pages.
    pub(super) fn draw(&self, band: &Band, pages: &[Page<'_>], next: Option<(&Band, &[Page<'_>])>) {
        match self.kind {
            Kind::Fill(color) => band.fill(pages, color),
            Kind::Copy => band.copy(pages, next),
            Kind::Rop { .. } => {}
        }
    }

    /// Whether such a band can be drawn at once.
    pub(super) fn draws(&self, band: &Band) -> bool {
        match self.kind {
            Kind::Fill(_) => band.in_rows(),
            Kind::Copy => true,
            Kind::Rop { .. } => false,
        }
    }

    /// The same, if it needs no look at what was there.
    pub(super) fn stream(&self) -> Option<Stream> {
        match self.kind {
            Kind::Fill(color) => Some(Stream::Fill(color)),
            Kind::Copy => Some(Stream::Copy),
            Kind::Rop { .. } => None,
        }
    }

    /// Does a piece of `len` bytes, at most a page (128 bytes in columns), which begins `phase` bytes into its line
    /// (modulo 4). `next`: where the piece after it will be written and read.
    #[inline]
    pub(super) fn apply(
        &mut self,
        tlb: &mut Tlb,
        to: Place,
        from: Option<Place>,
        phase: usize,
        len: usize,
        next: [Option<u64>; 2],
    ) -> Result<(), Fault> {
        match (&self.kind, from) {
            (Kind::Fill(color), _) => {
                let ahead = next[0].and_then(|addr| tlb.ahead(addr));
                to.fill(&tlb.page(to.addr, DmaAccess::Write)?, turned(*color, phase), len, ahead);
            }
            (Kind::Copy, Some(from)) => {
                let ahead = next.map(|addr| tlb.ahead(addr?));
                let (d, s) = tlb.pair(to.addr, from.addr)?;
                if !to.columns && !from.columns {
                    d.stream_from(to.offset(), &s, from.offset(), len, ahead);
                } else {
                    let mut line = [0; COLUMNS];
                    from.read(&s, &mut line[..len]);
                    to.write(&d, &line[..len]);
                }
            }
            (Kind::Rop { .. }, Some(from)) => {
                let mut source = std::mem::take(&mut self.source);
                let done = Self::read(tlb, from, &mut source[..len])
                    .and_then(|()| self.write(tlb, to, &source[..len], phase));
                self.source = source;
                done?;
            }
            // No source, or one that does not matter.
            (Kind::Rop { .. } | Kind::Copy, None) => {
                let source = std::mem::take(&mut self.source);
                let done = self.write(tlb, to, &source[..len], phase);
                self.source = source;
                done?;
            }
        }
        Ok(())
    }

    /// Reads a piece of a source.
    pub(super) fn read(tlb: &mut Tlb, from: Place, to: &mut [u8]) -> Result<(), Fault> {
        from.read(&tlb.page(from.addr, DmaAccess::Read)?, to);
        Ok(())
    }

    /// Does a piece whose source has been read before.
    pub(super) fn write(
        &mut self,
        tlb: &mut Tlb,
        to: Place,
        source: &[u8],
        phase: usize,
    ) -> Result<(), Fault> {
        let page = tlb.page(to.addr, DmaAccess::Write)?;
        match &self.kind {
            Kind::Fill(color) => to.fill(&page, turned(*color, phase), source.len(), None),
            Kind::Copy => to.write(&page, source),
            Kind::Rop { rop, pattern, mask } => {
                let turned = |v: &u32| turned(*v, phase).to_le_bytes();
                let d = &mut self.destination[..source.len()];
                to.read(&page, d);
                rop.apply(d, source, turned(pattern), turned(mask));
                to.write(&page, d);
            }
        }
        Ok(())
    }
}
