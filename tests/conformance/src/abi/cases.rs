//! What has no offset and no value in C: bit fields, which the probe sets and whose bytes are compared with what the
//! Rust packers make, and macros with arguments, which are called.

use xen_ioreq::abi::dm_op::pci_sbdf;
use xen_ioreq::abi::ioreq::{Bits, buf_ioreq, ioreq};
use zerocopy::IntoBytes;

/// A C expression and the value that Rust has for it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the row.
    pub name: String,
    /// The C expression.
    pub c_expr: String,
    /// The value on the Rust side; of a bit-field case, 8 bytes as a little-endian number.
    pub expected: u64,
}

/// Every field alone, all together, and every value of the small ones; every argument of the macros.
pub(super) fn all() -> Vec<Case> {
    let mut out = Vec::new();
    for state in 0..16 {
        out.push(sync(Bits { state, ..Bits::default() }));
    }
    out.push(sync(Bits { data_is_ptr: true, ..Bits::default() }));
    out.push(sync(Bits { read: true, ..Bits::default() }));
    out.push(sync(Bits { df: true, ..Bits::default() }));
    out.push(sync(Bits { state: 0xf, data_is_ptr: true, read: true, df: true }));
    for size in [1, 2, 4, 8] {
        out.push(buffered(false, size, 0, 0));
    }
    for bit in 0..20 {
        out.push(buffered(false, 1, 1 << bit, 0));
    }
    out.push(buffered(true, 1, 0, 0));
    out.push(buffered(false, 1, 0, 0x1122_3344));
    out.push(buffered(true, 8, 0xabcde, 0x1122_3344));
    for (s, b, d, f) in
        [(0, 0, 0, 0), (0xffff, 0, 0, 0), (0, 0xff, 0, 0), (0, 0, 0x1f, 0), (0, 0, 0, 7), (0, 0, 0xff, 0xff)]
    {
        let c_expr = format!("XEN_DMOP_PCI_SBDF({s:#x}u, {b:#x}, {d:#x}, {f:#x})");
        out.push(Case { name: c_expr.clone(), c_expr, expected: u64::from(pci_sbdf(s, b, d, f)) });
    }
    out
}

fn sync(bits: Bits) -> Case {
    let slot = ioreq { r#type: 8, bits: bits.pack(), ..ioreq::default() };
    let fields = format!(
        ".state = {}, .data_is_ptr = {}, .dir = {}, .df = {}",
        bits.state,
        u8::from(bits.data_is_ptr),
        u8::from(bits.read),
        u8::from(bits.df)
    );
    case("struct ioreq", 24, &fields, 8, slot.as_bytes())
}

fn buffered(read: bool, size: u8, addr: u32, data: u32) -> Case {
    let slot = buf_ioreq::new(8, read, size, addr, data);
    let fields = format!(
        ".dir = {}, .size = {}, .addr = {addr:#x}, .data = {data:#x}",
        u8::from(read),
        size.trailing_zeros()
    );
    case("struct buf_ioreq", 0, &fields, 8, slot.as_bytes())
}

fn case(c_type: &'static str, from: usize, fields: &str, r#type: u8, bytes: &[u8]) -> Case {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[from..from + 8]);
    Case {
        name: format!("{c_type} {{ {fields} }}"),
        c_expr: format!(
            "({{ {c_type} v = {{ .type = {type}, {fields} }}; unsigned long long w; memcpy(&w, (char *)&v + {from}, 8); w; }})"
        ),
        expected: u64::from_le_bytes(eight),
    }
}
