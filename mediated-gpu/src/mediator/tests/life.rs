//! Making and unmaking vGPUs while others work.

use super::rig::*;
use crate::gen8::cmd;
use crate::mediator::MediatorError;
use crate::physical::PhysicalGpu;
use crate::vgpu::VgpuId;
use crate::vgpu::slice::{GmRange, MIB, SliceError, SliceSize, VgpuType};

#[test]
fn vgpu_destroyed_at_work_leaves_nothing_behind() {
    let mut host = Host::new();
    let mut other = host.guest();
    other.start();
    for round in 0..8 {
        let used = host.world.used();
        let mut g = host.guest();
        g.start();
        let slice = g.vgpu.slice();
        if round % 2 == 0 {
            host.gpu.hang(1);
        }
        g.emit(&cmd::store_dword(g.gm(DATA), 1));
        (0..3).for_each(|_| g.submit());
        let id = g.vgpu.id();
        host.mediator().destroy(id).unwrap();
        host.gpu.hang(0);
        host.world.depopulate(g.domid);
        assert_eq!(host.world.used(), used, "round {round}");
        let scratch = host.gpu.ggtt_read((slice.low.base >> 12) as u32);
        assert!(scratch.is_some() && slice.indexes().all(|i| host.gpu.ggtt_read(i) == scratch));
        assert!(matches!(host.mediator().destroy(id), Err(MediatorError::NoVgpu(_))));
        other.run(&cmd::store_dword(other.gm(DATA), round));
        assert_eq!(other.read32(DATA), round);
    }
    drop(host.mediator.take());
    host.world.depopulate(other.domid);
    assert_eq!(host.world.used(), host.used_before, "the mediator's own pages are back");
    assert!((0..host.gpu.ggtt_entries()).all(|i| host.gpu.ggtt_read(i).is_none()));
}

#[test]
fn accesses_to_a_destroyed_vgpu_are_harmless() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    host.mediator().destroy(g.vgpu.id()).unwrap();
    let next = host.guest();
    assert_eq!(next.vgpu.slice(), g.vgpu.slice(), "the slice has a new owner");
    g.submit();
    g.set_reg(0x941c, 1);
    g.vgpu.invalidate(7);
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA), 4), 0xffff_ffff);
    g.write_pte(g.gm(DATA), g.gfn(DATA).addr() | 1);
    let index = (g.gm(DATA) >> 12) as u32;
    assert_eq!(host.gpu.ggtt_read(index), host.gpu.ggtt_read(index + 1), "still scratch");
}

#[test]
fn slices_are_told_apart_and_given_back() {
    let host = Host::new();
    let half = VgpuType::Custom(SliceSize { low: 32 * MIB, high: MIB, fences: 4 });
    let (a, b) = (host.guest_of(half), host.guest_of(half));
    assert_eq!(a.vgpu.slice().low, GmRange { base: 0, size: 32 * MIB });
    assert_eq!(b.vgpu.slice().low, GmRange { base: 32 * MIB, size: 32 * MIB });
    assert_eq!((a.vgpu.id(), b.vgpu.id()), (VgpuId(1), VgpuId(2)));
    assert_eq!(b.reg(0x78040), 32 << 20);
    let frames = host.client.attach(xen_ioreq::DomId(99), xen_ioreq::IoServerId(1)).unwrap();
    let refused = host.mediator().create(half, frames, Box::new(NoMsi));
    assert!(matches!(refused, Err(MediatorError::Slice(SliceError::NoLow { wanted: 32, free: 0 }))));
    host.mediator().destroy(a.vgpu.id()).unwrap();
    assert_eq!(host.guest_of(half).vgpu.slice().low.base, 0);
}

struct NoMsi;

impl crate::mediator::MsiSink for NoMsi {
    fn interrupt(&self) {}
}
