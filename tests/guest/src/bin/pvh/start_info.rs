//! What Xen hands over at the start (`hvm_start_info`, version 1): the memory map and the command line.
#![expect(unsafe_code, reason = "structs at physical addresses that Xen gives")]

use core::mem::size_of;

use guest::RamRange;
use xen_ioreq::Gfn;
use xen_ioreq::abi::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry,
    hvm_start_info,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::cpu;
use crate::entry::MAPPED;

const PAGE: u64 = 4096;

/// The command line, copied.
pub(crate) struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Line {
    /// As text; what is not text is left out.
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

/// Usable RAM: at most this many ranges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ram {
    ranges: [RamRange; 8],
    count: usize,
}

impl Ram {
    pub(crate) fn as_slice(&self) -> &[RamRange] {
        &self.ranges[..self.count]
    }
}

unsafe extern "C" {
    static kernel_end: u8;
}

fn read<T: FromBytes + IntoBytes>(at: u64) -> T {
    let mut value = T::new_zeroed();
    cpu::copy(at, value.as_mut_bytes().as_mut_ptr() as u64, size_of::<T>());
    value
}

/// Copies out what is needed. RAM is what lies above this kernel and what Xen has put behind it, below
/// [`MAPPED`]. Panics when this is not a start info with a memory map.
pub(crate) fn take(at: u64) -> (Ram, Line) {
    let info: hvm_start_info = read(at);
    assert!(info.magic == XEN_HVM_START_MAGIC_VALUE && info.version >= 1, "no start info at {at:#x}");
    let mut line = Line { bytes: [0; 512], length: 0 };
    if info.cmdline_paddr != 0 {
        cpu::copy(info.cmdline_paddr, line.bytes.as_mut_ptr() as u64, line.bytes.len());
        line.length = line.bytes.iter().position(|&b| b == 0).unwrap_or(line.bytes.len());
    }
    // Xen puts its own structs right behind the kernel; everything below their ends is taken
    let map_bytes = u64::from(info.memmap_entries) * size_of::<hvm_memmap_table_entry>() as u64;
    let ends = [
        &raw const kernel_end as u64,
        at + size_of::<hvm_start_info>() as u64,
        info.cmdline_paddr + line.length as u64 + 1,
        info.memmap_paddr + map_bytes,
        info.modlist_paddr + u64::from(info.nr_modules) * size_of::<hvm_modlist_entry>() as u64,
    ];
    let map = |n: u32| -> hvm_memmap_table_entry {
        read(info.memmap_paddr + u64::from(n) * size_of::<hvm_memmap_table_entry>() as u64)
    };
    let holder = (0..info.memmap_entries).map(map).find(|e| (e.addr..e.addr + e.size).contains(&ends[0]));
    let end_of_kernel_ram = holder.map_or(MAPPED, |e| e.addr + e.size);
    let taken = ends.into_iter().filter(|&e| e <= end_of_kernel_ram).fold(0, u64::max);

    let mut ram = Ram { ranges: [RamRange { first: Gfn(0), frames: 0 }; 8], count: 0 };
    for e in (0..info.memmap_entries).map(map).filter(|e| e.r#type == XEN_HVM_MEMMAP_TYPE_RAM) {
        let first = e.addr.max(taken).div_ceil(PAGE);
        let end = (e.addr + e.size).min(MAPPED) / PAGE;
        if let (Some(slot), true) = (ram.ranges.get_mut(ram.count), first < end) {
            *slot = RamRange { first: Gfn(first), frames: end - first };
            ram.count += 1;
        }
    }
    (ram, line)
}
