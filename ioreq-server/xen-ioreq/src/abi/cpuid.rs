//! `arch-x86/cpuid.h`: Xen's CPUID leaves. They may start higher by a multiple of 0x100 (up to 0x4000ff00).

abi_structs! {
    header "xen/arch-x86/cpuid.h";
}

abi_consts! {
    header "xen/arch-x86/cpuid.h";
    /// First place to look for the signature.
    XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000,
    /// Leaf with the version in EAX.
    XEN_CPUID_LEAF_VERSION ("XEN_CPUID_LEAF(1)"): u32 = 0x4000_0001,
    /// Leaf with the number of hypercall pages in EAX and the MSR that fills them in EBX.
    XEN_CPUID_LEAF_HYPERCALL ("XEN_CPUID_LEAF(2)"): u32 = 0x4000_0002,
    /// Leaf of the HVM features: EAX `XEN_HVM_CPUID_*`, EBX vCPU number, ECX domain number.
    XEN_CPUID_LEAF_HVM ("XEN_CPUID_LEAF(4)"): u32 = 0x4000_0004,
    /// `XenV`.
    XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558,
    /// `MMXe`.
    XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d,
    /// `nVMM`.
    XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e,
    /// Virtual APIC registers.
    XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1,
    /// Virtual x2APIC.
    XEN_HVM_CPUID_X2APIC_VIRT: u32 = 2,
    /// Memory mapped from other domains is in the IOMMU.
    XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 4,
    /// EBX holds the vCPU number.
    XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 8,
    /// ECX holds the domain number.
    XEN_HVM_CPUID_DOMID_PRESENT: u32 = 16,
    /// Destination ids of 15 bits.
    XEN_HVM_CPUID_EXT_DEST_ID: u32 = 32,
    /// Upcalls by a vector work with physical interrupts.
    XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 64,
}
