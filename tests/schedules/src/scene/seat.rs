//! Where a mapper has a grant mapped, and how it looks there: its CPU by an address of its own or by its guest physical memory,
//! its device by a bus frame. A look that finds nothing is a fault, which no scene has.
#![expect(unsafe_code, reason = "looks at addresses that may lead nowhere")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use xen_ioreq::abi::grant_table::{GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly};
use xen_ioreq::seam::{Mapping, OwnMemory};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, PAGE_SHIFT, VcpuId};

use super::guest::{Dom, Mapped, Refused};
use crate::sync::atomic::{AtomicU8, Ordering::SeqCst};
use crate::sync::point;
use crate::{BusAccess, BusPort, Machine, Vcpu};

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The CPU of a PV domain, by an address.
    Cpu,
    /// A vCPU of a translated domain.
    Vcpu,
    /// The CPU of a PV domain, and its device, which is who looks.
    Device,
}

/// A place for one mapping.
pub(crate) struct Seat<'d> {
    dom: &'d Dom,
    place: Place,
}

enum Place {
    Cpu(Mapping),
    Vcpu(Vcpu),
    Device(Mapping, BusPort),
}

/// Where a translated domain maps.
const GPA: u64 = 100 << PAGE_SHIFT;

impl<'d> Seat<'d> {
    pub(crate) fn new(dom: &'d Dom, by: By) -> Self {
        Self::try_new(dom, by).expect("it is alive")
    }

    /// Errors: the domain is dead.
    pub(crate) fn try_new(dom: &'d Dom, by: By) -> Result<Self, Errno> {
        let machine = dom.caller.machine();
        let room = || dom.caller.reserve(1);
        let place = match by {
            By::Cpu => Place::Cpu(room()?),
            By::Vcpu => Place::Vcpu(machine.vcpu(dom.id, VcpuId(0))?),
            By::Device => Place::Device(room()?, machine.bus_port(dom.id, "device")?),
        };
        Ok(Self { dom, place })
    }

    /// The address for the CPU.
    pub(crate) fn address(&self) -> u64 {
        match &self.place {
            Place::Cpu(room) | Place::Device(room, _) => room.base().as_ptr().addr() as u64,
            Place::Vcpu(_) => GPA,
        }
    }

    /// Maps a grant here.
    pub(crate) fn map(
        &self,
        from: DomId,
        reference: u32,
        readonly: bool,
        stand_in: Option<u64>,
    ) -> Result<Mapped, Refused> {
        let device = if matches!(self.place, Place::Device(..)) { GNTMAP_device_map } else { 0 };
        let flags = GNTMAP_host_map | device | if readonly { GNTMAP_readonly } else { 0 };
        self.dom.map(from, reference, flags, self.address(), stand_in)
    }

    /// Unmaps it.
    pub(crate) fn unmap(&self, mapped: &Mapped) -> Result<(), Refused> {
        let bus = if matches!(self.place, Place::Device(..)) { mapped.bus_addr } else { 0 };
        self.dom.unmap(mapped.handle, self.address(), bus)
    }

    /// The first byte; `None`: the domain is dead.
    pub(crate) fn read(&self, mapped: &Mapped) -> Option<u8> {
        match &self.place {
            Place::Cpu(room) => {
                point();
                Some(cpu_read(room.base().as_ptr()).expect("a mapped page can be read"))
            }
            Place::Vcpu(vcpu) => {
                let mut byte = [0];
                let read = vcpu.ram_read(GPA, &mut byte);
                if self.dead() {
                    return None;
                }
                read.expect("there is a page");
                Some(byte[0])
            }
            Place::Device(_, port) => {
                let bfn = Bfn(mapped.bus_addr >> PAGE_SHIFT);
                let pin = port.pin(bfn, BusAccess::Read).expect("a mapped bus frame can be read");
                // SAFETY: a page of the machine's, which the pin keeps.
                let byte = unsafe { AtomicU8::from_ptr(pin.ptr.as_ptr()) }.load(SeqCst);
                port.unpin(pin);
                Some(byte)
            }
        }
    }

    /// Writes the second byte.
    pub(crate) fn write(&self, mapped: &Mapped, byte: u8) {
        match &self.place {
            Place::Cpu(room) => {
                point();
                cpu_write(room.base().as_ptr().wrapping_add(1), byte).expect("it can be written");
            }
            Place::Vcpu(vcpu) => {
                let written = vcpu.ram_write(GPA + 1, &[byte]);
                assert!(written.is_ok() || self.dead(), "there is a page");
            }
            Place::Device(_, port) => {
                let bfn = Bfn(mapped.bus_addr >> PAGE_SHIFT);
                let pin = port.pin(bfn, BusAccess::Write).expect("it can be written");
                // SAFETY: as in `read`.
                unsafe { AtomicU8::from_ptr(pin.ptr.as_ptr().wrapping_add(1)) }.store(byte, SeqCst);
                port.unpin(pin);
            }
        }
    }

    /// Looks at an address where a mapping may end at any time; `None`: a fault.
    pub(crate) fn peek(address: u64) -> Option<u8> {
        point();
        cpu_read(std::ptr::with_exposed_provenance(usize::try_from(address).expect("an address")))
    }

    fn dead(&self) -> bool {
        self.dom.caller.domain().dying()
    }
}

thread_local! {
    /// Through which the host's kernel looks at an address for us: where nothing is, it says so.
    static PIPE: OwnedFd = rustix::fs::memfd_create("look", MemfdFlags::CLOEXEC).expect("a small file");
}

/// What a CPU reads at an address; `None`: a fault.
fn cpu_read(at: *const u8) -> Option<u8> {
    PIPE.with(|fd| {
        // SAFETY: the kernel reads one byte there, or fails.
        let done = unsafe { libc::pwrite(fd.as_raw_fd(), at.cast(), 1, 0) };
        let mut byte = [0];
        (done == 1 && rustix::io::pread(fd, &mut byte, 0) == Ok(1)).then_some(byte[0])
    })
}

/// Writes a byte as a CPU does; `None`: a fault.
fn cpu_write(at: *mut u8, byte: u8) -> Option<()> {
    PIPE.with(|fd| {
        rustix::io::pwrite(fd, &[byte], 0).ok()?;
        // SAFETY: the kernel writes one byte there, or fails. The address is a range of the scene's, in which nothing is Rust's.
        let done = unsafe { libc::pread(fd.as_raw_fd(), at.cast(), 1, 0) };
        (done == 1).then_some(())
    })
}
