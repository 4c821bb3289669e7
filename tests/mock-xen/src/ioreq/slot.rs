//! The sync slot of a vCPU: Xen fills it, the emulator answers in it.

use std::sync::atomic::Ordering;

use xen_ioreq::abi::ioreq::{
    Bits, SLOT_BITS_OFFSET, STATE_IOREQ_INPROCESS, STATE_IOREQ_NONE, STATE_IOREQ_READY, STATE_IORESP_READY,
    ioreq,
};
use xen_ioreq::{Port, VcpuId};

use super::request::Request;
use crate::memory::Page;

const ADDR: usize = std::mem::offset_of!(ioreq, addr);
const DATA: usize = std::mem::offset_of!(ioreq, data);
const COUNT: usize = std::mem::offset_of!(ioreq, count);
const SIZE: usize = std::mem::offset_of!(ioreq, size);
const PORT: usize = std::mem::offset_of!(ioreq, vp_eport);
const TYPE: usize = std::mem::offset_of!(ioreq, r#type);

/// What an answer in progress looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not yet.
    Waiting,
    /// The answer.
    Done(u64),
    /// The emulator did what it must not do.
    Broken(&'static str),
}

/// One vCPU's slot in the page of sync slots.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'m> {
    page: Page<'m>,
    base: usize,
}

impl<'m> Slot<'m> {
    /// `None`: the page has no slot for this vCPU.
    pub(crate) fn new(page: Page<'m>, vcpu: VcpuId) -> Option<Self> {
        let index = usize::try_from(vcpu.0).ok()?;
        (index < xen_ioreq::abi::ioreq::SLOTS_PER_PAGE)
            .then(|| Self { page, base: index * std::mem::size_of::<ioreq>() })
    }

    fn state(&self) -> u8 {
        Bits::unpack(self.page.u8(self.base + SLOT_BITS_OFFSET).load(Ordering::Acquire)).state
    }

    /// Tells the emulator by which port it answers.
    pub(crate) fn set_port(&self, port: Port) {
        self.page.u32(self.base + PORT).store(port.0, Ordering::Release);
    }

    /// Hands a request over, unless the emulator's kernel answers it: then the emulator finds it answered. The emulator shares
    /// this page, so what it left here is checked first.
    pub(crate) fn post(
        &self,
        port: Port,
        r: &Request,
        by_kernel: impl FnOnce() -> bool,
    ) -> Result<(), &'static str> {
        if self.state() != STATE_IOREQ_NONE {
            return Err("device model set a bad I/O state");
        }
        if self.page.u32(self.base + PORT).load(Ordering::Acquire) != port.0 {
            return Err("device model set a bad event channel");
        }
        self.page.u64(self.base + ADDR).store(r.addr, Ordering::Relaxed);
        self.page.u64(self.base + DATA).store(r.data, Ordering::Relaxed);
        self.page.u32(self.base + COUNT).store(r.count, Ordering::Relaxed);
        self.page.u32(self.base + SIZE).store(r.size, Ordering::Relaxed);
        self.page.u8(self.base + TYPE).store(r.ty, Ordering::Relaxed);
        // An event that came late lets the emulator look here at any time: there is no moment in which both could answer.
        let state = if by_kernel() { STATE_IORESP_READY } else { STATE_IOREQ_READY };
        let bits = Bits { state, ..r.bits() };
        self.page.u8(self.base + SLOT_BITS_OFFSET).store(bits.pack(), Ordering::Release);
        Ok(())
    }

    /// Whether the emulator has only taken the request up, or not even that.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.state(), STATE_IOREQ_READY | STATE_IOREQ_INPROCESS)
    }

    /// How far the emulator has come; `seen` is the state at the last look and may only grow.
    pub(crate) fn progress(&self, seen: &mut u8) -> Progress {
        let state = self.state();
        if state == STATE_IOREQ_NONE {
            // The emulator died in the middle.
            return Progress::Done(u64::MAX);
        }
        if state < *seen {
            return Progress::Broken("device model took an I/O state back");
        }
        *seen = state;
        match state {
            STATE_IORESP_READY => {
                let data = self.page.u64(self.base + DATA).load(Ordering::Acquire);
                let bits = self.page.u8(self.base + SLOT_BITS_OFFSET);
                let left = Bits { state: STATE_IOREQ_NONE, ..Bits::unpack(bits.load(Ordering::Relaxed)) };
                bits.store(left.pack(), Ordering::Release);
                Progress::Done(data)
            }
            STATE_IOREQ_READY | STATE_IOREQ_INPROCESS => Progress::Waiting,
            _ => Progress::Broken("device model set an unknown I/O state"),
        }
    }
}

#[cfg(test)]
mod tests {
    use xen_ioreq::Mfn;

    use super::*;
    use crate::memory::HostMemory;

    fn with_slot(f: impl FnOnce(Slot<'_>, Page<'_>)) {
        let memory = HostMemory::new(1).unwrap();
        let page = memory.page(Mfn(0)).unwrap();
        let slot = Slot::new(page, VcpuId(1)).unwrap();
        slot.set_port(Port(9));
        f(slot, page);
    }

    fn set_state(page: Page<'_>, state: u8) {
        page.u8(32 + SLOT_BITS_OFFSET).store(state, Ordering::SeqCst);
    }

    #[test]
    fn a_request_lies_in_the_slot_as_the_header_says() {
        with_slot(|slot, page| {
            let r = Request { df: true, data_is_ptr: true, count: 3, ..Request::mmio(0xfee, 4, true, 0x77) };
            slot.post(Port(9), &r, || false).unwrap();
            let mut raw = [0; 32];
            page.read(32, &mut raw);
            let q: ioreq = zerocopy::FromBytes::read_from_bytes(&raw[..]).unwrap();
            assert_eq!((q.addr, q.data, q.count, q.size, q.vp_eport, q.r#type), (0xfee, 0x77, 3, 4, 9, 1));
            assert_eq!(q.bits, 0x71);
        });
    }

    #[test]
    fn an_answer_is_taken_and_the_slot_is_free_again() {
        with_slot(|slot, page| {
            slot.post(Port(9), &Request::pio(1, 4, true, 0), || false).unwrap();
            let mut seen = 0;
            assert_eq!(slot.progress(&mut seen), Progress::Waiting);
            set_state(page, STATE_IOREQ_INPROCESS);
            assert_eq!(slot.progress(&mut seen), Progress::Waiting);
            page.u64(32 + DATA).store(0x55, Ordering::SeqCst);
            set_state(page, STATE_IORESP_READY);
            assert_eq!(slot.progress(&mut seen), Progress::Done(0x55));
            assert_eq!(slot.post(Port(9), &Request::pio(1, 4, true, 0), || false), Ok(()));
        });
    }

    #[test]
    fn a_slot_that_is_not_free_or_has_another_port_takes_no_request() {
        with_slot(|slot, page| {
            let r = Request::pio(1, 4, true, 0);
            assert!(slot.post(Port(8), &r, || false).is_err());
            set_state(page, STATE_IOREQ_INPROCESS);
            assert!(slot.post(Port(9), &r, || false).is_err());
        });
    }

    #[test]
    fn a_state_that_goes_back_or_is_unknown_is_broken_and_none_reads_all_ones() {
        with_slot(|slot, page| {
            slot.post(Port(9), &Request::pio(1, 4, true, 0), || false).unwrap();
            let mut seen = STATE_IOREQ_INPROCESS;
            assert!(matches!(slot.progress(&mut seen), Progress::Broken(_)));
            set_state(page, 7);
            assert!(matches!(slot.progress(&mut seen), Progress::Broken(_)));
            set_state(page, STATE_IOREQ_NONE);
            assert_eq!(slot.progress(&mut 1), Progress::Done(u64::MAX));
        });
    }

    #[test]
    fn the_page_has_slots_for_128_vcpus() {
        let memory = HostMemory::new(1).unwrap();
        let page = memory.page(Mfn(0)).unwrap();
        assert!(Slot::new(page, VcpuId(127)).is_some());
        assert!(Slot::new(page, VcpuId(128)).is_none());
    }
}
