#![allow(clippy::cast_possible_truncation, reason = "offsets in small arrays")]

use proptest::prelude::*;

use super::*;

crate::registers! {
    /// One of each kind.
    mod all;
    ID = 0x00, Dword, ReadOnly { reset: 0x1234_5678 }, "Who it is.";
    CTRL = 0x04, Dword, ReadWrite { reset: 0x8000_0001, mask: 0x00ff_ffff }, "The top byte is the device's.";
    STATUS = 0x08, Word, WriteOneClear { mask: 0x0ff0 }, "Only the middle can be cleared.";
    EVENTS = 0x0a, Word, ReadClear { mask: 0x00ff }, "The low byte is cleared by reading.";
    MODE = 0x0c, Dword, Masked { mask: 0x0fff }, "Bits by selection.";
    GO = 0x10, Byte, Trigger, "Does something.";
    BYTES = 0x11 [3], Byte, ReadWrite { reset: 7 }, "Three of them.";
    // A gap of 4 bytes.
    WIDE = 0x18 [2], Qword, ReadWrite, "Two of 8 bytes.";
}

/// As the rules say it, byte by byte, with a plain array of what each byte of the file is.
struct Naive {
    /// Register, its value.
    regs: Vec<(&'static Reg, u64, u64)>,
}

impl Naive {
    fn new() -> Self {
        let regs = all::TABLE
            .iter()
            .flat_map(|r| {
                (0..u64::from(r.count))
                    .map(move |i| (r, u64::from(r.offset) + i * u64::from(r.width.bytes()), r.reset))
            })
            .collect();
        Self { regs }
    }

    fn at(&mut self, byte: u64) -> Option<&mut (&'static Reg, u64, u64)> {
        self.regs
            .iter_mut()
            .find(|(r, start, _)| (*start..*start + u64::from(r.width.bytes())).contains(&byte))
    }

    fn read(&mut self, offset: u64, len: u64) -> Option<u64> {
        let mut out = 0u64;
        let mut known = false;
        for i in (0..len).rev() {
            let byte = match self.at(offset + i) {
                Some((r, start, value)) => {
                    known = true;
                    let shift = 8 * (offset + i - *start);
                    let byte = *value >> shift & 0xff;
                    if r.rule == Rule::ReadClear {
                        *value &= !(0xff << shift & r.mask);
                    }
                    byte
                }
                None => 0xff,
            };
            out = out << 8 | byte;
        }
        known.then_some(out)
    }

    fn write(&mut self, offset: u64, len: u64, value: u64) -> bool {
        let bytes = value.to_le_bytes();
        let mut known = false;
        // A masked register is one thing; everything else goes by its bytes.
        for (r, start, old) in &mut self.regs {
            let (mut put, mut enabled) = (0u64, 0u64);
            for i in 0..len {
                if (*start..*start + u64::from(r.width.bytes())).contains(&(offset + i)) {
                    known = true;
                    put |= u64::from(bytes[i as usize]) << (8 * (offset + i - *start));
                    enabled |= 0xff << (8 * (offset + i - *start));
                }
            }
            for bit in 0..64u32 {
                let one = 1u64 << bit;
                if r.mask & one == 0 {
                    continue;
                }
                let new = match r.rule {
                    Rule::ReadWrite if enabled & one != 0 => put & one,
                    Rule::WriteOneClear if put & one != 0 => 0,
                    Rule::Masked if put >> (bit + 4 * r.width.bytes()) & 1 != 0 => put & one,
                    _ => *old & one,
                };
                *old = *old & !one | new;
            }
        }
        known
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_accesses_do_what_the_rules_say_byte_by_byte(
        accesses in proptest::collection::vec((0u64..0x30, 0u32..4, any::<Option<u64>>(), any::<bool>()), 1..40),
    ) {
        let mut file = RegFile::new(all::TABLE);
        let mut naive = Naive::new();
        for (offset, log, write, device) in accesses {
            let width = Width::from_bytes(1 << log).unwrap();
            let len = u64::from(width.bytes());
            match write {
                // The device itself changes what a guest cannot.
                Some(value) if device => {
                    file.set(offset as u32, value);
                    if let Some((r, _, old)) = naive.at(offset) {
                        *old = value & r.width.mask();
                    }
                }
                Some(value) => {
                    let value = value & width.mask();
                    let got = file.write(offset, width, value);
                    prop_assert_eq!(got.is_ok(), naive.write(offset, len, value));
                    for w in got.into_iter().flatten() {
                        prop_assert_eq!(file.get(w.at.offset()), w.new);
                        prop_assert_eq!(w.value & !w.bits, 0);
                    }
                }
                None => prop_assert_eq!(file.read(offset, width).ok(), naive.read(offset, len)),
            }
            for (_, start, value) in &naive.regs {
                prop_assert_eq!(file.get(*start as u32), *value);
            }
        }
        file.reset();
        for (reg, start, _) in naive.regs {
            prop_assert_eq!(file.get(start as u32), reg.reset);
        }
    }
}

#[test]
fn a_write_says_which_registers_it_hit_and_with_what() {
    let mut file = RegFile::new(all::TABLE);
    let writes: Vec<_> = file.write(0x0e, Width::Dword, 0xa1_b2_c3_d4).unwrap().into_iter().collect();
    let seen: Vec<_> = writes.iter().map(|w| (w.at.reg.name, w.at.index, w.value, w.bits)).collect();
    assert_eq!(
        seen,
        [("MODE", 0, 0xc3d4_0000, 0xffff_0000), ("GO", 0, 0xb2, 0xff), ("BYTES", 0, 0xa1, 0xff)]
    );
    assert_eq!((writes[1].old, writes[1].new, writes[2].old, writes[2].new), (0, 0, 7, 0xa1));
    assert_eq!(
        file.hits(0x12, Width::Qword).iter().map(|h| h.offset()).collect::<Vec<_>>(),
        [0x12, 0x13, 0x18]
    );
}

#[test]
fn where_there_is_no_register_there_is_no_answer() {
    let mut file = RegFile::new(all::TABLE);
    for offset in [0x14, 0x28, 0xffff_ffff, u64::MAX, u64::MAX - 7] {
        assert_eq!(file.read(offset, Width::Dword), Err(IoError::NoRegister), "{offset:#x}");
        assert_eq!(file.write(offset, Width::Dword, 1), Err(IoError::NoRegister), "{offset:#x}");
    }
    // Half of it is known.
    assert_eq!(file.read(0x12, Width::Dword), Ok(0xffff_0707));
    file.set(0x14, 5);
    assert_eq!(file.get(0x14), 0);
}

#[test]
fn a_table_that_contradicts_itself_is_not_sound() {
    const GOOD: Reg = Reg {
        name: "A",
        offset: 4,
        width: Width::Dword,
        count: 2,
        rule: Rule::ReadWrite,
        reset: 0,
        mask: 0xffff_ffff,
    };
    assert!(is_sound(&[]) && is_sound(&[GOOD]) && is_sound(all::TABLE));
    assert!(is_sound(&[GOOD, Reg { offset: 12, ..GOOD }]));
    for bad in [
        [GOOD, Reg { offset: 8, ..GOOD }],
        [GOOD, Reg { offset: 0, count: 1, ..GOOD }],
        [GOOD, Reg { offset: 14, ..GOOD }],
        [GOOD, Reg { offset: 12, count: 0, ..GOOD }],
        [GOOD, Reg { offset: 12, width: Width::Byte, ..GOOD }],
        [GOOD, Reg { offset: 12, reset: 1 << 32, ..GOOD }],
        [GOOD, Reg { offset: 12, rule: Rule::Masked, ..GOOD }],
    ] {
        assert!(!is_sound(&bad), "{bad:?}");
    }
}

#[test]
fn what_is_printed_names_registers_and_values() {
    let text = format!("{:?}", RegFile::new(all::TABLE));
    assert!(
        text.starts_with("{ID: 0x12345678, CTRL: 0x80000001,") && text.contains("BYTES[2]: 0x7"),
        "{text}"
    );
}
