//! `hvm/hvm_vcpu.h`: the registers with which a virtual CPU of an HVM or PVH guest begins.

abi_structs! {
    header "xen/hvm/hvm_vcpu.h";
    /// In 64-bit mode, with flat segments.
    struct vcpu_hvm_x86_64 = "struct vcpu_hvm_x86_64" {
        /// Register.
        rax: u64,
        /// Register.
        rcx: u64,
        /// Register.
        rdx: u64,
        /// Register.
        rbx: u64,
        /// Stack pointer.
        rsp: u64,
        /// Register.
        rbp: u64,
        /// Register.
        rsi: u64,
        /// Register.
        rdi: u64,
        /// First instruction.
        rip: u64,
        /// Flags.
        rflags: u64,
        /// Protection and paging on.
        cr0: u64,
        /// Page tables.
        cr3: u64,
        /// Physical address extensions on.
        cr4: u64,
        /// Long mode enabled and active.
        efer: u64,
    }
    /// Argument of `VCPUOP_initialise`.
    struct vcpu_hvm_context = "struct vcpu_hvm_context" {
        /// `VCPU_HVM_MODE_*`: which member of the union.
        mode: u32,
        /// Padding.
        pad: u32,
        /// With [`VCPU_HVM_MODE_64B`].
        x86_64 ("cpu_regs.x86_64"): vcpu_hvm_x86_64,
        /// The 32-bit member is longer.
        _rest (""): u64,
    }
}

abi_consts! {
    header "xen/hvm/hvm_vcpu.h";
    /// Begin in 32-bit mode.
    VCPU_HVM_MODE_32B: u32 = 0,
    /// Begin in 64-bit mode.
    VCPU_HVM_MODE_64B: u32 = 1,
}
