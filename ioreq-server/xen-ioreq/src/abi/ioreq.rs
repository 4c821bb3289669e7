//! `hvm/ioreq.h`: the sync slot of a vCPU and the buffered ring.
//!
//! Both live in pages that Xen and the emulator write at the same time: access them through atomics and copies,
//! never through references to these structs.

abi_structs! {
    header "xen/hvm/ioreq.h";
    /// One request. 32 bytes; the last two hold bit fields, see [`Bits`].
    struct ioreq = "struct ioreq" {
        /// Address: port, guest physical address, or SBDF and register for PCI_CONFIG.
        addr: u64,
        /// Data, or a guest physical address where `data_is_ptr`.
        data: u64,
        /// Number of repetitions of a string instruction.
        count: u32,
        /// Size of one access in bytes.
        size: u32,
        /// Event channel by which the emulator tells that it has answered.
        vp_eport: u32,
        /// Unused.
        _pad ("_pad0"): u16,
        /// `state:4 data_is_ptr:1 dir:1 df:1 _pad1:1`, from bit 0.
        bits (""): u8,
        /// `IOREQ_TYPE_*`.
        r#type ("type"): u8,
    }
    /// One entry of the buffered ring. 8 bytes.
    struct buf_ioreq = "struct buf_ioreq" {
        /// `IOREQ_TYPE_*`.
        r#type ("type"): u8,
        /// `pad:1 dir:1 size:2 addr:20` from bit 0 of these 24 bits.
        bits (""): [u8; 3],
        /// Data, the low half where the entry takes two slots.
        data: u32,
    }
}

abi_consts! {
    header "xen/hvm/ioreq.h";
    /// From memory or device to the CPU.
    IOREQ_READ: u8 = 1,
    /// From the CPU.
    IOREQ_WRITE: u8 = 0,
    /// Slot is free.
    STATE_IOREQ_NONE: u8 = 0,
    /// Xen has filled the slot.
    STATE_IOREQ_READY: u8 = 1,
    /// The emulator has taken it.
    STATE_IOREQ_INPROCESS: u8 = 2,
    /// The answer is there.
    STATE_IORESP_READY: u8 = 3,
    /// Port I/O.
    IOREQ_TYPE_PIO: u8 = 0,
    /// Memory-mapped I/O.
    IOREQ_TYPE_COPY: u8 = 1,
    /// PCI configuration space.
    IOREQ_TYPE_PCI_CONFIG: u8 = 2,
    /// The guest set its clock.
    IOREQ_TYPE_TIMEOFFSET: u8 = 7,
    /// Mappings of guest frames are no longer valid.
    IOREQ_TYPE_INVALIDATE: u8 = 8,
    /// Entries of the buffered ring.
    IOREQ_BUFFER_SLOT_NUM: u32 = 511,
    /// `data` of an [`IOREQ_TYPE_INVALIDATE`] that names no frame: everything may have changed.
    INVALIDATE_ALL ("UINT64_MAX"): u64 = !0,
    /// Sync slots in one page.
    SLOTS_PER_PAGE ("4096 / sizeof(struct ioreq)"): usize = crate::PAGE_SIZE / core::mem::size_of::<ioreq>(),
    /// Offset of [`ioreq::bits`] in the slot, which holds the state that the two sides hand over.
    SLOT_BITS_OFFSET ("offsetof(struct ioreq, type) - 1"): usize = core::mem::offset_of!(ioreq, bits),
    /// Offset of the buffered ring's `read_pointer` in its page.
    BUF_READ_POINTER_OFFSET ("offsetof(struct buffered_iopage, read_pointer)"): usize = 0,
    /// Offset of the buffered ring's `write_pointer` in its page.
    BUF_WRITE_POINTER_OFFSET ("offsetof(struct buffered_iopage, write_pointer)"): usize = 4,
    /// Offset of the first entry in the buffered ring's page.
    BUF_SLOTS_OFFSET ("offsetof(struct buffered_iopage, buf_ioreq)"): usize = 8,
}

pub use super::hvm_op::{HVM_IOREQSRV_BUFIOREQ_ATOMIC, HVM_IOREQSRV_BUFIOREQ_LEGACY, HVM_IOREQSRV_BUFIOREQ_OFF};

/// The bit-packed byte 30 of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// `STATE_*`, 4 bits.
    pub state: u8,
    /// `data` is a guest physical address.
    pub data_is_ptr: bool,
    /// The access is a read.
    pub read: bool,
    /// String instruction runs downwards.
    pub df: bool,
}

impl Bits {
    /// Unpacks; the unused bit 7 is dropped.
    pub const fn unpack(b: u8) -> Self {
        Self { state: b & 0xf, data_is_ptr: b & 0x10 != 0, read: b & 0x20 != 0, df: b & 0x40 != 0 }
    }

    /// Packs; a state above 15 loses its upper bits.
    pub const fn pack(self) -> u8 {
        (self.state & 0xf) | (self.data_is_ptr as u8) << 4 | (self.read as u8) << 5 | (self.df as u8) << 6
    }
}

impl buf_ioreq {
    /// Packs an entry; `size` in bytes (1, 2, 4, 8), `addr` 20 bits.
    pub const fn new(r#type: u8, read: bool, size: u8, addr: u32, data: u32) -> Self {
        let code = match size {
            1 => 0,
            2 => 1,
            4 => 2,
            _ => 3,
        };
        let w = (read as u32) << 1 | code << 2 | (addr & 0xf_ffff) << 4;
        let b = w.to_le_bytes();
        Self { r#type, bits: [b[0], b[1], b[2]], data }
    }

    const fn word(&self) -> u32 {
        u32::from_le_bytes([self.bits[0], self.bits[1], self.bits[2], 0])
    }

    /// Whether it is a read.
    pub const fn read(&self) -> bool {
        self.word() & 2 != 0
    }

    /// Size of the access in bytes; an entry of 8 takes two slots.
    pub const fn size(&self) -> u8 {
        1 << (self.word() >> 2 & 3)
    }

    /// Address, 20 bits.
    pub const fn addr(&self) -> u32 {
        self.word() >> 4
    }
}
