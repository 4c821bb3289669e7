//! A device's registers as a table: name, offset, width, how it takes a write, what it is after a reset.
//!
//! [`registers!`](crate::registers) declares the table and checks it at compile time; a [`RegFile`] keeps the values and does what
//! the rules say, for accesses of any width and alignment: a part of a register, one, or several. What a write *means* is
//! the device's business: it is told what was hit ([`Write`]) and acts.

mod table;

use std::fmt;

#[doc(hidden)]
pub use self::table::all_bits;
pub use self::table::{Reg, Rule, is_sound};
use crate::device::Width;
use crate::outcome::IoError;

/// One of the registers of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegRef {
    /// Its row.
    pub reg: &'static Reg,
    /// Which one of the row.
    pub index: u32,
    /// Where its value is.
    slot: usize,
}

impl RegRef {
    /// Byte offset of the register itself.
    pub fn offset(&self) -> u32 {
        self.reg.offset + self.index * self.reg.width.bytes()
    }
}

/// What a guest's write did to one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub at: RegRef,
    /// What it held before.
    pub old: u64,
    /// What it holds now, by its rule.
    pub new: u64,
    /// What was written, 0 in the bits that were not.
    pub value: u64,
    /// The bits that were written: whole bytes.
    pub bits: u64,
}

/// Registers that one access hit, in ascending order: at most 8.
pub type Writes = Hits<Write>;

/// Up to 8 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits<T>([Option<T>; 8]);

impl<T: Copy> Hits<T> {
    fn collect(all: impl Iterator<Item = T>) -> Self {
        let mut out = [None; 8];
        for (to, from) in out.iter_mut().zip(all) {
            *to = Some(from);
        }
        Self(out)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().flatten().copied()
    }
}

impl<T: Copy> IntoIterator for Hits<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<T>, 8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

/// The registers of a device and what they hold.
///
/// ```
/// use ioreq_server::regs::RegFile;
/// use ioreq_server::{Access, Device, IoError, MmioDevice, Outcome, Width};
/// use parking_lot::Mutex;
///
/// ioreq_server::registers! {
///     /// Of a device that adds.
///     pub mod adder;
///     TERM = 0x00 [2], Dword, ReadWrite, "The two to be added.";
///     SUM = 0x08, Qword, ReadOnly, "What came out.";
///     GO = 0x10, Byte, Trigger, "A write adds.";
/// }
///
/// struct Adder(Mutex<RegFile>);
///
/// impl Device for Adder {
///     fn name(&self) -> &str { "adder" }
///     fn supports_mmio(&self) -> Option<&dyn MmioDevice> { Some(self) }
/// }
///
/// impl MmioDevice for Adder {
///     fn mmio_read(&self, a: &Access) -> Outcome<u64> {
///         self.0.lock().read(a.offset, a.width).into()
///     }
///     fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
///         let mut regs = self.0.lock();
///         let writes = match regs.write(a.offset, a.width, value) {
///             Ok(writes) => writes,
///             Err(e) => return Outcome::Err(e),
///         };
///         for write in writes {
///             if write.at.offset() == adder::GO {
///                 let sum = regs.get(adder::TERM) + regs.get(adder::TERM + 4);
///                 regs.set(adder::SUM, sum);
///             }
///         }
///         Outcome::Ok(())
///     }
/// }
///
/// let device = Adder(Mutex::new(RegFile::new(adder::TABLE)));
/// # let at = |offset, width| Access { region: Default::default(), offset, width, vcpu: None };
/// // Both terms at once, by one access of 8 bytes.
/// assert!(matches!(device.mmio_write(&at(0, Width::Qword), 4 << 32 | 3), Outcome::Ok(())));
/// assert!(matches!(device.mmio_write(&at(0x10, Width::Byte), 1), Outcome::Ok(())));
/// // The sum's low word.
/// assert!(matches!(device.mmio_read(&at(8, Width::Word)), Outcome::Ok(7)));
/// assert!(matches!(device.mmio_read(&at(0x100, Width::Byte)), Outcome::Err(IoError::NoRegister)));
/// ```
#[derive(Clone)]
pub struct RegFile {
    table: &'static [Reg],
    /// Where the values of each row begin.
    starts: Box<[usize]>,
    values: Box<[u64]>,
}

impl RegFile {
    /// The registers after a reset.
    ///
    /// # Panics
    /// If the table is not [sound](is_sound); one of [`registers!`](crate::registers) is.
    pub fn new(table: &'static [Reg]) -> Self {
        assert!(is_sound(table), "the table of registers is not sound");
        let mut starts = Vec::with_capacity(table.len());
        let mut values = Vec::new();
        for reg in table {
            starts.push(values.len());
            values.extend((0..reg.count).map(|_| reg.reset));
        }
        Self { table, starts: starts.into(), values: values.into() }
    }

    /// Puts every register back to what it is after a reset.
    pub fn reset(&mut self) {
        for (reg, start) in self.table.iter().zip(&self.starts) {
            let values = self.values.iter_mut().skip(*start).take(reg.count as usize);
            values.for_each(|value| *value = reg.reset);
        }
    }

    /// The register that holds the byte at `offset`.
    pub fn find(&self, offset: u64) -> Option<RegRef> {
        let row = self.table.partition_point(|r| u64::from(r.offset) <= offset).checked_sub(1)?;
        let reg = self.table.get(row).filter(|r| offset < r.end())?;
        let index = (offset - u64::from(reg.offset)) / u64::from(reg.width.bytes());
        let index = u32::try_from(index).ok()?;
        Some(RegRef { reg, index, slot: self.starts.get(row)? + index as usize })
    }

    /// What the register at `offset` (that of any of its bytes) holds; 0 if there is none.
    pub fn get(&self, offset: u32) -> u64 {
        self.find(offset.into()).map_or(0, |at| self.value(&at))
    }

    /// Has the device change a register, whatever its rule. Bits beyond its width are dropped. Where there is none nothing
    /// happens.
    pub fn set(&mut self, offset: u32, value: u64) {
        if let Some(at) = self.find(offset.into()) {
            self.put(&at, value);
        }
    }

    fn value(&self, at: &RegRef) -> u64 {
        self.values.get(at.slot).copied().unwrap_or(0)
    }

    fn put(&mut self, at: &RegRef, value: u64) {
        if let Some(slot) = self.values.get_mut(at.slot) {
            *slot = value & at.reg.width.mask();
        }
    }

    /// The registers that an access hits, for a device that has to bring them up to date before it is read.
    pub fn hits(&self, offset: u64, width: Width) -> Hits<RegRef> {
        Hits::collect(self.pieces(offset, width).map(|piece| piece.at))
    }

    /// The parts of registers that an access hits, in ascending order.
    fn pieces(&self, offset: u64, width: Width) -> impl Iterator<Item = Piece> + use<'_> {
        let end = offset.checked_add(u64::from(width.bytes()));
        let mut next = offset;
        std::iter::from_fn(move || {
            while end.is_some_and(|end| next < end) {
                let at = next;
                let Some(found) = self.find(at) else {
                    next += 1;
                    continue;
                };
                let start = u64::from(found.offset());
                next = end?.min(start + u64::from(found.reg.width.bytes()));
                return Some(Piece {
                    at: found,
                    bytes: next - at,
                    in_register: at - start,
                    in_access: at - offset,
                });
            }
            None
        })
    }

    /// A guest's read. Bytes between registers read as all-ones. [`IoError::NoRegister`]: nothing but such bytes.
    pub fn read(&mut self, offset: u64, width: Width) -> Result<u64, IoError> {
        let pieces = Hits::collect(self.pieces(offset, width));
        let mut out = width.mask();
        let mut hit = false;
        for piece in pieces {
            hit = true;
            let value = self.value(&piece.at);
            let bits = piece.register_bits();
            out = out & !piece.access_bits()
                | (value & bits) >> (8 * piece.in_register) << (8 * piece.in_access);
            if piece.at.reg.rule == Rule::ReadClear {
                self.put(&piece.at, value & !(bits & piece.at.reg.mask));
            }
        }
        if hit { Ok(out) } else { Err(IoError::NoRegister) }
    }

    /// A guest's write: does what the rules say, and says what was hit. Bytes between registers are lost.
    /// [`IoError::NoRegister`]: nothing but such bytes.
    pub fn write(&mut self, offset: u64, width: Width, value: u64) -> Result<Writes, IoError> {
        let pieces = Hits::collect(self.pieces(offset, width));
        let writes = Hits::collect(pieces.iter().map(|piece| {
            let at = piece.at;
            let bits = piece.register_bits();
            let value = value >> (8 * piece.in_access) << (8 * piece.in_register) & bits;
            let old = self.value(&at);
            let new = at.reg.written(old, value, bits);
            self.put(&at, new);
            Write { at, old, new, value, bits }
        }));
        if writes.iter().next().is_some() { Ok(writes) } else { Err(IoError::NoRegister) }
    }
}

/// The part of an access that one register gets.
#[derive(Clone, Copy)]
struct Piece {
    at: RegRef,
    /// 1 to 8.
    bytes: u64,
    /// First byte, in the register.
    in_register: u64,
    /// First byte, in the access.
    in_access: u64,
}

impl Piece {
    fn ones(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes)
    }

    fn register_bits(&self) -> u64 {
        self.ones() << (8 * self.in_register)
    }

    fn access_bits(&self) -> u64 {
        self.ones() << (8 * self.in_access)
    }
}

impl fmt::Debug for RegFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (reg, start) in self.table.iter().zip(&self.starts) {
            for (i, value) in self.values.iter().skip(*start).take(reg.count as usize).enumerate() {
                let name = format_args!("{}", reg.name).to_string();
                let name = if reg.count == 1 { name } else { format!("{name}[{i}]") };
                map.entry(&format_args!("{name}"), &format_args!("{value:#x}"));
            }
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests;
