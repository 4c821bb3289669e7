//! The guest while it runs its rows: its kernel on real Xen, model vCPUs on threads of their own; the same code of
//! `guest::rows` in both. Before and after that it is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use guest::RamRange;
use guest::model::ModelCpu;
use xen_ioreq::{Errno, Gfn, VcpuId};

use crate::bench::Bench;

/// RAM that the model's guest uses for its rows. Not from 0 on, so that an address is not taken for an offset.
const RAM: RamRange = RamRange { first: Gfn(8), frames: 56 };

/// Calls `f`, which lets the guest run by [`Bench::unpause`]; when this returns it is paused again. ENOENT, EBUSY: of the
/// model's vCPUs.
pub(crate) fn run<R>(bench: &Bench, f: impl FnOnce() -> R) -> Result<R, Errno> {
    let Some(machine) = bench.machine() else {
        let r = f();
        bench.stand_still()?;
        return Ok(r);
    };
    bench.pause()?;
    let stop = Arc::new(AtomicBool::new(false));
    let vcpus = machine.domain_info(bench.guest).map_or(0, |i| i.vcpus);
    let cpu = |n| {
        let vcpu = machine.vcpu(bench.guest, VcpuId(n))?;
        Ok::<_, Errno>(ModelCpu::new(vcpu, vec![RAM], stop.clone(), Box::new(|_| {})))
    };
    let cpus = (0..vcpus).map(cpu).collect::<Result<Vec<_>, _>>()?;
    Ok(thread::scope(|scope| {
        for mut cpu in cpus {
            scope.spawn(move || guest::rows::serve(&mut cpu, &mut |_, _| {}, &mut || false));
        }
        let r = f();
        // Without its thread a vCPU does nothing, paused or not.
        stop.store(true, Ordering::Release);
        while bench.unpause().is_ok() {}
        r
    }))
}
