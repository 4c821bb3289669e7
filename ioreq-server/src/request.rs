//! A request that has been checked: what the copy of a slot or of a ring entry asks for, and nothing that it cannot.

use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::{Bfn, VcpuId};

use crate::bus::Target;
use crate::device::{Space, Width};
use crate::pci::Sbdf;

/// Repetitions that one request may have. Xen clips a string instruction to as many
/// (`hvmemul_virtual_to_linear`), so a larger count is not Xen's, and must not keep the loop busy for minutes.
pub const MAX_REPS: u32 = 4096;

/// What may no longer be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Something changed: every mapping of that guest is in doubt. What stock Xen sends.
    All,
    /// One bus frame of this server (PV-IOMMU, draft B).
    Frame(Bfn),
}

/// Why a request is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A type that this protocol does not have.
    #[error("unknown request type {0}")]
    Type(u8),
    /// A width that accesses of that kind do not have.
    #[error("access of {0} bytes")]
    Size(u32),
    /// No repetition, or more than [`MAX_REPS`].
    #[error("{0} repetitions")]
    Count(u32),
    /// The addresses leave their space.
    #[error("{count} accesses of {size} bytes at {addr:#x} leave the address space")]
    Wraps {
        /// First address.
        addr: u64,
        /// Bytes each.
        size: u32,
        /// How many.
        count: u32,
    },
    /// A read where nobody waits for the value.
    #[error("a read in the buffered ring")]
    BufferedRead,
}

/// One checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Access(Run),
    TimeOffset(i64),
    Invalidate(Invalidation),
}

/// A run of accesses: one, or the repetitions of a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) space: Space,
    /// First address: port, guest physical address, or SBDF for PCI.
    pub(crate) addr: u64,
    /// Register, for PCI.
    pub(crate) register: u32,
    pub(crate) width: Width,
    pub(crate) count: u32,
    pub(crate) read: bool,
    /// Addresses in memory go down.
    pub(crate) down: bool,
    /// Guest physical address of the other side, or the value itself.
    pub(crate) data: Data,
    pub(crate) vcpu: Option<VcpuId>,
}

/// The other side of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Value(u64),
    At(u64),
}

impl Request {
    /// Checks the copy of a slot (`vcpu` says whose) or of a ring entry.
    #[inline(always)]
    pub(crate) fn parse(raw: &abi::ioreq, vcpu: Option<VcpuId>) -> Result<Self, Malformed> {
        let bits = abi::Bits::unpack(raw.bits);
        let space = match raw.r#type {
            abi::IOREQ_TYPE_PIO => Space::Pio,
            abi::IOREQ_TYPE_COPY => Space::Mmio,
            abi::IOREQ_TYPE_PCI_CONFIG => Space::Pci,
            abi::IOREQ_TYPE_TIMEOFFSET => return Ok(Self::TimeOffset(raw.data.cast_signed())),
            abi::IOREQ_TYPE_INVALIDATE => return Ok(Self::Invalidate(invalidation(raw, vcpu))),
            other => return Err(Malformed::Type(other)),
        };
        let width = match Width::from_bytes(raw.size) {
            Some(Width::Qword) if space != Space::Mmio => return Err(Malformed::Size(raw.size)),
            Some(width) => width,
            None => return Err(Malformed::Size(raw.size)),
        };
        if raw.count == 0 || raw.count > MAX_REPS {
            return Err(Malformed::Count(raw.count));
        }
        if vcpu.is_none() && bits.read {
            return Err(Malformed::BufferedRead);
        }
        let wraps = Malformed::Wraps { addr: raw.addr, size: raw.size, count: raw.count };
        let (addr, register) = match space {
            Space::Pio if span(raw.addr, width, 1, false).is_none_or(|last| last > 0xffff) => {
                return Err(wraps);
            }
            Space::Mmio if span(raw.addr, width, raw.count, bits.df).is_none() => return Err(wraps),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "SBDF in the high half, register in the low one"
            )]
            Space::Pci => (u64::from(Sbdf((raw.addr >> 32) as u32).0), raw.addr as u32),
            Space::Pio | Space::Mmio => (raw.addr, 0),
        };
        let data = if bits.data_is_ptr {
            if span(raw.data, width, raw.count, bits.df).is_none() {
                return Err(Malformed::Wraps { addr: raw.data, size: raw.size, count: raw.count });
            }
            Data::At(raw.data)
        } else {
            Data::Value(raw.data & width.mask())
        };
        Ok(Self::Access(Run {
            space,
            addr,
            register,
            width,
            count: raw.count,
            read: bits.read,
            down: bits.df,
            data,
            vcpu,
        }))
    }
}

/// The bits of [`abi::Bits`] that say what an access is: none of them for an upward write of a value.
const KIND: u8 = abi::Bits { state: 0, data_is_ptr: true, read: true, df: true }.pack();

impl Request {
    /// The one write of a value to memory-mapped registers that `raw` asks for, if that is what it asks for: what
    /// [`parse`](Self::parse) says too, but without the detour.
    #[inline(always)]
    pub(crate) fn plain_write(raw: &abi::ioreq) -> Option<(Target, u64)> {
        if raw.r#type != abi::IOREQ_TYPE_COPY || raw.bits & KIND != 0 || raw.count != 1 {
            return None;
        }
        let width = Width::from_bytes(raw.size)?;
        raw.addr.checked_add(u64::from(width.bytes()) - 1)?;
        let target = Target { space: Space::Mmio, addr: raw.addr, register: 0, width, vcpu: None };
        Some((target, raw.data & width.mask()))
    }
}

/// Last byte that `count` accesses touch, walking up or down from `addr`; `None` if they leave 64 bits.
fn span(addr: u64, width: Width, count: u32, down: bool) -> Option<u64> {
    let size = u64::from(width.bytes());
    let walk = u64::from(count.saturating_sub(1)) * size;
    if down {
        addr.checked_sub(walk)?;
        addr.checked_add(size - 1)
    } else {
        addr.checked_add(walk)?.checked_add(size - 1)
    }
}

fn invalidation(raw: &abi::ioreq, vcpu: Option<VcpuId>) -> Invalidation {
    // A one-slot ring entry has room for 32 bits only, so there all-ones in those means the same.
    let short = vcpu.is_none() && raw.size <= 4 && raw.data == u64::from(u32::MAX);
    if raw.data == abi::INVALIDATE_ALL || short {
        Invalidation::All
    } else {
        Invalidation::Frame(Bfn(raw.data))
    }
}

impl Run {
    /// Address of repetition `i`. Checked by [`Request::parse`] not to wrap.
    pub(crate) fn addr_of(&self, i: u32) -> u64 {
        // Ports and config registers stay where they are.
        if self.space == Space::Mmio { self.step(self.addr, i) } else { self.addr }
    }

    /// Where repetition `i` finds or puts its data in memory.
    pub(crate) fn step(&self, base: u64, i: u32) -> u64 {
        let by = u64::from(i) * u64::from(self.width.bytes());
        if self.down { base.wrapping_sub(by) } else { base.wrapping_add(by) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_plain_write_is_what_the_whole_check_says(
            r#type in prop_oneof![3 => Just(abi::IOREQ_TYPE_COPY), 1 => any::<u8>()],
            bits in prop_oneof![2 => 0u8..16, 1 => any::<u8>()],
            size in prop_oneof![3 => (0u32..4).prop_map(|s| 1 << s), 1 => 0u32..20],
            count in prop_oneof![3 => Just(1u32), 1 => 0u32..3],
            addr in prop_oneof![any::<u64>(), u64::MAX - 9..=u64::MAX],
            data: u64,
        ) {
            let raw = abi::ioreq { addr, data, count, size, bits, r#type, ..Default::default() };
            let whole = match Request::parse(&raw, None) {
                Ok(Request::Access(run))
                    if run.space == Space::Mmio && run.count == 1 && !run.read && !run.down =>
                {
                    match run.data {
                        Data::Value(value) => Some((run.addr, run.width, value)),
                        Data::At(_) => None,
                    }
                }
                _ => None,
            };
            let plain = Request::plain_write(&raw);
            prop_assert_eq!(plain.map(|(to, value)| (to.addr, to.width, value)), whole);
            if let Some((to, _)) = plain {
                prop_assert_eq!((to.space, to.register, to.vcpu), (Space::Mmio, 0, None));
            }
        }
    }
}
