//! A driver of one blitter context that keeps the engine busy: some batches in flight, two submissions at most.
//!
//! The same code drives a GPU of its own and a vGPU; what differs is behind [`Device`]. It waits for interrupts, and reads the
//! status page in memory.

use mediated_gpu::gen8::cmd;
use mediated_gpu::gen8::context::{
    CSB_COMPLETE, CSB_ENTRIES, CSB_LITE_RESTORE, Descriptor, FreshRing, STATE_OFFSET, hwsp, register_state,
    state,
};
use mediated_gpu::gen8::ppgtt::Root;
use mediated_gpu::physical::Engine;
use xen_ioreq::PAGE_SIZE;

/// Batches that are given to the GPU before the first of them has ended.
pub(super) const IN_FLIGHT: u32 = 4;
/// Submissions that have not been told to have ended: what runs, and what is to follow.
const SUBMISSIONS: u32 = 2;
/// Pages of the objects, one after the other: status page, context, ring.
const HWSP: usize = 0;
const CONTEXT: usize = 1;
const RING: usize = 3;
const RING_PAGES: usize = 4;
/// Page of the first batch.
pub(super) const BATCHES: usize = RING + RING_PAGES;
/// Pages of a batch.
pub(super) const BATCH_PAGES: usize = 2;
/// Page of what the work itself needs.
pub(super) const FREE: usize = BATCHES + BATCH_PAGES * IN_FLIGHT as usize;
const RING_BYTES: u32 = 16 << 10;
/// Room for one batch's commands in the ring.
const ROOM: u32 = 128;
const ID: u32 = 0x20;

/// What has a GPU and memory. Memory is in pages by number, all of which are in the GGTT, one after the other.
pub(super) trait Device {
    /// Graphics address of the first page.
    fn base(&self) -> u64;
    /// What a table entry says of a page: its frame, as the GPU or the mediator knows it, in its place.
    fn address(&self, page: usize) -> u64;
    /// The processor writes memory, in one page.
    fn write(&mut self, page: usize, offset: usize, bytes: &[u8]);
    /// The processor reads memory, in one page.
    fn read(&mut self, page: usize, offset: usize, bytes: &mut [u8]);
    /// Writes a register of the GPU.
    fn write_register(&mut self, register: u32, value: u32);
    /// Waits until there was an interrupt since the last call, and serves it.
    fn wait(&mut self) -> Result<(), String>;

    fn write32(&mut self, page: usize, offset: usize, value: u32) {
        self.write(page, offset, &value.to_le_bytes());
    }

    fn read32(&mut self, page: usize, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(page, offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn gm(&self, page: usize) -> u64 {
        self.base() + (page * PAGE_SIZE) as u64
    }

    fn write_dwords(&mut self, page: usize, dwords: &[u32]) {
        let bytes: Vec<u8> = dwords.iter().flat_map(|d| d.to_le_bytes()).collect();
        for (n, bytes) in bytes.chunks(PAGE_SIZE).enumerate() {
            self.write(page + n, 0, bytes);
        }
    }
}

/// The driver.
pub(super) struct Driver<D> {
    pub(super) device: D,
    descriptor: u64,
    tail: u32,
    /// Number of the last batch in the ring, of the last that was submitted, and of the last that is done.
    emitted: u32,
    submitted: u32,
    done: u32,
    submissions: u32,
    csb_read: u32,
}

impl<D: Device> Driver<D> {
    /// Sets status page, context and ring up. With a root, the context has tables that begin there.
    pub(super) fn new(mut device: D, root: Option<Root>) -> Self {
        let start = u32::try_from(device.gm(RING)).unwrap_or(0);
        let ring = FreshRing { start, size: RING_BYTES, tail: 0 };
        let pointers = root.map_or([0; 4], Root::pointers);
        device.write_dwords(CONTEXT + 1, &register_state(Engine::Bcs, ring, 0, pointers));
        device.write32(HWSP, offset(hwsp::CSB_WRITE), CSB_ENTRIES - 1);
        device.write32(HWSP, offset(hwsp::SEQNO), 0);
        let base = guest::regs::BLT_RING_BASE;
        let status = u32::try_from(device.gm(HWSP)).unwrap_or(0);
        device.write_register(base + guest::regs::ring::HWS_PGA, status);
        let newest = CSB_ENTRIES - 1;
        device
            .write_register(base + guest::regs::ring::CONTEXT_STATUS_PTR, 0xffff_0000 | newest << 8 | newest);
        let global = Descriptor::ggtt(u32::try_from(device.gm(CONTEXT)).unwrap_or(0), ID).0;
        let tables = if root.is_some() { Descriptor::PPGTT } else { 0 };
        Self {
            device,
            descriptor: global | tables,
            tail: 0,
            emitted: 0,
            submitted: 0,
            done: 0,
            submissions: 0,
            csb_read: newest,
        }
    }

    /// Runs so many batches. `start(device, n)` readies the n-th, counted from the driver's beginning, and tells how it is started:
    /// its address, and whether that is one of the context's tables.
    pub(super) fn run(
        &mut self,
        batches: u32,
        mut start: impl FnMut(&mut D, u32) -> (u64, bool),
    ) -> Result<(), String> {
        let last = self.emitted + batches;
        while self.done < last || self.submissions > 0 {
            while self.emitted < last && self.emitted - self.done < IN_FLIGHT {
                let (address, of_process) = start(&mut self.device, self.emitted);
                self.emit(address, of_process);
                self.submit_if_room();
            }
            // What was emitted while two were on their way goes together.
            self.submit_if_room();
            if let Err(e) = self.device.wait() {
                let done = self.device.read32(HWSP, offset(hwsp::SEQNO));
                let newest = self.device.read32(HWSP, offset(hwsp::CSB_WRITE));
                return Err(format!(
                    "{e}; {} batches were given, {} submitted, {} told to be done and {done} are; {} submissions have not been \
                     told to have ended; the last status entry read is {}, of {newest}",
                    self.emitted, self.submitted, self.done, self.submissions, self.csb_read
                ));
            }
            self.look();
        }
        Ok(())
    }

    fn emit(&mut self, address: u64, of_process: bool) {
        self.emitted += 1;
        let [mut header, low, high] = cmd::batch_buffer_start(address);
        let mut commands = Vec::with_capacity(16);
        if of_process {
            header |= cmd::BB_PPGTT;
            // Entries may have changed since the last batch.
            commands.extend([0x1300_0002 | cmd::FLUSH_DW_TLB_INVALIDATE, 0, 0, 0]);
        }
        commands.extend([cmd::MI_ARB_CHECK, header, low, high]);
        let seqno = self.device.gm(HWSP) + hwsp::SEQNO;
        commands.extend(guest::cmd::flush_dw_store(seqno, self.emitted));
        commands.push(cmd::MI_USER_INTERRUPT);
        if commands.len() % 2 == 1 {
            commands.push(cmd::MI_NOOP);
        }
        let (page, at) = (RING + self.tail as usize / PAGE_SIZE, self.tail as usize % PAGE_SIZE);
        let bytes: Vec<u8> = commands.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.device.write(page, at, &bytes);
        // Rooms of the same size: none crosses a page.
        let used = u32::try_from(bytes.len()).unwrap_or(ROOM);
        self.device.write(page, at + bytes.len(), &vec![0; (ROOM - used) as usize]);
        self.tail = (self.tail + ROOM) % RING_BYTES;
    }

    fn submit_if_room(&mut self) {
        if self.submissions == SUBMISSIONS {
            // That one has been taken is told without an interrupt.
            self.look();
        }
        if self.submitted == self.emitted || self.submissions == SUBMISSIONS {
            return;
        }
        self.device.write32(CONTEXT + 1, 4 * state::RING_TAIL, self.tail);
        let elsp = guest::regs::BLT_RING_BASE + guest::regs::ring::ELSP;
        let [low, high] = cmd::split(self.descriptor);
        for dword in [0, 0, high, low] {
            self.device.write_register(elsp, dword);
        }
        self.submissions += 1;
        self.submitted = self.emitted;
    }

    /// What is done, and which submissions have ended.
    fn look(&mut self) {
        self.done = self.device.read32(HWSP, offset(hwsp::SEQNO));
        let newest = self.device.read32(HWSP, offset(hwsp::CSB_WRITE)) % CSB_ENTRIES;
        while self.csb_read != newest {
            self.csb_read = (self.csb_read + 1) % CSB_ENTRIES;
            let status = self.device.read32(HWSP, offset(hwsp::CSB) + 8 * self.csb_read as usize);
            if status & (CSB_COMPLETE | CSB_LITE_RESTORE) != 0 {
                self.submissions = self.submissions.saturating_sub(1);
            }
        }
    }
}

const _: () = assert!(RING_BYTES as usize == RING_PAGES * PAGE_SIZE);
const _: () = assert!(STATE_OFFSET == PAGE_SIZE as u64, "the register state is the image's second page");

fn offset(of: u64) -> usize {
    usize::try_from(of).unwrap_or(0)
}
