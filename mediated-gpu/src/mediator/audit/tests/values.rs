//! Registers, arithmetic, conditions and waits.

use super::process::{Both, FAR, audited, batch};
use super::*;
use crate::gen8::cmd::{AluOp, AluReg, AtomicOp, AtomicSize, Compare, op};

const GPR: u32 = 0x22600;
const TIMESTAMP: u32 = 0x22358;
/// The status page's address, which the mediator set.
const HWS: u32 = 0x22080;

fn ring_of(commands: &[u32]) -> Vec<u32> {
    audit(commands).unwrap().ring
}

/// The same command on an address of the process's.
fn own<const N: usize>(mut command: [u32; N]) -> [u32; N] {
    command[0] &= !cmd::USE_GGTT;
    command
}

fn load_mem(register: u32, addr: u64) -> [u32; 4] {
    let [lo, hi] = cmd::split(addr);
    [op::MI_LOAD_REGISTER_MEM << 23 | cmd::USE_GGTT | 2, register, lo, hi]
}

fn load_reg(from: u32, to: u32) -> [u32; 3] {
    [op::MI_LOAD_REGISTER_REG << 23 | 1, from, to]
}

#[test]
fn register_on_the_list_may_be_stored_loaded_and_copied() {
    for command in [
        cmd::store_register_mem(GPR, OWN).to_vec(),
        cmd::store_register_mem(TIMESTAMP, OWN).to_vec(),
        cmd::store_register_mem(0x22200, OWN).to_vec(),
        load_mem(GPR + 4, OWN).to_vec(),
        load_reg(GPR, GPR + 8).to_vec(),
        load_reg(TIMESTAMP, GPR).to_vec(),
    ] {
        let audited = audit(&command).unwrap();
        assert_eq!(audited.ring, command);
        assert!(audited.effects.registers, "{command:x?}");
    }
}

#[test]
fn register_that_is_on_no_list_reads_as_zero() {
    // Another engine's clock, the engine's status page and head, nothing at all.
    for register in [0x2358, HWS, 0x22034, 0x2358 + 2, u32::MAX] {
        assert_eq!(ring_of(&cmd::store_register_mem(register, OWN)), cmd::store_dword(OWN, 0));
        assert_eq!(ring_of(&load_reg(register, GPR)), cmd::load_register_imm(GPR, 0));
        let batch = batch(Engine::Bcs, &own(cmd::store_register_mem(register, FAR))).unwrap();
        assert_eq!(batch[..4], own(cmd::store_dword(FAR, 0)));
    }
}

#[test]
fn value_that_nobody_knows_goes_only_where_any_may_go() {
    for register in [0x22200, HWS, TIMESTAMP, 0x2600] {
        assert_eq!(why(&load_mem(register, OWN)), Refusal::Register(register));
        assert_eq!(why(&load_reg(GPR, register)), Refusal::Register(register));
        for command in [own(load_mem(register, FAR)).to_vec(), load_reg(GPR, register).to_vec()] {
            let audited = batch(Engine::Bcs, &command).unwrap();
            assert!(audited[..command.len()].iter().all(|d| *d == MI_NOOP), "{command:x?}");
        }
    }
}

#[test]
fn command_with_an_address_outside_is_refused_and_one_without_privilege_does_nothing() {
    let atomic = |addr| cmd::atomic(addr, AtomicOp::Add, AtomicSize::Qword, 1, 0);
    let copy = |to: u64, from: u64| {
        let ([to_lo, to_hi], [lo, hi]) = (cmd::split(to), cmd::split(from));
        vec![op::MI_COPY_MEM_MEM << 23 | cmd::USE_GGTT | cmd::COPY_DST_GGTT | 3, to_lo, to_hi, lo, hi]
    };
    for (command, good) in [
        (cmd::store_register_mem(GPR, FOREIGN).to_vec(), cmd::store_register_mem(GPR, OWN).to_vec()),
        (cmd::store_register_mem(HWS, FOREIGN).to_vec(), cmd::store_register_mem(HWS, OWN).to_vec()),
        (load_mem(GPR, FOREIGN).to_vec(), load_mem(GPR, OWN).to_vec()),
        (atomic(FOREIGN), atomic(OWN)),
        (atomic(SLICE.low.base - 8), atomic(SLICE.low.base)),
        (copy(FOREIGN, OWN), copy(OWN, OWN + 4)),
        (copy(OWN, FOREIGN), copy(OWN, OWN + 4)),
        (
            cmd::semaphore_wait(FOREIGN, Compare::Equal, 1).to_vec(),
            cmd::semaphore_wait(OWN, Compare::Equal, 1).to_vec(),
        ),
    ] {
        assert!(out_of_slice(why(&command)), "{command:x?}");
        assert!(audit(&good).is_ok(), "{good:x?}");
        let in_batch = batch(Engine::Bcs, &good).unwrap();
        assert!(in_batch[..good.len()].iter().all(|d| *d == MI_NOOP), "{good:x?}");
    }
}

#[test]
fn addresses_of_a_process_keep_their_bit() {
    let mut atomic = cmd::atomic(FAR, AtomicOp::Inc, AtomicSize::Dword, 0, 0);
    atomic[0] &= !cmd::USE_GGTT;
    let [lo, hi] = cmd::split(FAR);
    for command in [
        own(cmd::store_register_mem(GPR, FAR)).to_vec(),
        own(load_mem(GPR, FAR)).to_vec(),
        own(cmd::semaphore_wait(FAR, Compare::Less, 3)).to_vec(),
        own(cmd::conditional_batch_buffer_end(FAR, 3)).to_vec(),
        atomic,
        vec![op::MI_COPY_MEM_MEM << 23 | 3, lo, hi, lo + 4, hi],
    ] {
        assert_eq!(batch(Engine::Bcs, &command).unwrap()[..command.len()], command, "{command:x?}");
    }
}

#[test]
fn copy_to_the_slice_from_a_process_says_so_on_the_right_side() {
    let ([lo, hi], [own_lo, own_hi]) = (cmd::split(FAR), cmd::split(OWN));
    for (bits, addresses) in
        [(cmd::COPY_DST_GGTT, [own_lo, own_hi, lo, hi]), (cmd::USE_GGTT, [lo, hi, own_lo, own_hi])]
    {
        let command = [[op::MI_COPY_MEM_MEM << 23 | bits | 3].as_slice(), &addresses].concat();
        assert_eq!(audited(Engine::Bcs, &Both::default(), &command).unwrap().ring, command);
        let other = [[command[0] ^ cmd::COPY_DST_GGTT ^ cmd::USE_GGTT].as_slice(), &addresses].concat();
        assert!(audited(Engine::Bcs, &Both::default(), &other).is_err(), "{other:x?}");
    }
}

#[test]
fn arithmetic_must_be_of_instructions_that_there_are() {
    let program = [
        cmd::alu(AluOp::Load, AluReg::SrcA, AluReg::R(0)),
        cmd::alu(AluOp::Load1, AluReg::SrcB, AluReg::R(0)),
        cmd::alu(AluOp::Add, AluReg::R(0), AluReg::R(0)),
        cmd::alu(AluOp::Store, AluReg::R(1), AluReg::Accu),
    ];
    let math = [[cmd::math(4)].as_slice(), &program].concat();
    let audited = audit(&math).unwrap();
    assert!(audited.ring == math && audited.effects.registers);
    for bad in [0x7ff0_0000, cmd::alu(AluOp::Store, AluReg::Accu, AluReg::R(0)), 0x0800_8010] {
        assert_eq!(why(&[cmd::math(1), bad]), Refusal::Mode, "{bad:x}");
    }
}

#[test]
fn atomic_operation_must_be_one_that_there_is_and_aligned() {
    let [lo, hi] = cmd::split(OWN);
    let header = op::MI_ATOMIC << 23 | cmd::USE_GGTT;
    assert_eq!(why(&[header | 15 << 8 | 1, lo, hi]), Refusal::Mode, "no such operation");
    assert_eq!(why(&[header | 2 << 19 | 7 << 8 | 1, lo, hi]), Refusal::Mode, "16 bytes");
    assert_eq!(why(&[header | 7 << 8 | 2, lo, hi, 0]), Refusal::Length(4));
    let unaligned = cmd::atomic(OWN + 4, AtomicOp::Add, AtomicSize::Qword, 1, 0);
    assert_eq!(why(&unaligned), Refusal::Unaligned(OWN + 4));
    let by_registers = [header | 7 << 8 | 1, lo, hi];
    assert!(audit(&by_registers).unwrap().effects.registers, "its operands are in two of them");
    let inline = cmd::atomic(OWN, AtomicOp::Add, AtomicSize::Dword, 1, 0);
    assert!(!audit(&inline).unwrap().effects.registers);
}

#[test]
fn wait_for_a_signal_becomes_one_that_looks_and_the_signal_nothing() {
    let mut wait = cmd::semaphore_wait(OWN, Compare::GreaterOrEqual, 5);
    wait[0] &= !cmd::SEMAPHORE_POLL;
    assert_eq!(ring_of(&wait), cmd::semaphore_wait(OWN, Compare::GreaterOrEqual, 5));
    assert_eq!(ring_of(&[op::MI_SEMAPHORE_SIGNAL << 23 | 1 << 15, 0x20]), [MI_NOOP; 2]);
    assert_eq!(why(&[wait[0] | 6 << 12, 0, OWN as u32, 0]), Refusal::Mode, "no such comparison");
    assert_eq!(why(&[wait[0] | 1 << 16, 0, OWN as u32, 0]), Refusal::Mode, "of a register");
}

#[test]
fn condition_ends_a_batch_and_not_the_ring() {
    let condition = cmd::conditional_batch_buffer_end(OWN, 7);
    assert_eq!(why(&condition), Refusal::Nesting);
    let body = [condition.as_slice(), &cmd::store_dword(OWN, 1), &[MI_BATCH_BUFFER_END]].concat();
    assert_eq!(super::batch(&[(BATCH, &body)]).unwrap().batches, body, "what follows is looked at as well");
    let bad = [condition.as_slice(), &cmd::store_dword(FOREIGN, 1), &[MI_BATCH_BUFFER_END]].concat();
    assert!(out_of_slice(super::batch(&[(BATCH, &bad)]).unwrap_err().why));
}

#[test]
fn predicate_is_the_render_engines_and_never_lets_the_engine_run_past_what_was_audited() {
    let set = op::MI_SET_PREDICATE << 23 | 15;
    let compare = op::MI_PREDICATE << 23 | 2 << 6 | 2;
    assert_eq!(
        audit_on(Engine::Rcs, &Pages::default(), &[set]).unwrap_err().why,
        Refusal::Mode,
        "in the ring"
    );
    let audited = audit_on(Engine::Rcs, &Pages::default(), &[compare]).unwrap();
    assert!(audited.ring == [compare] && audited.effects.registers);
    assert_eq!(audit_on(Engine::Rcs, &Pages::default(), &[compare ^ 3 << 6]).unwrap_err().why, Refusal::Mode);

    let mut pages = Pages::default();
    let next = BATCH + 0x1000;
    pages.put(BATCH, &[[set].as_slice(), &cmd::batch_buffer_start(next)].concat());
    pages.put(next, &[MI_BATCH_BUFFER_END]);
    let [start, lo, hi] = cmd::batch_buffer_start(BATCH);
    let audited = audit_on(Engine::Rcs, &pages, &[start | cmd::BB_PREDICATE, lo, hi]).unwrap();
    assert_eq!(audited.ring[0], start | cmd::BB_PREDICATE);
    assert_eq!(audited.batches[4], MI_BATCH_BUFFER_END, "a chain that is skipped ends the batch");
    // A chain by condition goes on after it, where nobody looked.
    let [chain, lo, hi] = cmd::batch_buffer_start(next);
    pages.put(BATCH, &[chain | cmd::BB_PREDICATE, lo, hi, MI_BATCH_BUFFER_END]);
    let start = cmd::batch_buffer_start(BATCH);
    assert_eq!(audit_on(Engine::Rcs, &pages, &start).unwrap_err().why, Refusal::Mode);
}

#[test]
fn store_by_index_goes_to_the_contexts_own_page_by_its_address() {
    let header = op::MI_STORE_DATA_INDEX << 23 | 1;
    assert_eq!(ring_of(&[header | cmd::INDEX_OWN_PAGE, 0xd0, 7]), cmd::store_dword(OWN + 0xd0, 7));
    assert_eq!(why(&[header, 0xd0, 7]), Refusal::NotAllowed, "the engine's page is no guest's");
}

#[test]
fn load_of_several_registers_keeps_those_that_do_something() {
    let several = [0x1100_0005, 0x2600, 1, 0x7300, 2, 0x2604, 3];
    let audited = audit_on(Engine::Rcs, &Pages::default(), &several).unwrap();
    assert_eq!(audited.ring, [0x1100_0003, 0x2600, 1, 0x2604, 3, MI_NOOP, MI_NOOP]);
}
