//! Completeness: of some families of C names, such as the operations of dm_op, none may be missing in Rust.

use std::collections::BTreeSet;

use super::{ProbeError, Tables, probe};
use crate::Row;

/// Names in one header that begin alike.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The header.
    pub header: &'static str,
    /// How the macros begin; or, with `struct ` in front, the structs.
    pub prefix: &'static str,
    /// Names that are left out on purpose.
    pub without: &'static [&'static str],
}

const fn all(header: &'static str, prefix: &'static str) -> Family {
    Family { header, prefix, without: &[] }
}

/// The families that are claimed to be whole.
pub(super) const FAMILIES: &[Family] = &[
    // A macro with arguments, which has cases of its own.
    Family { header: "xen/hvm/dm_op.h", prefix: "XEN_DMOP_", without: &["XEN_DMOP_PCI_SBDF"] },
    all("xen/hvm/dm_op.h", "struct xen_dm_op"),
    all("xen/hvm/ioreq.h", "IOREQ_"),
    all("xen/hvm/ioreq.h", "STATE_IO"),
    all("xen/hvm/hvm_op.h", "HVM_IOREQSRV_"),
    all("xen/hvm/params.h", "HVM_PARAM_"),
    all("xen/event_channel.h", "EVTCHNOP_"),
    all("xen/event_channel.h", "EVTCHNSTAT_"),
    // A list of messages, not a number.
    Family { header: "xen/grant_table.h", prefix: "GNTTABOP_", without: &["GNTTABOP_error_msgs"] },
    all("xen/grant_table.h", "GTF_"),
    all("xen/grant_table.h", "GNTMAP_"),
    all("xen/grant_table.h", "GNTST_"),
    all("xen/grant_table.h", "GNTCOPY_"),
    all("xen/grant_table.h", "struct gnttab_"),
    all("xen/sched.h", "SCHEDOP_"),
    all("xen/vcpu.h", "VCPUOP_"),
    all("xen/hvm/hvm_vcpu.h", "VCPU_HVM_MODE_"),
    all("xen/sched.h", "SHUTDOWN_"),
    all("xen/xen.h", "DOMID_"),
    all("xen/memory.h", "XENMAPSPACE_"),
    all("xen/memory.h", "XENMEM_resource_"),
    all("xen/sysctl.h", "XEN_SYSCTL_PHYSCAP_"),
    all("xen/domctl.h", "XEN_DOMINF_"),
    all("xen/arch-x86/hvm/start_info.h", "XEN_HVM_MEMMAP_TYPE_"),
    all("xen/arch-x86/hvm/start_info.h", "struct hvm_"),
    all("xen/arch-x86/cpuid.h", "XEN_HVM_CPUID_"),
    all("xen/sys/evtchn.h", "IOCTL_EVTCHN_"),
    all("xen/sys/evtchn.h", "struct ioctl_evtchn_"),
    all("xen/sys/gntalloc.h", "IOCTL_GNTALLOC_"),
    all("xen/sys/gntalloc.h", "struct ioctl_gntalloc_"),
];

/// The row of a family: it holds if C has any such name and Rust has all of them.
pub(super) fn row(family: &Family, tables: &Tables) -> Result<Row, ProbeError> {
    let (c, rust): (BTreeSet<String>, BTreeSet<&str>) = if family.prefix.starts_with("struct ") {
        let text = probe::preprocess(family.header, false)?;
        (structs(&text, family.prefix), tables.structs.iter().map(|s| s.c_name).collect())
    } else {
        let text = probe::preprocess(family.header, true)?;
        // A macro with an argument is there if Rust has an expression that calls it.
        let names = tables.consts.iter().map(|c| c.c_expr.split('(').next().unwrap_or(c.c_expr));
        (macros(&text, family.prefix), names.collect())
    };
    let missing: Vec<&str> =
        c.iter().map(String::as_str).filter(|n| !rust.contains(n) && !family.without.contains(n)).collect();
    let (ok, detail) = if c.is_empty() {
        (false, "the header has none".to_owned())
    } else if missing.is_empty() {
        (true, format!("{} names", c.len()))
    } else {
        (false, format!("missing in Rust: {}", missing.join(", ")))
    };
    Ok(Row { name: format!("all {}* of {}", family.prefix, family.header), ok, detail })
}

fn macros(text: &str, prefix: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|l| l.strip_prefix("#define "))
        .filter(|l| l.starts_with(prefix))
        .filter_map(|l| l.split([' ', '(']).next())
        .map(str::to_owned)
        .collect()
}

fn structs(text: &str, prefix: &str) -> BTreeSet<String> {
    // A definition is `struct name {`; the brace may be on the next line.
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(3)
        .filter(|w| w[0] == "struct" && w[2].starts_with('{'))
        .map(|w| format!("struct {}", w[1]))
        .filter(|n| n.starts_with(prefix))
        .collect()
}
