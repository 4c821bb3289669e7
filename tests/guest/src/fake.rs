//! For this crate's tests: a machine with RAM, a PCI function and a blitter, written naively from the same documents.
//!
//! Work that was submitted is done at the next wait, so that pages can go away in between; what meets a hole hangs.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::ops::Range;
use std::string::{String, ToString};
use std::vec::Vec;

use xen_ioreq::{DomId, Gfn};

use crate::platform::{MsiMessage, Platform, RamFault, RamRange, Way, Width};
use crate::words::lo32;

const RAM: RamRange = RamRange { first: Gfn(0x1000), frames: 1024 };
const WINDOW: Range<u64> = 0x1_0000_0000..0x2_0000_0000;
const SIZES: [(usize, u64); 2] = [(0x10, 16 << 20), (0x18, 256 << 20)];

/// What this machine gets wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// The blitter never does anything.
    pub(crate) dead: bool,
    /// There is no GPU.
    pub(crate) absent: bool,
    /// This many balloon-ins are refused.
    pub(crate) refuse: u32,
    /// Every n-th fill is left out.
    pub(crate) skip_fill: u32,
    /// What hangs is reported, as an error that interrupts.
    pub(crate) reports_errors: bool,
    /// Nothing is interrupted.
    pub(crate) no_msi: bool,
    /// Frames are put over frames that are there, as Xen does; a driver that means no harm never asks for that.
    pub(crate) populates_over: bool,
}

pub(crate) struct Fake {
    pub(crate) faults: Faults,
    pub(crate) logged: Vec<String>,
    pub(crate) holes_hit: u32,
    pub(crate) waits: u32,
    /// What [`NEXT`](crate::rows::NEXT) answers, first to last, and all-ones from then on.
    pub(crate) asks: Vec<u32>,
    /// Before which accesses of registers, counted from 0, another device takes this one's place: as after a reset, where its
    /// BARs and its translation table are.
    pub(crate) replaced: Vec<u32>,
    /// Accesses of registers until now, and until the last submission that was taken.
    pub(crate) accesses: u32,
    pub(crate) submitted: u32,
    pages: BTreeMap<u64, Box<[u8; 4096]>>,
    config: [u8; 256],
    address: u32,
    regs: BTreeMap<u32, u32>,
    ptes: BTreeMap<u64, u64>,
    elsp: Vec<u32>,
    pending: Option<u64>,
    csb: u32,
    interrupts: u32,
    fills: u32,
}

struct Hole;

impl Fake {
    pub(crate) fn new(faults: Faults) -> Self {
        let mut config = [0; 256];
        config[..4].copy_from_slice(&0x1616_8086u32.to_le_bytes());
        (config[6], config[0x34], config[0x90]) = (0x10, 0x90, 5);
        Self {
            faults,
            logged: Vec::new(),
            holes_hit: 0,
            waits: 0,
            asks: Vec::new(),
            replaced: Vec::new(),
            accesses: 0,
            submitted: 0,
            pages: (0..RAM.frames).map(|n| (RAM.first.0 + n, Box::new([0; 4096]))).collect(),
            config,
            address: 0,
            regs: after_reset(),
            ptes: BTreeMap::new(),
            elsp: Vec::new(),
            pending: None,
            csb: 5,
            interrupts: 0,
            fills: 0,
        }
    }

    /// Frames of RAM at the moment.
    pub(crate) fn frames(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn reg(&self, reg: u32) -> u32 {
        self.regs.get(&reg).copied().unwrap_or(0)
    }

    /// A dword of graphics memory.
    pub(crate) fn gm(&mut self, gm: u64) -> u32 {
        self.gpu_read(gm).unwrap_or(0)
    }

    fn at(&mut self, gpa: u64) -> Option<&mut [u8]> {
        self.pages.get_mut(&(gpa >> 12)).and_then(|p| p.get_mut((gpa & 4095) as usize..))
    }

    fn translate(&mut self, gm: u64) -> Result<&mut [u8], Hole> {
        let pte = self.ptes.get(&(gm >> 12)).copied().filter(|p| p & 1 != 0).ok_or(Hole)?;
        self.at((pte & !4095) + (gm & 4095)).ok_or(Hole)
    }

    fn gpu_read(&mut self, gm: u64) -> Result<u32, Hole> {
        let b = self.translate(gm)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A pixel that goes to a hole is lost, as with a scratch page.
    fn gpu_write(&mut self, gm: u64, value: u32) {
        match self.translate(gm) {
            Ok(b) => b[..4].copy_from_slice(&value.to_le_bytes()),
            Err(Hole) => self.holes_hit += 1,
        }
    }

    fn execute(&mut self, descriptor: u64) -> Result<(), Hole> {
        let lrca = descriptor & 0xffff_f000;
        let state = |n: u64| lrca + 4096 + 4 * n;
        let (mut head, tail, start) =
            (self.gpu_read(state(5))?, self.gpu_read(state(7))?, u64::from(self.gpu_read(state(9))?));
        let size = (self.gpu_read(state(11))? & 0x1f_f000) + 4096;
        let hwsp = u64::from(self.reg(0x2_2080));
        self.csb = (self.csb + 1) % 6;
        self.report(hwsp, 1, lo32(descriptor >> 32))?;
        while head != tail {
            let n = self.command(start + u64::from(head))?;
            head = (head + 4 * n) % size;
        }
        self.gpu_write(state(5), head);
        self.csb = (self.csb + 1) % 6;
        self.report(hwsp, 0x18, lo32(descriptor >> 32))?;
        self.interrupts += 1;
        Ok(())
    }

    fn report(&mut self, hwsp: u64, status: u32, id: u32) -> Result<(), Hole> {
        self.translate(hwsp)?;
        self.gpu_write(hwsp + 0x40 + 8 * u64::from(self.csb), status);
        self.gpu_write(hwsp + 0x44 + 8 * u64::from(self.csb), id);
        self.gpu_write(hwsp + 0x7c, self.csb);
        Ok(())
    }

    /// One command; its length in dwords. An unknown one hangs.
    fn command(&mut self, at: u64) -> Result<u32, Hole> {
        let mut d = [0; 10];
        let dw0 = self.gpu_read(at)?;
        let n = match dw0 {
            0 | 0x0280_0000 => return Ok(1),
            0x0100_0000 => {
                self.regs.insert(0x4_4308, 1 << 16);
                return Ok(1);
            }
            0x1040_0002 | 0x1300_4002 => 4,
            0x1100_0001 | 0x1880_0001 => 3,
            0x5430_0005 => 7,
            0x54f0_0008 => 10,
            _ => return Err(Hole),
        };
        for (n, slot) in (0..n).zip(&mut d) {
            *slot = self.gpu_read(at + 4 * n)?;
        }
        let address = |lo: u32, hi: u32| u64::from(hi) << 32 | u64::from(lo & !7);
        match dw0 >> 20 {
            0x104 | 0x130 => self.gpu_write(address(d[1], d[2]), d[3]),
            0x188 => {
                let mut at = address(d[1], d[2]);
                while self.gpu_read(at)? != 0x0500_0000 {
                    at += 4 * u64::from(self.command(at)?);
                }
            }
            0x543 => self.fill(&d),
            0x54f => self.copy(&d),
            _ => {}
        }
        Ok(lo32(n))
    }

    fn fill(&mut self, d: &[u32; 10]) {
        self.fills += 1;
        if self.faults.skip_fill != 0 && self.fills.is_multiple_of(self.faults.skip_fill) {
            return;
        }
        let base = u64::from(d[5]) << 32 | u64::from(d[4]);
        for y in d[2] >> 16..d[3] >> 16 {
            for x in d[2] & 0xffff..d[3] & 0xffff {
                self.gpu_write(base + u64::from(y * (d[1] & 0xffff) + 4 * x), d[6]);
            }
        }
    }

    fn copy(&mut self, d: &[u32; 10]) {
        let (dst, src) = (u64::from(d[5]) << 32 | u64::from(d[4]), u64::from(d[9]) << 32 | u64::from(d[8]));
        let (w, h) = ((d[3] & 0xffff) - (d[2] & 0xffff), (d[3] >> 16) - (d[2] >> 16));
        let mut pixels = Vec::new();
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let from = src + u64::from((y + (d[6] >> 16)) * d[7] + 4 * (x + (d[6] & 0xffff)));
            pixels.push(self.gpu_read(from).unwrap_or(0));
        }
        for ((y, x), pixel) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))).zip(pixels) {
            let to = dst + u64::from((y + (d[2] >> 16)) * (d[1] & 0xffff) + 4 * (x + (d[2] & 0xffff)));
            self.gpu_write(to, pixel);
        }
    }

    /// What comes before each access of a register.
    fn access(&mut self) {
        if self.replaced.contains(&self.accesses) {
            self.regs = after_reset();
            (self.pending, self.csb, self.interrupts) = (None, 5, 0);
            self.elsp.clear();
        }
        self.accesses += 1;
    }

    fn bar(&self, n: usize) -> u64 {
        let at = SIZES[n].0;
        let low = u32::from_le_bytes(self.config[at..at + 4].try_into().unwrap());
        let high = u32::from_le_bytes(self.config[at + 4..at + 8].try_into().unwrap());
        u64::from(high) << 32 | u64::from(low & !0xf)
    }

    fn write_reg(&mut self, reg: u32, value: u32) {
        match reg {
            0x941c => {
                self.pending = None;
                self.elsp.clear();
            }
            0x2_20d0 => {
                self.regs.insert(reg, (value & 1) * 3);
            }
            0x4_4308 | 0x2_20b0 => *self.regs.entry(reg).or_default() &= !value,
            0x2_23a0 => self.csb = 5,
            0x2_2230 => {
                self.elsp.push(value);
                if let [_, _, high, low] = self.elsp[..] {
                    if self.reg(0x2_229c) >> 15 & 1 != 0 {
                        self.pending = Some(u64::from(high) << 32 | u64::from(low));
                        self.submitted = self.accesses;
                    }
                    self.elsp.clear();
                }
            }
            _ => {
                self.regs.insert(reg, value);
            }
        }
    }

    fn config_write(&mut self, reg: usize, bytes: &[u8]) {
        let writable = [
            4, 5, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e,
            0x1f,
        ];
        for (at, byte) in (reg..).zip(bytes) {
            if writable.contains(&at) || (0x92..0xa0).contains(&at) {
                self.config[at] = *byte;
            }
        }
        for (at, size) in SIZES {
            let mask = (!(size - 1)).to_le_bytes();
            (0..8).for_each(|n| self.config[at + n] &= mask[n]);
            self.config[at] |= 4;
        }
    }
}

impl Platform for Fake {
    fn domid(&self) -> DomId {
        DomId(7)
    }

    fn ram(&self) -> &[RamRange] {
        &[RAM]
    }

    fn mmio_window(&self) -> Range<u64> {
        WINDOW
    }

    fn msi(&self) -> Option<MsiMessage> {
        (!self.faults.no_msi).then_some(MsiMessage { address: 0xfee0_0000, data: 0x40 })
    }

    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        let reg = (self.address & 0xfc) as usize + usize::from(port.wrapping_sub(0xcfc));
        let here = self.address >> 8 == 0x80_0010 && !self.faults.absent;
        if port == crate::rows::NEXT && !self.asks.is_empty() {
            return self.asks.remove(0);
        }
        if !(0xcfc..0xd00).contains(&port) || !here {
            return lo32(width.mask());
        }
        let mut b = [0; 4];
        let n = usize::from(width.bytes());
        b[..n].copy_from_slice(&self.config[reg..reg + n]);
        u32::from_le_bytes(b)
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        match port {
            0xcf8 if width == Width::B4 => self.address = value,
            0xcfc..0xd00 if self.address >> 8 == 0x80_0010 => {
                let reg = (self.address & 0xfc) as usize + usize::from(port - 0xcfc);
                self.config_write(reg, &value.to_le_bytes()[..usize::from(width.bytes())]);
            }
            _ => {}
        }
    }

    fn mmio_read(&mut self, gpa: u64, width: Width) -> u64 {
        let mut b = [0xff; 8];
        let n = usize::from(width.bytes());
        let bar0 = self.bar(0);
        if let Some(page) = self.at(gpa) {
            let n = n.min(page.len());
            b[..n].copy_from_slice(&page[..n]);
        } else if let (Some(at), 2) = (gpa.checked_sub(bar0).filter(|&at| at < 0x20_0000), self.config[4] & 2)
        {
            self.access();
            let (low, high) = (self.reg(lo32(at & !3)), self.reg(lo32((at & !3) + 4)));
            b = (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
        }
        u64::from_le_bytes(b) & width.mask()
    }

    fn mmio_write(&mut self, gpa: u64, width: Width, value: u64) {
        let bar0 = self.bar(0);
        let n = usize::from(width.bytes());
        if let Some(page) = self.at(gpa) {
            let n = n.min(page.len());
            page[..n].copy_from_slice(&value.to_le_bytes()[..n]);
        } else if let (Some(at), 2) = (gpa.checked_sub(bar0), self.config[4] & 2) {
            match at {
                0..0x20_0000 if width == Width::B4 => {
                    self.access();
                    self.write_reg(lo32(at), lo32(value));
                }
                0x80_0000..0x100_0000 if width == Width::B8 => {
                    self.ptes.insert((at - 0x80_0000) / 8, value);
                }
                _ => {}
            }
        }
    }

    fn rep_ins(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        for n in 0..count {
            let value = self.pio_read(port, width);
            self.mmio_write(step(ram, width, n, way), width, value.into());
        }
    }

    fn rep_outs(&mut self, port: u16, width: Width, ram: u64, count: u32, way: Way) {
        for n in 0..count {
            let value = self.mmio_read(step(ram, width, n, way), width);
            self.pio_write(port, width, lo32(value));
        }
    }

    fn rep_movs(&mut self, from: u64, to: u64, width: Width, count: u32, way: Way) {
        for n in 0..count {
            let value = self.mmio_read(step(from, width, n, way), width);
            self.mmio_write(step(to, width, n, way), width, value);
        }
    }

    fn ram_read(&mut self, gpa: u64, out: &mut [u8]) -> Result<(), RamFault> {
        let page = self.at(gpa).and_then(|p| p.get(..out.len())).ok_or(RamFault { gpa })?;
        out.copy_from_slice(page);
        Ok(())
    }

    fn ram_write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), RamFault> {
        let page = self.at(gpa).and_then(|p| p.get_mut(..bytes.len())).ok_or(RamFault { gpa })?;
        page.copy_from_slice(bytes);
        Ok(())
    }

    fn decrease_reservation(&mut self, gfns: &[Gfn]) -> usize {
        gfns.iter().take_while(|g| self.pages.remove(&g.0).is_some()).count()
    }

    fn populate_physmap(&mut self, gfns: &[Gfn]) -> usize {
        if self.faults.refuse > 0 {
            self.faults.refuse -= 1;
            return 0;
        }
        for g in gfns {
            let old = self.pages.insert(g.0, Box::new([0; 4096]));
            assert!(old.is_none() || self.faults.populates_over, "{g} was no hole");
        }
        gfns.len()
    }

    fn wait(&mut self) {
        self.waits += 1;
        if let Some(descriptor) = self.pending.take()
            && !self.faults.dead
        {
            let hung = self.execute(descriptor).is_err();
            if hung && self.faults.reports_errors {
                self.regs.insert(0x2_20b0, 1);
                self.regs.insert(0x4_4308, 8 << 16);
                self.interrupts += 1;
            }
        }
    }

    fn take_interrupts(&mut self) -> u32 {
        std::mem::take(&mut self.interrupts)
    }

    fn vcpu(&self) -> u32 {
        0
    }

    // There is no interrupt line.
    fn arrived(&mut self, _: u8) -> u32 {
        0
    }

    fn end_of_interrupt(&mut self) {}

    fn set_extint(&mut self, _: bool) {}

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        self.logged.push(line.to_string());
    }
}

/// What the registers hold then: PVINFO, and nothing else.
fn after_reset() -> BTreeMap<u32, u32> {
    let pvinfo = [(0x7_8000, 0x7654_4776), (0x7_8004, 0x4776_5447), (0x7_8008, 1), (0x7_8010, 8)];
    let slices = [(0x7_8040, 1 << 20), (0x7_8044, 32 << 20), (0x7_8048, 1 << 30), (0x7_804c, 32 << 20)];
    pvinfo.into_iter().chain(slices).collect()
}

fn step(base: u64, width: Width, n: u32, way: Way) -> u64 {
    let by = u64::from(n) * u64::from(width.bytes());
    if way == Way::Up { base + by } else { base - by }
}
