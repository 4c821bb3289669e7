//! The buffered ring: Xen puts requests in that need no answer, the emulator takes them out.

use std::sync::atomic::Ordering;

use xen_ioreq::abi::ioreq::{
    BUF_READ_POINTER_OFFSET, BUF_SLOTS_OFFSET, BUF_WRITE_POINTER_OFFSET, IOREQ_BUFFER_SLOT_NUM, buf_ioreq,
};
use zerocopy::IntoBytes;

use super::request::Request;
use crate::memory::Page;

/// The ring cannot take it: full, or a request that has no form there. It goes the sync way then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Puts a request into the ring; the caller serialises. `atomic` is the mode in which Xen keeps the pointers small.
pub(crate) fn push(page: Page<'_>, r: &Request, atomic: bool) -> Result<(), Refused> {
    // An entry has 20 bits of address, and room neither for a pointer to data nor for a count.
    let addr = u32::try_from(r.addr).ok().filter(|a| *a <= 0xf_ffff).ok_or(Refused)?;
    let size = u8::try_from(r.size).ok().filter(|s| matches!(s, 1 | 2 | 4 | 8)).ok_or(Refused)?;
    if r.data_is_ptr || r.count != 1 {
        return Err(Refused);
    }
    let slots: u32 = if size == 8 { 2 } else { 1 };
    // The emulator writes the read pointer and may write anything: it is used for counting only.
    let read = page.u32(BUF_READ_POINTER_OFFSET).load(Ordering::Acquire);
    let write = page.u32(BUF_WRITE_POINTER_OFFSET).load(Ordering::Acquire);
    if write.wrapping_sub(read) > IOREQ_BUFFER_SLOT_NUM - slots {
        return Err(Refused);
    }
    let [d0, d1, d2, d3, d4, d5, d6, d7] = r.data.to_le_bytes();
    put(page, write, buf_ioreq::new(r.ty, r.read, size, addr, u32::from_le_bytes([d0, d1, d2, d3])));
    if slots == 2 {
        let high = u32::from_le_bytes([d4, d5, d6, d7]);
        put(page, write.wrapping_add(1), buf_ioreq::new(r.ty, r.read, size, addr, high));
    }
    if atomic {
        page.u32(BUF_WRITE_POINTER_OFFSET).fetch_add(slots, Ordering::AcqRel);
        rebase(page);
    } else {
        page.u32(BUF_WRITE_POINTER_OFFSET).store(write.wrapping_add(slots), Ordering::Release);
    }
    Ok(())
}

fn put(page: Page<'_>, pointer: u32, entry: buf_ioreq) {
    let index = pointer % IOREQ_BUFFER_SLOT_NUM;
    let at = BUF_SLOTS_OFFSET + index as usize * std::mem::size_of::<buf_ioreq>();
    page.write(at, entry.as_bytes());
}

/// Takes whole turns off both pointers at once, so that they never overflow. The emulator moves the read pointer
/// meanwhile; after as many attempts as there are entries it is left for the next time.
fn rebase(page: Page<'_>) {
    let both = page.u64(BUF_READ_POINTER_OFFSET);
    for _ in 0..IOREQ_BUFFER_SLOT_NUM {
        let old = both.load(Ordering::Acquire);
        let [r0, r1, r2, r3, w0, w1, w2, w3] = old.to_le_bytes();
        let (read, write) = (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([w0, w1, w2, w3]));
        if read < IOREQ_BUFFER_SLOT_NUM {
            return;
        }
        let turns = read / IOREQ_BUFFER_SLOT_NUM * IOREQ_BUFFER_SLOT_NUM;
        let new = u64::from(read - turns) | u64::from(write.wrapping_sub(turns)) << 32;
        if both.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use xen_ioreq::Mfn;
    use zerocopy::FromBytes;

    use super::*;
    use crate::memory::HostMemory;

    fn with_page(f: impl FnOnce(Page<'_>)) {
        let memory = HostMemory::new(1).unwrap();
        f(memory.page(Mfn(0)).unwrap());
    }

    fn pointers(page: Page<'_>) -> (u32, u32) {
        (page.u32(0).load(Ordering::SeqCst), page.u32(4).load(Ordering::SeqCst))
    }

    fn entry(page: Page<'_>, i: usize) -> buf_ioreq {
        let mut raw = [0; 8];
        page.read(8 + i * 8, &mut raw);
        buf_ioreq::read_from_bytes(&raw[..]).unwrap()
    }

    #[test]
    fn an_invalidate_takes_two_slots_low_half_first() {
        with_page(|page| {
            push(page, &Request::invalidate_bfn(0x1122_3344_5566_7788), true).unwrap();
            assert_eq!(pointers(page), (0, 2));
            assert_eq!((entry(page, 0).data, entry(page, 1).data), (0x5566_7788, 0x1122_3344));
            assert_eq!((entry(page, 0).r#type, entry(page, 0).size(), entry(page, 0).read()), (8, 8, false));
        });
    }

    #[test]
    fn the_ring_takes_511_entries_and_refuses_the_next() {
        with_page(|page| {
            for i in 0..511 {
                push(page, &Request::mmio(0xa_0000, 4, false, i), false).unwrap();
            }
            assert_eq!(push(page, &Request::mmio(0xa_0000, 4, false, 0), false), Err(Refused));
            page.u32(0).store(1, Ordering::SeqCst);
            assert_eq!(push(page, &Request::invalidate_bfn(1), false), Err(Refused), "needs two");
            assert_eq!(push(page, &Request::mmio(0xa_0000, 4, false, 7), false), Ok(()));
            assert_eq!(entry(page, 0).data, 7, "wrapped to the first slot");
        });
    }

    #[test]
    fn what_has_no_form_in_the_ring_is_refused() {
        with_page(|page| {
            let ok = Request::mmio(0xf_ffff, 1, false, 0);
            assert_eq!(push(page, &ok, true), Ok(()));
            for bad in [
                Request { addr: 0x10_0000, ..ok },
                Request { data_is_ptr: true, ..ok },
                Request { count: 2, ..ok },
                Request { count: 0, ..ok },
                Request { size: 3, ..ok },
            ] {
                assert_eq!(push(page, &bad, true), Err(Refused), "{bad:?}");
            }
        });
    }

    #[test]
    fn atomic_mode_takes_whole_turns_off_both_pointers_and_legacy_lets_them_run() {
        with_page(|page| {
            for p in [0, 4] {
                page.u32(p).store(511 * 3 + 5, Ordering::SeqCst);
            }
            push(page, &Request::mmio(0, 4, false, 0), true).unwrap();
            assert_eq!(pointers(page), (5, 6));
            for p in [0, 4] {
                page.u32(p).store(u32::MAX, Ordering::SeqCst);
            }
            push(page, &Request::mmio(0, 4, false, 0), false).unwrap();
            assert_eq!(pointers(page), (u32::MAX, 0));
        });
    }

    #[test]
    fn a_read_pointer_beyond_the_write_pointer_looks_full_and_harms_nobody() {
        with_page(|page| {
            page.u32(0).store(1, Ordering::SeqCst);
            assert_eq!(push(page, &Request::mmio(0, 4, false, 0), true), Err(Refused));
        });
    }
}
