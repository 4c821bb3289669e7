//! The protocol, interpreted slowly: as QEMU's source describes it, on arrays and 128-bit numbers, an access at a time.
#![allow(clippy::cast_possible_truncation, reason = "offsets in small arrays")]

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::abi::ioreq::ioreq;

use super::toy::{FUNCTION, HOLE, MEMORY, PORTS, Rig, SIZE};
use crate::request::Invalidation;

/// The naive interpreter.
pub(crate) struct Naive {
    pub(crate) cells: [Vec<u8>; 3],
    pub(crate) ram: Vec<u8>,
    pub(crate) heard: Vec<Invalidation>,
    pub(crate) offsets: Vec<i64>,
    /// Accesses that the device may still answer.
    pub(crate) patience: u64,
}

impl Naive {
    fn ram_byte(&mut self, at: i128) -> Option<&mut u8> {
        let at = usize::try_from(at).ok()?;
        if at / PAGE_SIZE == HOLE as usize { None } else { self.ram.get_mut(at) }
    }

    /// The answer in the slot.
    pub(crate) fn run(&mut self, q: &ioreq) -> u64 {
        let bits = q.bits;
        let (ptr, read, df) = (bits & 0x10 != 0, bits & 0x20 != 0, bits & 0x40 != 0);
        let space = match q.r#type {
            0 => 0,
            1 => 1,
            2 => 2,
            7 => {
                self.offsets.push(q.data.cast_signed());
                return q.data;
            }
            8 => {
                self.heard.push(if q.data == u64::MAX {
                    Invalidation::All
                } else {
                    Invalidation::Frame(xen_ioreq::Bfn(q.data))
                });
                return q.data;
            }
            _ => return u64::MAX,
        };
        let size = i128::from(q.size);
        let sizes: &[i128] = if space == 1 { &[1, 2, 4, 8] } else { &[1, 2, 4] };
        if !sizes.contains(&size) || q.count == 0 || q.count > 4096 {
            return u64::MAX;
        }
        let sign = if df { -1 } else { 1 };
        let step = |i: u32| i128::from(i) * size * sign;
        let in_64 = |base: u64| {
            [0, q.count - 1].iter().all(|i| {
                let at = i128::from(base) + step(*i);
                at >= 0 && at + size <= 1 << 64
            })
        };
        if space == 0 && i128::from(q.addr) + size > 0x1_0000
            || space == 1 && !in_64(q.addr)
            || ptr && !in_64(q.data)
        {
            return u64::MAX;
        }
        let mut answer = q.data;
        for i in 0..q.count {
            let (base, at) = match space {
                0 => (PORTS as i128, i128::from(q.addr)),
                1 => (MEMORY as i128, i128::from(q.addr) + step(i)),
                _ if q.addr >> 32 == FUNCTION => (0, i128::from(q.addr as u32)),
                _ => return u64::MAX,
            };
            let mut value = 0u64;
            if !read {
                for b in 0..size {
                    let byte = if ptr {
                        match self.ram_byte(i128::from(q.data) + step(i) + b) {
                            Some(byte) => *byte,
                            None => return u64::MAX,
                        }
                    } else {
                        (q.data >> (8 * b)) as u8
                    };
                    value |= u64::from(byte) << (8 * b);
                }
            }
            let inside = at >= base && at + size <= base + SIZE as i128;
            // The bus sends a function what it has no register for; elsewhere the device is not reached.
            if !inside && space != 2 || self.patience == 0 {
                return u64::MAX;
            }
            self.patience -= 1;
            if !inside {
                return u64::MAX;
            }
            for b in 0..size {
                let cell = &mut self.cells[space][usize::try_from(at - base + b).unwrap()];
                if read {
                    value |= u64::from(*cell) << (8 * b);
                } else {
                    *cell = (value >> (8 * b)) as u8;
                }
            }
            if read && !ptr {
                answer = value;
            }
            if read && ptr {
                // An item across a hole is written up to it, as byte by byte.
                let aligned = (i128::from(q.data) + step(i)) % size == 0;
                for b in 0..size {
                    match self.ram_byte(i128::from(q.data) + step(i) + b) {
                        Some(byte) => *byte = (value >> (8 * b)) as u8,
                        None => {
                            assert!(!aligned || b == 0);
                            return u64::MAX;
                        }
                    }
                }
            }
        }
        answer
    }
}

/// Type, read, size, address, data.
pub(crate) type Plain = (u8, bool, u32, u64, u64);

/// The ring as one reads it in Xen's source, one entry at a time, with a plain array.
pub(crate) fn ring(page: &[u8; PAGE_SIZE]) -> (Vec<Plain>, bool, u32) {
    let u32_at = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
    let (mut r, w) = (u32_at(0), u32_at(4));
    let mut out = Vec::new();
    if w.wrapping_sub(r) > 511 {
        return (out, false, w);
    }
    let mut good = true;
    while r != w {
        let head = u32_at(8 + (r % 511) as usize * 8);
        let low = u32_at(12 + (r % 511) as usize * 8);
        let size = 1 << (head >> 10 & 3);
        r = r.wrapping_add(1);
        let mut data = u64::from(low);
        if size == 8 {
            if r == w {
                good = false;
                break;
            }
            data += u64::from(u32_at(12 + (r % 511) as usize * 8)) * (1 << 32);
            r = r.wrapping_add(1);
        }
        out.push((head as u8, head & 0x200 != 0, size, u64::from(head >> 12), data));
    }
    (out, good, r)
}

impl Naive {
    /// What is there before the first request.
    pub(crate) fn of(rig: &Rig, patience: u64) -> Self {
        Self { cells: rig.cells(), ram: rig.ram(), heard: vec![], offsets: vec![], patience }
    }

    /// Sends one request and compares what came of it; `ram` too, which takes long.
    #[track_caller]
    pub(crate) fn check(&mut self, rig: &Rig, q: &ioreq, ram: bool) {
        let want = self.run(q);
        let mut got = rig.send(q);
        // What was deferred is answered until the run is over.
        while got.is_none() {
            let (token, value) = rig.toy.late.lock().remove(0);
            token.answer(value);
            got = rig.answer();
        }
        assert_eq!(got, Some(want), "{q:x?}");
        for (cells, naive) in rig.toy.cells.iter().zip(&self.cells) {
            assert_eq!(*cells.lock(), *naive, "{q:x?}");
        }
        assert!(!ram || rig.ram() == self.ram, "{q:x?}");
    }

    /// Compares what the handlers of notices heard.
    #[track_caller]
    pub(crate) fn check_notices(&self, rig: &Rig) {
        assert_eq!(*rig.heard.0.lock(), self.heard);
        assert_eq!(*rig.heard.1.lock(), self.offsets);
    }
}

/// Sends requests one after another and compares each.
#[track_caller]
pub(crate) fn compare(rig: &Rig, requests: &[ioreq], patience: u64) {
    let mut naive = Naive::of(rig, patience);
    for q in requests {
        naive.check(rig, q, true);
    }
    naive.check_notices(rig);
}
