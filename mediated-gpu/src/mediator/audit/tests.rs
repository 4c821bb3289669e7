//! What is allowed, what is refused and why, case by case.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "literals that fit"
)]

use std::cell::Cell;
use std::collections::BTreeMap;

use xen_ioreq::PAGE_SIZE;

use super::*;

mod blits;
mod exec_parse;
mod inside;
mod process;
mod values;
use crate::gen8::blt::{Rect, XyColorBlt, XySrcCopyBlt};
use crate::gen8::cmd::{MI_BATCH_BUFFER_END, MI_NOOP, MI_USER_INTERRUPT};
use crate::gen8::regs;
use crate::vgpu::slice::GmRange;

const SLICE: Slice = Slice {
    low: GmRange { base: 0x10_0000, size: 0x10_0000 },
    high: GmRange { base: 0x1000_0000, size: 0x10_0000 },
    fences: 0,
};
const OWN: u64 = 0x10_4000;
const FOREIGN: u64 = 0x20_0000;
const BATCH: u64 = 0x11_0000;
const BASE: u64 = 0x4000_0000;
const LIMIT: usize = 64 << 10;

/// Pages of the guest's memory; reads of each are counted.
#[derive(Default)]
struct Pages {
    pages: BTreeMap<u64, Vec<u8>>,
    copies: Cell<usize>,
}

impl Pages {
    fn put(&mut self, addr: u64, dwords: &[u32]) {
        for (i, dword) in (0u64..).zip(dwords) {
            let at = addr + 4 * i;
            let page = self.pages.entry(at >> 12).or_insert_with(|| vec![0; PAGE_SIZE]);
            page[(at & 0xfff) as usize..][..4].copy_from_slice(&dword.to_le_bytes());
        }
    }
}

impl CommandSource for Pages {
    fn copy(&self, _: Space, addr: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        self.copies.set(self.copies.get() + 1);
        let page = self.pages.get(&(addr >> 12)).ok_or(Refusal::NotMapped(addr))?;
        buf.copy_from_slice(&page[(addr & 0xfff) as usize..][..buf.len()]);
        Ok(())
    }
}

fn terms(engine: Engine) -> Terms<'static> {
    Terms {
        engine,
        slice: &SLICE,
        status_page: OWN,
        ppgtt: false,
        batch_base: BASE,
        batch_limit: LIMIT,
        fast_copy: true,
    }
}

fn audit_on(engine: Engine, pages: &Pages, dwords: &[u32]) -> Result<Audited, Refused> {
    whole(ring(terms(engine), pages, dwords, |i| 0x10_0000 + 4 * i as u64))
}

/// What was audited, if nothing of it was refused.
fn whole(audited: Audited) -> Result<Audited, Refused> {
    audited.refused.map_or(Ok(audited), Err)
}

fn audit(dwords: &[u32]) -> Result<Audited, Refused> {
    audit_on(Engine::Bcs, &Pages::default(), dwords)
}

fn why(dwords: &[u32]) -> Refusal {
    audit(dwords).unwrap_err().why
}

fn out_of_slice(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::OutOfSlice { .. })
}

/// A batch on the ring, with memory.
fn batch(batches: &[(u64, &[u32])]) -> Result<Audited, Refused> {
    let mut pages = Pages::default();
    batches.iter().for_each(|(at, dwords)| pages.put(*at, dwords));
    audit_on(Engine::Bcs, &pages, &cmd::batch_buffer_start(BATCH))
}

#[test]
fn what_is_allowed_comes_out_as_it_went_in() {
    let mut ring = vec![cmd::MI_ARB_CHECK, cmd::MI_ARB_OFF, cmd::MI_ARB_ON, MI_NOOP];
    ring.extend(cmd::store_dword(OWN, 1));
    ring.extend(cmd::store_qword(SLICE.high.base, 1));
    ring.extend(cmd::flush_dw_store(OWN + 8, 2));
    ring.extend(cmd::load_register_imm(0x22200, 0x0003_0000));
    let rect = Rect { x1: 0, y1: 0, x2: 16, y2: 16 };
    let fill = XyColorBlt::fill(OWN, 64, rect, 7);
    ring.extend(fill.encode());
    let copy = XySrcCopyBlt {
        write_alpha: true,
        write_rgb: true,
        depth: fill.depth,
        rop: 0xcc,
        clip: false,
        dst: fill.dst,
        rect,
        src: fill.dst,
        src_x: 1,
        src_y: 1,
    };
    ring.extend(copy.encode());
    let audited = audit(&ring).unwrap();
    let dwords = ring.len();
    let effects = Effects { registers: true, ..Effects::default() };
    assert_eq!(audited, Audited { ring, dwords, effects, ..Audited::default() });
}

#[test]
fn what_comes_before_a_refused_command_may_be_executed_and_nothing_after_it() {
    let mut pages = Pages::default();
    pages.put(BATCH, &cmd::batch_buffer_start(BATCH));
    let first = [cmd::store_dword(OWN, 1).as_slice(), &[MI_USER_INTERRUPT]].concat();
    let last = cmd::store_dword(OWN, 2);
    // A batch that goes round for ever, a store elsewhere, a batch's end that ends nothing, a command that is cut off.
    let round = cmd::batch_buffer_start(BATCH);
    let elsewhere = cmd::store_dword(FOREIGN, 1);
    for (bad, why, at) in [
        (round.as_slice(), Refusal::Loop, BATCH),
        (&elsewhere, Refusal::OutOfSlice { addr: FOREIGN, len: 4 }, 0x10_0014),
        (&[MI_BATCH_BUFFER_END], Refusal::Nesting, 0x10_0014),
    ] {
        let dwords = [first.as_slice(), bad, &last].concat();
        let audited = ring(terms(Engine::Bcs), &pages, &dwords, |i| 0x10_0000 + 4 * i as u64);
        assert_eq!(audited.ring, [cmd::store_dword(OWN, 1).as_slice(), &[MI_NOOP]].concat());
        assert_eq!(
            (audited.dwords, audited.effects.interrupts),
            (first.len(), regs::GT_RENDER_USER_INTERRUPT)
        );
        assert_eq!(audited.refused.map(|r| (r.why, r.addr)), Some((why, at)));
    }
    let cut = [first.as_slice(), &last[..2]].concat();
    let audited = ring(terms(Engine::Bcs), &pages, &cut, |i| 0x10_0000 + 4 * i as u64);
    assert_eq!((audited.dwords, audited.refused.map(|r| r.why)), (first.len(), Some(Refusal::CutOff)));
}

#[test]
fn rings_of_a_stock_i915_pass_as_far_as_they_use_the_ggtt() {
    // Seqno writes and flushes as traced, addresses moved into the slice. The flush has a bit in its header that
    // is no part of the length.
    let flush = [0x1324_4082, 0x0000_00d0, 0, 0, 0x1300_4002, 0x0010_4104, 0, 1, 0x0100_0000, 0x0400_0001];
    let audited = audit_on(Engine::Vcs, &Pages::default(), &flush).unwrap();
    assert_eq!(audited.effects.interrupts, regs::GT_RENDER_USER_INTERRUPT);
    assert_eq!(audited.ring[..4], [0x1304_4002, (OWN as u32 + 0xd0) | 4, 0, 0], "index made an address");
    assert_eq!(audited.ring[4..], [0x1300_4002, 0x0010_4104, 0, 1, MI_NOOP, 0x0400_0001]);
    let render = [
        0x7a00_0004,
        0x0034_4c1c,
        0xd0,
        0,
        0,
        0,
        0x7a00_0004,
        0x0000_1021,
        0,
        0,
        0,
        0,
        0x7a00_0004,
        0x0110_4080,
        0x0010_4100,
        0,
        1,
        0,
        0x7a00_0004,
        0x0034_5cbd,
        0xd0,
        0,
        0,
        0,
    ];
    let audited = audit_on(Engine::Rcs, &Pages::default(), &render).unwrap();
    assert_eq!(audited.ring[..4], [0x7a00_0004, 0x0114_4c1c, OWN as u32 + 0xd0, 0]);
    assert_eq!(audited.ring[12..18], render[12..18]);
}

#[test]
fn interrupts_are_collected_and_none_is_left_in_the_ring() {
    let [flush, lo, hi, data] = cmd::flush_dw_store(OWN, 1);
    let audited =
        audit(&[MI_USER_INTERRUPT, flush | cmd::FLUSH_DW_NOTIFY, lo, hi, data, MI_USER_INTERRUPT]).unwrap();
    let both = regs::GT_RENDER_USER_INTERRUPT | regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT;
    assert_eq!((audited.effects.interrupts, audited.effects.requests), (both, 2));
    assert_eq!(audited.ring, [MI_NOOP, flush, lo, hi, data, MI_NOOP]);
}

#[test]
fn address_outside_the_slice_is_refused_in_every_command_that_has_one() {
    let end = SLICE.low.end();
    for addr in [0, FOREIGN, SLICE.low.base - 4, end, end - 4 + 8, 0x1_0010_4000, 0xffff_ffff_fff8] {
        assert!(out_of_slice(why(&cmd::store_dword(addr, 1))), "{addr:#x}");
        assert!(out_of_slice(why(&cmd::batch_buffer_start(addr))), "{addr:#x}");
        assert!(out_of_slice(why(&cmd::flush_dw_store(addr & !7, 1))), "{addr:#x}");
    }
    assert!(out_of_slice(why(&cmd::store_qword(end, 1))));
    let pipe = cmd::pipe_control_store(FOREIGN, 1);
    assert!(out_of_slice(audit_on(Engine::Rcs, &Pages::default(), &pipe).unwrap_err().why));
}

#[test]
fn store_that_leaves_the_slice_at_its_end_is_refused() {
    assert!(audit(&cmd::store_dword(SLICE.low.end() - 4, 1)).is_ok());
    assert!(audit(&cmd::store_qword(SLICE.low.end() - 8, 1)).is_ok());
    // Several quadwords, the last one outside.
    let [header, ..] = cmd::store_qword(0, 0);
    let [lo, hi] = cmd::split(SLICE.low.end() - 8);
    let two = [header + 2, lo, hi, 1, 2, 3, 4];
    assert!(out_of_slice(why(&two)));
    // A flush of five dwords writes a quadword: GVT-g looked at none of it.
    let [header, lo, hi, v] = cmd::flush_dw_store(FOREIGN, 1);
    assert!(out_of_slice(why(&[header + 1, lo, hi, v, 0])));
    // A timestamp is a quadword, whatever the length says.
    let [header, lo, hi, v] = cmd::flush_dw_store(SLICE.high.end(), 1);
    assert!(out_of_slice(why(&[header | 3 << 14, lo, hi, v])));
}

#[test]
fn modes_that_are_not_served_are_refused() {
    let [start, lo, hi] = cmd::batch_buffer_start(BATCH);
    for bit in [cmd::BB_ADD_OFFSET, cmd::BB_PREDICATE, 1 << 10] {
        assert_eq!(why(&[start | bit, lo, hi]), Refusal::Mode, "the blitter has no predicate");
    }
    let [lri, register, value] = cmd::load_register_imm(0x22200, 0);
    assert_eq!(why(&[lri | 1 << 8, register, value]), Refusal::Mode, "byte enables");
    let [header, flags, rest @ ..] = cmd::pipe_control_store(OWN, 1);
    for bit in [1 << 19, 1 << 22, 1 << 23, 1 << 31] {
        let command = [[header, flags | bit].as_slice(), &rest].concat();
        assert_eq!(audit_on(Engine::Rcs, &Pages::default(), &command).unwrap_err().why, Refusal::Mode);
    }
}

#[test]
fn command_that_no_rule_allows_is_refused_and_told_where() {
    let flip = [cmd::op::MI_DISPLAY_FLIP << 23 | 1, 0, OWN as u32];
    let refused = audit(&[MI_NOOP, MI_NOOP, flip[0], flip[1], flip[2]]).unwrap_err();
    assert_eq!(refused, Refused { why: Refusal::NotAllowed, header: flip[0], addr: 0x10_0008 });
    for opcode in [
        cmd::op::MI_UPDATE_GTT,
        cmd::op::MI_STORE_DATA_INDEX,
        cmd::op::MI_DISPLAY_FLIP,
        cmd::op::MI_REPORT_HEAD,
        cmd::op::MI_PREDICATE,
        cmd::op::MI_REPORT_PERF_COUNT,
    ] {
        assert_eq!(why(&[opcode << 23 | 2, 0, 0, 0]), Refusal::NotAllowed, "{opcode:#x}");
    }
    assert_eq!(why(&[0xffff_ffff]), Refusal::NotAllowed);
    assert_eq!(why(&[0x2000_0000]), Refusal::NotAllowed);
    assert_eq!(why(&cmd::pipe_control_store(OWN, 1)), Refusal::NotAllowed, "on the wrong engine");
    let fill = XyColorBlt::fill(OWN, 64, Rect { x1: 0, y1: 0, x2: 4, y2: 4 }, 0).encode();
    assert_eq!(audit_on(Engine::Rcs, &Pages::default(), &fill).unwrap_err().why, Refusal::NotAllowed);
}

#[test]
fn register_of_no_list_is_refused_wherever_it_stands() {
    let [_, register, value] = cmd::load_register_imm(0x22200, 0);
    let two = [0x1100_0003, register, value, 0x22230, 1];
    assert_eq!(why(&two), Refusal::Register(0x22230));
    assert_eq!(why(&cmd::load_register_imm(0x941c, 1)), Refusal::Register(0x941c));
    assert_eq!(why(&[0x1100_0002, register, value, 0]), Refusal::Length(4));
}

#[test]
fn command_cut_off_by_the_rings_end_is_refused() {
    let store = cmd::store_dword(OWN, 1);
    for n in 1..store.len() {
        assert_eq!(why(&store[..n]), Refusal::CutOff);
    }
}

#[test]
fn lengths_that_a_command_cannot_have_are_refused() {
    assert_eq!(why(&[0x1040_0000, 0]), Refusal::Length(2));
    assert_eq!(why(&[0x1040_0003, OWN as u32, 0, 0, 0]), Refusal::Length(5), "two dwords in one store");
    assert_eq!(why(&[0x1060_0002, OWN as u32, 0, 0]), Refusal::Length(4), "half a quadword");
    assert_eq!(why(&[0x1300_4000, OWN as u32 | 4]), Refusal::Length(2));
    assert_eq!(why(&[0x1300_4004, OWN as u32 | 4, 0, 0, 0, 0]), Refusal::Length(6));
    assert_eq!(why(&[0x1880_0000, BATCH as u32]), Refusal::Length(2));
}

#[test]
fn batch_is_copied_once_and_started_where_the_copy_is() {
    let mut pages = Pages::default();
    let body = [cmd::store_dword(OWN, 1).as_slice(), &[MI_BATCH_BUFFER_END]].concat();
    pages.put(BATCH, &body);
    let twice = [cmd::batch_buffer_start(BATCH), cmd::batch_buffer_start(BATCH)].concat();
    let audited = audit_on(Engine::Bcs, &pages, &twice).unwrap();
    assert_eq!(audited.ring, [cmd::batch_buffer_start(BASE), cmd::batch_buffer_start(BASE)].concat());
    assert_eq!(audited.batches, body);
    assert_eq!(pages.copies.get(), 1);
}

#[test]
fn batch_with_a_command_across_a_page_is_whole_in_the_copy() {
    let mut body = vec![MI_NOOP; 1022];
    body.extend(cmd::store_dword(OWN, 1));
    body.push(MI_BATCH_BUFFER_END);
    assert_eq!(batch(&[(BATCH, &body)]).unwrap().batches, body);
}

#[test]
fn chain_goes_on_in_the_next_copy() {
    let next = BATCH + 0x2000;
    let audited =
        batch(&[(BATCH, &cmd::batch_buffer_start(next)), (next, &[MI_NOOP, MI_BATCH_BUFFER_END])]).unwrap();
    assert_eq!(audited.batches[..3], cmd::batch_buffer_start(BASE + 64));
    assert_eq!(audited.batches[16..], [MI_NOOP, MI_BATCH_BUFFER_END]);
}

#[test]
fn batch_that_starts_itself_is_refused() {
    assert_eq!(batch(&[(BATCH, &cmd::batch_buffer_start(BATCH))]).unwrap_err().why, Refusal::Loop);
    // By way of another, and by way of its own middle.
    let next = BATCH + 0x2000;
    let there = cmd::batch_buffer_start(next);
    let back = cmd::batch_buffer_start(BATCH);
    assert_eq!(batch(&[(BATCH, &there), (next, &back)]).unwrap_err().why, Refusal::Loop);
    let middle = [[MI_NOOP].as_slice(), &cmd::batch_buffer_start(BATCH + 4)].concat();
    assert_eq!(batch(&[(BATCH, &middle)]).unwrap_err().why, Refusal::Loop);
}

#[test]
fn batch_without_an_end_is_refused_at_the_budget_or_where_memory_ends() {
    let long = vec![MI_NOOP; LIMIT / 4 + 1024];
    assert_eq!(batch(&[(BATCH, &long)]).unwrap_err().why, Refusal::Budget(LIMIT));
    assert_eq!(batch(&[(BATCH, &[MI_NOOP; 1024])]).unwrap_err().why, Refusal::NotMapped(BATCH + 0x1000));
    let last = SLICE.low.end() - 0x1000;
    let mut pages = Pages::default();
    pages.put(last, &[MI_NOOP; 1024]);
    let refused = audit_on(Engine::Bcs, &pages, &cmd::batch_buffer_start(last)).unwrap_err();
    assert!(out_of_slice(refused.why), "it does not run on into the next slice");
}

#[test]
fn many_batches_share_one_budget() {
    let mut pages = Pages::default();
    let mut ring = vec![];
    for n in 0..16u64 {
        let at = BATCH + 0x2000 * n;
        let mut body = vec![MI_NOOP; 1500];
        body.push(MI_BATCH_BUFFER_END);
        pages.put(at, &body);
        ring.extend(cmd::batch_buffer_start(at));
    }
    assert_eq!(audit_on(Engine::Bcs, &pages, &ring).unwrap_err().why, Refusal::Budget(LIMIT));
}

#[test]
fn batches_nest_once_and_only_from_a_batch() {
    let [start, lo, hi] = cmd::batch_buffer_start(BATCH);
    assert_eq!(why(&[start | cmd::BB_SECOND_LEVEL, lo, hi]), Refusal::Nesting, "from the ring");
    assert_eq!(why(&[MI_BATCH_BUFFER_END]), Refusal::Nesting, "the ring ends at its tail");
    let sub = BATCH + 0x2000;
    let [start, lo, hi] = cmd::batch_buffer_start(sub);
    let call = [start | cmd::BB_SECOND_LEVEL, lo, hi, MI_BATCH_BUFFER_END];
    let audited = batch(&[(BATCH, &call), (sub, &[MI_BATCH_BUFFER_END])]).unwrap();
    let [start, lo, hi] = cmd::batch_buffer_start(BASE + 64);
    assert_eq!(audited.batches[..4], [start | cmd::BB_SECOND_LEVEL, lo, hi, MI_BATCH_BUFFER_END]);
    for again in [call[0], start] {
        let sub_call = [again, BATCH as u32, 0];
        assert_eq!(batch(&[(BATCH, &call), (sub, &sub_call)]).unwrap_err().why, Refusal::Nesting);
    }
}
