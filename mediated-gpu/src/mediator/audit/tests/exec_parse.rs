//! The situations of igt's `gen9_exec_parse`, as they are here: batches are a process's, and nobody trusts them.

use super::process::{Both, FAR, audited, own_batch, own_store};
use super::*;

/// What becomes of a batch of the process's, as it stands in memory.
fn exec(engine: Engine, batch: &[u32]) -> Result<Vec<u32>, Refusal> {
    let mut source = Both::default();
    source.process.put(FAR, batch);
    audited(engine, &source, &own_batch(FAR)).map(|a| a.batches)
}

fn jump(to: u64) -> Vec<u32> {
    own_batch(to)
}

fn end(mut commands: Vec<u32>) -> Vec<u32> {
    commands.push(MI_BATCH_BUFFER_END);
    commands
}

#[test]
fn allowed_all() {
    let blitter = [
        vec![MI_NOOP, cmd::MI_ARB_CHECK, cmd::MI_ARB_ON, MI_USER_INTERRUPT],
        own_store(FAR, 1),
        cmd::load_register_imm(0x22600, 5).to_vec(),
        vec![cmd::math(1), 0x1000_0000],
        vec![0x1200_0002, 0x22600, FAR as u32, (FAR >> 32) as u32],
        vec![0x1300_4002, FAR as u32, (FAR >> 32) as u32, 0],
    ];
    for one in &blitter {
        assert!(exec(Engine::Bcs, &end(one.clone())).is_ok(), "{one:x?}");
    }
    assert!(exec(Engine::Bcs, &end(blitter.concat())).is_ok());
}

#[test]
fn basic_rejected() {
    for bad in [
        vec![cmd::op::MI_UPDATE_GTT << 23 | 1, 0, 0],
        vec![cmd::op::MI_DISPLAY_FLIP << 23 | 1, 0, 0],
        vec![cmd::op::MI_REPORT_PERF_COUNT << 23 | 1, 0, 0],
        vec![0x2000_0000],
        vec![0xffff_ffff],
    ] {
        assert_eq!(exec(Engine::Bcs, &end(bad.clone())), Err(Refusal::NotAllowed), "{bad:x?}");
    }
}

#[test]
fn bb_start_param() {
    // Whatever bits a process sets: another level's, the driver's addresses, an offset, the resource streamer.
    let jump = |bits: u32| {
        let [header, low, high] = cmd::batch_buffer_start(FAR + 64);
        let mut batch = vec![header | bits, low, high];
        batch.resize(16, MI_NOOP);
        batch.push(MI_BATCH_BUFFER_END);
        exec(Engine::Bcs, &batch)
    };
    assert!(jump(cmd::BB_PPGTT).is_ok() && jump(0).is_ok(), "its own addresses, whatever it says");
    for bits in [cmd::BB_ADD_OFFSET, cmd::BB_PREDICATE, 1 << 10, 1 << 9] {
        assert_eq!(jump(bits), Err(Refusal::Mode), "{bits:x}");
    }
}

#[test]
fn bb_start_out() {
    let memory_ends = exec(Engine::Bcs, &jump(FAR + 0x10_0000));
    assert_eq!(memory_ends, Err(Refusal::NotMapped(FAR + 0x10_0000)));
    let beyond = exec(Engine::Bcs, &jump(0xffff_ffff_fffc));
    assert!(matches!(beyond, Err(Refusal::NotMapped(_))), "{beyond:?}");
}

#[test]
fn bb_start_cmd() {
    // Into another command's data, which is what the engine would execute then.
    let hidden = cmd::op::MI_UPDATE_GTT << 23 | 1;
    let batch = [own_store(FAR + 0x800, hidden), jump(FAR + 12)].concat();
    assert_eq!(exec(Engine::Bcs, &batch), Err(Refusal::NotAllowed));
    let harmless = [own_store(FAR + 0x800, MI_BATCH_BUFFER_END), jump(FAR + 12)].concat();
    let copy = exec(Engine::Bcs, &harmless).unwrap();
    assert_eq!(copy[16], MI_BATCH_BUFFER_END);
}

#[test]
fn bb_start_far() {
    let mut source = Both::default();
    source.process.put(FAR, &jump(0x1000));
    source.process.put(0x1000, &end(own_store(FAR, 1)));
    assert!(audited(Engine::Bcs, &source, &own_batch(FAR)).is_ok());
}

#[test]
fn bb_chained_large_and_oversize() {
    let chain = |batches: u64| {
        let mut source = Both::default();
        for n in 0..batches {
            let at = FAR + 0x1000 * n;
            let mut batch = vec![MI_NOOP; 1000];
            batch.extend(if n + 1 == batches { vec![MI_BATCH_BUFFER_END] } else { jump(at + 0x1000) });
            source.process.put(at, &batch);
        }
        audited(Engine::Bcs, &source, &own_batch(FAR))
    };
    assert!(chain(16).is_ok());
    assert_eq!(chain(17), Err(Refusal::Budget(LIMIT)));
}

#[test]
fn batch_zero_length_without_end_and_of_invalid_length() {
    assert!(exec(Engine::Bcs, &[MI_BATCH_BUFFER_END]).is_ok());
    assert_eq!(exec(Engine::Bcs, &[MI_NOOP; 1024]), Err(Refusal::NotMapped(FAR + 0x1000)));
    // The last command goes on where memory does not.
    let mut cut = vec![MI_NOOP; 1023];
    cut.push(own_store(FAR, 1)[0]);
    assert_eq!(exec(Engine::Bcs, &cut), Err(Refusal::NotMapped(FAR + 0x1000)));
}

#[test]
fn cmd_crossing_page() {
    let mut batch = vec![MI_NOOP; 1022];
    batch.extend(own_store(FAR, 1));
    batch.push(MI_BATCH_BUFFER_END);
    assert_eq!(exec(Engine::Bcs, &batch).unwrap(), batch);
    let mut hidden = vec![MI_NOOP; 1023];
    hidden.extend([cmd::op::MI_UPDATE_GTT << 23 | 1, 0, 0, MI_BATCH_BUFFER_END]);
    assert_eq!(exec(Engine::Bcs, &hidden), Err(Refusal::NotAllowed));
}

#[test]
fn unaligned_jump() {
    // The low two bits are no part of the address, so it ends up at a dword.
    let mut batch = jump(FAR + 16 + 3);
    batch.extend([MI_NOOP, MI_BATCH_BUFFER_END]);
    let copy = exec(Engine::Bcs, &batch).unwrap();
    assert_eq!(copy[16], MI_BATCH_BUFFER_END);
}

#[test]
fn shadow_peek() {
    // The copies' addresses are of no slice, and in the process's own tables they are numbers like any other.
    for command in [cmd::store_dword(BASE, 1), cmd::store_register_mem(0x22600, BASE)] {
        let from_ring = audited(Engine::Bcs, &Both::default(), &command);
        assert!(matches!(from_ring, Err(Refusal::OutOfSlice { .. })), "{command:x?}");
        let batch = exec(Engine::Bcs, &end(command.to_vec())).unwrap();
        assert_eq!(batch[..4], [MI_NOOP; 4], "without privilege nothing");
    }
    assert_eq!(exec(Engine::Bcs, &end(own_store(BASE, 1))).unwrap()[..4], own_store(BASE, 1)[..]);
}

#[test]
fn valid_registers() {
    for (engine, register) in
        [(Engine::Bcs, 0x22600), (Engine::Rcs, 0x2600), (Engine::Rcs, 0x2400), (Engine::Vecs, 0x1a67c)]
    {
        let write = cmd::load_register_imm(register, 1);
        assert_eq!(exec(engine, &end(write.to_vec())).unwrap()[..3], write, "{register:#x}");
    }
    for register in [0x22080, 0x2080, 0x22230, 0x941c, 0x4260, 0x78818, 0xa188] {
        let write = cmd::load_register_imm(register, 1);
        let batch = exec(Engine::Bcs, &end(write.to_vec())).unwrap();
        assert_eq!(batch[..3], [MI_NOOP; 3], "{register:#x}");
        let from_ring = audited(Engine::Bcs, &Both::default(), &write);
        assert_eq!(from_ring, Err(Refusal::Register(register)));
    }
}
