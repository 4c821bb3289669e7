//! Shared pages by the hypercalls, for who is a domain's kernel: its own grant table, its own memory and address space.
#![allow(non_upper_case_globals, reason = "patterns with the names of Xen's headers")]

mod entries;
mod granter;
mod mapper;
mod window;

pub use granter::TableGranter;
pub use mapper::TableMapper;

use xen_ioreq::abi::grant_table::*;

/// A status by its name in `grant_table.h`.
pub(super) fn status_name(status: i16) -> &'static str {
    match status {
        GNTST_okay => "GNTST_okay",
        GNTST_bad_domain => "GNTST_bad_domain",
        GNTST_bad_gntref => "GNTST_bad_gntref",
        GNTST_bad_handle => "GNTST_bad_handle",
        GNTST_bad_virt_addr => "GNTST_bad_virt_addr",
        GNTST_bad_dev_addr => "GNTST_bad_dev_addr",
        GNTST_no_device_space => "GNTST_no_device_space",
        GNTST_permission_denied => "GNTST_permission_denied",
        GNTST_bad_page => "GNTST_bad_page",
        GNTST_bad_copy_arg => "GNTST_bad_copy_arg",
        GNTST_address_too_big => "GNTST_address_too_big",
        GNTST_eagain => "GNTST_eagain",
        GNTST_no_space => "GNTST_no_space",
        _ => "GNTST_general_error",
    }
}
