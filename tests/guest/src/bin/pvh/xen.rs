//! Hypercalls, by the page that Xen fills with what this processor needs, and what Xen tells through CPUID.
#![expect(unsafe_code, reason = "the hypercall is a call into a page that Xen has filled")]

use core::arch::asm;
use core::cell::UnsafeCell;

use xen_ioreq::abi::cpuid::{
    XEN_CPUID_FIRST_LEAF, XEN_CPUID_LEAF_HVM, XEN_CPUID_LEAF_HYPERCALL, XEN_CPUID_SIGNATURE_EBX,
    XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX, XEN_HVM_CPUID_DOMID_PRESENT,
};
use xen_ioreq::abi::hvm_vcpu::{VCPU_HVM_MODE_64B, vcpu_hvm_context, vcpu_hvm_x86_64};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::abi::sched::{
    SCHEDOP_shutdown, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_suspend, sched_shutdown,
};
use xen_ioreq::abi::vcpu::{VCPUOP_initialise, VCPUOP_up};
use xen_ioreq::abi::xen::{
    __HYPERVISOR_grant_table_op, __HYPERVISOR_memory_op, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op,
};
use xen_ioreq::{DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use crate::cpu;

/// Why a domain ends.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    Poweroff,
    Crash,
}

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: Xen writes it once, when it is installed; after that it is only executed.
unsafe impl Sync for Page {}

static HYPERCALLS: Page = Page(UnsafeCell::new([0xcc; 4096]));

/// What CPUID says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Xen {
    /// This domain's number, where Xen tells it.
    pub(crate) domid: Option<DomId>,
}

/// Finds Xen and installs the hypercall page. `None` on another hypervisor.
pub(crate) fn init() -> Option<Xen> {
    const SIGNATURE: [u32; 3] = [XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX];
    // another hypervisor's leaves may come first
    let above = (0..0x1_0000).step_by(0x100).find(|&above| {
        let [_, ebx, ecx, edx] = cpu::cpuid(XEN_CPUID_FIRST_LEAF + above);
        [ebx, ecx, edx] == SIGNATURE
    })?;
    let [_, msr, _, _] = cpu::cpuid(XEN_CPUID_LEAF_HYPERCALL + above);
    cpu::wrmsr(msr, HYPERCALLS.0.get() as u64);
    let [flags, _, domid, _] = cpu::cpuid(XEN_CPUID_LEAF_HVM + above);
    let present = flags & XEN_HVM_CPUID_DOMID_PRESENT != 0;
    Some(Xen { domid: u16::try_from(domid).ok().filter(|_| present).map(DomId) })
}

fn hypercall(op: u64, a1: u64, a2: u64) -> i64 {
    hypercall3(op, a1, a2, 0)
}

fn hypercall3(op: u64, a1: u64, a2: u64, a3: u64) -> i64 {
    let entry = HYPERCALLS.0.get() as u64 + 32 * op;
    let result: i64;
    // SAFETY: the page is installed by `init`; the arguments point at what the operation wants.
    unsafe {
        asm!("call {}", in(reg) entry, out("rax") result, inout("rdi") a1 => _, inout("rsi") a2 => _, inout("rdx") a3 => _,
            out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

/// Where nothing is mapped: behind a list or struct that a caller has none of.
const NOWHERE: u64 = 1 << 40;

/// The first byte of something, or [`NOWHERE`] for nothing.
fn address(bytes: &mut [u8]) -> u64 {
    if bytes.is_empty() { NOWHERE } else { bytes.as_mut_ptr() as u64 }
}

/// `grant_table_op`, with `count` structs in `args`.
pub(crate) fn grant_table_op(cmd: u32, args: &mut [u8], count: u32) -> Result<(), Errno> {
    let rc = hypercall3(__HYPERVISOR_grant_table_op, cmd.into(), address(args), count.into());
    Errno::from_rc(rc).map_or(Ok(()), Err)
}

/// One with a list, whose address goes into `arg` at this offset.
pub(crate) fn grant_table_frames(
    cmd: u32,
    arg: &mut [u8],
    list_at: usize,
    list: &mut [u64],
) -> Result<(), Errno> {
    let handle = arg.get_mut(list_at..).and_then(|rest| rest.get_mut(..8)).ok_or(Errno::EINVAL)?;
    handle.copy_from_slice(&address(list.as_mut_bytes()).to_le_bytes());
    grant_table_op(cmd, arg, 1)
}

/// `memory_op` on one struct.
pub(crate) fn memory_op(cmd: u32, arg: &mut [u8]) -> Result<(), Errno> {
    let rc = hypercall(__HYPERVISOR_memory_op, cmd.into(), address(arg));
    Errno::from_rc(rc).map_or(Ok(()), Err)
}

/// Lets another virtual CPU of this domain begin. ENOENT: there is none of that number.
pub(crate) fn start_vcpu(number: u64, registers: vcpu_hvm_x86_64) -> Result<(), Errno> {
    let context = vcpu_hvm_context { mode: VCPU_HVM_MODE_64B, x86_64: registers, ..Default::default() };
    let op = |op: u32, arg| hypercall3(__HYPERVISOR_vcpu_op, op.into(), number, arg);
    for rc in [op(VCPUOP_initialise, &raw const context as u64), op(VCPUOP_up, 0)] {
        Errno::from_rc(rc).map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// Ends this domain.
pub(crate) fn shutdown(reason: Reason) -> ! {
    let reason = match reason {
        Reason::Poweroff => SHUTDOWN_poweroff,
        Reason::Crash => SHUTDOWN_crash,
    };
    let arg = sched_shutdown { reason };
    hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown.into(), &raw const arg as u64);
    cpu::rest()
}

/// Stops this domain, so that it can be saved. Comes back in the one in which it is restored, or in this one if it was not.
pub(crate) fn suspend() {
    let arg = sched_shutdown { reason: SHUTDOWN_suspend };
    hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown.into(), &raw const arg as u64);
}

/// Extents of one frame, in order; how many were done.
fn reservation(command: u32, gfns: &[Gfn]) -> usize {
    let mut arg = xen_memory_reservation {
        extent_start: gfns.as_ptr() as u64,
        nr_extents: gfns.len() as u64,
        domid: DomId::SELF.0,
        ..Default::default()
    };
    let done = hypercall(__HYPERVISOR_memory_op, command.into(), &raw mut arg as u64);
    usize::try_from(done).unwrap_or(0)
}

/// `XENMEM_decrease_reservation`.
pub(crate) fn decrease_reservation(gfns: &[Gfn]) -> usize {
    reservation(XENMEM_decrease_reservation, gfns)
}

/// `XENMEM_populate_physmap`.
pub(crate) fn populate_physmap(gfns: &[Gfn]) -> usize {
    reservation(XENMEM_populate_physmap, gfns)
}
