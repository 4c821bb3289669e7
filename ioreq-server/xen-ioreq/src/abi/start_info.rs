//! `arch-x86/hvm/start_info.h`: what a PVH kernel finds at its entry.

abi_structs! {
    header "xen/arch-x86/hvm/start_info.h";
    /// Its physical address is in EBX at the entry.
    struct hvm_start_info = "struct hvm_start_info" {
        /// [`XEN_HVM_START_MAGIC_VALUE`].
        magic: u32,
        /// Version; the memory map exists from 1 on.
        version: u32,
        /// `SIF_*`.
        flags: u32,
        /// Number of modules.
        nr_modules: u32,
        /// Physical address of an array of [`hvm_modlist_entry`].
        modlist_paddr: u64,
        /// Physical address of the command line, ended by a zero byte.
        cmdline_paddr: u64,
        /// Physical address of the ACPI root pointer.
        rsdp_paddr: u64,
        /// Physical address of an array of [`hvm_memmap_table_entry`].
        memmap_paddr: u64,
        /// Number of its entries.
        memmap_entries: u32,
        /// Zero.
        reserved: u32,
    }
    /// A module.
    struct hvm_modlist_entry = "struct hvm_modlist_entry" {
        /// Physical address.
        paddr: u64,
        /// Size in bytes.
        size: u64,
        /// Physical address of its command line.
        cmdline_paddr: u64,
        /// Zero.
        reserved: u64,
    }
    /// A range of the memory map.
    struct hvm_memmap_table_entry = "struct hvm_memmap_table_entry" {
        /// Physical address.
        addr: u64,
        /// Size in bytes.
        size: u64,
        /// `XEN_HVM_MEMMAP_TYPE_*`.
        r#type ("type"): u32,
        /// Zero.
        reserved: u32,
    }
}

abi_consts! {
    header "xen/arch-x86/hvm/start_info.h";
    /// `magic` of [`hvm_start_info`].
    XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578,
    /// Memory.
    XEN_HVM_MEMMAP_TYPE_RAM: u32 = 1,
    /// Reserved.
    XEN_HVM_MEMMAP_TYPE_RESERVED: u32 = 2,
    /// ACPI tables, memory once read.
    XEN_HVM_MEMMAP_TYPE_ACPI: u32 = 3,
    /// ACPI storage.
    XEN_HVM_MEMMAP_TYPE_NVS: u32 = 4,
    /// Broken.
    XEN_HVM_MEMMAP_TYPE_UNUSABLE: u32 = 5,
    /// Disabled.
    XEN_HVM_MEMMAP_TYPE_DISABLED: u32 = 6,
    /// Persistent memory.
    XEN_HVM_MEMMAP_TYPE_PMEM: u32 = 7,
}
