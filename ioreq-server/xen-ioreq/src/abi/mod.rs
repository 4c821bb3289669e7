//! Xen's public interface as tables: every struct with its C layout, every constant with its C name.
//!
//! A module is one header. Its structs and constants are declared through `abi_structs!` and
//! `abi_consts!`, which also list them in [`STRUCTS`] and [`CONSTS`]; a test compiles a C probe from those lists
//! and compares every size, offset and value with the real headers, so nothing here can be forgotten by it.

// zerocopy's derives declare hidden helper types without Debug; every struct here derives it.
#![allow(missing_debug_implementations)]

/// Layout of one struct, as the C compiler should see it.
#[derive(Clone, Copy, Debug)]
pub struct StructLayout {
    /// The Rust type's name. Several may stand for one C type, such as the members of a union.
    pub name: &'static str,
    /// How C names the type, e.g. `struct ioreq`.
    pub c_name: &'static str,
    /// The public header that declares it; empty for extensions that stock headers lack.
    pub header: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields.
    pub fields: &'static [FieldLayout],
}

/// Layout of one field.
#[derive(Clone, Copy, Debug)]
pub struct FieldLayout {
    /// How C names it (a path such as `u.map.gfn` where C has a union); empty for padding that C does not name.
    pub c_name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// One constant.
#[derive(Clone, Copy, Debug)]
pub struct Const {
    /// Its name, here and (unless `c_expr` differs) in C.
    pub name: &'static str,
    /// The C expression that has the same value: the name itself, or what it is derived from.
    pub c_expr: &'static str,
    /// The public header that defines it; empty for extensions that stock headers lack.
    pub header: &'static str,
    /// The value.
    pub value: u64,
}

/// Declares the structs of one header, `#[repr(C)]` without implicit padding, with zerocopy's traits, and
/// lists their layouts in `STRUCTS` of the module. A field is followed by its C name when that differs from the Rust
/// name; `""` marks padding that C leaves unnamed.
macro_rules! abi_structs {
    (header $h:literal; $( $(#[$m:meta])* struct $name:ident = $c:literal { $( $(#[$fm:meta])* $f:ident $(($cf:literal))? : $t:ty ),* $(,)? } )*) => {
        $(
            $(#[$m])*
            #[allow(non_camel_case_types, reason = "the names of Xen's headers")]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
            #[repr(C)]
            pub struct $name { $( $(#[$fm])* pub $f: $t, )* }
        )*
        /// Layouts of this module's structs.
        pub const STRUCTS: &[$crate::abi::StructLayout] = &[ $( $crate::abi::StructLayout {
            name: stringify!($name),
            c_name: $c,
            header: $h,
            size: core::mem::size_of::<$name>(),
            fields: &[ $( $crate::abi::FieldLayout {
                c_name: abi_name!($f $($cf)?),
                offset: core::mem::offset_of!($name, $f),
                size: $crate::abi::size_of_field(|s: &$name| s.$f),
            }, )* ],
        }, )* ];
    };
}

macro_rules! abi_name {
    ($f:ident) => {
        stringify!($f)
    };
    ($f:ident $cf:literal) => {
        $cf
    };
}

/// Declares the constants of one header and lists them in `CONSTS` of the module. A constant is followed by a C
/// expression when C has no name for it.
macro_rules! abi_consts {
    (header $h:literal; $( $(#[$m:meta])* $name:ident $(($c:literal))? : $t:ty = $v:expr ),* $(,)?) => {
        $( $(#[$m])* #[allow(non_upper_case_globals, reason = "the names of Xen's headers")] pub const $name: $t = $v; )*
        /// This module's constants.
        #[allow(clippy::cast_lossless, clippy::cast_sign_loss, reason = "one list for all widths")]
        pub const CONSTS: &[$crate::abi::Const] = &[ $( $crate::abi::Const { name: stringify!($name), c_expr: abi_name!($name $($c)?), header: $h, value: $name as u64 }, )* ];
    };
}

/// Size of the field that `_get` returns; used in constants only.
pub(crate) const fn size_of_field<S, F>(_get: fn(&S) -> F) -> usize {
    core::mem::size_of::<F>()
}

/// Declares the modules and, from the same list, the tables of all of them: a module cannot be left out.
macro_rules! abi_modules {
    ($($m:ident),* $(,)?) => {
        $(pub mod $m;)*
        /// Every struct of every module.
        pub const STRUCTS: &[&[StructLayout]] = &[$($m::STRUCTS),*];
        /// Every constant of every module, and the error numbers.
        pub const CONSTS: &[&[Const]] = &[$($m::CONSTS,)* crate::errno::XEN_CONSTS, crate::errno::LINUX_CONSTS];
        /// The modules' names.
        pub const MODULES: &[&str] = &[$(stringify!($m)),*];
    };
}

abi_modules! {
    cpuid,
    dm_op,
    domctl,
    elfnote,
    event_channel,
    evtchn,
    gntalloc,
    gntdev,
    grant_table,
    hvm_op,
    hvm_vcpu,
    iommu_op,
    ioreq,
    libxenvchan,
    memory,
    params,
    privcmd,
    privcmd_eventfd,
    revokable,
    sched,
    start_info,
    sysctl,
    vcpu,
    version,
    xen,
    xs_wire,
}

/// Linux's ioctl number without a direction (`_IOC_NONE`), which all of Xen's devices use.
const fn ioc(group: char, nr: u8, size: usize) -> u32 {
    assert!(group.is_ascii() && size < 1 << 14, "the size field has 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "14 bits, just asserted")]
    let size = size as u32;
    size << 16 | (group as u32) << 8 | nr as u32
}

/// The same for an ioctl that reads its argument (`_IOW`).
const fn iow(group: char, nr: u8, size: usize) -> u32 {
    1 << 30 | ioc(group, nr, size)
}
