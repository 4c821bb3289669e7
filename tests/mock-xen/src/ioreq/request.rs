//! A request as Xen makes it, before it becomes bytes in a slot or in the buffered ring.

use xen_ioreq::abi::ioreq::{
    Bits, IOREQ_TYPE_COPY, IOREQ_TYPE_INVALIDATE, IOREQ_TYPE_PIO, IOREQ_TYPE_TIMEOFFSET, STATE_IOREQ_NONE,
};

/// The fields of a `struct ioreq` but for those that belong to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) ty: u8,
    pub(crate) addr: u64,
    pub(crate) data: u64,
    pub(crate) count: u32,
    pub(crate) size: u32,
    pub(crate) read: bool,
    pub(crate) df: bool,
    pub(crate) data_is_ptr: bool,
}

impl Request {
    pub(crate) fn pio(port: u16, size: u32, read: bool, data: u64) -> Self {
        Self { ty: IOREQ_TYPE_PIO, addr: u64::from(port), ..Self::one(size, read, data) }
    }

    pub(crate) fn mmio(gpa: u64, size: u32, read: bool, data: u64) -> Self {
        Self { ty: IOREQ_TYPE_COPY, addr: gpa, ..Self::one(size, read, data) }
    }

    fn one(size: u32, read: bool, data: u64) -> Self {
        Self { ty: 0, addr: 0, data, count: 1, size, read, df: false, data_is_ptr: false }
    }

    /// The notice that the frame behind one BFN is wanted back.
    pub(crate) fn invalidate_bfn(bfn: u64) -> Self {
        Self { ty: IOREQ_TYPE_INVALIDATE, ..Self::one(8, false, bfn) }
    }

    /// The notice that something has changed, as released Xen words it.
    pub(crate) fn invalidate_all() -> Self {
        Self { ty: IOREQ_TYPE_INVALIDATE, count: 0, ..Self::one(4, false, u64::MAX) }
    }

    /// The guest has set its clock.
    pub(crate) fn time_offset(seconds: i64) -> Self {
        Self { ty: IOREQ_TYPE_TIMEOFFSET, ..Self::one(8, false, seconds.cast_unsigned()) }
    }

    /// First and last byte that a (repeated) memory access touches; `None` if it wraps.
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        let size = u64::from(self.size);
        let steps = u64::from(self.count.checked_sub(1)?);
        let travel = steps.checked_mul(size)?;
        let first = if self.df { self.addr.checked_sub(travel)? } else { self.addr };
        let last = if self.df { self.addr } else { self.addr.checked_add(travel)? };
        Some((first, last.checked_add(size.checked_sub(1)?)?))
    }

    pub(crate) fn bits(&self) -> Bits {
        Bits { state: STATE_IOREQ_NONE, data_is_ptr: self.data_is_ptr, read: self.read, df: self.df }
    }
}

/// All ones in the low `size` bytes.
pub(crate) fn ones(size: u32) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_a_string_access_runs_with_its_direction() {
        let r = Request { count: 4, ..Request::mmio(0x1000, 4, true, 0) };
        assert_eq!(r.span(), Some((0x1000, 0x100f)));
        assert_eq!(Request { df: true, ..r }.span(), Some((0xff4, 0x1003)));
        assert_eq!(Request { addr: 4, df: true, ..r }.span(), None);
        assert_eq!(Request { addr: u64::MAX - 7, ..r }.span(), None);
    }

    #[test]
    fn ones_has_as_many_bytes_as_asked_for() {
        assert_eq!([ones(1), ones(2), ones(4), ones(8)], [0xff, 0xffff, 0xffff_ffff, u64::MAX]);
    }
}
