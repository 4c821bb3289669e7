//! Registers and aperture, from outside.

use std::sync::atomic::Ordering;

use super::rig::*;
use crate::gen8::cmd;
use crate::gen8::fence::Fence;
use crate::gen8::regs::gt;
use crate::gen8::tiling::Tiling;
use crate::vgpu::display::SurfaceError;

#[test]
fn unknown_register_reads_as_ones_and_is_counted() {
    let host = Host::new();
    let g = host.guest();
    assert_eq!(g.vgpu.mmio_read(0x5_0000, 4), 0xffff_ffff);
    assert_eq!(g.vgpu.mmio_read(0x40_0000, 8), u64::MAX);
    g.set_reg(0x5_0000, 1);
    assert_eq!(g.vgpu.statistics().unknown_registers, 4);
}

#[test]
fn aperture_reaches_the_same_bytes_as_the_gpu() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.run(&cmd::store_qword(g.gm(DATA), 0x1122_3344_5566_7788));
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA), 8), 0x1122_3344_5566_7788);
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA) + 6, 1), 0x22);
    g.vgpu.aperture_write(g.gm(DATA) + 2, 2, 0xabcd);
    assert_eq!(g.read32(DATA), 0xabcd_7788);
    let cross = g.gm(DATA) + 0xffe;
    g.vgpu.aperture_write(cross, 4, 0x0102_0304);
    assert_eq!(g.vgpu.aperture_read(cross, 4), 0x0102_0304);
}

#[test]
fn fence_shows_a_tiled_surface_as_lines() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let [low, high] = cmd::split(Fence::encode(g.gm(DATA), g.gm(DATA) + 0x2000, 128, Tiling::Y));
    g.set_reg(gt::FENCE_REG_GEN6 + 8, low);
    g.set_reg(gt::FENCE_REG_GEN6 + 12, high);
    // Line 3, bytes 12 to 19: the end of the first column and the begin of the second.
    let line = g.gm(DATA) + 3 * 128;
    g.vgpu.aperture_write(line + 12, 8, 0x1122_3344_5566_7788);
    assert_eq!((g.read32(DATA + 3 * 16 + 12), g.read32(DATA + 512 + 3 * 16)), (0x5566_7788, 0x1122_3344));
    assert_eq!(g.vgpu.aperture_read(line + 14, 4), 0x3344_5566);
    // Line 32 is in the second tile; what lies behind the fence is linear.
    g.write32(DATA + 0x1000, 7);
    g.write32(DATA + 0x2004, 8);
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA) + 32 * 128, 4), 7);
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA) + 0x2004, 4), 8);
    g.set_reg(gt::FENCE_REG_GEN6 + 8, 0);
    assert_eq!(g.vgpu.aperture_read(g.gm(DATA) + 3 * 16 + 12, 4), 0x5566_7788);
}

#[test]
fn fence_over_anothers_memory_shows_nothing_of_it() {
    let host = Host::new();
    let (mut g, mut other) = (host.guest(), host.guest());
    g.start();
    other.start();
    other.write32(DATA, 0x5ec2e7);
    let ends = [g.gm(DATA), other.gm(DATA)];
    let (first, last) = (ends[0].min(ends[1]), ends[0].max(ends[1]) + 0x1000);
    let [low, high] = cmd::split(Fence::encode(first, last, 512, Tiling::X));
    g.set_reg(gt::FENCE_REG_GEN6, low);
    g.set_reg(gt::FENCE_REG_GEN6 + 4, high);
    assert_eq!(g.vgpu.aperture_read(other.gm(DATA), 4), 0xffff_ffff);
    g.vgpu.aperture_write(other.gm(DATA), 4, 0);
    assert_eq!(other.read32(DATA), 0x5ec2e7);
    assert_eq!(g.vgpu.statistics().foreign_accesses, 2);
}

#[test]
fn aperture_outside_the_slice_is_another_world() {
    let host = Host::new();
    let (mut g, mut other) = (host.guest(), host.guest());
    g.start();
    other.start();
    other.write32(DATA, 0x5ec2e7);
    g.vgpu.aperture_write(other.gm(DATA), 4, 0);
    assert_eq!(g.vgpu.aperture_read(other.gm(DATA), 4), 0xffff_ffff);
    assert_eq!(other.read32(DATA), 0x5ec2e7);
    assert_eq!(g.vgpu.statistics().foreign_accesses, 2);
    assert_eq!(g.vgpu.aperture_read(u64::MAX - 2, 8), u64::MAX);
}

#[test]
fn interrupt_waits_for_the_master_to_be_let_out() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.set_reg(0x44200, 0);
    g.run(&[cmd::MI_USER_INTERRUPT]);
    eventually("it is pending", || g.reg(0x44308) == 0x0101_0000);
    assert_eq!(g.msis.load(Ordering::SeqCst), 0);
    g.set_reg(0x44200, 1 << 31);
    assert_eq!(g.msis.load(Ordering::SeqCst), 1);
    g.set_reg(0x44308, 0x0101_0000);
    assert_eq!(g.reg(0x44200), 1 << 31);
}

#[test]
fn picture_is_read_through_the_shadow_with_holes_as_black() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    assert_eq!(g.vgpu.surface(), Err(SurfaceError::Off));
    g.set_reg(0x6001c, (255 << 16) | 11);
    g.set_reg(0x70188, 1024);
    g.set_reg(0x70180, (1 << 31) | (6 << 26));
    g.set_reg(0x7019c, g.gm(DATA) as u32);
    for y in 0..12 {
        g.write32(DATA + 1024 * y + 4, 0x0a0b_0c00 + y as u32);
    }
    g.balloon_out(DATA + 0x1000);
    g.vgpu.settle();
    let s = g.vgpu.surface().unwrap();
    assert_eq!((s.width, s.height, s.missing_pages), (256, 12, 1));
    let pixel = |x: usize, y: usize| &s.bgrx[4 * (256 * y + x)..][..4];
    assert_eq!(pixel(1, 3), [3, 0x0c, 0x0b, 0x0a]);
    assert_eq!(pixel(1, 5), [0; 4]);
    assert_eq!(pixel(1, 11), [11, 0x0c, 0x0b, 0x0a]);
}
