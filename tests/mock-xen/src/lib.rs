//! A model of the Xen hypervisor.
