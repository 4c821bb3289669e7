//! `/dev/xen/privcmd` with all its rights: any hypercall.
//!
//! Calls whose struct carries addresses are made only where the length of what lies there is known: Xen would write
//! behind the end of anything shorter.
#![expect(unsafe_code, reason = "hypercalls")]

use std::os::fd::{AsFd, BorrowedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::foreign::{Device, Together};
use super::hypercall::Pool;
use super::ioctl::ioctl;
use super::{OpenError, RestrictedPrivcmd, shape};
use crate::abi::dm_op::{xen_dm_op, xen_dm_op_buf};
use crate::abi::grant_table::GNTTABOP_copy;
use crate::abi::iommu_op::{__HYPERVISOR_iommu_op, pv_iommu_op};
use crate::abi::privcmd::{IOCTL_PRIVCMD_HYPERCALL, IOCTL_PRIVCMD_RESTRICT, privcmd_hypercall};
use crate::abi::xen::{
    __HYPERVISOR_dm_op, __HYPERVISOR_domctl, __HYPERVISOR_grant_table_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_sysctl, multicall_entry,
};
use crate::abi::{domctl, sysctl};
use crate::seam::{
    DmOp, ForeignMap, ForeignPages, GrantTableOp, IommuOp, MOST_PAUSED_OPS, Mapping, MemoryOp, PausedDmOp,
    Prot, ResourceMap, Sysctl,
};
use crate::{DomId, Errno, Gfn, Mfn, PAGE_SIZE};

/// An open `/dev/xen/privcmd` that may make any hypercall.
#[derive(Debug)]
pub struct Privcmd {
    pub(super) device: Device,
    buffers: Pool,
}

impl Privcmd {
    /// Opens the device.
    pub fn open() -> Result<Self, OpenError> {
        Ok(Self { device: Device::open()?, buffers: Pool::new() })
    }

    /// Gives up raw hypercalls, and everything about other domains than `domid`, for good. Mappings that exist stay.
    ///
    /// Errors leave the descriptor as it was: ENOTTY where the kernel is too old, EINVAL if it is restricted to
    /// another domain.
    pub fn restrict(self, domid: DomId) -> Result<RestrictedPrivcmd, (Self, Errno)> {
        let mut arg = domid.0;
        // SAFETY: the argument of this ioctl is a domain number.
        match unsafe { ioctl(self.device.fd.as_fd(), IOCTL_PRIVCMD_RESTRICT, &mut arg) } {
            Ok(_) => Ok(RestrictedPrivcmd::new(self.device, domid)),
            Err(e) => Err((self, e)),
        }
    }

    /// All domains from number `first` on, at most `max`.
    pub fn domains(&self, first: DomId, max: u32) -> Result<Vec<domctl::xen_domctl_getdomaininfo>, Errno> {
        const ENTRY: usize = size_of::<domctl::xen_domctl_getdomaininfo>();
        const HEAD: usize = size_of::<sysctl::xen_sysctl>();
        let room = usize::try_from(max).ok().and_then(|n| n.checked_mul(ENTRY)).ok_or(Errno::ENOMEM)?;
        let mut buffer = self.buffers.get(HEAD.checked_add(room).ok_or(Errno::ENOMEM)?)?;
        let list = buffer.addr() + HEAD as u64;
        let request = sysctl::xen_sysctl_getdomaininfolist {
            first_domain: first.0,
            max_domains: max,
            buffer: list,
            ..Default::default()
        };
        let mut head = sysctl::xen_sysctl {
            cmd: sysctl::XEN_SYSCTL_getdomaininfolist,
            interface_version: sysctl::XEN_SYSCTL_INTERFACE_VERSION,
            ..Default::default()
        };
        request.write_to_prefix(head.u.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
        head.write_to_prefix(buffer.bytes()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the struct is whole and its list has room for `max` entries, both in the buffer.
        unsafe { self.hypercall(__HYPERVISOR_sysctl, [buffer.addr(), 0, 0]) }?;
        let (head, list) = sysctl::xen_sysctl::read_from_prefix(buffer.bytes()).map_err(|_| Errno::EINVAL)?;
        let (answer, _) = sysctl::xen_sysctl_getdomaininfolist::read_from_prefix(head.u.as_bytes())
            .map_err(|_| Errno::EINVAL)?;
        let count = usize::try_from(answer.num_domains.min(max)).map_err(|_| Errno::EOVERFLOW)?;
        Ok(list
            .chunks_exact(ENTRY)
            .take(count)
            .filter_map(|c| domctl::xen_domctl_getdomaininfo::read_from_bytes(c).ok())
            .collect())
    }

    /// Stops a domain's vCPUs until as many [`unpause`](Self::unpause); when it returns none of them runs. ESRCH.
    pub fn pause(&self, domid: DomId) -> Result<(), Errno> {
        self.domctl(domctl::XEN_DOMCTL_pausedomain, domid)
    }

    /// Lets a domain's vCPUs run that the toolstack has paused, as after `xl create -p`. ESRCH; EINVAL: it is not paused.
    pub fn unpause(&self, domid: DomId) -> Result<(), Errno> {
        self.domctl(domctl::XEN_DOMCTL_unpausedomain, domid)
    }

    /// Destroys a domain: its memory is the host's when this returns, but for what others hold, and it is listed as dying
    /// until they let go of that. ESRCH.
    pub fn destroy(&self, domid: DomId) -> Result<(), Errno> {
        self.domctl(domctl::XEN_DOMCTL_destroydomain, domid)
    }

    /// Lets a domain have `frames` frames, for instance some more for memory behind a BAR. It may have more than that already:
    /// then it gets no further ones. ESRCH.
    pub fn set_max_frames(&self, domid: DomId, frames: u64) -> Result<(), Errno> {
        let max_memkb = frames.checked_mul(PAGE_SIZE as u64 / 1024).ok_or(Errno::E2BIG)?;
        let limit = domctl::xen_domctl_max_mem { max_memkb };
        self.domctl_with(domctl::XEN_DOMCTL_max_mem, domid, limit)
    }

    /// What kinds of pages these frames of a PV domain are, `XEN_DOMCTL_PFINFO_*` for each: XTAB of what is none of its. ESRCH. E2BIG:
    /// more than 1024 of them. EINVAL: the domain is not a PV one.
    pub fn page_types(&self, domid: DomId, frames: &[Mfn]) -> Result<Vec<u32>, Errno> {
        const HEAD: usize = size_of::<domctl::xen_domctl>();
        let numbers: Vec<u64> = frames.iter().map(|mfn| mfn.0).collect();
        let numbers = numbers.as_bytes();
        let mut buffer = self.buffers.get(HEAD + numbers.len())?;
        let array = buffer.addr() + HEAD as u64;
        let request = domctl::xen_domctl_getpageframeinfo3 { num: frames.len() as u64, array };
        let mut head = domctl::xen_domctl {
            cmd: domctl::XEN_DOMCTL_getpageframeinfo3,
            interface_version: domctl::XEN_DOMCTL_INTERFACE_VERSION,
            domain: domid.0,
            ..Default::default()
        };
        request.write_to_prefix(head.u.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
        let (first, list) = buffer.bytes().split_at_mut(HEAD);
        head.write_to(first).map_err(|_| Errno::EINVAL)?;
        list.copy_from_slice(numbers);
        // SAFETY: the struct is whole and its list has as many entries as it says, both in the buffer.
        unsafe { self.hypercall(__HYPERVISOR_domctl, [buffer.addr(), 0, 0]) }?;
        let types = buffer.bytes().get(HEAD..).unwrap_or_default().as_chunks::<8>().0;
        Ok(types.iter().map(|[a, b, c, d, ..]| u32::from_ne_bytes([*a, *b, *c, *d])).collect())
    }

    /// A domctl that has nothing but its domain.
    fn domctl(&self, cmd: u32, domid: DomId) -> Result<(), Errno> {
        self.domctl_with(cmd, domid, [0u8; 0])
    }

    /// A domctl whose struct has no addresses and no answer.
    fn domctl_with(&self, cmd: u32, domid: DomId, payload: impl IntoBytes + Immutable) -> Result<(), Errno> {
        let mut op = domctl::xen_domctl {
            cmd,
            interface_version: domctl::XEN_DOMCTL_INTERFACE_VERSION,
            domain: domid.0,
            ..Default::default()
        };
        payload.write_to_prefix(op.u.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: a whole struct, and these operations have no addresses.
        unsafe { self.with_bytes(__HYPERVISOR_domctl, None, op.as_mut_bytes(), 0) }?;
        Ok(())
    }

    /// Makes a hypercall. Its value comes through a C `int`: Linux cuts it to 32 bits.
    ///
    /// # Safety
    /// Every address that Xen finds in the arguments, or in what they point to, must be hypercall memory of the
    /// length that the operation implies.
    unsafe fn hypercall(&self, op: u64, args: [u64; 3]) -> Result<i64, Errno> {
        let [a, b, c] = args;
        let mut arg = privcmd_hypercall { op, arg: [a, b, c, 0, 0] };
        // SAFETY: passed on to the caller.
        unsafe { ioctl(self.device.fd.as_fd(), IOCTL_PRIVCMD_HYPERCALL, &mut arg) }.map(i64::from)
    }

    /// Makes the hypercall `op(a, address of bytes, c)`, or `op(address of bytes, c)` without `a`, with a copy of
    /// `bytes`, and copies back what Xen left there, also after an error.
    ///
    /// # Safety
    /// `bytes` must be as long as the operation implies and hold no addresses.
    unsafe fn with_bytes(&self, op: u64, a: Option<u64>, bytes: &mut [u8], c: u64) -> Result<i64, Errno> {
        let mut buffer = self.buffers.get(bytes.len())?;
        buffer.bytes().copy_from_slice(bytes);
        let args = match a {
            Some(a) => [a, buffer.addr(), c],
            None => [buffer.addr(), c, 0],
        };
        // SAFETY: the buffer is hypercall memory, as long as `bytes`; the rest is the caller's promise.
        let value = unsafe { self.hypercall(op, args) };
        bytes.copy_from_slice(buffer.bytes());
        value
    }
}

impl AsFd for Privcmd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.fd.as_fd()
    }
}

impl DmOp for Privcmd {
    /// Linux passes on at most 16 buffers of 4096 bytes each (parameters of its module xen-privcmd) and answers E2BIG
    /// beyond.
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.device.dm_op(domid, bufs)
    }
}

impl PausedDmOp for Privcmd {
    /// By one multicall. The kernel does not come back from it half-way, whatever signal comes.
    fn paused_dm_op(&self, domid: DomId, ops: &mut [xen_dm_op]) -> Result<Vec<Result<(), Errno>>, Errno> {
        if ops.len() > MOST_PAUSED_OPS {
            return Err(Errno::E2BIG);
        }
        let layout = Paused { ops: ops.len() };
        let mut buffer = self.buffers.get(layout.len())?;
        let base = buffer.addr();
        layout.fill(base, domid, ops, buffer.bytes()).ok_or(Errno::EINVAL)?;
        let calls = layout.calls() as u64;
        // SAFETY: so many whole entries, each of which leads to a whole struct without addresses, or to the descriptor of one, all of
        // them in the buffer.
        unsafe { self.hypercall(__HYPERVISOR_multicall, [base, calls, 0]) }?;
        let results = layout.results(buffer.bytes(), ops).ok_or(Errno::EIO)?;
        let [paused, done @ .., unpaused] = results.as_slice() else { return Err(Errno::EIO) };
        if let (Err(_), Ok(())) = (paused, unpaused) {
            // What has been undone was somebody else's.
            self.pause(domid)?;
        }
        paused.and(*unpaused)?;
        Ok(done.to_vec())
    }
}

/// Where what [`PausedDmOp::paused_dm_op`] needs lies in its buffer: the entries, two domctls, then of each operation its descriptor
/// and itself.
#[derive(Clone, Copy)]
struct Paused {
    ops: usize,
}

impl Paused {
    const ENTRY: usize = size_of::<multicall_entry>();
    const DOMCTL: usize = size_of::<domctl::xen_domctl>();
    const DESCRIPTOR: usize = size_of::<xen_dm_op_buf>();
    const OP: usize = size_of::<xen_dm_op>();

    const fn calls(self) -> usize {
        self.ops + 2
    }

    const fn domctls(self) -> usize {
        self.calls() * Self::ENTRY
    }

    const fn descriptors(self) -> usize {
        self.domctls() + 2 * Self::DOMCTL
    }

    const fn operations(self) -> usize {
        self.descriptors() + self.ops * Self::DESCRIPTOR
    }

    const fn len(self) -> usize {
        self.operations() + self.ops * Self::OP
    }

    fn fill(self, base: u64, domid: DomId, ops: &[xen_dm_op], to: &mut [u8]) -> Option<()> {
        let mut put = |at: usize, bytes: &[u8]| {
            to.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            Some(())
        };
        let cmds = [domctl::XEN_DOMCTL_pausedomain, domctl::XEN_DOMCTL_unpausedomain];
        for (i, cmd) in cmds.into_iter().enumerate() {
            let op = domctl::xen_domctl {
                cmd,
                interface_version: domctl::XEN_DOMCTL_INTERFACE_VERSION,
                domain: domid.0,
                ..Default::default()
            };
            let at = self.domctls() + i * Self::DOMCTL;
            put(at, op.as_bytes())?;
            let call = multicall_entry {
                op: __HYPERVISOR_domctl,
                args: [base + at as u64, 0, 0, 0, 0, 0],
                ..Default::default()
            };
            put(i * (self.calls() - 1) * Self::ENTRY, call.as_bytes())?;
        }
        for (i, op) in ops.iter().enumerate() {
            let (descriptor, at) =
                (self.descriptors() + i * Self::DESCRIPTOR, self.operations() + i * Self::OP);
            put(at, op.as_bytes())?;
            put(descriptor, xen_dm_op_buf { h: base + at as u64, size: Self::OP as u64 }.as_bytes())?;
            let call = multicall_entry {
                op: __HYPERVISOR_dm_op,
                args: [domid.0.into(), 1, base + descriptor as u64, 0, 0, 0],
                ..Default::default()
            };
            put((1 + i) * Self::ENTRY, call.as_bytes())?;
        }
        Some(())
    }

    /// What became of all calls; the operations as Xen has left them.
    fn results(self, from: &[u8], ops: &mut [xen_dm_op]) -> Option<Vec<Result<(), Errno>>> {
        for (i, op) in ops.iter_mut().enumerate() {
            *op = xen_dm_op::read_from_prefix(from.get(self.operations() + i * Self::OP..)?).ok()?.0;
        }
        let entries = from.get(..self.domctls())?.chunks_exact(Self::ENTRY);
        let results = entries.map(|e| {
            let (entry, _) = multicall_entry::read_from_prefix(e).ok()?;
            Some(Errno::from_rc(entry.result.cast_signed()).map_or(Ok(()), Err))
        });
        results.collect()
    }
}

impl ForeignMap for Privcmd {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.device.map_foreign(domid, gfns, prot, Together(false))
    }

    fn map_foreign_together(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.device.map_foreign(domid, gfns, prot, Together(true))
    }
}

impl ResourceMap for Privcmd {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.device.map_resource(domid, kind, id, first, nr)
    }

    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        self.device.resource_size(domid, kind, id)
    }
}

impl IommuOp for Privcmd {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        let count = u32::try_from(ops.len()).map_err(|_| Errno::E2BIG)?;
        // SAFETY: an array of `count` whole operations, which hold frame numbers and no addresses.
        unsafe { self.with_bytes(__HYPERVISOR_iommu_op, None, ops.as_mut_bytes(), u64::from(count)) }?;
        Ok(())
    }
}

impl MemoryOp for Privcmd {
    /// Refused here: with EOPNOTSUPP, operations whose struct is not known; with EINVAL, an `arg` that is not the
    /// operation's struct or asks for more entries than `list` has; with EPERM, changes to the address space of
    /// DOMID_SELF, which belongs to the kernel.
    fn memory_op(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, Errno> {
        let shape = shape::memory_op(cmd).ok_or(Errno::EOPNOTSUPP)?;
        if arg.len() != shape.size || shape.entries(arg)? > list.len() as u64 {
            return Err(Errno::EINVAL);
        }
        if shape::changes_own_memory(cmd, arg) {
            return Err(Errno::EPERM);
        }
        let Some(handle) = shape.handle.filter(|_| !list.is_empty()) else {
            // SAFETY: the struct is whole; a handle in it, if any, is given no entries, and is not ours to read.
            return unsafe { self.with_bytes(__HYPERVISOR_memory_op, Some(u64::from(cmd)), arg, 0) };
        };
        let list_at = arg.len().next_multiple_of(size_of::<u64>());
        let mut buffer = self.buffers.get(list_at.checked_add(size_of_val(list)).ok_or(Errno::ENOMEM)?)?;
        let list_addr = buffer.addr() + list_at as u64;
        let (head, tail) = buffer.bytes().split_at_mut(list_at);
        head[..arg.len()].copy_from_slice(arg);
        tail.copy_from_slice(list.as_bytes());
        let slot = handle..handle + size_of::<u64>();
        head.get_mut(slot.clone()).ok_or(Errno::EINVAL)?.copy_from_slice(&list_addr.to_ne_bytes());
        // SAFETY: the struct is whole, its handle is the list in the same buffer, which has the entries asked for.
        let value = unsafe { self.hypercall(__HYPERVISOR_memory_op, [u64::from(cmd), buffer.addr(), 0]) };
        let (head, tail) = buffer.bytes().split_at(list_at);
        list.as_mut_bytes().copy_from_slice(tail);
        // The caller's struct keeps its own handle: ours means nothing outside this call.
        arg[..handle].copy_from_slice(&head[..handle]);
        arg[slot.end..].copy_from_slice(&head[slot.end..shape.size]);
        value
    }
}

impl GrantTableOp for Privcmd {
    /// Refused here: with EOPNOTSUPP, operations on the table's frames, on page tables and on whole frames, which
    /// belong to the kernel (gntdev and gntalloc do those); with EINVAL, `args` that are not `count` structs of the
    /// operation; with EPERM, a copy to something that is not a grant.
    fn grant_table_op(&self, cmd: u32, args: &mut [u8], count: u32) -> Result<i64, Errno> {
        let size = shape::grant_table_op(cmd).ok_or(Errno::EOPNOTSUPP)?;
        if usize::try_from(count).ok().and_then(|n| n.checked_mul(size)) != Some(args.len()) {
            return Err(Errno::EINVAL);
        }
        if cmd == GNTTABOP_copy && !shape::copies_to_grants(args) {
            return Err(Errno::EPERM);
        }
        // SAFETY: an array of `count` whole structs.
        unsafe { self.with_bytes(__HYPERVISOR_grant_table_op, Some(u64::from(cmd)), args, u64::from(count)) }
    }
}

impl Sysctl for Privcmd {
    /// Only operations without a handle; others are refused with EOPNOTSUPP, see [`Privcmd::domains`].
    fn sysctl(&self, arg: &mut [u8]) -> Result<(), Errno> {
        let head = sysctl::xen_sysctl::read_from_bytes(arg).map_err(|_| Errno::EINVAL)?;
        if head.cmd != sysctl::XEN_SYSCTL_physinfo {
            return Err(Errno::EOPNOTSUPP);
        }
        // SAFETY: a whole struct, and this operation has no addresses.
        unsafe { self.with_bytes(__HYPERVISOR_sysctl, None, arg, 0) }?;
        Ok(())
    }
}
