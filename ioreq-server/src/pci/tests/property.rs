//! Random functions and random accesses against a configuration space of single bits, written down from the specification.

use proptest::prelude::*;

use super::*;
use crate::device::Space;

/// What a function has.
#[derive(Clone, Debug)]
struct Spec {
    /// Index, kind (0 ports, 1 below 4 GiB, 2 anywhere), order of its size, prefetchable.
    bars: Vec<(u8, u8, u8, bool)>,
    /// D1, D2, soft reset, PME.
    pm: Option<[bool; 4]>,
    /// Order of its messages, 64-bit addresses.
    msi: Option<(u8, bool)>,
    msix: Option<u16>,
    /// A capability of the vendor's: value and what the guest can write.
    vendor: Vec<(u8, u8)>,
    /// A register whose bits are cleared by writing 1.
    events: u32,
}

fn specs() -> impl Strategy<Value = Spec> {
    let bar = (0u8..3, 2u8..33, any::<bool>());
    (
        proptest::collection::vec(proptest::option::of(bar), 6),
        proptest::option::of(any::<[bool; 4]>()),
        proptest::option::of((0u8..6, any::<bool>())),
        proptest::option::of(1u16..130),
        proptest::collection::vec(any::<(u8, u8)>(), 0..9),
        any::<u32>(),
    )
        .prop_map(|(slots, pm, msi, msix, vendor, events)| {
            let mut bars = Vec::new();
            let mut next = 0;
            for (index, slot) in (0u8..).zip(slots) {
                let Some((mut kind, order, prefetchable)) = slot else { continue };
                if index < next {
                    continue;
                }
                if index == 5 && kind == 2 {
                    kind = 1;
                }
                let order = match kind {
                    0 => order.clamp(2, 8),
                    1 => order.clamp(4, 31),
                    _ => order.clamp(4, 40),
                };
                next = index + if kind == 2 { 2 } else { 1 };
                bars.push((index, kind, order, prefetchable && kind != 0));
            }
            Spec { bars, pm, msi, msix, vendor, events }
        })
}

impl Spec {
    /// The BAR that has room for the messages, if there is one.
    fn msix_bar(&self) -> Option<u8> {
        self.bars.iter().find(|(_, kind, order, _)| *kind != 0 && *order >= 13).map(|b| b.0)
    }

    fn build(&self) -> ConfigSpace {
        let mut b = ConfigBuilder::new(0x1af4, 0x1234).class(2, 1, 0).revision(3);
        for (index, kind, order, prefetchable) in &self.bars {
            let size = 1u64 << order;
            let bar = [Bar::io(size), Bar::mem32(size), Bar::mem64(size)][usize::from(*kind)];
            b = b.bar(*index, if *prefetchable { bar.prefetchable() } else { bar });
        }
        if let Some([d1, d2, soft_reset, pme]) = self.pm {
            let mut pm = PowerManagement::new();
            pm = if d1 { pm.d1() } else { pm };
            pm = if d2 { pm.d2() } else { pm };
            pm = if soft_reset { pm.soft_reset() } else { pm };
            b = b.power_management(None, if pme { pm.pme() } else { pm });
        }
        if let Some((order, wide)) = self.msi {
            let msi = Msi::new().messages(order);
            b = b.msi(None, if wide { msi.wide() } else { msi });
        }
        if let (Some(n), Some(bar)) = (self.msix, self.msix_bar()) {
            let table = MsixTable::new(n, messages().1).unwrap();
            b = b.msix(None, &table, MsixPlace { table: (bar, 0), pending: (bar, 0x1000) });
        }
        if !self.vendor.is_empty() {
            let (value, writable): (Vec<_>, Vec<_>) = self.vendor.iter().copied().unzip();
            b = b.capability(9, None, &value, &writable);
        }
        b.clearable32(0xfc, self.events, !0).build().unwrap()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fixed,
    Writable,
    ClearedByOne,
}

/// A bit a bit.
struct Naive {
    spec: Spec,
    bits: Vec<bool>,
    kinds: Vec<Kind>,
    fresh: Vec<bool>,
    /// Byte offset of the power register.
    pm: Option<usize>,
    power: u64,
}

impl Naive {
    fn new(spec: &Spec) -> Self {
        let (bits, kinds) = (vec![false; 2048], vec![Kind::Fixed; 2048]);
        let mut n = Self { spec: spec.clone(), bits, kinds, fresh: vec![], pm: None, power: 0 };
        n.field(0, 4, 0x1234_1af4, 0, 0);
        // I/O, memory, master, parity, SERR#, INTx disable; the six errors
        n.field(4, 2, 0, 0b101_0100_0111, 0);
        n.field(6, 2, 0, 0, 0b1111_1001_0000_0000);
        n.field(8, 4, 0x0201_0003, 0, 0);
        n.field(0xc, 2, 0, 0xffff, 0);
        n.field(0x3c, 1, 0, 0xff, 0);
        for (index, kind, order, prefetchable) in &spec.bars {
            let flags = [1, 0, 4][usize::from(*kind)] | if *prefetchable { 8 } else { 0 };
            let (len, all) = if *kind == 2 { (8, u64::MAX) } else { (4, 0xffff_ffff) };
            n.field(0x10 + 4 * usize::from(*index), len, flags, all << order & all, 0);
        }
        let (mut at, mut link) = (0x40, 0x34);
        let mut add = |n: &mut Self, id, len: usize| {
            let here = at;
            n.field(link, 1, here as u64, 0, 0);
            n.field(here, 1, id, 0, 0);
            n.field(6, 1, 0x10, 0, 0);
            link = here + 1;
            at = (here + len).next_multiple_of(4);
            here
        };
        if let Some([d1, d2, soft_reset, pme]) = spec.pm {
            let at = add(&mut n, 1, 8);
            let there = u64::from(d1) << 9 | u64::from(d2) << 10 | if pme { 0x4800 } else { 0 };
            n.field(at + 2, 2, 3 | there, 0, 0);
            let (enable, status) = if pme { (0x100, 0x8000) } else { (0, 0) };
            n.field(at + 4, 2, if soft_reset { 0 } else { 8 }, 3 | enable, status);
            n.pm = Some(at + 4);
        }
        if let Some((order, wide)) = spec.msi {
            let at = add(&mut n, 5, if wide { 14 } else { 10 });
            let allowed = if order == 0 { 0 } else { 0x70 };
            n.field(at + 2, 2, u64::from(order) << 1 | u64::from(wide) << 7, 1 | allowed, 0);
            n.field(at + 4, 4, 0, 0xffff_fffc, 0);
            if wide {
                n.field(at + 8, 4, 0, 0xffff_ffff, 0);
            }
            n.field(at + if wide { 12 } else { 8 }, 2, 0, 0xffff, 0);
        }
        if let (Some(messages), Some(bar)) = (spec.msix, spec.msix_bar()) {
            let at = add(&mut n, 0x11, 12);
            n.field(at + 2, 2, u64::from(messages) - 1, 0xc000, 0);
            n.field(at + 4, 4, bar.into(), 0, 0);
            n.field(at + 8, 4, 0x1000 | u64::from(bar), 0, 0);
        }
        if !spec.vendor.is_empty() {
            let at = add(&mut n, 9, 2 + spec.vendor.len());
            for (i, (value, writable)) in spec.vendor.iter().enumerate() {
                n.field(at + 2 + i, 1, (*value).into(), (*writable).into(), 0);
            }
        }
        n.field(0xfc, 4, spec.events.into(), 0, 0xffff_ffff);
        n.fresh = n.bits.clone();
        n
    }

    fn field(&mut self, at: usize, len: usize, value: u64, writable: u64, cleared: u64) {
        for i in 0..8 * len {
            let has = |mask: u64| mask >> i & 1 == 1;
            self.bits[8 * at + i] |= has(value);
            if has(writable) {
                self.kinds[8 * at + i] = Kind::Writable;
            } else if has(cleared) {
                self.kinds[8 * at + i] = Kind::ClearedByOne;
            }
        }
    }

    fn number(&self, at: usize, len: usize) -> u64 {
        (0..8 * len).filter(|i| self.bits[8 * at + i]).map(|i| 1 << i).sum()
    }

    /// Whether it is an access at all.
    fn write(&mut self, at: usize, len: usize, value: u32) -> bool {
        if at >= 256 || at / 4 != (at + len - 1) / 4 {
            return false;
        }
        for i in 0..8 * len {
            let (bit, new) = (8 * at + i, value >> i & 1 == 1);
            match self.kinds[bit] {
                Kind::Fixed => {}
                Kind::Writable => self.bits[bit] = new,
                Kind::ClearedByOne => self.bits[bit] &= !new,
            }
        }
        if let (Some(pm), Some([d1, d2, soft_reset, _])) = (self.pm, self.spec.pm) {
            let (from, asked) = (self.power, self.number(pm, 2) & 3);
            let ways: &[(u64, u64)] =
                &[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (1, 0), (2, 0), (3, 0)];
            let there = [true, d1, d2, true];
            if ways.contains(&(from, asked)) && there[asked as usize] {
                self.power = asked;
            }
            if from == 3 && self.power == 0 && soft_reset {
                let pme = [self.bits[8 * pm + 8], self.bits[8 * pm + 15]];
                self.bits = self.fresh.clone();
                [self.bits[8 * pm + 8], self.bits[8 * pm + 15]] = pme;
            }
            for i in 0..2 {
                self.bits[8 * pm + i] = self.power >> i & 1 == 1;
            }
        }
        true
    }

    /// BAR, space, first and last address.
    fn placed(&self) -> Vec<(u8, Space, u64, u64)> {
        let command = self.number(4, 2);
        let mut out = Vec::new();
        for (index, kind, order, _) in &self.spec.bars {
            let (space, enable, len, end) = match kind {
                0 => (Space::Pio, 1, 4, 0xffff),
                1 => (Space::Mmio, 2, 4, 0xffff_fffe),
                _ => (Space::Mmio, 2, 8, u64::MAX - 1),
            };
            let start = self.number(0x10 + 4 * usize::from(*index), len) >> order << order;
            let last = start | ((1 << order) - 1);
            if self.power == 0 && command & enable != 0 && start != 0 && last <= end {
                out.push((*index, space, start, last));
            }
        }
        out
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u32, u32),
    /// To a register that something follows from: which of some, and what.
    Steer(u8, u32),
    Status(u16),
    Pme,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let write = (0u64..0x110, 0u32..4, any::<u32>()).prop_map(|(at, size, v)| Op::Write(at, size, v));
    let steer = (any::<u8>(), any::<u32>()).prop_map(|(which, v)| Op::Steer(which, v));
    let op = prop_oneof![
        4 => write,
        4 => steer,
        1 => any::<u16>().prop_map(Op::Status),
        1 => Just(Op::Pme),
    ];
    proptest::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_function_is_what_a_space_of_bits_is_after_any_accesses(spec in specs(), ops in ops()) {
        let mut c = spec.build();
        let mut naive = Naive::new(&spec);
        for op in ops {
            match op {
                Op::Write(at, size, value) => {
                    let width = Width::from_bytes(1 << size).unwrap();
                    let fits = naive.write(at as usize, 1 << size, value);
                    prop_assert_eq!(c.write(at, width, value).is_ok(), fits);
                }
                Op::Steer(which, value) => {
                    let at = match which % 8 {
                        0 => 4,
                        n @ 1..=6 => 0x10 + 4 * (u64::from(n) - 1),
                        _ => naive.pm.map_or(4, |pm| pm as u64),
                    };
                    naive.write(at as usize, 4, value);
                    prop_assert!(c.write(at, Width::Dword, value).is_ok());
                }
                Op::Status(bits) => {
                    c.raise_status(bits);
                    for i in (0..16).filter(|i| bits >> i & 1 == 1 && [8, 11, 12, 13, 14, 15].contains(i)) {
                        naive.bits[8 * 6 + i] = true;
                    }
                }
                Op::Pme => {
                    let may = c.raise_pme();
                    let has = spec.pm.is_some_and(|pm| pm[3]);
                    if let (Some(pm), true) = (naive.pm, has) {
                        naive.bits[8 * pm + 15] = true;
                        prop_assert_eq!(may, naive.bits[8 * pm + 8]);
                    } else {
                        prop_assert!(!may);
                    }
                }
            }
            for at in (0..256).step_by(4) {
                prop_assert_eq!(u64::from(dword(&c, at)), naive.number(at as usize, 4), "at {:#x}", at);
            }
            let placed: Vec<_> = c.placements().map(|p| (p.index, p.space, p.start, p.last)).collect();
            prop_assert_eq!(placed, naive.placed());
            prop_assert_eq!(c.power_state() as u64, naive.power);
            prop_assert_eq!(c.is_bus_master(), naive.power == 0 && naive.number(4, 2) & 4 != 0);
        }
        // Parts of dwords are parts of dwords.
        for at in 0..0x104u64 {
            for len in [1u64, 2, 4, 8] {
                let got = c.read(at, Width::from_bytes(len as u32).unwrap());
                if at < 256 && at / 4 == (at + len - 1) / 4 {
                    prop_assert_eq!(got.map(u64::from), Ok(naive.number(at as usize, len as usize)));
                } else {
                    prop_assert!(got.is_err());
                }
            }
        }
        // In another life it is where it was, and forgotten is only what befell it.
        let mut again = spec.build();
        again.restore(c.bytes());
        for ((old, fresh), kind) in naive.bits.iter_mut().zip(&naive.fresh).zip(&naive.kinds) {
            *old = if matches!(kind, Kind::ClearedByOne) { *fresh } else { *old };
        }
        for at in (0..256).step_by(4) {
            prop_assert_eq!(u64::from(dword(&again, at)), naive.number(at as usize, 4), "at {:#x}", at);
        }
        prop_assert!(again.placements().eq(c.placements()));
        prop_assert_eq!(again.power_state(), c.power_state());
    }

    /// Whoever could write the record of the other life has chosen the bytes.
    #[test]
    fn any_bytes_that_are_restored_are_what_a_guest_could_have_written(spec in specs(), bytes in any::<[u8; 32]>()) {
        let image: [u8; 256] = std::array::from_fn(|i| bytes[i % 32].wrapping_mul(i as u8 | 1));
        let mut c = spec.build();
        c.restore(&image);
        let naive = Naive::new(&spec);
        for (i, kind) in naive.kinds.iter().enumerate() {
            let now = c.bytes()[i / 8] >> (i % 8) & 1 == 1;
            prop_assert!(matches!(kind, Kind::Writable) || now == naive.fresh[i], "bit {}", i);
        }
    }

    /// As a guest does it: all-ones, read, and what was there before.
    #[test]
    fn sizing_gives_every_bar_its_size_kind_and_old_place(spec in specs(), old in any::<[u32; 6]>()) {
        let mut c = spec.build();
        for (i, v) in (0u64..).zip(old) {
            set(&mut c, 0x10 + 4 * i, v);
        }
        let before: Vec<_> = (0..6).map(|i| dword(&c, 0x10 + 4 * i)).collect();
        let mut found = Vec::new();
        let mut i = 0u64;
        while i < 6 {
            let at = 0x10 + 4 * i;
            set(&mut c, at, !0);
            let low = dword(&c, at);
            set(&mut c, at, before[i as usize]);
            let (index, wide) = (i as u8, low & 7 == 4);
            i += if wide { 2 } else { 1 };
            if low == 0 {
                continue;
            }
            let (kind, mask) = if low & 1 == 1 { (0, 3) } else { (1, 15) };
            let mut size = u64::from(low & !mask) | 0xffff_ffff_0000_0000;
            if wide {
                set(&mut c, at + 4, !0);
                size = size & 0xffff_ffff | u64::from(dword(&c, at + 4)) << 32;
                set(&mut c, at + 4, before[index as usize + 1]);
            }
            let order = size.trailing_zeros() as u8;
            found.push((index, if wide { 2 } else { kind }, order, kind == 1 && low & 8 != 0));
        }
        prop_assert_eq!(found, spec.bars);
        let after: Vec<_> = (0..6).map(|i| dword(&c, 0x10 + 4 * i)).collect();
        prop_assert_eq!(after, before);
    }
}
