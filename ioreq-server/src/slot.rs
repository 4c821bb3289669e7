//! The sync slots: one request of one vCPU, in a page that the hypervisor writes too.
//!
//! A request is taken once, by a copy, and then owed: [`Taken`] answers when it is dropped, so that no early return and
//! no panic leaves a vCPU waiting. [`Parked`] is the same debt for another thread.
#![expect(unsafe_code, reason = "atomics in a page shared with the hypervisor")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::seam::{EventChannels, Mapping};
use xen_ioreq::{PAGE_SIZE, Port, VcpuId};

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// A slot; valid as long as the mapping from which it came.
#[derive(Clone, Copy)]
struct SlotPtr(NonNull<u8>);

impl SlotPtr {
    /// Slot `index` of pages of slots.
    fn of(pages: &Mapping, index: usize) -> Option<Self> {
        let page = pages.page(index / abi::SLOTS_PER_PAGE)?;
        let offset = index % abi::SLOTS_PER_PAGE * size_of::<abi::ioreq>();
        NonNull::new(page.as_ptr().wrapping_add(offset)).map(Self)
    }

    fn u64_at(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: a slot is 32 bytes, 32-aligned, mapped while `self` is in use; `offset` is that of a u64 field.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(offset).cast()) }
    }

    fn u32_at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above, of a u32 field.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(offset).cast()) }
    }

    fn u8_at(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as above, of a byte.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(offset)) }
    }

    fn bits(&self) -> &AtomicU8 {
        self.u8_at(abi::SLOT_BITS_OFFSET)
    }

    fn vp_eport(&self) -> Port {
        Port(self.u32_at(std::mem::offset_of!(abi::ioreq, vp_eport)).load(Ordering::Acquire))
    }

    /// Copies a request out, if there is one, and marks it as taken. Each byte is read once.
    fn take(&self) -> Option<abi::ioreq> {
        let copy = self.look()?;
        self.set_state(copy.bits, abi::STATE_IOREQ_INPROCESS);
        Some(copy)
    }

    /// Copies a request out, if there is one.
    fn look(&self) -> Option<abi::ioreq> {
        // Acquire: what Xen wrote before READY is visible below.
        let bits = self.bits().load(Ordering::Acquire);
        (abi::Bits::unpack(bits).state == abi::STATE_IOREQ_READY).then(|| self.copy(bits))
    }

    fn copy(&self, bits: u8) -> abi::ioreq {
        abi::ioreq {
            addr: self.u64_at(std::mem::offset_of!(abi::ioreq, addr)).load(Ordering::Relaxed),
            data: self.u64_at(std::mem::offset_of!(abi::ioreq, data)).load(Ordering::Relaxed),
            count: self.u32_at(std::mem::offset_of!(abi::ioreq, count)).load(Ordering::Relaxed),
            size: self.u32_at(std::mem::offset_of!(abi::ioreq, size)).load(Ordering::Relaxed),
            r#type: self.u8_at(std::mem::offset_of!(abi::ioreq, r#type)).load(Ordering::Relaxed),
            bits,
            ..Default::default()
        }
    }

    /// Waits while the kernel compares. Its interrupt handler does that, a few instructions long.
    fn let_kernel_finish(&self) {
        const LOOKS: u32 = 1 << 16;
        for _ in 0..LOOKS {
            if abi::Bits::unpack(self.bits().load(Ordering::Acquire)).state != abi::STATE_IOREQ_INPROCESS {
                return;
            }
            std::hint::spin_loop();
        }
        log::warn!("the kernel does not come to an end with a request");
    }

    /// Whether something waits for an answer here.
    fn owed(&self) -> Option<u8> {
        Some(self.bits().load(Ordering::Acquire)).filter(|bits| is_owed(*bits))
    }

    fn answer(&self, bits: u8, data: u64) {
        self.u64_at(std::mem::offset_of!(abi::ioreq, data)).store(data, Ordering::Relaxed);
        self.set_state(bits, abi::STATE_IORESP_READY);
    }

    fn set_state(&self, bits: u8, state: u8) {
        // The other bits from our copy: the slot is not read a second time.
        let new = abi::Bits { state, ..abi::Bits::unpack(bits) };
        // Release: the answer is visible before the state that announces it.
        self.bits().store(new.pack(), Ordering::Release);
    }
}

/// Whether a slot with these bits waits for an answer.
fn is_owed(bits: u8) -> bool {
    matches!(abi::Bits::unpack(bits).state, abi::STATE_IOREQ_READY | abi::STATE_IOREQ_INPROCESS)
}

/// The event channels that the hypervisor has put into the slots: one for each vCPU.
pub(crate) fn remote_ports(pages: &Mapping) -> Vec<(VcpuId, Port)> {
    (0..)
        .map_while(|index| {
            Some((VcpuId(index), SlotPtr::of(pages, usize::try_from(index).ok()?)?.vp_eport()))
        })
        .filter(|(_, port)| *port != Port(0))
        .collect()
}

/// What waits for an answer in these slots, whether somebody has taken it up or not.
pub(crate) fn owed(pages: &Mapping) -> Vec<abi::ioreq> {
    unfinished(pages).into_iter().filter(Unfinished::is_owed).map(|u| u.request).collect()
}

/// A request in a slot that its vCPU has not finished: sent, taken up, or answered.
pub(crate) struct Unfinished {
    pub(crate) vcpu: VcpuId,
    pub(crate) request: abi::ioreq,
    slot: SlotPtr,
}

/// What is unfinished in these slots.
pub(crate) fn unfinished(pages: &Mapping) -> Vec<Unfinished> {
    let slots =
        (0..).map_while(|vcpu| Some((VcpuId(vcpu), SlotPtr::of(pages, usize::try_from(vcpu).ok()?)?)));
    let all = slots.map(|(vcpu, slot)| {
        let request = slot.copy(slot.bits().load(Ordering::Acquire));
        Unfinished { vcpu, request, slot }
    });
    all.filter(|u| abi::Bits::unpack(u.request.bits).state != abi::STATE_IOREQ_NONE).collect()
}

impl Unfinished {
    /// Whether it waits for an answer.
    pub(crate) fn is_owed(&self) -> bool {
        is_owed(self.request.bits)
    }

    /// Whether it has its answer, and its vCPU has not come back for that.
    pub(crate) fn is_answered(&self) -> bool {
        abi::Bits::unpack(self.request.bits).state == abi::STATE_IORESP_READY
    }

    /// Answers it with the data that it came with, for a server that does not any more. The mapping it was found in is still there.
    pub(crate) fn answer(&self) {
        self.slot.answer(self.request.bits, self.request.data);
    }
}

/// One vCPU's slot and the local port that belongs to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VcpuPort {
    pub(crate) vcpu: VcpuId,
    pub(crate) port: Port,
}

/// The slots of an enabled server.
pub(crate) struct Slots {
    pages: Mapping,
    vcpus: Vec<VcpuPort>,
    events: Arc<dyn EventChannels>,
    /// False once the server is being taken down: who still holds a [`Parked`] then must not touch slot or port.
    live: RwLock<bool>,
    /// Whether `kernels` was ever other than empty.
    shared: AtomicBool,
    /// What the kernel answers in these slots, beside us: that is never ours.
    kernels: Mutex<Vec<KernelWrite>>,
}

/// A write that the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelWrite {
    pub(crate) addr: u64,
    /// Bytes.
    pub(crate) size: u32,
    /// The lowest 16 bits of the value.
    pub(crate) value: u16,
}

impl KernelWrite {
    fn is(&self, r: &abi::ioreq) -> bool {
        let bits = abi::Bits::unpack(r.bits);
        (r.r#type, bits.read) == (abi::IOREQ_TYPE_COPY, false)
            && (r.addr, r.size) == (self.addr, self.size)
            && r.data.to_le_bytes().starts_with(&self.value.to_le_bytes())
    }
}

impl Slots {
    pub(crate) fn new(pages: Mapping, vcpus: Vec<VcpuPort>, events: Arc<dyn EventChannels>) -> Self {
        debug_assert!(pages.base().as_ptr().addr().is_multiple_of(PAGE_SIZE));
        Self {
            pages,
            vcpus,
            events,
            live: RwLock::new(true),
            shared: AtomicBool::new(false),
            kernels: Mutex::new(Vec::new()),
        }
    }

    /// vCPUs in the order in which [`take`](Self::take) counts them.
    pub(crate) fn vcpus(&self) -> &[VcpuPort] {
        &self.vcpus
    }

    /// The request of the vCPU with that index, if it has one.
    pub(crate) fn take(self: &Arc<Self>, index: usize) -> Option<Taken<'_>> {
        let at = *self.vcpus.get(index)?;
        let slot = self.slot_of(&at)?;
        let copy =
            if self.shared.load(Ordering::Acquire) { self.take_beside_kernel(slot)? } else { slot.take()? };
        Some(Taken { slots: self, debt: Debt { slot, at, bits: copy.bits }, copy, paid: false })
    }

    /// From here on these writes are the kernel's. It has no lock with us, so that nobody else may touch them, however early
    /// an event comes for them. Other writes it marks as taken while it compares, and takes that back: who looks in between
    /// must look again. Nothing of ours stays taken on such a server, whose devices defer nothing.
    pub(crate) fn leave_to_kernel(&self, writes: &[KernelWrite]) {
        self.kernels.lock().extend(writes);
        self.shared.store(true, Ordering::Release);
    }

    /// The kernel answers these writes no more, and no more of them come: those that it has left are answered, and lost.
    pub(crate) fn take_from_kernel(&self, writes: &[KernelWrite]) {
        let mut kernels = self.kernels.lock();
        kernels.retain(|k| !writes.contains(k));
        for at in &self.vcpus {
            let Some(slot) = self.slot_of(at) else { continue };
            slot.let_kernel_finish();
            if let Some(left) = slot.look().filter(|r| writes.iter().any(|w| w.is(r))) {
                slot.set_state(left.bits, abi::STATE_IOREQ_INPROCESS);
                self.pay(&Debt { slot, at: *at, bits: left.bits }, left.data);
            }
        }
    }

    /// Under the lock, since [`take_from_kernel`](Self::take_from_kernel) may be at work on another thread.
    fn take_beside_kernel(&self, slot: SlotPtr) -> Option<abi::ioreq> {
        let kernels = self.kernels.lock();
        slot.let_kernel_finish();
        let request = slot.look()?;
        if kernels.iter().any(|k| k.is(&request)) {
            return None;
        }
        slot.set_state(request.bits, abi::STATE_IOREQ_INPROCESS);
        Some(request)
    }

    fn slot_of(&self, at: &VcpuPort) -> Option<SlotPtr> {
        SlotPtr::of(&self.pages, usize::try_from(at.vcpu.0).ok()?)
    }

    /// Whether a request of this vCPU's has been taken up, or answered, and its vCPU has not come back for the answer.
    pub(crate) fn is_under_way(&self, vcpu: VcpuId) -> bool {
        let at = self.vcpus.iter().find(|at| at.vcpu == vcpu);
        at.and_then(|at| self.slot_of(at)).is_some_and(|slot| {
            let state = abi::Bits::unpack(slot.bits().load(Ordering::Acquire)).state;
            matches!(state, abi::STATE_IOREQ_INPROCESS | abi::STATE_IORESP_READY)
        })
    }

    /// The pages of the slots.
    pub(crate) fn pages(&self) -> &Mapping {
        &self.pages
    }

    fn pay(&self, debt: &Debt, data: u64) {
        debt.slot.answer(debt.bits, data);
        if let Err(e) = self.events.notify(debt.at.port) {
            log::error!("{} of a server: notifying {}: {e}", debt.at.vcpu, debt.at.port);
        }
    }

    /// The requests that nobody has taken up.
    pub(crate) fn left(&self) -> Vec<abi::ioreq> {
        self.vcpus.iter().filter_map(|at| self.slot_of(at)?.look()).collect()
    }

    /// Answers all-ones to whoever waits, and makes every [`Parked`] harmless. Then the ports may be closed.
    pub(crate) fn close(&self) {
        let mut live = self.live.write();
        *live = false;
        for at in &self.vcpus {
            let Some(slot) = self.slot_of(at) else { continue };
            if let Some(bits) = slot.owed() {
                self.pay(&Debt { slot, at: *at, bits }, u64::MAX);
            }
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("vcpus", &self.vcpus.len()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Debt {
    slot: SlotPtr,
    at: VcpuPort,
    bits: u8,
}

// SAFETY: a Debt is where to write and what; it is only followed by `Slots::pay`, of the `Slots` from which it came and
// that keep the page mapped.
unsafe impl Send for Debt {}

/// A request that was taken from its slot. Dropping it answers all-ones.
#[must_use]
pub(crate) struct Taken<'a> {
    slots: &'a Arc<Slots>,
    debt: Debt,
    copy: abi::ioreq,
    paid: bool,
}

impl Taken<'_> {
    /// The copy of the request.
    pub(crate) fn request(&self) -> &abi::ioreq {
        &self.copy
    }

    pub(crate) fn vcpu(&self) -> VcpuId {
        self.debt.at.vcpu
    }

    /// Answers with `data`.
    pub(crate) fn answer(mut self, data: u64) {
        self.paid = true;
        self.slots.pay(&self.debt, data);
    }

    /// Leaves the request INPROCESS, to be answered from wherever.
    pub(crate) fn park(mut self) -> Parked {
        self.paid = true;
        Parked { slots: Arc::downgrade(self.slots), debt: self.debt, paid: false }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.paid {
            self.slots.pay(&self.debt, u64::MAX);
        }
    }
}

/// A taken request that will be answered later. Dropping it answers all-ones; after the server has gone it does
/// nothing. It does not keep the page: whoever never answers must not make a zombie of the guest.
#[must_use]
pub(crate) struct Parked {
    slots: Weak<Slots>,
    debt: Debt,
    paid: bool,
}

impl Parked {
    pub(crate) fn answer(mut self, data: u64) {
        self.pay(data);
    }

    fn pay(&mut self, data: u64) {
        if !std::mem::replace(&mut self.paid, true) {
            let Some(slots) = self.slots.upgrade() else { return };
            let live = slots.live.read();
            if *live {
                slots.pay(&self.debt, data);
            }
        }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.pay(u64::MAX);
    }
}

#[cfg(test)]
mod tests;
