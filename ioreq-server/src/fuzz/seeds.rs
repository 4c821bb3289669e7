//! The inputs with which mutations begin: a few that reach far.

use xen_ioreq::abi::ioreq::{buf_ioreq, ioreq};
use zerocopy::IntoBytes;

use crate::testing::toy::{FUNCTION, MEMORY, PORTS};

/// What to do with a register of 4 bytes of the first function.
const WRITE4: u8 = 4;
const READ4: u8 = 0x14;

/// Hands out target, name and content of each.
pub(super) fn seeds(put: &mut dyn FnMut(&str, &str, &[u8])) {
    let at = |kind: u8, addr: u64, data: u64, size: u32, count: u32, flags: u8| ioreq {
        addr,
        data,
        size,
        count,
        r#type: kind,
        bits: flags << 4 | 1,
        ..ioreq::default()
    };
    // Flags: 1 data_is_ptr, 2 read, 4 downwards.
    let single = [
        at(0, PORTS, 0x1234_5678, 4, 1, 0),
        at(0, PORTS + 1, 0, 2, 1, 2),
        at(1, MEMORY + 8, 0x8877_6655_4433_2211, 8, 1, 0),
        at(1, MEMORY + 9, 0, 1, 1, 2),
        at(2, FUNCTION << 32 | 4, 7, 2, 1, 0),
        at(2, FUNCTION << 32 | 4, 0, 4, 1, 2),
    ];
    let strings = [
        at(0, PORTS, 0x100, 4, 16, 1),
        at(0, PORTS, 0xffc, 2, 4, 3),
        at(1, MEMORY, 0x20, 4, 8, 1),
        at(1, MEMORY + 0x3c, 0x80, 4, 16, 7),
        at(1, MEMORY, 0xff8, 8, 3, 3),
        at(1, MEMORY + 0x10, 0x2001, 2, 5, 5),
    ];
    let edges = [
        at(1, MEMORY + 0x3e, 0, 4, 1, 2),
        at(0, 0xfffe, 0, 4, 1, 2),
        at(1, u64::MAX - 3, 1, 8, 1, 0),
        at(7, 0, 3600, 8, 1, 0),
        at(8, 0, u64::MAX, 4, 0, 0),
        at(8, 0, 0x1234, 8, 1, 0),
        at(3, 0, 0, 4, 1, 2),
        at(1, MEMORY, 0, 4, 4097, 1),
    ];
    let all = |how: u8, list: &[ioreq]| -> Vec<u8> {
        [how].into_iter().chain(list.iter().flat_map(|q| q.as_bytes().to_vec())).collect()
    };
    for (name, list) in [("single", &single[..]), ("strings", &strings), ("edges", &edges)] {
        put("slot", name, &all(3, list));
        put("slot", &format!("{name}-deferred"), &all(1, list));
    }
    put("slot", "fails", &all(2 | 3 << 3, &strings));

    let entries = [
        buf_ioreq::new(1, false, 4, 0xa_0000, 7),
        buf_ioreq::new(8, false, 8, 0, 0x1234),
        buf_ioreq::new(8, false, 8, 0, 0),
        buf_ioreq::new(0, false, 1, 0xc000, 0x55),
        buf_ioreq::new(7, false, 8, 0, 3600),
        buf_ioreq::new(7, false, 8, 0, 0),
    ];
    let ring = |mode: u8, read: u32, write: u32| -> Vec<u8> {
        let mut out = vec![mode];
        out.extend(read.to_le_bytes());
        out.extend(write.to_le_bytes());
        out.extend(entries.iter().flat_map(|e| e.as_bytes().to_vec()));
        out
    };
    put("ring", "six", &ring(1, 0, 6));
    put("ring", "legacy", &ring(0, u32::MAX - 2, 3));
    put("ring", "full", &ring(1, 5, 516));
    put("ring", "half", &ring(0, 0, 5));
    put("ring", "apart", &ring(1, 7, 1000));

    let config = |list: &[(u8, u16, u32)]| -> Vec<u8> {
        let mut out = Vec::new();
        for (what, register, value) in list {
            out.push(*what);
            out.extend(register.to_le_bytes());
            if what & 0x10 == 0 {
                out.extend(value.to_le_bytes());
            }
        }
        out
    };
    put(
        "config_space",
        "place",
        &config(&[
            (WRITE4, 0x10, 0xe000_0000),
            (WRITE4, 0x14, 0xd000_0000),
            (WRITE4, 0x18, 1),
            (WRITE4, 0x1c, 0xc001),
            (WRITE4, 0x20, 0xe000_1000),
            (2, 4, 7),
            (WRITE4 | 1, 0x10, 0xe000_0000),
            (2 | 1, 4, 7),
        ]),
    );
    put(
        "config_space",
        "size",
        &config(&[
            (WRITE4, 0x10, u32::MAX),
            (READ4, 0x10, 0),
            (WRITE4, 0x14, u32::MAX),
            (WRITE4, 0x18, u32::MAX),
            (READ4, 0x18, 0),
            (2, 4, 7),
        ]),
    );
    put(
        "config_space",
        "msi",
        &config(&[
            (READ4, 0x34, 0),
            (READ4, 0x90, 0),
            (WRITE4, 0x94, 0xfee0_0000),
            (2, 0x98, 0x41),
            (2, 0x92, 1),
            (8, 0x92, 1),
        ]),
    );

    put("dm_op", "all-well", &[2].into_iter().chain([0; 200]).collect::<Vec<u8>>());
    put("dm_op", "no-ring", &[0].into_iter().chain((0..=255).map(|n: u8| n % 7)).collect::<Vec<u8>>());
    put("dm_op", "legacy", &[1].into_iter().chain((0..=255).map(|n: u8| n / 2)).collect::<Vec<u8>>());
    put("dm_op", "refusals", &[2].into_iter().chain((0..=255).rev()).collect::<Vec<u8>>());
}
