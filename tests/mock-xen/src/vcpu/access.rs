//! Accesses to ports and to guest physical addresses.
//!
//! An access to RAM is done on the spot, under the p2m's read lock, so that no frame goes while it lasts. Whatever has
//! no RAM behind it becomes a request; what no server claims reads as all-ones and drops writes.

use std::sync::atomic::Ordering;

use xen_ioreq::{Gfn, Mfn, PAGE_MASK, PAGE_SIZE};

use super::{LeftOver, Vcpu, VcpuError};
use crate::ioreq::request::{Request, ones};
use crate::ioreq::select::{CF8, select};
use crate::memory::Page;
use crate::p2m::P2mType;

/// The VGA window.
const VGA: std::ops::RangeInclusive<u64> = 0xa_0000..=0xb_ffff;

/// Offset in the page and bytes up to its end.
fn within_page(addr: u64) -> (usize, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "below the page size")]
    let offset = (addr & PAGE_MASK) as usize;
    (offset, PAGE_SIZE - offset)
}

/// The largest power of two that fits, at most 8: how an access to MMIO is cut.
fn piece(left: usize) -> usize {
    match left {
        0..=1 => 1,
        2..=3 => 2,
        4..=7 => 4,
        _ => 8,
    }
}

fn size32(size: usize) -> Result<u32, VcpuError> {
    match size {
        1 => Ok(1),
        2 => Ok(2),
        4 => Ok(4),
        8 => Ok(8),
        _ => Err(VcpuError::Size(size)),
    }
}

/// A part of a string instruction.
#[derive(Clone, Copy)]
enum Part {
    /// So many elements in one request, which points at them in RAM.
    Several(u32),
    /// One element, whose value goes with the request or comes back.
    Alone,
}

/// How to treat a write to a page.
enum Store {
    Done,
    /// It is for the server that has claimed the page's type.
    Forward,
    NoRam,
}

impl Vcpu {
    /// Reads 1, 2 or 4 bytes from a port.
    pub fn pio_read(&self, port: u16, size: usize) -> Result<u32, VcpuError> {
        self.resume()?;
        let size = size32(size).ok().filter(|s| *s <= 4).ok_or(VcpuError::Size(size))?;
        let value = self.io(&Request::pio(port, size, true, 0))?;
        // Four bytes or fewer are left of it.
        Ok(u32::try_from(value & ones(size)).unwrap_or(u32::MAX))
    }

    /// Writes 1, 2 or 4 bytes to a port.
    pub fn pio_write(&self, port: u16, size: usize, value: u32) -> Result<(), VcpuError> {
        self.resume()?;
        let size = size32(size).ok().filter(|s| *s <= 4).ok_or(VcpuError::Size(size))?;
        if u64::from(port) == CF8 && size == 4 {
            // Latched, and still offered to whoever claims the port.
            self.domain.cf8.store(value, Ordering::Release);
        }
        self.io(&Request::pio(port, size, false, u64::from(value) & ones(size)))?;
        Ok(())
    }

    /// Reads 1, 2, 4 or 8 bytes from a guest physical address.
    pub fn mmio_read(&self, gpa: u64, size: usize) -> Result<u64, VcpuError> {
        self.resume()?;
        let size_bits = size32(size)?;
        let (offset, room) = within_page(gpa);
        if size > room {
            let mut bytes = [0; 8];
            if let Some(part) = bytes.get_mut(..size) {
                self.read_pieces(gpa, part)?;
            }
            return Ok(u64::from_le_bytes(bytes));
        }
        match self.load(gpa, |page| page.read_scalar(offset, size)) {
            Some(value) => Ok(value),
            None => Ok(self.io(&Request::mmio(gpa, size_bits, true, 0))? & ones(size_bits)),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes to a guest physical address.
    pub fn mmio_write(&self, gpa: u64, size: usize, value: u64) -> Result<(), VcpuError> {
        self.resume()?;
        let size_bits = size32(size)?;
        let (offset, room) = within_page(gpa);
        if size > room {
            let bytes = value.to_le_bytes();
            return self.write_pieces(gpa, bytes.get(..size).unwrap_or(&[]));
        }
        loop {
            match self.store(gpa, |page| page.write_scalar(offset, size, value)) {
                Store::Done => return Ok(()),
                Store::NoRam => return self.write_io(gpa, size_bits, value),
                Store::Forward if self.forward(gpa, size_bits, value)? => return Ok(()),
                Store::Forward => {}
            }
        }
    }

    /// Reads bytes from guest physical addresses of any kind; MMIO is cut into pieces of at most 8 bytes.
    pub fn read(&self, gpa: u64, out: &mut [u8]) -> Result<(), VcpuError> {
        self.resume()?;
        self.read_pieces(gpa, out)
    }

    /// Writes bytes to guest physical addresses of any kind; MMIO is cut into pieces of at most 8 bytes.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Result<(), VcpuError> {
        self.resume()?;
        self.write_pieces(gpa, data)
    }

    /// Reads RAM only. `NotRam` where there is none; what lies before has been read.
    pub fn ram_read(&self, mut gpa: u64, mut out: &mut [u8]) -> Result<(), VcpuError> {
        self.resume()?;
        while !out.is_empty() {
            let (offset, room) = within_page(gpa);
            let (part, rest) = out.split_at_mut(room.min(out.len()));
            self.load(gpa, |page| page.read(offset, part)).ok_or(VcpuError::NotRam(gpa))?;
            gpa = gpa.wrapping_add(part.len() as u64);
            out = rest;
        }
        Ok(())
    }

    /// Writes RAM only, also such as a server hears of. `NotRam` where there is none that can be written; what lies before has been
    /// written.
    pub fn ram_write(&self, gpa: u64, data: &[u8]) -> Result<(), VcpuError> {
        self.resume()?;
        self.write_each(gpa, data, |gpa, _, _| Err(VcpuError::NotRam(gpa)))
    }

    /// `rep ins` (`read`) or `rep outs`: `count` accesses of `size` bytes to one port, guest RAM from `ram` on at the
    /// other side, downwards with `df`.
    pub fn rep_pio(
        &self,
        port: u16,
        size: usize,
        read: bool,
        ram: u64,
        count: u32,
        df: bool,
    ) -> Result<(), VcpuError> {
        let bytes = size32(size).ok().filter(|s| *s <= 4).ok_or(VcpuError::Size(size))?;
        self.rep(size, ram, count, df, |ram, part| match part {
            Part::Several(count) => {
                self.string(&Request { data_is_ptr: true, count, df, ..Request::pio(port, bytes, read, ram) })
            }
            Part::Alone if read => {
                let value = self.io(&Request::pio(port, bytes, true, 0))?;
                self.put(ram, size, value)
            }
            Part::Alone => {
                let value = self.get(ram, size)?;
                self.io(&Request::pio(port, bytes, false, value)).map(drop)
            }
        })
    }

    /// `rep movs` between MMIO at `mmio` and RAM at `ram`; `read` is from MMIO to RAM. Both sides step by `size`.
    pub fn rep_mmio(
        &self,
        mmio: u64,
        size: usize,
        read: bool,
        ram: u64,
        count: u32,
        df: bool,
    ) -> Result<(), VcpuError> {
        let bytes = size32(size)?;
        let mut at = mmio;
        self.rep(size, ram, count, df, |ram, part| {
            let here = at;
            let count = match part {
                Part::Several(count) => count,
                Part::Alone => 1,
            };
            let travel = u64::from(bytes).wrapping_mul(u64::from(count));
            at = if df { at.wrapping_sub(travel) } else { at.wrapping_add(travel) };
            match part {
                Part::Several(_) => {
                    let r = Request { data_is_ptr: true, count, df, ..Request::mmio(here, bytes, read, ram) };
                    if read { self.string(&r) } else { self.string_write(&r, size) }
                }
                Part::Alone if read => {
                    let value = self.mmio_read(here, size)?;
                    self.put(ram, size, value)
                }
                Part::Alone => {
                    let value = self.get(ram, size)?;
                    self.mmio_write(here, size, value)
                }
            }
        })
    }

    /// Cuts a string instruction as the emulator in Xen does: at the page ends of its RAM side, downwards one element
    /// before them; an element across two pages goes alone; the last one of all goes by its value. No RAM at an
    /// element ends the instruction with `NotRam`.
    fn rep(
        &self,
        size: usize,
        mut ram: u64,
        mut count: u32,
        df: bool,
        mut part: impl FnMut(u64, Part) -> Result<(), VcpuError>,
    ) -> Result<(), VcpuError> {
        let is_ram = |gfn: Gfn| self.domain.p2m.read().within_reach(gfn).is_some();
        while count > 0 {
            self.resume()?;
            let here = Gfn::of_addr(ram);
            if !is_ram(here) {
                return Err(VcpuError::NotRam(ram));
            }
            let (offset, room) = within_page(ram);
            let fit = if df { (offset + size - 1) % PAGE_SIZE / size } else { room / size };
            let fit = u32::try_from(fit).unwrap_or(u32::MAX).min(count);
            // An element across two pages, or the first of a page on the way down, wants the neighbour too.
            let neighbour = if df { here.0.checked_sub(1) } else { here.0.checked_add(1) };
            let done = match fit {
                _ if count == 1 => None,
                0 => neighbour.filter(|n| is_ram(Gfn(*n))).map(|_| 1),
                n => Some(n),
            };
            part(ram, done.map_or(Part::Alone, Part::Several))?;
            let done = done.unwrap_or(1);
            let travel = (size as u64).wrapping_mul(u64::from(done));
            ram = if df { ram.wrapping_sub(travel) } else { ram.wrapping_add(travel) };
            count -= done;
        }
        Ok(())
    }

    /// The value of one element in memory of any kind.
    fn get(&self, gpa: u64, size: usize) -> Result<u64, VcpuError> {
        let mut bytes = [0; 8];
        self.read_pieces(gpa, bytes.get_mut(..size).unwrap_or_default())?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Puts one element into memory of any kind.
    fn put(&self, gpa: u64, size: usize, value: u64) -> Result<(), VcpuError> {
        self.write_pieces(gpa, value.to_le_bytes().get(..size).unwrap_or_default())
    }

    /// A string request: to its server, or, unclaimed, all-ones into RAM.
    fn string(&self, r: &Request) -> Result<(), VcpuError> {
        if self.answered_before(r)?.is_some() {
            return Ok(());
        }
        if let Some((server, sent)) = select(&self.domain, r) {
            self.send(&server, &sent)?;
            return Ok(());
        }
        if r.read {
            let size = usize::try_from(r.size).unwrap_or(0);
            for i in 0..u64::from(r.count) {
                let travel = i.wrapping_mul(u64::from(r.size));
                let at = if r.df { r.data.wrapping_sub(travel) } else { r.data.wrapping_add(travel) };
                self.store(at, |page| page.write_scalar(within_page(at).0, size, u64::MAX));
            }
        }
        Ok(())
    }

    /// A string request that writes to memory: RAM takes its elements one by one, and so does who has claimed the type of a page.
    fn string_write(&self, r: &Request, size: usize) -> Result<(), VcpuError> {
        if self.domain.p2m.read().within_reach(Gfn::of_addr(r.addr)).is_none() {
            return self.string(r);
        }
        for i in 0..u64::from(r.count) {
            let travel = i.wrapping_mul(u64::from(r.size));
            let at = |base: u64| if r.df { base.wrapping_sub(travel) } else { base.wrapping_add(travel) };
            self.put(at(r.addr), size, self.get(at(r.data), size)?)?;
        }
        Ok(())
    }

    fn read_pieces(&self, mut gpa: u64, mut out: &mut [u8]) -> Result<(), VcpuError> {
        while !out.is_empty() {
            let (offset, room) = within_page(gpa);
            let chunk = room.min(out.len());
            let len = match self.load(gpa, |page| out.get_mut(..chunk).map(|part| page.read(offset, part))) {
                Some(_) => chunk,
                None => {
                    let len = piece(chunk);
                    let value = self.io(&Request::mmio(gpa, size32(len)?, true, 0))?;
                    for (to, from) in out.iter_mut().zip(value.to_le_bytes()).take(len) {
                        *to = from;
                    }
                    len
                }
            };
            out = out.split_at_mut(len).1;
            gpa = gpa.wrapping_add(len as u64);
        }
        Ok(())
    }

    fn write_pieces(&self, gpa: u64, data: &[u8]) -> Result<(), VcpuError> {
        self.write_each(gpa, data, |gpa, len, value| self.write_io(gpa, size32(len)?, value))
    }

    /// Writes what is RAM, and calls `other` with address, bytes and value of each piece that is not.
    fn write_each(
        &self,
        mut gpa: u64,
        mut data: &[u8],
        other: impl Fn(u64, usize, u64) -> Result<(), VcpuError>,
    ) -> Result<(), VcpuError> {
        while !data.is_empty() {
            let (offset, room) = within_page(gpa);
            let (part, _) = data.split_at(room.min(data.len()));
            let len = piece(part.len());
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(part).take(len) {
                *to = *from;
            }
            let value = u64::from_le_bytes(bytes);
            let done = match self.store(gpa, |page| page.write(offset, part)) {
                Store::Done => part.len(),
                Store::Forward if self.forward(gpa, size32(len)?, value)? => len,
                Store::Forward => 0,
                Store::NoRam => {
                    other(gpa, len, value)?;
                    len
                }
            };
            data = data.split_at(done).1;
            gpa = gpa.wrapping_add(done as u64);
        }
        Ok(())
    }

    /// Runs `f` on the page of RAM behind `gpa`, if there is one.
    fn load<R>(&self, gpa: u64, f: impl FnOnce(Page<'_>) -> R) -> Option<R> {
        let p2m = self.domain.p2m.read();
        let (mfn, _) = p2m.within_reach(Gfn::of_addr(gpa))?;
        Some(f(self.machine.memory().page(mfn)?))
    }

    /// As `load`, for a write: what the page's type says of it.
    fn store(&self, gpa: u64, f: impl FnOnce(Page<'_>)) -> Store {
        let here = Gfn::of_addr(gpa);
        let mut p2m = self.domain.p2m.read();
        while p2m.ram(here).is_some_and(|(_, t)| t == P2mType::LogDirty) {
            // Where the guest traps: the frame counts as written from here on.
            drop(p2m);
            self.domain.p2m.write().retype(here, P2mType::LogDirty, P2mType::RamRw);
            p2m = self.domain.p2m.read();
        }
        let page = |mfn: Mfn| self.machine.memory().page(mfn);
        match p2m.within_reach(Gfn::of_addr(gpa)) {
            Some((mfn, P2mType::RamRw | P2mType::GrantRw)) => {
                let Some(page) = page(mfn) else { return Store::NoRam };
                f(page);
                Store::Done
            }
            Some((_, P2mType::RamRo | P2mType::GrantRo)) => Store::Done,
            Some((_, P2mType::IoreqServer)) => Store::Forward,
            Some((_, P2mType::MmioDm | P2mType::LogDirty)) | None => Store::NoRam,
        }
    }

    /// A write of up to 8 bytes, within a page, to one of the type that a server claims. `false`: it is to be tried again, as often as it
    /// takes: nobody has claimed the type, or the page is RAM by now.
    ///
    /// As in Xen the instruction is carried out once more when it has its answer, to find that. If the page is RAM by then it writes there,
    /// and finds none: see [`Vcpu::answered_before`]. (Where the processor tells the linear address of a fault, plain stores find it.)
    fn forward(&self, gpa: u64, size: u32, value: u64) -> Result<bool, VcpuError> {
        let r = Request::mmio(gpa, size, false, value & ones(size));
        let gfn = Gfn::of_addr(gpa);
        let on_the_way = self.set_out()?;
        let is_for_server =
            || self.domain.p2m.read().get(gfn).is_some_and(|(_, t)| t == P2mType::IoreqServer);
        if !is_for_server() {
            return Ok(false);
        }
        let server = self.domain.servers.read().mem_type.clone();
        let Some(server) = server else {
            drop(on_the_way);
            crate::sync::yield_now();
            return Ok(false);
        };
        if self.answered_before(&r)?.is_some() {
            return Ok(true);
        }
        // One that is not enabled takes nothing.
        let Some(events) = self.post(&server, &r)? else { return Ok(true) };
        drop(on_the_way);
        let (answer, _on_the_way) = self.finish(&server, events)?;
        let (offset, _) = within_page(gpa);
        let bytes = r.data.to_le_bytes();
        let len = usize::try_from(size).unwrap_or(0);
        let again = self.store(gpa, |page| page.write(offset, bytes.get(..len).unwrap_or_default()));
        if matches!(again, Store::Done) {
            let pauses = self.domain.pauses.load(Ordering::SeqCst);
            self.left_over.set(Some(LeftOver { request: r, answer, pauses }));
        }
        Ok(true)
    }

    /// A write that no RAM took.
    fn write_io(&self, gpa: u64, size: u32, value: u64) -> Result<(), VcpuError> {
        let r = Request::mmio(gpa, size, false, value & ones(size));
        if self.answered_before(&r)?.is_some() {
            return Ok(());
        }
        if self.domain.stdvga && VGA.contains(&gpa) {
            let sent = select(&self.domain, &r)
                .is_some_and(|(server, r)| server.send_buffered(&self.machine, &self.domain, &r).is_ok());
            if sent {
                return Ok(());
            }
        }
        self.io(&r)?;
        Ok(())
    }

    /// One access that RAM has no part in: to an interrupt controller, or through a server. What nobody claims reads as
    /// all-ones.
    fn io(&self, r: &Request) -> Result<u64, VcpuError> {
        if let Some(data) = self.answered_before(r)? {
            return Ok(data);
        }
        if let Some(value) = self.domain.controller_access(r) {
            return Ok(value);
        }
        match select(&self.domain, r) {
            Some((server, sent)) => self.send(&server, &sent),
            None => Ok(u64::MAX),
        }
    }
}
