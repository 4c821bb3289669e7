//! Commands that compute, compare, wait and decide, on a whole GPU.

use proptest::prelude::*;

use crate::gen8::cmd::{self, AluOp, AluReg, AtomicOp, AtomicSize, Compare, alu};
use crate::gen8::context::{STATE_OFFSET, hwsp, state};
use crate::gen8::regs::engine as reg;
use crate::physical::{Engine, Interrupt, PhysicalGpu};
use crate::soft::rig::Rig;

const DATA: u64 = Rig::FREE;
const BATCH: u64 = Rig::FREE + 0x8000;
const SECOND: u64 = Rig::FREE + 0xc000;

fn rig(engine: Engine) -> Rig {
    Rig::new(engine, 1 << 20).expect("threads")
}

fn bytes(dwords: &[u32]) -> Vec<u8> {
    dwords.iter().flat_map(|d| d.to_le_bytes()).collect()
}

fn read64(rig: &Rig, addr: u64) -> u64 {
    u64::from(rig.read32(addr + 4)) << 32 | u64::from(rig.read32(addr))
}

fn register(engine: Engine, rel: u32) -> u32 {
    engine.mmio_base() + rel
}

/// Loads a register pair.
fn load(engine: Engine, rel: u32, value: u64) -> Vec<u32> {
    let [lo, hi] = cmd::split(value);
    let at = register(engine, rel);
    [cmd::load_register_imm(at, lo), cmd::load_register_imm(at + 4, hi)].concat()
}

fn gpr(n: u32) -> u32 {
    reg::GEN8_RING_CS_GPR + 8 * n
}

/// Stores a register pair.
fn store(engine: Engine, rel: u32, addr: u64) -> Vec<u32> {
    let at = register(engine, rel);
    [cmd::store_register_mem(at, addr), cmd::store_register_mem(at + 4, addr + 4)].concat()
}

#[test]
fn math_computes_with_the_registers_of_its_engine() {
    for engine in Engine::ALL {
        let mut rig = rig(engine);
        let r = |n| AluReg::R(n);
        let program = [
            alu(AluOp::Load, AluReg::SrcA, r(0)),
            alu(AluOp::Load, AluReg::SrcB, r(1)),
            alu(AluOp::Add, r(0), r(0)),
            alu(AluOp::Store, r(15), AluReg::Accu),
            alu(AluOp::Store, r(14), AluReg::Cf),
        ];
        let commands = [
            load(engine, gpr(0), 0xffff_ffff_0000_0001),
            load(engine, gpr(1), 0x0000_0001_0000_0001),
            [&[cmd::math(5)][..], &program].concat(),
            store(engine, gpr(15), DATA),
            store(engine, gpr(14), DATA + 8),
        ]
        .concat();
        rig.run(&commands).expect("runs");
        assert_eq!((read64(&rig, DATA), read64(&rig, DATA + 8)), (2, u64::MAX), "{engine:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn atomics_change_memory_and_tell_what_it_held(
        op in 0usize..14, wide in any::<bool>(), inline in any::<bool>(), before in any::<u64>(), a in any::<u64>(), b in any::<u64>(), same in any::<bool>(),
    ) {
        let (op, size) = (AtomicOp::ALL[op], if wide { AtomicSize::Qword } else { AtomicSize::Dword });
        let (bits, mask) = if wide { (64, u64::MAX) } else { (32, 0xffff_ffff) };
        let a = if same { before } else { a };
        let mut rig = rig(Engine::Bcs);
        rig.write(DATA, &before.to_le_bytes());
        let mut atomic = cmd::atomic(DATA, op, size, a, b);
        atomic[0] |= cmd::ATOMIC_RETURN;
        if !inline {
            atomic.truncate(3);
            atomic[0] = atomic[0] & !(cmd::ATOMIC_INLINE | 0xff) | 1;
        }
        let commands = [load(Engine::Bcs, gpr(0), a), load(Engine::Bcs, gpr(2), b), atomic, store(Engine::Bcs, gpr(4), DATA + 8)];
        rig.run(&commands.concat()).expect("runs");
        let after = crate::soft::atomic::apply(op, bits, before, a, b);
        prop_assert_eq!(read64(&rig, DATA), before & !mask | after);
        prop_assert_eq!(read64(&rig, DATA + 8), before & mask);
    }
}

#[test]
fn atomics_of_two_engines_on_one_word_lose_nothing() {
    // Two engines of one GPU share its memory; the second one's ring lies in the first one's free pages.
    let mut rig = rig(Engine::Bcs);
    let (image, ring) = (BATCH, SECOND);
    let add = cmd::atomic(DATA, AtomicOp::Add, AtomicSize::Dword, 1, 0);
    let many: Vec<u32> = add.iter().copied().cycle().take(add.len() * 600).collect();
    rig.write(ring, &bytes(&many));
    let low = |v: u64| u32::try_from(v).expect("small");
    for (index, value) in [
        (state::RING_START, low(ring)),
        (state::RING_CTL, 0x3000 | crate::gen8::regs::RING_VALID),
        (state::RING_TAIL, low(many.len() as u64 * 4)),
    ] {
        rig.write(image + STATE_OFFSET + index as u64 * 4, &value.to_le_bytes());
    }
    rig.emit(&many);
    let other = crate::gen8::context::Descriptor::ggtt(low(image), 7);
    rig.gpu.submit(Engine::Vcs, other.0, None);
    rig.submit();
    rig.wait().expect("runs");
    while !rig.gpu.is_idle(Engine::Vcs) {
        std::thread::yield_now();
    }
    assert_eq!(rig.read32(DATA), 1200);
}

#[test]
fn semaphore_lets_pass_what_its_comparison_holds_for() {
    let compares = [
        (Compare::Greater, [false, false, true]),
        (Compare::GreaterOrEqual, [false, true, true]),
        (Compare::Less, [true, false, false]),
        (Compare::LessOrEqual, [true, true, false]),
        (Compare::Equal, [false, true, false]),
        (Compare::NotEqual, [true, false, true]),
    ];
    for (compare, holds) in compares {
        for (memory, holds) in [6u32, 7, 0xffff_fff0].into_iter().zip(holds) {
            let mut rig = rig(Engine::Rcs);
            rig.write(DATA, &memory.to_le_bytes());
            let wait = cmd::semaphore_wait(DATA, compare, 7);
            rig.emit(&[&wait[..], &cmd::store_dword(DATA + 4, 1)].concat());
            rig.submit();
            if !holds {
                // It has looked once at least when its address is shown.
                let at = register(Engine::Rcs, reg::RING_IPEHR);
                while rig.gpu.read32(at) != wait[0] {
                    std::thread::yield_now();
                }
                assert!(!rig.gpu.is_idle(Engine::Rcs));
                assert_eq!(rig.read32(DATA + 4), 0, "{compare:?} {memory}");
                let good = [6u32, 7, 8].into_iter().find(|m| compare.holds(*m, 7)).expect("one of them");
                rig.write(DATA, &good.to_le_bytes());
            }
            rig.wait().expect("goes on");
            assert_eq!(rig.read32(DATA + 4), 1, "{compare:?} {memory}");
        }
    }
}

#[test]
fn engine_that_waits_in_its_ring_gives_way_and_comes_back() {
    let mut rig = rig(Engine::Bcs);
    let wait = cmd::semaphore_wait(DATA, Compare::Equal, 1);
    rig.emit(&[&wait[..], &cmd::store_dword(DATA + 4, 2)].concat());
    rig.submit();
    // Another context with a ring of its own.
    let (image, ring) = (BATCH, SECOND);
    let low = |v: u64| u32::try_from(v).expect("small");
    rig.write(ring, &bytes(&cmd::store_dword(DATA, 1)));
    for (index, value) in [
        (state::RING_START, low(ring)),
        (state::RING_CTL, crate::gen8::regs::RING_VALID),
        (state::RING_TAIL, 16),
    ] {
        rig.write(image + STATE_OFFSET + index as u64 * 4, &value.to_le_bytes());
    }
    rig.gpu.submit(Engine::Bcs, crate::gen8::context::Descriptor::ggtt(low(image), 7).0, None);
    rig.wait().expect("the second one runs");
    assert_eq!((rig.read32(DATA), rig.read32(DATA + 4)), (1, 0));
    rig.submit();
    rig.wait().expect("the first one goes on");
    assert_eq!(rig.read32(DATA + 4), 2);
}

#[test]
fn waiting_engine_is_reset_like_any_other() {
    let mut rig = rig(Engine::Vecs);
    rig.emit(&cmd::semaphore_wait(DATA, Compare::Equal, 1));
    rig.submit();
    assert!(rig.reset());
    rig.run(&cmd::store_dword(DATA + 4, 3)).expect("works again");
    assert_eq!(rig.read32(DATA + 4), 3);
}

#[test]
fn signal_wakes_an_engine_that_is_there_and_no_other() {
    let signal = |n: u32| [cmd::op::MI_SEMAPHORE_SIGNAL << 23 | n << 15, 0x20];
    for n in 0..4 {
        assert!(rig(Engine::Rcs).run(&signal(n)).is_ok());
    }
    assert!(rig(Engine::Rcs).run(&signal(4)).is_err());
}

#[test]
fn condition_ends_the_batch_unless_memory_is_greater() {
    for (memory, compared, reached) in [(5, true, 0), (6, true, 0), (7, true, 1), (0, false, 1)] {
        for nested in [false, true] {
            let mut rig = rig(Engine::Bcs);
            rig.write(DATA, &u32::to_le_bytes(memory));
            let mut end = cmd::conditional_batch_buffer_end(DATA, 6);
            if !compared {
                end[0] &= !cmd::COND_COMPARE;
            }
            let body = [&end[..], &cmd::store_dword(DATA + 4, 1), &[cmd::MI_BATCH_BUFFER_END]].concat();
            let mut call = cmd::batch_buffer_start(SECOND);
            call[0] |= cmd::BB_SECOND_LEVEL;
            let outer = [&call[..], &cmd::store_dword(DATA + 8, 1), &[cmd::MI_BATCH_BUFFER_END]].concat();
            rig.write(BATCH, &bytes(if nested { &outer } else { &body }));
            rig.write(SECOND, &bytes(&body));
            let ring = [&cmd::batch_buffer_start(BATCH)[..], &cmd::store_dword(DATA + 12, 1)].concat();
            rig.run(&ring).expect("runs");
            let got = [4, 8, 12].map(|o| rig.read32(DATA + o));
            // From a second-level batch the one that called it ends too.
            assert_eq!(got, [reached, if nested { reached } else { 0 }, 1], "{memory} {nested}");
        }
    }
    assert!(rig(Engine::Bcs).run(&cmd::conditional_batch_buffer_end(DATA, 0)).is_err(), "not in a ring");
}

#[test]
fn predicate_compares_loads_and_combines_as_its_truth_tables_say() {
    let e = Engine::Rcs;
    let mut rig = rig(e);
    let at = register(e, reg::MI_PREDICATE_RESULT);
    for before in [0u32, 1] {
        for load_op in [0, 2, 3] {
            for combine in 0..4 {
                for (compare, (a, b, delta), answer) in [
                    (0, (1, 2, 3), true),
                    (1, (1, 1, 0), false),
                    (2, (1u64 << 40, 1 << 40, 9), true),
                    (2, (1 << 40, 2, 9), false),
                    (3, (9, 7, 2), true),
                    (3, (7, 9, 2), false),
                ] {
                    let commands = [
                        load(e, reg::MI_PREDICATE_SRC0, a),
                        load(e, reg::MI_PREDICATE_SRC1, b),
                        load(e, reg::MI_PREDICATE_DATA, delta),
                        cmd::load_register_imm(at, before).to_vec(),
                        vec![cmd::op::MI_PREDICATE << 23 | load_op << 6 | combine << 3 | compare],
                        cmd::store_register_mem(at, DATA).to_vec(),
                    ];
                    rig.run(&commands.concat()).expect("runs");
                    let operand = u32::from(answer ^ (load_op == 3));
                    let want = match (load_op, combine) {
                        (0, _) => before,
                        (_, 0) => operand,
                        (_, 1) => before & operand,
                        (_, 2) => before | operand,
                        _ => before ^ operand,
                    };
                    assert_eq!(rig.read32(DATA), want, "{before} {load_op} {combine} {compare}");
                }
            }
        }
    }
}

#[test]
fn predicated_batch_start_and_store_happen_only_if_the_predicate_is_set() {
    let e = Engine::Rcs;
    for set in [0, 1] {
        let mut rig = rig(e);
        let at = register(e, reg::MI_PREDICATE_RESULT);
        let mut start = cmd::batch_buffer_start(BATCH - 64);
        start[0] |= cmd::BB_PREDICATE | cmd::BB_ADD_OFFSET;
        let mut srm = cmd::store_register_mem(at, DATA + 4);
        srm[0] |= cmd::SRM_PREDICATE;
        rig.write(BATCH, &bytes(&[&cmd::store_dword(DATA, 1)[..], &[cmd::MI_BATCH_BUFFER_END]].concat()));
        let commands = [
            &cmd::load_register_imm(at, set)[..],
            &cmd::load_register_imm(register(e, reg::RING_BB_OFFSET), 64),
            &start,
            &srm,
        ];
        rig.run(&commands.concat()).expect("runs");
        assert_eq!([rig.read32(DATA), rig.read32(DATA + 4)], [set, set]);
    }
}

#[test]
fn set_predicate_skips_until_it_is_taken_back_or_the_batch_ends() {
    let e = Engine::Rcs;
    let set = |when: u32| cmd::op::MI_SET_PREDICATE << 23 | when;
    // What is skipped: with result and second result clear, and with both set.
    for (when, skipped) in [
        (0, [false, false]),
        (1, [true, false]),
        (2, [false, true]),
        (3, [true, false]),
        (4, [false, true]),
        (5, [false, false]),
        (6, [true, true]),
        (7, [true, true]),
        (15, [true, true]),
    ] {
        for (value, skipped) in [0, 1].into_iter().zip(skipped) {
            let mut rig = rig(e);
            let batch = [
                &[set(when)][..],
                &cmd::store_dword(DATA, 1),
                &[set(0)],
                &cmd::store_dword(DATA + 4, 1),
                &[set(when)],
                &[cmd::MI_BATCH_BUFFER_END],
            ];
            rig.write(BATCH, &bytes(&batch.concat()));
            let ring = [
                &cmd::load_register_imm(register(e, reg::MI_PREDICATE_RESULT), value)[..],
                &cmd::load_register_imm(register(e, reg::MI_PREDICATE_RESULT_2), value),
                &cmd::batch_buffer_start(BATCH),
                &cmd::store_dword(DATA + 8, 1),
            ];
            rig.run(&ring.concat()).expect("runs");
            let got = [0, 4, 8].map(|o| rig.read32(DATA + o));
            assert_eq!(got, [u32::from(!skipped), 1, 1], "{when} {value}");
        }
    }
    assert!(rig(e).run(&[set(8), 0]).is_err(), "reserved");
}

#[test]
fn head_and_indexed_stores_go_to_the_status_pages() {
    let e = Engine::Bcs;
    let mut rig = rig(e);
    let own = rig.descriptor().lrca();
    rig.gpu.write32(register(e, reg::RING_HWS_PGA), u32::try_from(SECOND).expect("small"));
    let index = |own: u32, n: u32| cmd::op::MI_STORE_DATA_INDEX << 23 | own | (n - 2);
    let commands = [
        &[cmd::MI_NOOP, cmd::MI_NOOP, cmd::op::MI_REPORT_HEAD << 23][..],
        &[index(0, 3), 0x100, 0x11],
        &[index(cmd::INDEX_OWN_PAGE, 4), 0x200, 0x22, 0x33],
    ];
    rig.run(&commands.concat()).expect("runs");
    assert_eq!(rig.read32(own + hwsp::RING_HEAD), 8);
    assert_eq!(rig.read32(SECOND + 0x100), 0x11);
    assert_eq!([0x200, 0x204].map(|o| rig.read32(own + o)), [0x22, 0x33]);
}

#[test]
fn pipe_control_writes_registers_counts_and_timestamps() {
    let e = Engine::Rcs;
    let mut rig = rig(e);
    let [data, _] = cmd::split(DATA);
    let pipe = |flags: u32, addr: u32, imm: u32| [0x7a00_0004, flags, addr, 0, imm, 0];
    let ggtt = cmd::PIPE_CONTROL_GLOBAL_GTT | cmd::PIPE_CONTROL_CS_STALL;
    let commands = [
        load(e, reg::PS_DEPTH_COUNT, 0x5_0000_0006),
        pipe(ggtt | cmd::PostSync::DepthCount.bits(), data, 0).to_vec(),
        pipe(cmd::PIPE_CONTROL_MMIO_WRITE, register(e, gpr(3)), 0x77).to_vec(),
        store(e, gpr(3), DATA + 8),
        pipe(ggtt | cmd::PostSync::Timestamp.bits(), data + 16, 0).to_vec(),
        pipe(ggtt | cmd::PostSync::Immediate.bits() | cmd::PIPE_CONTROL_NOTIFY, data + 24, 9).to_vec(),
    ];
    rig.run(&commands.concat()).expect("runs");
    assert_eq!(read64(&rig, DATA), 0x5_0000_0006);
    assert_eq!((rig.read32(DATA + 8), rig.read32(DATA + 24)), (0x77, 9));
    rig.wait_for(Interrupt::User(e));
    let both = cmd::PIPE_CONTROL_MMIO_WRITE | cmd::PostSync::Immediate.bits();
    assert!(rig.run(&pipe(both, 0x2600, 0)).is_err(), "either a register or memory");
}

#[test]
fn render_and_media_commands_are_stepped_over_by_their_length() {
    for (engine, header, dwords) in [
        (Engine::Rcs, 0x7000_0007u32, 9usize),
        (Engine::Rcs, 0x7100_01fe, 0x200),
        (Engine::Rcs, 0x7917_0101, 0x103),
        (Engine::Rcs, 0x6904_0000, 1),
        (Engine::Rcs, 0x7105_050d, 15),
        (Engine::Vcs, 0x6800_0100, 1),
        (Engine::Vecs, 0x7400_0007, 9),
    ] {
        let mut rig = rig(engine);
        // Dwords that would stop the engine if they were taken for commands.
        let mut commands = vec![0xffff_ffff; dwords];
        commands[0] = header;
        commands.extend(cmd::store_dword(DATA, header));
        rig.run(&commands).expect("runs");
        assert_eq!(rig.read32(DATA), header);
    }
}

#[test]
fn malformed_commands_stop_the_engine() {
    let start = cmd::op::MI_ATOMIC << 23 | cmd::USE_GGTT;
    let [data, _] = cmd::split(DATA);
    let cases: [&[u32]; 8] = [
        &[cmd::math(1), 0x0ff << 20],
        &[start | 1, data, 0],                               // operation 0
        &[start | 1 | 15 << 8, data, 0],                     // operation 15
        &[start | 1 | 0x27 << 8, data, 0],                   // a quadword's operation on a dword
        &[start | 1 | 2 << 19 | 0x4e << 8, data, 0],         // 16 bytes
        &[start | 1 | 1 << 19 | 0x27 << 8, data + 4, 0],     // not aligned
        &[start | 1 | 7 << 8 | cmd::ATOMIC_INLINE, data, 0], // operands missing
        &[cmd::op::MI_SEMAPHORE_WAIT << 23 | cmd::USE_GGTT | 6 << 12 | 2, 0, data, 0],
    ];
    for commands in cases {
        let mut rig = rig(Engine::Bcs);
        assert!(rig.run(commands).is_err(), "{commands:x?}");
        assert!(rig.reset());
        rig.run(&cmd::store_dword(DATA, 1)).expect("works again");
    }
}
